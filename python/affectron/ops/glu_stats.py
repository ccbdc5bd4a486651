"""ops.glu_stats: act(gate) up, and in the same pass the statistics of every neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron.ops import native, reference
from affectron.ops.buffers import StatsBuffers
from affectron.ops.library import as_rows, check_activation, define
from affectron.ops.segments import SegmentPlan


def _fake(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


_glu_stats = define(
    "glu_stats(Tensor gate, Tensor? up, Tensor order, Tensor tiles, Tensor(a!) count, Tensor(b!) tally, "
    "Tensor(c!) moments, Tensor(d!) extrema, str act, bool product) -> Tensor",
    native.glu_stats,
    reference.glu_stats,
    _fake,
)


def refuse_gradient(op: str, *values: Tensor | None) -> None:
    """Statistics have no gradient: raise where one would be lost in silence."""
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        raise RuntimeError(f"{op} has no gradient: call it under torch.no_grad() or detach its arguments")


def glu_stats(
    gate: Tensor,
    up: Tensor | None,
    segments: Tensor | SegmentPlan,
    stats: StatsBuffers,
    act: str = "silu",
) -> Tensor:
    """The output of :func:`ops.glu`, bit for bit, while ``stats`` takes in every neuron's statistics.

    The statistics are those of docs/method.md, of the rounded value h that the model uses; NaN and infinities
    are counted in ``nonfinite`` and left out of the rest. The same shapes and segments give the same bits, for any
    number of threads.

    Args:
        gate, up, act: as for :func:`ops.glu`.
        segments: int32 or int64 [N], the segment of each row of the flattened ``gate``, -1 where it is not counted;
            or a SegmentPlan of them, made once and shared by all layers.
        stats: accumulators for F neurons; its ``active`` rule says what counts as active.

    Raises:
        TypeError, ValueError: as :func:`ops.glu`; or ``segments`` or ``stats`` does not fit the activation.
        IndexError: a segment is outside [-1, S).
        RuntimeError: a gradient is required of gate or up.
        In each case before anything is written.
    """
    check_activation(act)
    refuse_gradient("glu_stats", gate, up)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    plan = stats.plan_for(gate, segments)
    product = stats.active_rule == "product"
    h: Tensor = _glu_stats(rows, up_rows, plan.order, plan.tiles, *stats.tensors, act, product)
    return h if gate.dim() == 2 else h.view(gate.shape)
