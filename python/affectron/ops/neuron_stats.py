"""ops.neuron_stats: the statistics of an activation that something else has computed."""

from __future__ import annotations

from torch import Tensor

from affectron.ops import native, reference
from affectron.ops.buffers import StatsBuffers
from affectron.ops.glu_stats import refuse_gradient
from affectron.ops.library import as_rows, define
from affectron.ops.segments import SegmentPlan


def _fake(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    return None


_neuron_stats = define(
    "neuron_stats(Tensor h, Tensor? gate, Tensor order, Tensor tiles, Tensor(a!) count, Tensor(b!) tally, "
    "Tensor(c!) moments, Tensor(d!) extrema) -> ()",
    native.neuron_stats,
    reference.neuron_stats,
    _fake,
)


def neuron_stats(h: Tensor, segments: Tensor | SegmentPlan, stats: StatsBuffers, gate: Tensor | None = None) -> None:
    """Take the statistics of docs/method.md of ``h`` into ``stats``.

    Args:
        h: fp32, bf16 or fp16 [..., F], last stride 1.
        segments: as for :func:`ops.glu_stats`.
        stats: accumulators for F neurons.
        gate: like ``h``; where given, a neuron is active in a row where ``gate`` > 0, else where h > 0.

    Raises:
        As :func:`ops.glu_stats`, before anything is written; ValueError also where ``stats`` has the rule
        ``gate`` and no gate is given, or the rule ``product`` and one is.
    """
    refuse_gradient("neuron_stats", h, gate)
    if (gate is None) != (stats.active_rule == "product"):
        given = "is missing" if gate is None else "is given"
        raise ValueError(f"gate {given}, and the active rule of stats is {stats.active_rule!r}")
    rows = as_rows("h", h)
    gate_rows = None if gate is None else as_rows("gate", gate, h)
    plan = stats.plan_for(h, segments)
    _neuron_stats(rows, gate_rows, plan.order, plan.tiles, *stats.tensors)
