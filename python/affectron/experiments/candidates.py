"""Candidates: the selected neurons one by one, by their activity in every sentence of a second pass.

A neuron is judged by the quantity that selected it: the share of a sentence's tokens at which it is active, or its mean
activation over them (``scores.SCORES[name].reads``). Memory is bounded: the tables of sentences by neurons lie in
memory up to a limit, and past it in a file.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from affectron import ops, options
from affectron._internal.options import documented
from affectron._internal.overlap import compare
from affectron._internal.progress import track
from affectron._internal.wording import count
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch, batches
from affectron.errors import InputError
from affectron.evaluation.intervals import auroc_interval
from affectron.evaluation.resampling import label_rng
from affectron.experiments.results import CandidateNeuron, Candidates, CandidatesOptions, Example, LabelCandidates
from affectron.experiments.results.candidates import HIGHER, LOWER
from affectron.models import Reader, Routed, Site, evaluating, max_length, parallel
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import Read
from affectron.scores import SCORES, directions, fdr
from affectron.screening.accumulate import observed
from affectron.stats import ActivationStats

Array = NDArray[np.float64]

#: Bytes of the tables that are held in memory; larger ones are a file.
MEMORY = 1 << 28


@dataclass(frozen=True)
class Activations:
    """Activity of K neurons, (site, index) each, in each of n sentences, over the tokens that ``tokens`` observes.

    Attributes:
        rate: float32 [n, K], the share of the tokens at which the neuron is active by the rule ``active``; 0 or 1 where
            a sentence is one observation (``last`` and ``mean``).
        mean: float32 [n, K], the mean activation over the tokens where it is finite; NaN where it is finite at none.
        neurons: the columns.
        sentences: the rows. A sentence without such tokens is left out.
        tokens, active: the rules, as those of the screening.
    """

    rate: NDArray[np.float32]
    mean: NDArray[np.float32]
    neurons: tuple[tuple[str, int], ...]
    sentences: tuple[Sentence, ...]
    tokens: str = Read.tokens
    active: str = Read.active


@contextmanager
def collect(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    tokens: str = Read.tokens,
    active: str = Read.active,
    template: str = Read.template,
    count_special: bool = Read.count_special,
    batch_tokens: int = Read.batch_tokens,
    memory: int = MEMORY,
    allow_overlap: bool = options.Common.allow_overlap,
    progress: bool = False,
) -> Iterator[Activations]:
    """Collect the activity of every neuron of ``neurons`` in every sentence of the corpus, until the context is left.

    Args:
        tokens, active, template, count_special, batch_tokens: as in :func:`affectron.screen`. With those that the
            neurons were screened with, the result is of the same quantity.
        memory: bytes of the tables that are held in memory; larger ones are a temporary file.
        allow_overlap: read sentences that were screened too, in place of refusing them.

    Raises:
        InputError: a sentence was screened, a neuron is not in the part of the model that reads the text or is in an
            expert, the corpus or template is unusable, or the file cannot be written.
    """
    compare(corpus, {"neurons": neurons.screened}, allow_overlap)
    reader = Reader(model)
    neurons.check({site.name: site.neurons for site in reader.sites})
    wanted = tuple(sorted({(site, index) for members in neurons.values() for site, index, _ in members}))
    names = {site for site, _ in wanted}
    touched = [site for site in reader.sites if site.name in names]
    shape = (2, len(corpus), len(wanted))

    with tempfile.TemporaryDirectory(prefix="affectron-") as folder:
        tables: NDArray[np.float32]
        if 4 * math.prod(shape) > memory:
            try:
                file = Path(folder) / "activations.npy"
                tables = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
            except OSError as error:
                raise InputError(f"cannot write the activations to {folder}: {error.strerror or error}") from error
        else:
            tables = np.zeros(shape, dtype=np.float32)
        work = _Collector(touched, wanted, tables, tokens, active, parallel.tensor_group(model))
        source = batches(
            corpus, tokenizer, batch_tokens=batch_tokens, template=template, count_special=count_special,
            max_length=max_length(model), padding=reader.padding,
        )  # fmt: skip
        read = truncated = 0
        with (
            torch.no_grad(),
            evaluating(model),
            reader.attach(work.kernel, work.given, sites=touched),
            track("collecting", len(corpus), progress) as advance,
        ):
            for batch in source:
                work.start(batch)
                reader(batch.input_ids, batch.attention_mask)
                read += len(batch.sentences)
                truncated += batch.truncated
                advance(read)
        if truncated:
            warnings.warn(
                f"{count(truncated, 'sentence')} of {read:,} cut to the model's maximum length: the rest of the text "
                "counts for no candidate",
                stacklevel=3,
            )
        rate, mean = tables[:, : len(work.sentences)]
        yield Activations(rate, mean, wanted, tuple(work.sentences), tokens, active)


class _Collector:
    """Fills the tables [2, n, K] of rate and mean, a batch at a time; ``group`` shares out the neurons, if any does."""

    def __init__(
        self,
        sites: Sequence[Site],
        neurons: Sequence[tuple[str, int]],
        tables: NDArray[np.float32],
        tokens: str,
        active: str,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.sites, self.tables, self.tokens, self.active, self.group = sites, tables, tokens, active, group
        self.columns = [[column for column, (name, _) in enumerate(neurons) if name == site.name] for site in sites]
        self.index = [torch.tensor([neurons[column][1] for column in columns]) for columns in self.columns]
        self.sentences: list[Sentence] = []
        self.counted = torch.zeros((0, 0), dtype=torch.bool)
        self.kept: NDArray[np.bool_]  # the batch's sentences that have an observed token
        self.rows: slice

    def start(self, batch: Batch) -> None:
        """Take the observed tokens of the batch that is read next."""
        counted = observed(batch.counted, self.tokens)
        self.counted, self.kept = torch.from_numpy(counted), np.asarray(counted.any(axis=1))
        first = len(self.sentences)
        self.sentences += [sentence for sentence, kept in zip(batch.sentences, self.kept, strict=True) if kept]
        self.rows = slice(first, len(self.sentences))

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h and write the neurons' rows."""
        h = ops.glu(gate, up, act)
        self._write(position, h, ops.glu(gate, None, act) if self.tokens == "mean" else gate, routed)
        return h

    def given(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Given`: write the neurons' rows and return h."""
        # If nothing but h is known, h > 0 is taken for act(g) > 0, as in the screening.
        self._write(position, h, h if gate is None else gate, routed)
        return h

    def _write(self, position: int, h: Tensor, gate: Tensor, routed: Routed | None) -> None:
        site, index = self.sites[position], self.index[position]
        if routed is not None:  # its rows are some of the batch's tokens: there is no mean over a sentence
            raise InputError(f"{site.name} is an expert, expected neurons of MLPs that every token passes")
        run = parallel.local_neurons(site, h.shape[-1])
        # The index ascends, so the neurons that this process computes are a run of the site's columns.
        first, last = torch.searchsorted(index, torch.tensor([run.start, run.stop])).tolist()
        local = (index[first:last] - run.start).to(h.device)
        counted = self.counted.to(h.device)[..., None]

        def picked(whole: Tensor) -> Tensor:
            return whole[..., local].view(*self.counted.shape, -1).float()

        values = picked(h)
        signal = values if self.active == "product" else picked(gate)
        if self.tokens == "mean":  # one observation a sentence, active if the mean is above zero
            taken = counted.expand_as(values)
            rate = (signal.where(counted, 0.0).sum(1) > 0).float()
        else:
            taken = counted & values.isfinite()
            # The division comes last: equal shares are equal numbers, and so ties.
            rate = ((signal > 0) & counted).sum(1) / counted.sum(1)
        mean = values.where(taken, 0.0).sum(1) / taken.sum(1)
        both = torch.stack([rate, mean.where(mean.isfinite(), torch.nan)])
        if self.group is not None and h.shape[-1] < site.neurons:
            both = parallel.assemble(both, slice(first, last), len(index), self.group)
        self.tables[:, self.rows, self.columns[position]] = both.cpu().numpy()[:, self.kept]


@documented(options.Candidates)
def examine(
    activations: Activations,
    neurons: NeuronSet,
    stats: ActivationStats,
    corpus: Corpus,
    *,
    permutations: int = options.Candidates.permutations,
    examples: int = options.Candidates.examples,
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
    list. ``examples`` are the task's sentences of the highest value (``lower``: the lowest), of any label; of equal
    ones those of the larger (``lower``: smaller) absolute mean activation. A neuron with a value that is not finite has
    None for all but its examples.

    On sentences that the neurons were not selected on, p is a test; on those they were selected on it is none:
    ``allow_overlap`` states such an overlap in the result, in place of refusing it.

    Args:
        activations: what :func:`collect` gives.
        neurons: with the score that selected them in their provenance, as :func:`affectron.select` leaves it.
        stats: what they were selected from.
        {options}

    Raises:
        InputError: a sentence was screened, a number out of its range, neurons without their score, statistics that
            lack a label or neuron, or a label that no sentence or every sentence of its task has.
    """
    options.Candidates(permutations, examples)
    options.Common(seed=seed)
    neurons.check(stats.widths)
    score = _selecting_score(neurons)
    reads = SCORES[score].reads
    tested = compare(activations.sentences, {"neurons": neurons.screened}, allow_overlap)
    recorded = CandidatesOptions(
        corpus.split, score, reads, activations.tokens, activations.active, permutations, examples, seed
    )
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
    # The last key counts first; NaN comes last.
    order = np.lexsort((-signs * np.abs(mean), -values), axis=0)

    def example(row: int, k: int) -> Example:
        sentence = activations.sentences[rows[row]]
        activation = None if np.isnan(mean[row, k]) else float(mean[row, k])
        return Example(sentence.text, tuple(sentence.labels), float(rate[row, k]), activation)

    return tuple(
        CandidateNeuron(
            site=site,
            index=index,
            direction=HIGHER if signs[k] > 0 else LOWER,
            auroc=float(area[k]) if known[k] else None,
            interval=(float(low[k]), float(high[k])) if known[k] else None,
            p=float(p[k]) if known[k] else None,
            redundancy=redundancy[k],
            examples=tuple(example(row, k) for row in order[: recorded.examples, k] if not np.isnan(values[row, k])),
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
