"""Programs by name, as ``affectron steer`` makes them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import affectron
from affectron._internal.checks import Positive, check
from affectron._internal.names import MAX
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.interventions import doses

if TYPE_CHECKING:
    from affectron import ActivationStats, NeuronList, Program, Schedule, SiteStats


class ProgramName(str, enum.Enum):
    zero = "zero"
    mean = "mean"
    attenuate = "attenuate"
    contrast = "contrast"
    induce = "induce"
    amplify = "amplify"
    cross_signal = "cross-signal"


class Where(str, enum.Enum):
    all = "all"
    prompt = "prompt"
    generated = "generated"


# Where no strength is given: alpha, beta, factor, omega.
_STRENGTH = {
    ProgramName.attenuate: 0.5,
    ProgramName.contrast: 4.0,
    ProgramName.induce: 1.0,
    ProgramName.amplify: 2.0,
    ProgramName.cross_signal: 1.0,
}
_SHIFTS = (ProgramName.contrast, ProgramName.induce, ProgramName.cross_signal)


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
            if self.name not in _SHIFTS:
                shifts = ", ".join(shift.value for shift in _SHIFTS)
                raise InputError(
                    f"{option} is {value:g}, and the program is {self.name.value}, expected one of {shifts}"
                )

    def make(self, neurons: NeuronList, strength: float | None = None) -> Program:
        """The program of neurons, at its usual strength unless another is given.

        Raises:
            InputError: a strength where the kind has none, or as for the functions of the kinds.
        """
        if self.name not in _STRENGTH and strength is not None:
            raise InputError(f"strength is {strength}, but the program {self.name.value} has none")
        strength = _STRENGTH.get(self.name, 0.0) if strength is None else strength
        match self.name:
            case ProgramName.zero:
                return affectron.zero(neurons)
            case ProgramName.mean:
                return affectron.mean(neurons, self.stats())
            case ProgramName.attenuate:
                return affectron.attenuate(neurons, self.stats(), strength, reference=self.reference or MAX)
            case ProgramName.contrast:
                return affectron.contrast(neurons, self.stats(), strength, max_dose=self.max_dose)
            case ProgramName.induce:
                return affectron.induce(neurons, self.stats(), strength, max_dose=self.max_dose)
            case ProgramName.amplify:
                return affectron.amplify(neurons, strength)
            case ProgramName.cross_signal:
                return affectron.cross_signal(neurons, self.stats(), str(self.signal), strength, max_dose=self.max_dose)


@dataclass(frozen=True)
class Steered:
    """A program of one of the texts.

    Attributes:
        neurons: the label's neurons.
        program: what is done to them.
        acting: the same at the tokens that are steered.
        dose: the largest dose and its site; None without statistics of activations.
    """

    neurons: NeuronList
    program: Program
    acting: Program | Schedule
    dose: tuple[float, str] | None

    @classmethod
    def of(
        cls, neurons: NeuronList, program: Program, where: Where, measured: Mapping[str, SiteStats] | None
    ) -> Steered:
        given = {} if measured is None else doses(program, measured)
        dose = max(((dose, site) for site, dose in given.items()), default=None)
        return cls(neurons, program, _limited(program, where), dose)

    @property
    def heading(self) -> str:
        dose = "" if self.dose is None else f", dose {self.dose[0]:.2g}"
        return f"{self.acting.name}, {count(len(self.program), 'neuron')}{dose}"

    @property
    def reason(self) -> str:
        """The likely reason for texts that do not change."""
        if self.dose is None:
            return f"{self.acting.name} touches {count(len(self.program), 'neuron')}"
        return f"the largest dose of {self.acting.name} is {self.dose[0]:.2g}, at {self.dose[1]}"


def _limited(program: Program, where: Where) -> Program | Schedule:
    match where:
        case Where.all:
            return program
        case Where.prompt:  # all given tokens: nothing stands around the text of a plain prompt
            return affectron.schedule(program, stop=0)
        case Where.generated:
            return affectron.schedule(program, where="generated")
