"""Model with two kinds of planted neurons for each label, among neurons that tell nothing of any label."""

from __future__ import annotations

import numpy as np
import torch

from affectron.corpus import Corpus
from tests.support.tiny import build, make_tokenizer

LABELS = ("calm", "glad", "sad")
LAYERS, NEURONS, NOISE, HIDDEN = 3, 171, 8, 24
#: Kind -> label -> the planted neurons (layer, index). ``rare``: silent but for the label's trigger, one word of a
#: third of its sentences. ``always``: active at every word, and a little stronger at the words that the label prefers.
PLANTED = {
    "rare": {label: ((0, 11 + i), (2, 50 + i)) for i, label in enumerate(LABELS)},
    "always": {label: ((1, 70 + i), (2, 130 + i)) for i, label in enumerate(LABELS)},
}
TOKENIZER = make_tokenizer()


def _words(label: int) -> list[str]:
    """The words that a label prefers; other labels have others of the same meaning to all neurons but the planted."""
    return [f"w{10 + 10 * label + i}" for i in range(10)]


def make_model() -> torch.nn.Module:
    """Make the model. Attention does nothing; the other neurons are active at 0 to 100 % of the words."""
    model = build("llama", hidden_size=HIDDEN, intermediate_size=NEURONS, num_hidden_layers=LAYERS, rms_norm_eps=1e-9)
    generator = torch.Generator().manual_seed(5)

    def ids(words: list[str]) -> list[int]:
        return [int(TOKENIZER.convert_tokens_to_ids(word)) for word in words]

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        embed = model.model.embed_tokens.weight
        embed[:, 0] = 1
        embed[:, -NOISE:] = torch.randn(embed.shape[0], NOISE, generator=generator) * 0.3
        for label in range(len(LABELS)):
            embed[ids(_words(label)), -NOISE:] = embed[ids(_words(0)), -NOISE:]
            embed[ids(_words(label)), 1 + label] = 0.6
            embed[ids([f"w{50 + label}"]), 4 + label] = 1
            embed[ids([f"w{50 + label}"]), -NOISE:] = embed[ids(["w5"]), -NOISE:]
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[:, -NOISE:] = torch.randn(NEURONS, NOISE, generator=generator)
            layer.mlp.gate_proj.weight[:, 0] = torch.randn(NEURONS, generator=generator)
            layer.mlp.up_proj.weight[:, 0] = 1
        for kind, of_label in PLANTED.items():
            for number, neurons in enumerate(of_label.values()):
                for layer, index in neurons:
                    gate = model.model.layers[layer].mlp.gate_proj.weight[index]
                    if kind == "rare":
                        gate.zero_()
                        gate[0], gate[4 + number] = -0.5, 2
                    else:
                        gate[0], gate[1 + number] = 4, 1
    return model.eval()


def make_corpus(each: int = 60) -> Corpus:
    """Make ``each`` sentences a label of ten words, of which seven are words that it prefers."""
    rng = np.random.default_rng(7)
    records = []
    for number, label in enumerate(LABELS):
        for sentence in range(each):
            words = [*rng.choice(_words(number), 7), *rng.choice([_words(i)[0] for i in range(3)], 1)]
            words += [f"w{w}" for w in rng.integers(0, 10, 2)]
            if sentence % 3 == 0:
                words[0] = f"w{50 + number}"
            records.append({"text": " ".join(rng.permutation(words)), "label": label})
    return Corpus.from_records(records)
