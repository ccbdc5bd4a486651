"""Candidates: the selected neurons one by one, by their activity in every sentence of a second pass.

A neuron is judged by the quantity that selected it: the share of a sentence's tokens at which it is active, or its mean
activation over them (``scores.SCORES[name].reads``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from affectron import options
from affectron._internal.options import documented
from affectron._internal.overlap import compare
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.evaluation.intervals import auroc_interval
from affectron.evaluation.resampling import label_rng
from affectron.experiments.activity import Activations
from affectron.experiments.results import CandidateNeuron, Candidates, CandidatesOptions, LabelCandidates
from affectron.experiments.results.candidates import HIGHER, LOWER
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, directions, fdr
from affectron.stats import ActivationStats

Array = NDArray[np.float64]


@documented(options.Candidates)
def examine(
    activations: Activations,
    neurons: NeuronSet,
    stats: ActivationStats,
    corpus: Corpus,
    *,
    permutations: int = options.Candidates.permutations,
    seed: int = options.Common.seed,
    allow_overlap: bool = options.Common.allow_overlap,
) -> Candidates:
    """Judge each label's neurons one by one, by their activity in the sentences of the label's task.

    All is of the quantity that the neurons' score reads of a sentence, its activation rate or its mean activation, and
    in the ``direction`` that the statistics have: ``higher`` or ``lower`` under the label than under the rest
    (:func:`affectron.scores.directions`).

    ``auroc`` is exact: the probability that a sentence with the label has a higher value (``lower``: a lower one) than
    one without, ties counted half. ``interval`` is its 95 % interval
    (:func:`affectron.evaluation.intervals.auroc_interval`). ``p`` is two-sided, from permutations of the labels:
    (1 + those at least as far from 0.5) / (1 + all); ``q`` is p adjusted by Benjamini and Hochberg over all neurons of
    all labels. ``redundancy`` is the largest absolute correlation with a neuron that stands before it in the label's
    list. A neuron with a value that is not finite has None for all of these.

    On sentences that the neurons were not selected on, p is a test; on those they were selected on it is none:
    ``allow_overlap`` states such an overlap in the result, in place of refusing it.

    Args:
        activations: what :func:`affectron.experiments.activity.collect` gives.
        neurons: with the score that selected them in their provenance, as :func:`affectron.select` leaves it.
        stats: what they were selected from.
        {options}

    Raises:
        InputError: a sentence was screened, a number out of its range, neurons without their score, statistics that
            lack a label or neuron, or a label that no sentence or every sentence of its task has.
    """
    options.Candidates(permutations)
    options.Common(seed=seed)
    neurons.check(stats.widths)
    score = _selecting_score(neurons)
    reads = SCORES[score].reads
    tested = compare(activations.sentences, {"neurons": neurons.screened}, allow_overlap)
    recorded = CandidatesOptions(corpus.split, score, reads, activations.tokens, activations.active, permutations, seed)
    labels = {}
    for label, members in neurons.items():
        answers = set(corpus.tasks.get(members.task, ()))
        rows = np.array(
            [row for row, sentence in enumerate(activations.sentences) if answers.intersection(sentence.labels)], int
        )
        has = np.array([label in activations.sentences[row].labels for row in rows], dtype=np.bool_)
        if not has.any() or has.all():
            raise InputError(
                f"label {label!r}: {int(has.sum())} of the {len(has)} sentences of its task have it; AUROC needs both"
            )
        signs = _signs(members, stats, score)
        judged = _judge(activations, members, signs, rows, has, recorded)
        labels[label] = LabelCandidates(members.task, int(has.sum()), int((~has).sum()), judged)
    provenance = {**neurons.provenance, "corpus": [corpus.hash], "corpus_name": corpus.name, "split": corpus.split}
    return Candidates({**provenance, "tested": tested}, recorded, _adjusted(labels))


def _judge(
    activations: Activations,
    members: NeuronList,
    signs: Array,
    rows: NDArray[np.int64],
    has: NDArray[np.bool_],
    recorded: CandidatesOptions,
) -> tuple[CandidateNeuron, ...]:
    """Judge the neurons of one label.

    Args:
        members: the K neurons.
        signs: float64 [K], the direction of each.
        rows: int64 [n], the sentences of the label's task.
        has: bool [n], which of them have the label.
    """
    column = {neuron: position for position, neuron in enumerate(activations.neurons)}
    columns = [column[site, index] for site, index, _ in members]
    rng = label_rng(recorded.seed, members.task, members.label)
    rate, mean = (table[rows][:, columns].astype(np.float64) for table in (activations.rate, activations.mean))
    values = signs * (rate if recorded.reads == "rate" else mean)
    known = np.asarray(~np.isnan(values).any(axis=0))
    finite = np.where(known, values, 0.0)
    area, p = permutation_test(finite, has, recorded.permutations, rng)
    low, high = auroc_interval(finite, has)
    redundancy = _redundancy(finite)
    return tuple(
        CandidateNeuron(
            site=site,
            index=index,
            direction=HIGHER if signs[k] > 0 else LOWER,
            auroc=float(area[k]) if known[k] else None,
            interval=(float(low[k]), float(high[k])) if known[k] else None,
            p=float(p[k]) if known[k] else None,
            redundancy=redundancy[k],
            q=None,
        )
        for k, (site, index, _) in enumerate(members)
    )


def _adjusted(labels: Mapping[str, LabelCandidates]) -> dict[str, LabelCandidates]:
    """The labels with each neuron's q: p adjusted over all neurons of all labels."""
    tests = [neuron.p for judged in labels.values() for neuron in judged.neurons]
    adjusted = iter(fdr([np.nan if p is None else p for p in tests]).tolist())
    return {
        label: replace(
            judged,
            neurons=tuple(
                replace(neuron, q=None if math.isnan(q) else q) for neuron in judged.neurons for q in [next(adjusted)]
            ),
        )
        for label, judged in labels.items()
    }


