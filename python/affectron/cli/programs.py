"""Programs of saved neurons, by name: the options that describe them, and what is made of these."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import affectron
from affectron._internal.artifacts import STATS
from affectron._internal.names import MAX, RMS
from affectron._internal.wording import count
from affectron.cli.inputs import stats_beside
from affectron.errors import InputError
from affectron.interventions import doses
from affectron.interventions.recipes import STRENGTHS, ProgramName, Recipe

if TYPE_CHECKING:
    from affectron import ActivationStats, NeuronList, NeuronSet, Program, Schedule, SiteStats


class Where(str, enum.Enum):
    all = "all"
    prompt = "prompt"
    generated = "generated"


LabelOption = Annotated[list[str], typer.Option(help="A label whose neurons are steered.", metavar="LABEL")]
ProgramOption = Annotated[
    ProgramName, typer.Option(help="What is done to the neurons; contrast is for neurons by text attribution.")
]
StrengthOption = Annotated[
    list[float] | None,
    typer.Option(
        help="; ".join(f"{kind.value}: {of_kind.name} ({of_kind.usual:g})" for kind, of_kind in STRENGTHS.items())
        + ".",
        metavar="NUMBER",
    ),
]
MaxDoseOption = Annotated[
    float | None,
    typer.Option(
        help="Largest shift at a site, relative to the root mean square of the site's activations; a larger one is "
        "scaled down."
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        help="attenuate: the magnitude of a neuron's activation under the label that alpha is relative to, the "
        "largest (max) or the root mean square (rms); default: max.",
        metavar=f"{MAX}|{RMS}",
    ),
]
SignalOption = Annotated[str | None, typer.Option(help="cross-signal: the label whose mean activation is added.")]
WhereOption = Annotated[
    Where, typer.Option(help="Tokens that are steered: all, those of the prompt, or the generated ones.")
]
ShareOption = Annotated[float, typer.Option(help="Share of a label's neurons to steer, best first.")]


def members_of(selected: NeuronSet, label: str, share: float, file: Path) -> NeuronList:
    """The best neurons of a label, from the set that ``file`` holds.

    Raises:
        InputError: no such label, a label without neurons, or a share outside (0, 1].
    """
    members = selected[label].top(share)
    if not members:
        raise InputError(f"label {label!r} has no neurons in {file}; select more with a larger --top")
    return members


def recipe_of(
    kind: ProgramName, neurons: Path, stats: Path | None, reference: str | None, signal: str | None,
    max_dose: float | None,
) -> Recipe:  # fmt: skip
    """The recipe of a kind of program with its options; the statistics, given or beside the neurons, are read once.

    Raises:
        InputError: an option does not go with the kind.
    """
    return Recipe(kind, cache(lambda: stats_beside(neurons, stats)), reference, signal, max_dose)


def found_stats(recipe: Recipe, neurons: Path, stats: Path | None) -> ActivationStats | None:
    """The statistics of a recipe; None where there are none, which kinds such as zero do not need."""
    return None if stats is None and not (neurons.parent / STATS).is_file() else recipe.stats()


def limited(
    program: Program, where: Where, *, start: int = 0, stop: int | None = None, half_life: float | None = None
) -> Program | Schedule:
    """Limit a program to tokens; the options are those of :func:`affectron.schedule`.

    Raises:
        InputError: as for :func:`affectron.schedule`.
    """
    everywhere = (start, stop, half_life) == (0, None, None)
    if everywhere and where is Where.all:
        return program
    if everywhere and where is Where.prompt:  # all given tokens: nothing stands around the text of a plain prompt
        return affectron.schedule(program, stop=0)
    return affectron.schedule(program, where=where.value, start=start, stop=stop, half_life=half_life)


@dataclass(frozen=True)
class Steered:
    """A program of a label's neurons.

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
        cls,
        neurons: NeuronList,
        program: Program,
        acting: Program | Schedule,
        measured: Mapping[str, SiteStats] | None,
    ) -> Steered:
        given = {} if measured is None else doses(program, measured)
        dose = max(((dose, site) for site, dose in given.items()), default=None)
        return cls(neurons, program, acting, dose)

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
