"""Programs by name: what a command line and a page make them from."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from affectron._internal.checks import Positive, check
from affectron._internal.names import MAX
from affectron.errors import InputError
from affectron.interventions.kinds import amplify, attenuate, contrast, cross_signal, induce, mean, zero
from affectron.interventions.program import Program
from affectron.stats import ACTIVATION

if TYPE_CHECKING:
    from affectron.neurons import NeuronList
    from affectron.stats import ActivationStats, SiteStats


class ProgramName(str, enum.Enum):
    zero = "zero"
    mean = "mean"
    attenuate = "attenuate"
    contrast = "contrast"
    induce = "induce"
    amplify = "amplify"
    cross_signal = "cross-signal"


@dataclass(frozen=True)
class Strength:
    """The strength of a kind of program.

    Attributes:
        name: its name.
        usual: the value where none is given.
        neutral: the value at which the program changes nothing.
    """

    name: str
    usual: float
    neutral: float = 0.0


#: The kinds that have a strength.
STRENGTHS = {
    ProgramName.contrast: Strength("beta", 4.0),
    ProgramName.induce: Strength("beta", 1.0),
    ProgramName.cross_signal: Strength("omega", 1.0),
    ProgramName.amplify: Strength("factor", 2.0, neutral=1.0),
    ProgramName.attenuate: Strength("alpha", 0.5),
}
#: The kinds whose strength may have either sign.
SHIFTS = (ProgramName.contrast, ProgramName.induce, ProgramName.cross_signal)


@dataclass(frozen=True)
class Recipe:
    """A kind of program with its options, but for neurons and strength.

    Attributes:
        name: the kind.
        stats: gives the statistics; called where the kind needs them.
        reference, signal, max_dose: options of some kinds; None where they are not given.

    Raises:
        InputError: an option does not go with the kind.
    """

    name: ProgramName
    stats: Callable[[], ActivationStats]
    reference: str | None
    signal: str | None
    max_dose: float | None

    def __post_init__(self) -> None:
        if (self.name is ProgramName.cross_signal) != (self.signal is not None):
            raise InputError(
                f"signal is {self.signal!r}, expected a label with the program cross-signal and none without it"
            )
        if self.name is not ProgramName.attenuate and self.reference is not None:
            raise InputError(f"reference is {self.reference!r}, but the program {self.name.value} has none")
        self.of_shifts("max_dose", self.max_dose)

    def of_shifts(self, option: str, value: float | None) -> None:
        """Check an option above 0 that only shifts have.

        Raises:
            InputError: it is not above 0, or is given with another program.
        """
        if value is not None:
            check(option, value, Positive())
            if self.name not in SHIFTS:
                shifts = ", ".join(shift.value for shift in SHIFTS)
                raise InputError(
                    f"{option} is {value:g}, and the program is {self.name.value}, expected one of {shifts}"
                )

    def make(self, neurons: NeuronList, strength: float | None = None) -> Program:
        """The program of neurons, at its usual strength unless another is given.

        Raises:
            InputError: a strength where the kind has none, or as for the functions of the kinds.
        """
        if self.name not in STRENGTHS and strength is not None:
            raise InputError(f"strength is {strength}, but the program {self.name.value} has none")
        usual = STRENGTHS[self.name].usual if self.name in STRENGTHS else 0.0
        strength = usual if strength is None else strength
        match self.name:
            case ProgramName.zero:
                return zero(neurons)
            case ProgramName.mean:
                return mean(neurons, self.stats())
            case ProgramName.attenuate:
                return attenuate(neurons, self.stats(), strength, reference=self.reference or MAX)
            case ProgramName.contrast:
                return contrast(neurons, self.stats(), strength, max_dose=self.max_dose)
            case ProgramName.induce:
                return induce(neurons, self.stats(), strength, max_dose=self.max_dose)
            case ProgramName.amplify:
                return amplify(neurons, strength)
            case ProgramName.cross_signal:
                return cross_signal(neurons, self.stats(), str(self.signal), strength, max_dose=self.max_dose)


def all_activations(stats: ActivationStats) -> Mapping[str, SiteStats] | None:
    """Statistics of all activations, that doses are relative to; None if ``stats`` hold something else."""
    return None if stats.kind != ACTIVATION or stats.of_pairs else stats.total()
