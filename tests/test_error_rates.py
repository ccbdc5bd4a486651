"""Error rates of `fdr`: bounds of p values against all permutations, and discoveries under labels without a meaning."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from affectron.attribution.attribute import attribute
from affectron.corpus import Corpus
from affectron.models import load_model
from affectron.scores import fdr, score
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import FIELDS, ActivationStats
from tests.support.raw_activations import Raw

LABELS, EACH, LEVEL = ("anger", "disgust", "fear", "happiness", "sadness", "surprise"), 60, 0.05
Array = np.ndarray


def skewed(rng: np.random.Generator, n: int) -> Array:
    """Columns of n values: normal, heavy on one side, rarely active, and a single one that is not 0."""
    one = np.zeros(n)
    one[rng.integers(n)] = 1
    return np.stack([rng.standard_normal(n), rng.exponential(size=n) ** 3, (rng.random(n) < 0.3) + 0.0, one], axis=1)


def scored(values: Array, labels: Sequence[str], name: str, **provenance) -> Array:
    """A score of neurons for the label ``a``, [F]."""
    data = Raw({"t": ("a", "b")}, [(label,) for label in labels], {"s": values}, {"s": values > 0})
    return score(data.stats(**provenance), name)["s"][0]


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_is_never_below_the_p_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 14))
    of_label = int(rng.integers(1, n))
    values = skewed(rng, n).astype(np.float32)
    deviations = values - values.mean(axis=0, dtype=np.float64)
    samples = np.array([deviations[list(chosen)].sum(axis=0) for chosen in itertools.combinations(range(n), of_label)])
    for chosen in itertools.islice(itertools.combinations(range(n), of_label), 0, None, 17):
        labels = ["a" if i in chosen else "b" for i in range(n)]
        seen = np.abs(deviations[list(chosen)].sum(axis=0))
        exact = (np.abs(samples) >= seen - 1e-9).mean(axis=0)
        bound = scored(values, labels, "permutation_p")
        assert ((bound >= exact - 1e-12) | np.isnan(bound)).all()
        np.testing.assert_array_equal(np.isnan(bound), values.std(axis=0) == 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_is_never_below_the_p_of_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    values = (skewed(rng, n) * rng.choice([-1, 1], (n, 1), p=[0.2, 0.8])).astype(np.float32)
    signs = np.array(list(itertools.product([-1, 1], repeat=n)))
    exact = (np.abs(signs @ values) >= np.abs(values.sum(axis=0)) - 1e-6).mean(axis=0)
    bound = scored(values, ["a"] * n, "paired_p", tokens="pair")
    assert ((bound >= exact - 1e-12) | np.isnan(bound)).all()


def test_large_samples_lose_little_to_the_bound() -> None:
    """Of two labels of 1,000 sentences with a normal value each: the exponent is that of the normal, within 5 %."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2000, 1))
    values[:1000] += 0.3
    bound = scored(values, ["a"] * 1000 + ["b"] * 1000, "permutation_p")[0]
    total = (values[:1000] - values.mean()).sum()
    z = total / np.sqrt(1000 * 1000 / 1999 * values.var())
    assert 0.95 < np.log(bound / 2) / (-(z**2) / 2) <= 1


# --- real sentences ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def observed(shared: Path) -> dict[str, Array]:
    """Quantity -> its value at every neuron in each of 60 sentences a label, [360, N]: each sentence has a
    label of its own."""
    by_label: dict[str, list[str]] = {label: [] for label in LABELS}
    with (shared / "data" / "core" / "data.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            taken = by_label.get(row["label"]) if row["split"] == "train" else None
            if taken is not None and len(taken) < EACH and row["text"] not in taken:
                taken.append(row["text"])
    texts = [text for taken in by_label.values() for text in taken]
    corpus = Corpus.from_records({"text": text, "label": f"{i:03}", "task": "t"} for i, text in enumerate(texts))
    model, tokenizer = load_model(shared / "models" / "emorhet-3m", dtype="float32")
    found = {
        "activations": screen(model, tokenizer, corpus, tokens="mean"),
        "attributions": attribute(model, tokenizer, corpus, metric="text"),
    }
    return {name: np.concatenate(list(stats.mean.values()), axis=1) for name, stats in found.items()}


def pooled(values: Array, labels: Array, what: str) -> ActivationStats:
    """Statistics of the sentences [n, N] by label."""
    arrays = {name: np.zeros((len(LABELS), values.shape[1]), kind) for name, kind in FIELDS.items()}
    arrays["count"] = np.zeros(len(LABELS), np.int64)
    for row, label in enumerate(LABELS):
        own = values[labels == label]
        arrays["count"][row], arrays["mean"][row], arrays["m2"][row] = len(own), own.mean(0), own.var(0) * len(own)
    kind = {"tokens": "mean"} if what == "activations" else {"kind": "attribution", "tokens": "sentence"}
    return ActivationStats({"t": LABELS}, [(label,) for label in LABELS], {"s": arrays}, kind)


def discoveries(stats: ActivationStats) -> int:
    return sum(map(len, select(stats, top=1.0, fdr=LEVEL).values()))


@pytest.mark.parametrize("what", ["activations", "attributions"])
def test_shuffled_labels_of_real_sentences_find_nothing(observed: dict[str, Array], what: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(LABELS, EACH)
    shuffles, false = 200, 0
    for _ in range(shuffles):
        false += discoveries(pooled(observed[what], rng.permutation(labels), what)) > 0
    assert false <= LEVEL * shuffles


def test_welch_finds_neurons_in_shuffled_labels(observed: dict[str, Array]) -> None:
    """The reason why `fdr` does not rest on it."""
    rng = np.random.default_rng(0)
    labels = np.repeat(LABELS, EACH)
    false = 0
    for _ in range(50):
        p = score(pooled(observed["activations"], rng.permutation(labels), "activations"), "welch_p")["s"]
        false += any((fdr(row) <= LEVEL).any() for row in p)
    assert false > 2 * LEVEL * 50


@pytest.mark.parametrize("what", ["activations", "attributions"])
def test_planted_neurons_among_real_ones_are_found(observed: dict[str, Array], what: str) -> None:
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(LABELS, EACH))
    values = observed[what].copy()
    deviation = values.std(axis=0)
    values[labels == "fear", 7] += 2 * deviation[7]  # always, and stronger
    fires = (labels == "fear") & (rng.random(len(labels)) < 0.6)  # seldom, and only there
    values[:, 11] = np.where(fires, 5, 0)
    found = select(pooled(values, labels, what), top=1.0, fdr=LEVEL)
    assert {index for _, index, _ in found["fear"]} == {7, 11}
    assert sum(map(len, found.values())) <= 3  # another label may have fewer than chance of neuron 11