def _selecting_score(neurons: NeuronSet) -> str:
    """The score that selected the neurons.

    Raises:
        InputError: the neurons' provenance does not name it.
    """
    selected = neurons.provenance.get("select")
    name = selected.get("score") if isinstance(selected, dict) else None
    if name not in SCORES:
        raise InputError(
            f"the neurons' provenance has {name!r} for select.score, expected the score that selected them, one of "
            f"{', '.join(SCORES)}"
        )
    return str(name)


def _signs(members: NeuronList, stats: ActivationStats, score: str) -> Array:
    """float64 [K]: 1 for a neuron that was selected for a higher value under its label, -1 for a lower one."""
    if members.label not in stats.tasks.get(members.task, ()):
        raise InputError(f"label {members.label!r} is not in the statistics' task {members.task!r}")
    by_site = directions(stats, score, members.task)
    row = stats.tasks[members.task].index(members.label)
    return np.array([by_site[site][row, index] for site, index, _ in members], dtype=np.float64)


def auroc(values: Array, has: NDArray[np.bool_]) -> Array:
    """Area under the ROC curve of each column of ``values`` [n, K] for ``has`` [n], as float64 [K].

    It is the probability that a sentence with the label has a higher value than one without, ties counted half (Mann
    and Whitney 1947).
    """
    return _area(rankdata(values, axis=0)[has].sum(axis=0), has)


def permutation_test(
    values: Array, has: NDArray[np.bool_], permutations: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """AUROC [K] of each column of ``values`` [n, K], and its two-sided permutation p value [K]."""
    ranks = rankdata(values, axis=0)
    area = _area(ranks[has].sum(axis=0), has)
    far = np.abs(area - 0.5) - 1e-12  # the same sum in another order is as far
    beyond = np.zeros(values.shape[1])
    part = max(1, (1 << 22) // len(has))
    for start in range(0, permutations, part):
        drawn = rng.permuted(np.tile(has, (min(part, permutations - start), 1)), axis=1)
        beyond += (np.abs(_area(drawn.astype(np.float64) @ ranks, has) - 0.5) >= far).sum(axis=0)
    return area, (1 + beyond) / (1 + permutations)


def _area(rank_sum: Array, has: NDArray[np.bool_]) -> Array:
    """AUROC from the sums of the ranks of the sentences with the label."""
    positive, negative = int(has.sum()), int((~has).sum())
    area: Array = (rank_sum - positive * (positive + 1) / 2) / (positive * negative)
    return area


def _redundancy(values: Array) -> list[float | None]:
    """Largest absolute correlation of each column with one before it; None for the first and for a constant."""
    centred = values - values.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(norm > 0, norm, np.nan)
    correlation = np.abs(unit.T @ unit)
    largest: list[float | None] = []
    for column in range(values.shape[1]):
        before = correlation[column, :column]
        before = before[~np.isnan(before)]
        largest.append(float(min(before.max(), 1.0)) if len(before) else None)
    return largest
