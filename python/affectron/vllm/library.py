"""The programs that requests may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affectron._internal.files import digest
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, load_program
from affectron.interventions.storage import SUFFIX, served_name
from affectron.vllm.settings import Settings


@dataclass(frozen=True, eq=False)
class Served:
    """A program or schedule that requests may name.

    Attributes:
        name: its name.
        digest: hash of its file.
        programs: its different programs.
        prompt: its place in the tables for tokens of the prompt; -1 for none.
        starts: int64 [S], ascending from 0: generated tokens, counted from 0, from which on a place holds.
        places: int32 [S]: these places; -1 for none.
    """

    name: str
    digest: str
    programs: tuple[Program, ...]
    prompt: int
    starts: NDArray[np.int64]
    places: NDArray[np.int32]

    @cached_property
    def constant(self) -> bool:
        """True if one place holds for all tokens."""
        return bool((self.places == self.prompt).all())

    @property
    def windowed(self) -> bool:
        """True if the place changes from a generated token to another one."""
        return len(self.starts) > 1

    def places_at(self, generated: NDArray[np.int64]) -> NDArray[np.int32]:
        """The place of each token, from its position after the prompt: below 0 inside the prompt."""
        found = self.places[np.searchsorted(self.starts, generated, side="right") - 1]
        return np.where(generated < 0, np.int32(self.prompt), found)


@dataclass(frozen=True, eq=False)
class Library(Mapping[str, Served]):
    """The programs of a folder by name, each different one with a place in the tables.

    Attributes:
        served: name -> program.
        programs: the program at each place.
        capacity: number of places in the tables.
    """

    served: Mapping[str, Served]
    programs: tuple[Program, ...]
    capacity: int

    def __getitem__(self, name: str) -> Served:
        return self.served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.served)

    def __len__(self) -> int:
        return len(self.served)

    @property
    def names(self) -> str:
        return ", ".join(self)

    @property
    def digest(self) -> str:
        """Hash of the names and files."""
        return digest(*(f"{name} {served.digest}".encode() for name, served in self.items()))


def load(settings: Settings) -> Library:
    """Read the programs of a folder.

    Raises:
        InputError: there is no folder or no program, a file is no program, a name has other characters than letters,
            digits, ``.``, ``_`` and ``-``, a program acts on the text's own tokens only, or there are more programs
            than places.
    """
    if not settings.programs.is_dir():
        raise InputError(f"programs is {str(settings.programs)!r}, expected a folder of programs")
    files = sorted(settings.programs.glob(f"*{SUFFIX}"))
    if not files:
        raise InputError(
            f"programs is {str(settings.programs)!r}, which has no *{SUFFIX}; affectron export writes them"
        )
    places: dict[Program | None, int] = {None: -1}
    served = {one.name: one for one in (_served(file, places) for file in files)}
    programs = tuple(program for program in places if program is not None)
    if len(programs) > settings.capacity:
        raise InputError(
            f"capacity is {settings.capacity}, expected at least {len(programs)}: {settings.programs} has "
            f"{count(len(served), 'program')} of {count(len(programs), 'place')}"
        )
    return Library(served, programs, settings.capacity)


def _served(file: Path, places: dict[Program | None, int]) -> Served:
    """The program in a file; ``places`` gains those of its programs."""
    acting = load_program(file)
    schedule = Schedule(acting, ((0, acting),), acting.name) if isinstance(acting, Program) else acting
    if schedule.text is not schedule.prompt:
        raise InputError(
            f"{file} acts on a text's own tokens or on those around it, which a request does not tell apart; expected "
            "a schedule of the prompt and of generated tokens"
        )
    starts, programs = zip(*schedule.generated, strict=True)
    different = dict.fromkeys((schedule.prompt, *programs))
    for program in different:
        places.setdefault(program, len(places) - 1)
    return Served(
        served_name(file),
        digest(file.read_bytes()),
        tuple(program for program in different if program is not None),
        places[schedule.prompt],
        np.array(starts, dtype=np.int64),
        np.array([places[program] for program in programs], dtype=np.int32),
    )
