"""Accumulation of the statistics of every site while a model reads batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from affectron import ops
from affectron._internal import overlap
from affectron.corpus import Corpus
from affectron.corpus.batching import Batch
from affectron.models import Reader, Routed, Site, parallel
from affectron.stats import FIELDS, ActivationStats


def observed(counted: NDArray[np.bool_], tokens: str) -> NDArray[np.bool_]:
    """Of the ``counted`` tokens, bool [B, T], those that the rule ``tokens`` observes: bool [B, T]."""
    if tokens != "last":
        return counted
    # The last counted token is the first one of the reversed row.
    last = counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
    is_last: NDArray[np.bool_] = np.arange(counted.shape[1]) == last[:, None]
    return counted & is_last


class SiteBuffers:
    """The accumulators of every site of a reader, over the batches of a shard.

    Args:
        reader: reads the batches.
        corpus: gives the tasks and segments.
        active: the rule by which an observation is active.
    """

    def __init__(self, reader: Reader, corpus: Corpus, active: str) -> None:
        self.reader, self.sites, self.corpus, self.active = reader, reader.sites, corpus, active
        self.segments = len(corpus.segments)
        self.tensor_group = parallel.tensor_group(reader.model)
        self.kept: ActivationStats | None = None
        self.texts: list[overlap.Texts | None] = []
        self.buffers: list[ops.StatsBuffers | None] = []

    def start(self, kept: ActivationStats | None) -> None:
        """Begin a shard: from nothing, or from the statistics that were kept of it."""
        self.kept = kept
        self.texts = [] if kept is None else [kept.screened]
        self.buffers = [None] * len(self.sites)

    def buffers_at(self, position: int, h: Tensor) -> ops.StatsBuffers:
        """The accumulators of a site, made on the device and with the width of its first activation: weights on disk
        have no device of their own."""
        buffers = self.buffers[position]
        if buffers is None:
            site, width = self.sites[position], h.shape[-1]
            buffers = ops.StatsBuffers(self.segments, width, self.active, device=h.device)
            if self.kept is not None:
                local = parallel.local_neurons(site, width)
                arrays = {name: torch.from_numpy(getattr(self.kept, name)[site.name]) for name in FIELDS}
                buffers.restore({name: array if name == "count" else array[:, local] for name, array in arrays.items()})
            self.buffers[position] = buffers
        return buffers

    def stats(self) -> ActivationStats:
        """The statistics since the start; accumulation can go on afterwards."""
        if not any(self.buffers):  # no forward yet
            return self.kept or self.blank()
        arrays = {site.name: self._arrays(position) for position, site in enumerate(self.sites)}
        self.texts = [overlap.union(self.texts)]
        return ActivationStats(self.corpus.tasks, self.corpus.segments, arrays, screened=self.texts[0])

    def blank(self) -> ActivationStats:
        """Statistics of no tokens."""
        arrays = {}
        for site in self.sites:
            shape = (self.segments, site.neurons)
            arrays[site.name] = {
                name: np.zeros(shape[:1] if name == "count" else shape, FIELDS[name]) for name in FIELDS
            }
        return ActivationStats(self.corpus.tasks, self.corpus.segments, arrays, screened=overlap.NONE)

    def _arrays(self, position: int) -> dict[str, NDArray[Any]]:
        """The statistics of a site so far, of all its neurons."""
        site, buffers = self.sites[position], self.buffers[position]
        if buffers is None:  # an expert that no token was routed to
            return {name: getattr(self.kept or self.blank(), name)[site.name] for name in FIELDS}
        return whole_arrays(buffers, site, self.tensor_group)


class Accumulator(SiteBuffers):
    """The statistics of every site over the batches of a shard (:class:`affectron.screening.shards.Work`).

    :attr:`kernel` and :attr:`given` are attached to the sites; :meth:`forward` reads a batch.
    """

    def __init__(self, reader: Reader, corpus: Corpus, tokens: str, active: str) -> None:
        super().__init__(reader, corpus, active)
        self.tokens = tokens
        self.plans: dict[torch.device, ops.SegmentPlan] = {}
        # Of the batch that is read: the segment of each observation, -1 for none, and the observed tokens [B, T].
        self.rows: Tensor
        self.counted: Tensor

    def forward(self, batch: Batch) -> None:
        """Read a batch and add its observations to the statistics."""
        self.texts.append(overlap.hashed(sentence.text for sentence in batch.sentences))
        counted = observed(batch.counted, self.tokens)
        if self.tokens == "mean":
            rows = np.where(counted.any(axis=1), batch.segments, -1)
        else:
            rows = np.where(counted, batch.segments[:, None], -1)
        self.rows, self.counted = torch.from_numpy(rows), torch.from_numpy(counted)
        self.plans.clear()
        self.reader(batch.input_ids, batch.attention_mask)

    def idle(self) -> None:
        """Run a forward that adds nothing, for other processes that need one."""
        self.rows, self.counted = torch.tensor([[-1]]), torch.tensor([[False]])
        if self.tokens == "mean":
            self.rows = self.rows[0]
        self.plans.clear()
        self.reader(np.zeros((1, 1), np.int64), np.ones((1, 1), np.int64))

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h and add it."""
        if self.tokens != "mean":
            return ops.glu_stats(gate, up, self._plan(gate.device, routed), self.buffers_at(position, gate), act)
        h = ops.glu(gate, up, act)
        self._add(position, h, ops.glu(gate, None, act) if self.active == "gate" else None, routed)
        return h

    def given(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Given`: add h and return it."""
        # If nothing but h is known, h > 0 is taken for act(g) > 0; find_sites has warned of that.
        self._add(position, h, (h if gate is None else gate) if self.active == "gate" else None, routed)
        return h

    def _add(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None) -> None:
        if self.tokens != "mean":
            ops.neuron_stats(h, self._plan(h.device, routed), self.buffers_at(position, h), gate)
            return
        plan, means = self._sentence_means(h, routed)
        gate_means = None if gate is None else self._sentence_means(gate, routed)[1]
        ops.neuron_stats(means, plan, self.buffers_at(position, h), gate_means)

    def _plan(self, device: torch.device, routed: Routed | None = None) -> ops.SegmentPlan:
        """The plan of the batch on ``device``, made once for all sites there; an expert has one for its tokens."""
        if device not in self.plans:
            self.plans[device] = ops.SegmentPlan(self.rows.to(device), self.segments)
        if routed is None:
            return self.plans[device]
        return ops.SegmentPlan(self.rows.to(device).flatten()[routed.tokens], self.segments)

    def _sentence_means(self, h: Tensor, routed: Routed | None) -> tuple[ops.SegmentPlan, Tensor]:
        """The mean of h [..., F] over the observed tokens of each sentence, fp32 [B, F], and the plan of these rows. At
        an expert the mean is over the tokens routed to it, for the sentences that have any."""
        counted, rows = self.counted.to(h.device), h.reshape(-1, h.shape[-1])
        # A sentence at a time: no fp32 copy of the whole activation.
        if routed is None:
            sentences = rows.view(*counted.shape, -1)
            means = [sentence[mask].float().mean(0) for sentence, mask in zip(sentences, counted, strict=True)]
            return self._plan(h.device), torch.stack(means)
        # In the order of the batch the tokens of a sentence are next to one another.
        order = routed.tokens.argsort(stable=True)
        order = order[counted.flatten()[routed.tokens[order]]]
        numbers, lengths = (routed.tokens[order] // counted.shape[1]).unique_consecutive(return_counts=True)
        means = [part.float().mean(0) for part in rows[order].split(lengths.tolist())] if len(lengths) else []
        plan = ops.SegmentPlan(self.rows.to(h.device)[numbers], self.segments)
        return plan, torch.stack(means) if means else rows[:0].float()


def whole_arrays(buffers: ops.StatsBuffers, site: Site, group: dist.ProcessGroup | None) -> dict[str, NDArray[Any]]:
    """The fields of the statistics of all neurons of a site, of which ``group`` may share out the accumulators."""
    final = buffers.finalize()
    tensors: dict[str, Tensor] = {name: getattr(final, name) for name in FIELDS}
    if group is not None and buffers.neurons < site.neurons:
        local = parallel.local_neurons(site, buffers.neurons)
        for name, value in tensors.items():
            if name != "count":
                tensors[name] = parallel.assemble(value, local, site.neurons, group)
    return {name: value.cpu().numpy() for name, value in tensors.items()}
