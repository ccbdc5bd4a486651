"""Schedules: programs by position in a text."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from affectron._internal.arguments import PROGRAM, checked_arguments
from affectron._internal.checks import OneOf, check
from affectron._internal.display import Shown, Summary
from affectron._internal.hub import Shareable
from affectron._internal.model_card import Description
from affectron._internal.names import POSITIONS
from affectron._internal.provenance import Origin
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.interventions import storage
from affectron.interventions.program import Program

#: Largest number of programs in a schedule, with that of the prompt and without that of the text.
MAX_PIECES = 16
_TOO_LATE = 1 << 63  # starts are int64 on the device
# Steps of a decay, each half a half-life long. The last acts at 2 % of full strength.
_DECAY_STEPS = 12
_AS_PROMPT: Any = ...  # the default of Schedule.text, where None means no program


@dataclass(frozen=True, eq=False)
class Schedule(Shown, Shareable):
    """Programs by position in a text; :func:`schedule` makes the usual ones.

    A program acts in the forward that reads a token. A program of None leaves tokens untouched.

    Attributes:
        prompt: program of the given tokens that are not the text's own.
        generated: pairs (k, program), k ascending from 0: the program acts from generated token k on, counted from 0,
            until that of the next pair.
        name: description for reports and messages.
        text: program of the text's own tokens inside a prompt; by default that of the prompt. If the two differ, a
            model has to be told which tokens these are (:attr:`affectron.models.Steering.text`).

    Raises:
        InputError: the starts do not ascend from 0 or exceed int64, or there are more than 15 of them.
    """

    _argument: ClassVar[str] = PROGRAM
    hub_file = storage.FILE

    prompt: Program | None
    generated: tuple[tuple[int, Program | None], ...]
    name: str
    text: Program | None = _AS_PROMPT

    def __post_init__(self) -> None:
        if self.text is _AS_PROMPT:
            object.__setattr__(self, "text", self.prompt)
        starts = [start for start, _ in self.generated]
        if len(starts) >= MAX_PIECES:
            raise InputError(f"generated holds {len(starts)} programs, expected at most {MAX_PIECES - 1}")
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise((*starts, _TOO_LATE))):
            raise InputError(f"generated begins at tokens {starts}, expected ascending numbers from 0, below 2**63")

    @property
    def origin(self) -> Origin | None:
        """Model and neurons that its programs were made for; None if they are not known."""
        return Origin.union(program.origin for program in self._programs())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file as :meth:`Program.save`, each different program once.

        Raises:
            InputError: the file cannot be written; an older file is left unchanged.
        """
        programs = self._programs()
        numbers: dict[Program | None, int | None] = {None: None}
        numbers.update((program, number) for number, program in enumerate(programs))
        parts = {part: numbers[getattr(self, part)] for part in storage.PARTS}
        generated = [[start, numbers[program]] for start, program in self.generated]
        described = {"name": self.name, **parts, "generated": generated}
        storage.write(path, [program._stored() for program in programs], described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a file that :meth:`save` wrote. The schedule is the same, bit for bit.

        Raises:
            InputError: the file is missing, truncated, altered, of another format or version, or holds a program.
        """
        stored, described = storage.read(path)
        if described is None:
            raise InputError(f"{path} holds a program, expected a schedule; read it with Program.load")
        return cls._of_parts(stored, described, path)

    @classmethod
    def _of_parts(
        cls, stored: Sequence[storage.Stored], described: Mapping[str, Any], path: str | os.PathLike[str]
    ) -> Schedule:
        """The schedule that is stored in the file ``path``."""
        programs = [Program._of(program, path) for program in stored]
        prompt, text = (_numbered(programs, described[part]) for part in storage.PARTS)
        generated = tuple((start, _numbered(programs, number)) for start, number in described["generated"])
        try:
            return cls(prompt, generated, described["name"], text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _described(self) -> Description:
        return storage.describe(f"The schedule “{self.name}”, programs by position in a text.", self.origin)

    def _programs(self) -> list[Program]:
        """The different programs, in the order of a text's positions."""
        acting = [self.prompt, self.text, *(program for _, program in self.generated)]
        return [program for program in dict.fromkeys(acting) if program is not None]

    def _summary(self) -> Summary:
        parts = [("prompt", self.prompt), ("text", self.text)]
        parts += [(f"generated, from token {start} on", program) for start, program in self.generated]
        rows = [(part, program and program.name, len(program or ())) for part, program in parts]
        return Summary(
            [self.name, count(len(self.generated), "piece")], ("tokens", "program", "neurons"), rows, len(rows)
        )


def _numbered(programs: Sequence[Program], number: int | None) -> Program | None:
    return None if number is None else programs[number]


def load_program(path: str | os.PathLike[str]) -> Program | Schedule:
    """Read a file of a program or of a schedule.

    Raises:
        InputError: the file is missing, truncated, altered, or of another format or version.
    """
    stored, described = storage.read(path)
    return Program._of(stored[0], path) if described is None else Schedule._of_parts(stored, described, path)


@checked_arguments
def schedule(
    program: Program,
    *,
    where: str = "all",
    prompt: bool = True,
    start: int = 0,
    stop: int | None = None,
    half_life: float | None = None,
) -> Schedule:
    """Restrict ``program`` to a part of a text, or let it decay.

    Generated tokens are counted from 0. The forward over the prompt already writes the first of them. A program that
    acts on generated tokens alone therefore first changes the second one.

    Args:
        program: the program.
        where: tokens on which the program acts. ``text``: the text's own inside a prompt; ``prompt``: all other given
            ones, such as a template's words; ``generated``: those that are written; ``all``: all of these. The other
            options go with ``all`` and ``generated``.
        prompt: with ``all``: let the program act on given tokens.
        start: first generated token on which the program acts.
        stop: first generated token on which it no longer acts. 0 restricts it to the prompt; None means no end.
        half_life: generated tokens after ``start`` at which the program acts at half strength (:meth:`Program.scaled`).
            The decay is a staircase of 12 steps, each max(1, round(half_life / 2)) tokens; after the last the program
            is off. None means no decay.

    Raises:
        InputError: ``where`` is unknown, or is ``text`` or ``prompt`` beside another option; start or stop is negative,
            stop is not after start (unless both are 0 and the program acts on given tokens), or half_life is below 1.
    """
    check("where", where, OneOf((*POSITIONS, "generated")))
    if where in ("text", "prompt"):
        if (prompt, start, stop, half_life) != (True, 0, None, None):
            given = f"prompt {prompt}, start {start}, stop {stop}, half_life {half_life}"
            raise InputError(f"where is {where!r} beside {given}; expected 'all' or 'generated' beside these")
        if where == "text":
            return Schedule(None, ((0, None),), f"{program.name} (text)", program)
        return Schedule(program, ((0, None),), f"{program.name} (prompt without text)", None)
    prompt = prompt and where == "all"
    if start < 0 or (stop is not None and stop < 0):
        raise InputError(f"start is {start} and stop is {stop}, expected at least 0")
    if half_life is not None and not (math.isfinite(half_life) and half_life >= 1):
        raise InputError(f"half_life is {half_life}, expected a finite number of at least 1")
    if stop is not None and stop <= start and (stop + start > 0 or not prompt):
        raise InputError(f"stop is {stop}, expected more than start, {start}")
    pieces: list[tuple[int, Program | None]] = [(0, None)] if start else []
    if half_life is None:
        pieces.append((start, program))
    else:
        width = max(1, round(half_life / 2))
        weights = [2 ** (-step * width / half_life) for step in range(_DECAY_STEPS)]
        pieces += [(start + step * width, program.scaled(weight)) for step, weight in enumerate(weights)]
        pieces.append((start + _DECAY_STEPS * width, None))
    if stop is not None:
        pieces = [*(piece for piece in pieces if piece[0] < stop), (stop, None)]
    written = f"generated {start} to {'end' if stop is None else stop - 1}"
    acting = ["prompt"] * prompt + [written] * (stop != 0)
    fading = "" if half_life is None else f", half-life {half_life:g}"
    return Schedule(program if prompt else None, tuple(pieces), f"{program.name} ({' and '.join(acting)}{fading})")
