"""ops.glu_stats: act(gate) up, and in the same pass the statistics of every neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron.ops._checks import as_rows, check_activation, refuse_gradient
from affectron.ops._registry import kernel_op
from affectron.ops.buffers import StatsBuffers
from affectron.ops.segments import SegmentPlan


@kernel_op(
    "glu_stats(Tensor gate, Tensor? up, Tensor order, Tensor tiles, Tensor(a!) count, Tensor(b!) tally, "
    "Tensor(c!) moments, Tensor(d!) extrema, str act, bool product) -> Tensor"
)
def _glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def glu_stats(
    gate: Tensor,
    up: Tensor | None,
    segments: Tensor | SegmentPlan,
    stats: StatsBuffers,
    act: str = "silu",
) -> Tensor:
    """Output of :func:`ops.glu`, bit for bit; the same pass accumulates every neuron's statistics in ``stats``.

    The statistics are those of docs/method.md, of the rounded value h that the model uses. NaN and infinities are
    counted in ``nonfinite`` and left out of the rest. The same shapes and segments give the same bits, for any number
    of threads.

    Args:
        gate, up, act: as for :func:`ops.glu`.
        segments: int32 or int64 [N], the segment of each row of the flattened ``gate``, -1 where it is not counted;
            or a SegmentPlan of them, which all layers share.
        stats: accumulators of S segments and F neurons, written in place; the ``active`` rule it was made with decides
            which rows count as active.

    Returns:
        A contiguous tensor like ``gate``. It has no gradient.

    Raises:
        TypeError, ValueError: as :func:`ops.glu`; or ``segments`` or ``stats`` does not fit the activation.
        IndexError: a segment is outside [-1, S) (checked on the CPU).
        RuntimeError: gate or up requires a gradient.
        Nothing has been written then.
    """
    check_activation(act)
    refuse_gradient("glu_stats", gate, up)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    plan = stats.plan_for(rows, segments)
    product = stats.active_rule == "product"
    h = _glu_stats(rows, up_rows, plan.order, plan.tiles, *stats.tensors, act, product)
    return h if gate.dim() == 2 else h.view(gate.shape)
