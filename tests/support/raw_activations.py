"""Raw activations with their labels, and their statistics by definition: the oracle of stats, scores and selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from affectron.stats import FIELDS, ActivationStats, SiteStats

PROVENANCE = {
    "affectron": "0.1.0",
    "model": "toy",
    "model_hash": "m",
    "weights": "w",
    "tokenizer": "t",
    "corpus": ["c"],
    "corpus_name": "toy.jsonl",
    "split": None,
    "tokens": "all",
    "active": "gate",
    "dtype": "float32",
    "template": "{text}",
    "count_special": False,
    "versions": {"torch": "2", "transformers": "5", "python": "3.11"},
}


def summarise(values: np.ndarray, active: np.ndarray) -> dict[str, np.ndarray]:
    """Compute statistics of tokens [N, F] by definition, one neuron at a time."""
    finite = np.isfinite(values)
    columns = [values[finite[:, f], f].astype(np.float64) for f in range(values.shape[1])]
    return {
        "count": np.int64(len(values)),
        "active": active.sum(axis=0, dtype=np.int64),
        "nonfinite": (~finite).sum(axis=0, dtype=np.int64),
        "mean": np.array([c.mean() if c.size else np.nan for c in columns]),
        "m2": np.array([((c - c.mean()) ** 2).sum() if c.size else 0.0 for c in columns]),
        "min": np.array([c.min() if c.size else np.inf for c in columns], dtype=np.float32),
        "max": np.array([c.max() if c.size else -np.inf for c in columns], dtype=np.float32),
    }


def site_stats(values: np.ndarray, active: np.ndarray | None = None) -> SiteStats:
    arrays = summarise(values, values > 0 if active is None else active)
    return SiteStats(int(arrays.pop("count")), **arrays)


@dataclass
class Raw:
    """Tokens with their labels and, by site, their activations [N, F] and bool [N, F] ``active``."""

    tasks: dict[str, tuple[str, ...]]
    labels: list[tuple[str, ...]]
    values: dict[str, np.ndarray]
    active: dict[str, np.ndarray]

    def having(self, names: Sequence[str]) -> np.ndarray:
        return np.array([bool(set(names) & set(labels)) for labels in self.labels], dtype=bool)

    def target(self, label: str) -> np.ndarray:
        return self.having([label])

    def rest(self, label: str) -> np.ndarray:
        task = next(task for task, labels in self.tasks.items() if label in labels)
        return self.having(self.tasks[task]) & ~self.having([label])

    def stats(self, keep: np.ndarray | None = None, segments=None, **provenance) -> ActivationStats:
        keep = np.ones(len(self.labels), dtype=bool) if keep is None else keep
        segments = segments or sorted({labels for labels, kept in zip(self.labels, keep, strict=True) if kept})
        arrays = {}
        for site, values in self.values.items():
            parts = []
            for segment in segments:
                rows = np.array([labels == segment for labels in self.labels], dtype=bool) & keep
                parts.append(summarise(values[rows], self.active[site][rows]))
            arrays[site] = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        return ActivationStats(self.tasks, segments, arrays, {**PROVENANCE, **provenance})


def raw(
    seed: int = 0,
    tokens: int = 300,
    widths: Sequence[int] = (7, 5, 3),
    tasks: dict[str, tuple[str, ...]] | None = None,
    both: bool = True,
    bad: bool = False,
) -> Raw:
    """Make random tokens whose labels shift the activations.

    Every label occurs alone; with ``both``, some tokens have labels of two tasks, or two labels of one task. ``bad``
    inserts NaN and infinities, and leaves one neuron without any finite value.
    """
    tasks = tasks or {"emotion": ("anger", "fear", "joy"), "rhetoric": ("metaphor", "sarcasm")}
    rng = np.random.default_rng(seed)
    kinds = [(label,) for labels in tasks.values() for label in labels]
    if both:
        kinds += [tuple(labels[0] for labels in tasks.values()), next(iter(tasks.values()))[:2]]
    kinds = list(dict.fromkeys(kinds))
    labels = kinds + [kinds[i] for i in rng.integers(0, len(kinds), tokens - len(kinds))]
    effect = {label: i for i, label in enumerate(label for names in tasks.values() for label in names)}
    values, active = {}, {}
    for number, width in enumerate(widths):
        x = rng.standard_normal((tokens, width)) * rng.uniform(0.1, 3, width) + rng.uniform(-1, 1, width)
        pull = rng.standard_normal((len(effect), width))
        x += np.array([sum(pull[effect[label]] for label in names) for names in labels])
        gate = x + rng.standard_normal((tokens, width))
        if bad:
            x[rng.random(x.shape) < 0.05] = np.nan
            x[rng.random(x.shape) < 0.05] = np.inf
            x[:, -1] = -np.inf
        values[f"model.layers.{number}.mlp"] = x.astype(np.float32)
        active[f"model.layers.{number}.mlp"] = gate > 0
    return Raw(tasks, labels, values, active)


def starved(stats: ActivationStats, lacking: dict[str, Sequence[str]]) -> ActivationStats:
    """Remove the tokens of labels at sites (site -> labels), as experts without tokens of a label have them."""
    arrays = {site: {name: getattr(stats, name)[site].copy() for name in FIELDS} for site in stats.sites}
    for site, labels in lacking.items():
        rows = sorted({row for label in labels for row in stats.rows(label)})
        for array in arrays[site].values():
            array[rows] = 0
    return ActivationStats(stats.tasks, stats.segments, arrays, stats.provenance)
