"""Intervention programs: the parameters of each neuron, computed from statistics with numpy alone (docs/method.md).

All interventions have one form, which :func:`affectron.models.intervene` applies to a model:

    h' = h · max(scale - damping·|h|, floor) + shift

A neuron with scale 1, damping 0, floor -inf and shift -0 keeps every bit of h (a shift of +0 would turn -0 to 0).
"""

from affectron.interventions.kinds import (
    Neurons,
    amplify,
    attenuate,
    contrast,
    cross_signal,
    doses,
    induce,
    mean,
    relative_change,
    residual,
    zero,
)
from affectron.interventions.program import Program, SiteProgram, compose
from affectron.interventions.schedules import MAX_PIECES, Schedule, load_program, schedule

__all__ = [
    "MAX_PIECES",
    "Neurons",
    "Program",
    "Schedule",
    "SiteProgram",
    "amplify",
    "attenuate",
    "compose",
    "contrast",
    "cross_signal",
    "doses",
    "induce",
    "load_program",
    "mean",
    "relative_change",
    "residual",
    "schedule",
    "zero",
]
