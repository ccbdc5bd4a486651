"""Candidates: a second pass that keeps what the selected neurons do in every sentence, and what
that says about each of them. Apart from the screening, which keeps no activation.

A sentence's activation is the mean over its own tokens. All is bounded: the table of sentences by neurons lies in
memory up to a limit, and past it in a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from affectron import ops
from affectron.batching import batches
from affectron.corpus import Corpus, Sentence
from affectron.effects import label_rng, middle
from affectron.errors import InputError
from affectron.exam import whole_number
from affectron.findings import Findings
from affectron.models import Reader, attach, evaluating, max_length, parallel
from affectron.models.layout import Routed
from affectron.neurons import NeuronSet
from affectron.progress import track
from affectron.scores import fdr

Array = NDArray[np.float64]

#: Bytes of activations that are held in memory; a larger table is a file.
MEMORY = 1 << 28


@dataclass(frozen=True)
class Activations:
    """float32 [n, K]: the mean activation of K neurons, (site, index) each, over each of n sentences."""

    values: NDArray[np.float32]
    neurons: tuple[tuple[str, int], ...]
    sentences: tuple[Sentence, ...]


@contextmanager
def collect(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    template: str = "{text}",
    batch_tokens: int = 8192,
    memory: int = MEMORY,
    progress: bool = False,
) -> Iterator[Activations]:
    """What every neuron of ``neurons`` does in every sentence of the corpus; gone when the context is left.

    Args:
        memory: bytes of the table that are held in memory; a larger one is a temporary file.

    Raises:
        InputError: what reads the text lacks a neuron or has it in an expert, the corpus or template is unusable, or
            the file cannot be written.
    """
    reader = Reader(model)
    neurons.check({site.name: site.neurons for site in reader.sites})
    wanted = sorted({(site, index) for found in neurons.values() for site, index, _ in found})
    columns = {site.name: [place for place, one in enumerate(wanted) if one[0] == site.name] for site in reader.sites}
    touched = [site for site in reader.sites if columns[site.name]]
    index = [torch.tensor([wanted[place][1] for place in columns[site.name]]) for site in touched]
    group = parallel.tensor_group(model)
    shape = (len(corpus), len(wanted))
    sentences: list[Sentence] = []
    weights = torch.zeros(0)

    with tempfile.TemporaryDirectory(prefix="affectron-") as folder:
        values: NDArray[np.float32]
        if 4 * shape[0] * shape[1] > memory:
            try:
                file = Path(folder) / "activations.npy"
                values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
            except OSError as error:
                raise InputError(f"cannot write the activations to {folder}: {error.strerror or error}") from error
        else:
            values = np.zeros(shape, dtype=np.float32)

        def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
            if routed is not None:  # rows are some of the batch's tokens: there is no mean over a sentence here
                name = touched[position].name
                raise InputError(f"{name} is an expert, expected neurons of MLPs that every token passes")
            h = ops.glu(gate, up, act)
            here = parallel.neurons_here(touched[position], h.shape[-1])
            # In ascending order: those that are computed here are a run of the site's columns.
            first, last = torch.searchsorted(index[position], torch.tensor([here.start, here.stop])).tolist()
            own = index[position][first:last] - here.start
            mine = h[..., own.to(h.device)].view(*weights.shape, -1).float()
            means = torch.einsum("bt,btk->bk", weights.to(h.device), mine)
            if group is not None and h.shape[-1] < touched[position].neurons:
                means = parallel.assemble(means, slice(first, last), len(index[position]), group)
            rows = slice(len(sentences), len(sentences) + len(means))
            values[rows, columns[touched[position].name]] = means.cpu().numpy()
            return h

        source = batches(
            corpus, tokenizer, batch_tokens=batch_tokens, template=template, max_length=max_length(model)
        )  # fmt: skip
        with (
            torch.no_grad(),
            evaluating(model),
            attach(touched, kernel),
            track("collecting", len(corpus), progress) as advance,
        ):
            for batch in source:
                counted = batch.counted / np.maximum(batch.counted.sum(1, keepdims=True), 1)
                weights = torch.from_numpy(counted).float()
                reader(batch.input_ids, batch.attention_mask)
                sentences += batch.sentences
                advance(len(sentences))
        yield Activations(values, tuple(wanted), tuple(sentences))


def examine(
    found: Activations,
    neurons: NeuronSet,
    corpus: Corpus,
    *,
    bootstrap: int = 1000,
    permutations: int = 1000,
    examples: int = 5,
    seed: int = 0,
) -> Findings:
    """What each label's neurons do in the sentences of its task, one neuron by one.

    ``auroc`` is exact, of the neuron's activation for the label against the rest, ties counted half; ``interval`` its
    95 % percentile bootstrap over sentences, resampled within label and rest. ``p`` is two-sided, from permutations of
    the labels: (1 + those at least as far from 0.5) / (1 + all); ``q`` is p adjusted by Benjamini and Hochberg over
    all neurons of all labels. ``redundancy`` is the largest absolute correlation with a neuron that stands before it
    in the label's list. ``examples`` are the sentences of the highest activation.

    On sentences that the neurons were not selected on, p is a test; on those they were selected on it is none.

    Raises:
        InputError: a number out of its range, or a label that no sentence or every sentence of its task has.
    """
    for name, value, least in (
        ("bootstrap", bootstrap, 1),
        ("permutations", permutations, 1),
        ("examples", examples, 0),
    ):
        whole_number(name, value, least)
    column = {neuron: place for place, neuron in enumerate(found.neurons)}
    labels: dict[str, Any] = {}
    for label, mine in neurons.items():
        answers = set(corpus.tasks.get(mine.task, ()))
        rows = np.array([place for place, one in enumerate(found.sentences) if answers.intersection(one.labels)], int)
        has = np.array([label in found.sentences[place].labels for place in rows], dtype=np.bool_)
        if not has.any() or has.all():
            raise InputError(
                f"label {label!r}: {int(has.sum())} of the {len(has)} sentences of its task have it; AUROC needs both"
            )
        rng = label_rng(seed, mine.task, label)
        places = [column[site, index] for site, index, _ in mine]
        values = found.values[rows][:, places].astype(np.float64) if places else np.zeros((len(rows), 0))
        area, p = permutation_test(values, has, permutations, rng)
        intervals = auroc_intervals(values, has, bootstrap, rng)
        redundancy = _redundancy(values)
        labels[label] = {
            "task": mine.task,
            "sentences": int(has.sum()),
            "rest": int((~has).sum()),
            "neurons": [
                {
                    "site": site,
                    "index": index,
                    "auroc": float(area[k]),
                    "interval": intervals[k],
                    "p": float(p[k]),
                    "redundancy": redundancy[k],
                    "examples": [
                        {
                            "text": found.sentences[rows[place]].text,
                            "labels": list(found.sentences[rows[place]].labels),
                            "activation": float(values[place, k]),
                        }
                        for place in np.argsort(-values[:, k], kind="stable")[:examples]
                    ],
                }
                for k, (site, index, _) in enumerate(mine)
            ],
        }
    entries = [entry for one in labels.values() for entry in one["neurons"]]
    for entry, q in zip(entries, fdr([entry["p"] for entry in entries]).tolist(), strict=True):
        entry["q"] = q
    options = {
        "split": corpus.split, "bootstrap": bootstrap, "permutations": permutations, "examples": examples, "seed": seed,
    }  # fmt: skip
    provenance = {**neurons.provenance, "corpus": [corpus.hash], "corpus_name": corpus.name, "split": corpus.split}
    return Findings("candidates", {"provenance": provenance, "options": options, "labels": labels})


def auroc(values: Array, has: NDArray[np.bool_]) -> Array:
    """float64 [K]: the area under the ROC curve of each column of ``values`` [n, K] for ``has`` [n]: the chance that a
    sentence with the label has a higher value than one without, ties counted half (Mann and Whitney 1947)."""
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


def auroc_intervals(
    values: Array, has: NDArray[np.bool_], resamples: int, rng: np.random.Generator
) -> list[list[float]]:
    """[low, high] for each column: the 95 % percentile bootstrap interval of its AUROC."""
    positive, negative = int(has.sum()), int((~has).sum())
    drawn = np.zeros((resamples, len(has)), dtype=np.float32)
    drawn[:, has] = rng.multinomial(positive, np.full(positive, 1 / positive), resamples)
    drawn[:, ~has] = rng.multinomial(negative, np.full(negative, 1 / negative), resamples)
    intervals = []
    for column in values.T:
        order = np.argsort(column, kind="stable")
        # A value that several sentences have is one place in the order.
        starts = np.flatnonzero(np.r_[True, np.diff(column[order]) > 0])
        weights = drawn[:, order].astype(np.float64)
        mine = np.add.reduceat(weights * has[order], starts, axis=1)
        theirs = np.add.reduceat(weights * ~has[order], starts, axis=1)
        below = np.cumsum(theirs, axis=1) - theirs / 2
        intervals.append(middle((mine * below).sum(axis=1) / (positive * negative)))
    return intervals


def _area(rank_sum: Array, has: NDArray[np.bool_]) -> Array:
    positive, negative = int(has.sum()), int((~has).sum())
    area: Array = (rank_sum - positive * (positive + 1) / 2) / (positive * negative)
    return area


def _redundancy(values: Array) -> Sequence[float | None]:
    """For each column the largest absolute correlation with one before it; None for the first and for a constant."""
    centred = values - values.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(norm > 0, norm, np.nan)
    correlation = np.abs(unit.T @ unit)
    found: list[float | None] = []
    for place in range(values.shape[1]):
        before = correlation[place, :place]
        before = before[~np.isnan(before)]
        found.append(float(min(before.max(), 1.0)) if len(before) else None)
    return found
