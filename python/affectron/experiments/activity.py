"""Activity of single neurons in every sentence of a corpus, with the texts of their extremes, in one pass."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from affectron import ops
from affectron._internal.progress import track
from affectron._internal.warning import warn
from affectron._internal.wording import count
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch, batches
from affectron.corpus.encoding import Encoded, encode
from affectron.errors import InputError
from affectron.experiments.extremes import Extremes, Runs
from affectron.experiments.results import Excerpt
from affectron.models import Reader, Routed, Site, evaluating, max_length, parallel
from affectron.neurons import NeuronSet
from affectron.options import Describe, Read
from affectron.screening.accumulate import observed

#: Bytes of the tables that are held in memory; larger ones are a file.
MEMORY = 1 << 28

#: The site and the index of a neuron.
Neuron: TypeAlias = tuple[str, int]


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
        excerpts: (site, index) -> the texts of its largest and of its smallest activation, of the neurons to show.
    """

    rate: NDArray[np.float32]
    mean: NDArray[np.float32]
    neurons: tuple[Neuron, ...]
    sentences: tuple[Sentence, ...]
    tokens: str = Read.tokens
    active: str = Read.active
    excerpts: dict[Neuron, tuple[tuple[Excerpt, ...], tuple[Excerpt, ...]]] = field(default_factory=dict)


@contextmanager
def collect(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    shown: NeuronSet | None = None,
    texts: int = Describe.texts,
    window: int = Describe.window,
    tokens: str = Read.tokens,
    active: str = Read.active,
    template: str = Read.template,
    count_special: bool = Read.count_special,
    batch_tokens: int = Read.batch_tokens,
    memory: int = MEMORY,
    progress: bool = False,
) -> Iterator[Activations]:
    """Collect the activity of every neuron of ``neurons`` in every sentence of the corpus, until the context is left.

    Args:
        shown: those of the neurons whose excerpts are kept; none if None.
        texts: excerpts of a neuron's largest activations at most, and as many of its smallest. Of a sentence this is
            the largest at a token that ``tokens`` observes, or at any that counts where it observes the mean.
        window: tokens of an excerpt at most.
        tokens, active, template, count_special, batch_tokens: as in :func:`affectron.screen`. With those that the
            neurons were screened with, the result is of the same quantity.
        memory: bytes of the tables that are held in memory; larger ones are a temporary file.

    Raises:
        InputError: a neuron is not in the part of the model that reads the text or is in an expert, the corpus or
            template is unusable, or the file cannot be written.
    """
    reader = Reader(model)
    neurons.check({site.name: site.neurons for site in reader.sites})
    wanted = distinct(neurons)
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
        kept = set(distinct(shown) if shown else ())
        work = _Collector(touched, wanted, kept, tables, (texts, window), tokens, active, parallel.tensor_group(model))
        encoding: dict[str, Any] = {
            "template": template, "count_special": count_special, "max_length": max_length(model)
        }  # fmt: skip
        source = batches(corpus, tokenizer, batch_tokens=batch_tokens, padding=reader.padding, **encoding)
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
            warn(
                f"{count(truncated, 'sentence')} of {read:,} cut to the model's maximum length: the rest of the text "
                "is not read",
            )
        rate, mean = tables[:, : len(work.sentences)]
        excerpts = work.excerpts(partial(encode, tokenizer, pieces=True, **encoding))
        yield Activations(rate, mean, wanted, tuple(work.sentences), tokens, active, excerpts)


def distinct(neurons: NeuronSet) -> tuple[Neuron, ...]:
    """The (site, index) of all labels, each once, sites in forward order."""
    order = {site: position for position, site in enumerate(neurons.widths)}
    every = {(site, index) for members in neurons.values() for site, index, _ in members}
    return tuple(sorted(every, key=lambda neuron: (order[neuron[0]], neuron[1])))


