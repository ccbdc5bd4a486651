"""Model with planted neurons of two tasks, and its corpus.

Each label has a word that activates the label's neuron, and that neuron alone carries the answer.
"""

from __future__ import annotations

import numpy as np
import torch

from affectron.corpus import Corpus
from tests.support.tiny import NEURONS, build, make_tokenizer

TOKENIZER = make_tokenizer()
# Label (also a word, the model's answer) -> the word that activates its neuron, and the neuron (layer, index).
MOODS = {"w50": ("w10", 1, 5), "w51": ("w11", 1, 17), "w52": ("w12", 1, 30)}
TONES = {"w7": ("w14", 0, 8), "w8": ("w15", 0, 21)}
TASKS = {"mood": MOODS, "tone": TONES}
PROMPTS = dict.fromkeys(TASKS, "{bos}{text}")
LAYERS = 3


def make_model() -> torch.nn.Module:
    """Make a model in which each planted neuron is active at its word and writes to its label's logit.

    Attention does nothing. All other neurons are active at random words and write nothing.
    """
    model = build("llama", num_hidden_layers=LAYERS, rms_norm_eps=1e-9)
    generator = torch.Generator().manual_seed(3)
    ids = {word: int(TOKENIZER.convert_tokens_to_ids(word)) for word in TOKENIZER.get_vocab()}
    neurons = [(label, *where) for labels in TASKS.values() for label, where in labels.items()]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        embed = model.model.embed_tokens.weight
        embed[:, 0] = 1.0
        embed[:, 12:20] = torch.randn(embed.shape[0], 8, generator=generator) * 0.3
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[:, 12:20] = torch.randn(NEURONS, 8, generator=generator)
            layer.mlp.up_proj.weight[:, 0] = 0.5 + torch.rand(NEURONS, generator=generator)
        for dimension, (label, word, layer, index) in enumerate(neurons, start=1):
            embed[ids[word], dimension] = 1.0
            embed[ids[word], 12:20] = 0.0  # silent at all other neurons
            mlp = model.model.layers[layer].mlp
            for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
                weight[index] = 0.0
                weight[index, dimension] = 2.0
            mlp.gate_proj.weight[index, 0] = -0.5
            mlp.down_proj.weight[dimension + 5, index] = 0.5
            model.lm_head.weight[ids[label], dimension + 5] = 4.0
            # Without its neuron a word weakly favours the next label of the task.
            of_task = next(list(labels) for labels in TASKS.values() if label in labels)
            model.lm_head.weight[ids[of_task[(of_task.index(label) + 1) % len(of_task)]], dimension] = 0.3
    return model.eval()


def make_corpus(each: int = 12, shuffled: bool = False) -> Corpus:
    """Make distinct sentences of two random words and six times the label's word; ``shuffled`` permutes the labels."""
    rng = np.random.default_rng(6)
    records = []
    seen = set()
    for split, count in (("train", 3 * each), ("dev", each), ("test", each)):
        for task, labels in TASKS.items():
            for label, (word, _, _) in labels.items():
                for _ in range(count):
                    text = ""
                    while not text or text in seen:
                        text = " ".join([*(f"w{w}" for w in rng.integers(20, 48, 2)), *[word] * 6])
                    seen.add(text)
                    records.append({"text": text, "label": label, "task": task, "split": split})
    if shuffled:
        for task, labels in TASKS.items():
            of_task = [record for record in records if record["task"] == task]
            for record, label in zip(of_task, rng.permutation([row["label"] for row in of_task]), strict=True):
                assert label in labels
                record["label"] = str(label)
    return Corpus.from_records(records)
