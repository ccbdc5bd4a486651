"""Programs by name, as ``affectron steer`` makes them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import affectron
from affectron._internal.wording import count
from affectron.interventions import doses

if TYPE_CHECKING:
    from affectron import NeuronList, Program, Schedule, SiteStats


class Where(str, enum.Enum):
    all = "all"
    prompt = "prompt"
    generated = "generated"


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
