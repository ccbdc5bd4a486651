"""A model whose answer hangs on one neuron, and its corpus."""

from __future__ import annotations

import numpy as np
import torch

from affectron.corpus import Corpus
from tests.support.tiny import build, make_tokenizer

FIRST, SECOND = "model.layers.0.mlp", "model.layers.1.mlp"
WIDTH = 43
TOKENIZER = make_tokenizer()

# The labels are words of the vocabulary; the last word of a text, w10 or w11, decides.
JOY, GLOOM, CALM = "w50", "w51", "w52"
PLANTED = (SECOND, 7)


def planted_model() -> torch.nn.Module:
    """Two layers in which attention does nothing. One neuron alone fires at w10 and writes to the logit of w50, one and
    a half times as strongly as every token's bias writes to that of w51; the other neurons write nothing."""
    model = build("llama", num_hidden_layers=2, rms_norm_eps=1e-9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        ids = TOKENIZER.convert_tokens_to_ids(["w10", JOY, GLOOM, CALM])
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[:, 2:8] = torch.randn(97, 6, generator=torch.Generator().manual_seed(0)) * 0.3
        model.model.embed_tokens.weight[ids[0], 1] = 1.0
        for layer in model.model.layers:
            generator = torch.Generator().manual_seed(1)
            layer.mlp.gate_proj.weight[:, 0] = 0.5 + torch.rand(WIDTH, generator=generator)
            layer.mlp.up_proj.weight[:, 0] = 0.5 + torch.rand(WIDTH, generator=generator)
            layer.mlp.gate_proj.weight[:, 2:8] = torch.randn(WIDTH, 6, generator=generator) * 0.1
        mlp = model.model.layers[1].mlp
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[7] = 0.0
            weight[7, 1] = 2.0
        h: list[torch.Tensor] = []
        handle = mlp.down_proj.register_forward_pre_hook(lambda _m, args: h.append(args[0]))
        model(input_ids=torch.tensor([[1, int(ids[0])]]))
        handle.remove()
        mlp.down_proj.weight[9, 7] = 1.5 / h[0][0, 1, 7]
        model.lm_head.weight[ids[1], 9] = 1.0
        model.lm_head.weight[ids[2], 0] = 1.0
        model.lm_head.weight[ids[3], 0] = -1.0
    return model


def planted_corpus(each: int = 16) -> Corpus:
    """joy ends in w10, gloom in w11; calm does too, so that it is always answered wrong, and has w10 inside."""
    rng = np.random.default_rng(5)
    records = []
    for split in ("train", "dev", "test"):
        for label, last in ((JOY, "w10"), (GLOOM, "w11"), (CALM, "w11")):
            for _ in range(each):
                words = [f"w{w}" for w in rng.integers(12, 48, 3)]
                if label == CALM:
                    words[1] = "w10"
                records.append({"text": " ".join([*words, last]), "label": label, "task": "mood", "split": split})
    return Corpus.from_records(records)


MODEL = planted_model()
CORPUS = planted_corpus()
