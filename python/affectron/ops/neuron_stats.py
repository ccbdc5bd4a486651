"""ops.neuron_stats: the statistics of an activation that is already computed."""

from __future__ import annotations

from torch import Tensor

from affectron.ops._checks import as_rows, refuse_gradient
from affectron.ops._registry import kernel_op
from affectron.ops.buffers import StatsBuffers
from affectron.ops.segments import SegmentPlan


@kernel_op(
    "neuron_stats(Tensor h, Tensor? gate, Tensor order, Tensor tiles, Tensor(a!) count, Tensor(b!) tally, "
    "Tensor(c!) moments, Tensor(d!) extrema) -> ()"
)
def _neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    return None


def neuron_stats(h: Tensor, segments: Tensor | SegmentPlan, stats: StatsBuffers, gate: Tensor | None = None) -> None:
    """Accumulate the statistics (docs/method.md) of the activation ``h`` in ``stats``.

    Args:
        h: fp32, bf16 or fp16 [..., F], last stride 1.
        segments: as for :func:`ops.glu_stats`.
        stats: accumulators of S segments and F neurons, written in place.
        gate: like ``h``; where given, a neuron is active in a row where ``gate`` > 0, else where h > 0.

    Raises:
        TypeError, ValueError, IndexError, RuntimeError: as :func:`ops.glu_stats`.
        ValueError: ``stats`` has the rule ``gate`` and no gate is given, or the rule ``product`` and a gate is given.
        Nothing has been written then.
    """
    refuse_gradient("neuron_stats", h, gate)
    if (gate is None) != (stats.active_rule == "product"):
        given = "is missing" if gate is None else "is given"
        raise ValueError(f"gate {given}, and the active rule of stats is {stats.active_rule!r}")
    rows = as_rows("h", h)
    gate_rows = None if gate is None else as_rows("gate", gate, h)
    plan = stats.plan_for(rows, segments)
    _neuron_stats(rows, gate_rows, plan.order, plan.tiles, *stats.tensors)
