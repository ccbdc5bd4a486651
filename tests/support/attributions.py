"""Statistics of attributions: from given values, and by plain autograd with hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affectron.corpus import Corpus
from affectron.stats import ActivationStats

Values = Mapping[str, Mapping[str, NDArray[np.float64]]]


def attribution_stats(
    tasks: Mapping[str, Sequence[str]], values: Values, provenance: Mapping[str, Any]
) -> ActivationStats:
    """Statistics of ``values``: label -> site -> [sentences, neurons], an observation a sentence."""
    labels = list(values)
    arrays = {
        site: {
            "count": np.array([len(values[label][site]) for label in labels]),
            "active": np.stack([(values[label][site] > 0).sum(0) for label in labels]),
            "nonfinite": np.zeros((len(labels), values[labels[0]][site].shape[1]), np.int64),
            "mean": np.stack([values[label][site].mean(0) for label in labels]),
            "m2": np.stack([values[label][site].var(0) * len(values[label][site]) for label in labels]),
            "min": np.stack([values[label][site].min(0) for label in labels]).astype(np.float32),
            "max": np.stack([values[label][site].max(0) for label in labels]).astype(np.float32),
        }
        for site in values[labels[0]]
    }
    made = {**provenance, "kind": "attribution", "tokens": "sentence"}
    return ActivationStats(tasks, [[label] for label in labels], arrays, made)


def attributions_by_autograd(
    model: torch.nn.Module, tokenizer: Any, corpus: Corpus, sites: Sequence[str], provenance: Mapping[str, Any]
) -> ActivationStats:
    """Sum over positions of h dm/dh of each sentence, m the log of the label's share of the probabilities of the task's
    labels at the end of the text. Each label is one token, each sentence has one label, each site a ``down_proj``."""
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        args[0].retain_grad()
        seen.append(args[0])

    handles = [model.get_submodule(f"{site}.down_proj").register_forward_pre_hook(keep) for site in sites]
    values: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        label: {site: [] for site in sites} for label in corpus.labels
    }
    try:
        for sentence in corpus:
            seen.clear()
            (label,) = sentence.labels
            answers = corpus.tasks[corpus.task_of[label]]
            ids = torch.tensor([tokenizer(sentence.text)["input_ids"]])
            with torch.enable_grad():
                logits = model(input_ids=ids).logits[0, -1, tokenizer.convert_tokens_to_ids(list(answers))]
                torch.log_softmax(logits, -1)[answers.index(label)].backward()
            for site, h in zip(sites, seen, strict=True):
                assert h.grad is not None
                values[label][site].append((h.detach() * h.grad)[0].double().sum(0).numpy())
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad()
    stacked = {label: {site: np.stack(rows) for site, rows in sites.items()} for label, sites in values.items()}
    return attribution_stats(corpus.tasks, stacked, provenance)
