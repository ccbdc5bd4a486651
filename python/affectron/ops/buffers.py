"""StatsBuffers: the accumulators of one site (docs/method.md), on the device where the model runs, or on the CPU where
that has no float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from affectron._internal.display import Shown, Summary
from affectron._internal.names import ACTIVE_RULES
from affectron._internal.wording import count
from affectron.ops._checks import as_rows
from affectron.ops.float64 import float64_device
from affectron.ops.segments import SegmentPlan, plan_for


@dataclass(frozen=True)
class FinalStats(Shown):
    """Accumulated statistics of S segments and F neurons.

    count is int64 [S]; active and nonfinite are int64 [S, F]; mean, m2 and var are fp64 [S, F]; min and max are fp32
    [S, F]. ``var`` is m2 divided by the number of finite observations. Where a neuron has none, mean and var are NaN,
    min is +inf and max is -inf.
    """

    count: Tensor
    active: Tensor
    nonfinite: Tensor
    mean: Tensor
    m2: Tensor
    var: Tensor
    min: Tensor
    max: Tensor


class StatsBuffers(Shown):
    """Accumulators of ``segments`` segments and ``neurons`` neurons, filled by ``ops.glu_stats`` and ``neuron_stats``.

    Args:
        segments: S, at least 1.
        neurons: F, at least 1.
        active: ``gate`` counts a row as active where act(gate) > 0, ``product`` where h > 0.
        device: the device of the activations. The accumulators live there, or on the CPU where it has no float64.

    Raises:
        ValueError: a number is below 1, or ``active`` is neither rule.

    Size: 8 S + 40 S F bytes.
    """

    def __init__(self, segments: int, neurons: int, active: str = "gate", device: torch.device | str = "cpu") -> None:
        if segments < 1 or neurons < 1:
            raise ValueError(f"segments and neurons are {segments} and {neurons}, expected at least 1 of each")
        if active not in ACTIVE_RULES:
            raise ValueError(f"active is {active!r}, expected one of {', '.join(ACTIVE_RULES)}")
        self.segments, self.neurons, self.active_rule = segments, neurons, active
        self.device = torch.empty(0, device=device).device  # with its index
        shape, device = (2, segments, neurons), float64_device(self.device)
        self.count = torch.zeros(segments, dtype=torch.int64, device=device)
        self.tally = torch.zeros(shape, dtype=torch.int64, device=device)  # active, nonfinite
        self.moments = torch.zeros(shape, dtype=torch.float64, device=device)  # mean, m2
        self.extrema = torch.full(shape, float("inf"), dtype=torch.float32, device=device)  # min, max
        self.extrema[1] = float("-inf")

    def _summary(self) -> Summary:
        sizes = f"{count(self.segments, 'segment')} of {count(self.neurons, 'neuron')}"
        return Summary([sizes, f"active by {self.active_rule}", str(self.count.device)])

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four accumulators in the order the ops take them."""
        return self.count, self.tally, self.moments, self.extrema

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the state that :meth:`finalize` gave, bit for bit, so that accumulation goes on from it.

        Args:
            saved: the fields of FinalStats by name, on any device; ``var`` is not needed.
        """
        seen = saved["count"][:, None] > saved["nonfinite"]
        self.count.copy_(saved["count"])
        self.tally.copy_(torch.stack([saved["active"], saved["nonfinite"]]))
        self.moments.copy_(torch.stack([saved["mean"].where(seen, 0.0), saved["m2"]]))
        self.extrema.copy_(torch.stack([saved["min"], saved["max"]]))

    def plan_for(self, value: Tensor, segments: Tensor | SegmentPlan) -> SegmentPlan:
        """The plan for the rows of an activation ``value`` [..., F], checked to fit them and these accumulators."""
        rows = as_rows("gate", value)
        if rows.shape[1] != self.neurons:
            raise ValueError(f"the activation has {rows.shape[1]} neurons, expected the {self.neurons} of stats")
        return plan_for(segments, rows, self.device, self.segments, "stats")

    def finalize(self) -> FinalStats:
        """The statistics so far; accumulation can go on afterwards."""
        observed = self.count[:, None] - self.tally[1]
        seen = observed > 0
        nan = float("nan")
        return FinalStats(
            count=self.count.clone(),
            active=self.tally[0].clone(),
            nonfinite=self.tally[1].clone(),
            mean=self.moments[0].where(seen, nan),
            m2=self.moments[1].clone(),
            var=(self.moments[1] / observed).where(seen, nan),
            min=self.extrema[0].clone(),
            max=self.extrema[1].clone(),
        )