class _Collector:
    """Fills the tables [2, n, K] of rate and mean and finds the extremes of the ``shown`` neurons, a batch at a time.

    ``size`` is the number of texts and of tokens of an excerpt; ``group`` shares out the neurons, if any does.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        neurons: Sequence[Neuron],
        shown: Collection[Neuron],
        tables: NDArray[np.float32],
        size: tuple[int, int],
        tokens: str,
        active: str,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.sites, self.tables, self.tokens, self.active, self.group = sites, tables, tokens, active, group
        self.columns = [[column for column, (name, _) in enumerate(neurons) if name == site.name] for site in sites]
        self.index = [torch.tensor([neurons[column][1] for column in columns]) for columns in self.columns]
        # Of each site the places of the shown neurons among its columns.
        self.shown = [
            torch.tensor([place for place, column in enumerate(columns) if neurons[column] in shown], dtype=torch.int64)
            for columns in self.columns
        ]
        self.size = size
        self.extremes: dict[int, tuple[Extremes, Extremes]] = {}
        self.part: dict[int, slice] = {}  # of the shown neurons of a site, where other processes have the rest
        self.sentences: list[Sentence] = []
        self.counted = torch.zeros((0, 0), dtype=torch.bool)
        self.runs: Runs
        self.kept: NDArray[np.bool_]  # the batch's sentences that have an observed token
        self.rows: slice

    def start(self, batch: Batch) -> None:
        """Take the observed tokens of the batch that is read next."""
        counted = observed(batch.counted, self.tokens)
        self.counted, self.kept = torch.from_numpy(counted), np.asarray(counted.any(axis=1))
        self.runs = Runs.of(batch.counted)
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
        shown = self.shown[position]
        if self.group is not None and h.shape[-1] < site.neurons:
            both = parallel.assemble(both, slice(first, last), len(index), self.group)
            self.part[position] = slice(*torch.searchsorted(shown, torch.tensor([first, last])).tolist())
            shown = shown[self.part[position]] - first
        if len(self.shown[position]):
            self._extremes(position, values[..., shown.to(h.device)], counted[..., 0])
        self.tables[:, self.rows, self.columns[position]] = both.cpu().numpy()[:, self.kept]

    def _extremes(self, position: int, h: Tensor, observed: Tensor) -> None:
        """Take the activations [B, T, K] of the shown neurons in."""
        if position not in self.extremes:
            largest, smallest = (Extremes(sign, *self.size, h.shape[-1], h.device) for sign in (1, -1))
            self.extremes[position] = (largest, smallest)
        row = torch.from_numpy(self.rows.start + np.cumsum(self.kept) - 1)
        for extremes in self.extremes[position]:
            extremes.add(h, observed, self.runs, row)

    def excerpts(
        self, encode: Callable[[Sequence[Sentence]], list[Encoded]]
    ) -> dict[Neuron, tuple[tuple[Excerpt, ...], tuple[Excerpt, ...]]]:
        """The excerpts of each shown neuron's largest and smallest activations. ``encode`` gives pieces of texts."""
        found = {
            position: [one.found(partial(self._whole, position)) for one in pair]
            for position, pair in self.extremes.items()
        }
        rows = sorted({row for pair in found.values() for one in pair for row in one.rows.tolist()})
        encoded = dict(zip(rows, encode([self.sentences[row] for row in rows]), strict=True))
        excerpts = {}
        for position, (largest, smallest) in found.items():
            for column, index in enumerate(self.index[position][self.shown[position]].tolist()):
                top, bottom = (one.excerpts(column, self.sentences, encoded) for one in (largest, smallest))
                excerpts[self.sites[position].name, index] = top, bottom
        return excerpts

    def _whole(self, position: int, part: Tensor) -> Tensor:
        """[..., K] of all shown neurons of a site, from those that this process computes."""
        if self.group is None or position not in self.part:
            return part
        return parallel.assemble(part, self.part[position], len(self.shown[position]), self.group)
