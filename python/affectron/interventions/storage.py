"""Files of programs: safetensors of their parameters with a JSON description, also of schedules."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal.model_card import Description
from affectron._internal.provenance import Origin
from affectron._internal.tensor_file import read_arrays, write_arrays
from affectron.errors import InputError

FORMAT = "affectron.program"
VERSION = 1

#: End of the name of a file, and that name in a repository.
SUFFIX = ".safetensors"
FILE = f"program{SUFFIX}"

#: Arrays of a site, by name: type.
ARRAYS: dict[str, type[np.generic]] = {
    "index": np.int64,
    **dict.fromkeys(("scale", "damping", "floor", "shift"), np.float32),
}

#: Programs of a schedule that are given by name; those of generated tokens have numbers.
PARTS = ("prompt", "text")


@dataclass(frozen=True)
class Stored:
    """A program as plain data: its name, site -> arrays named in ``ARRAYS``, each [K], and its origin."""

    name: str
    sites: Mapping[str, Mapping[str, NDArray[Any]]]
    origin: Origin | None


def served_name(path: str | os.PathLike[str]) -> str:
    """Name by which a request to a server asks for the program of a file: the file's own, without ``SUFFIX``.

    Raises:
        InputError: the file has another suffix, its name is empty or has other characters than ``[A-Za-z0-9._-]``, or
            it is None, as clients may write no program.
    """
    file = os.path.basename(path)
    name = file.removesuffix(SUFFIX)
    if name == file:
        raise InputError(f"file of a program is {file!r}, expected NAME{SUFFIX}")
    if not re.fullmatch("[A-Za-z0-9._-]+", name) or name == "None":
        raise InputError(f"name of a program is {name!r}, expected letters, digits, '.', '_' and '-', and not 'None'")
    return name


def write(path: str | os.PathLike[str], programs: Sequence[Stored], schedule: Mapping[str, Any] | None) -> None:
    """Write programs, atomically; equal programs give equal files.

    Tensors are named ``<program>/<site>/<array>``. The metadata entry ``affectron`` is JSON: the format, its version,
    ``content`` (name, sites and origin of each program, and the schedule) and a BLAKE2b digest of the content and of
    every tensor.

    Args:
        path: the file.
        programs: the programs.
        schedule: of a schedule its name, its ``prompt`` and ``text`` (a number of a program or None), and its
            ``generated`` (pairs of a token and such a number); None for a single program.

    Raises:
        InputError: the file cannot be written; an older file is left unchanged.
    """
    content = {
        "programs": [
            {
                "name": program.name,
                "sites": list(program.sites),
                "origin": None if program.origin is None else vars(program.origin),
            }
            for program in programs
        ],
        "schedule": schedule,
    }
    arrays = {
        # safetensors writes the memory of an array as it lies: a parameter may be one number that is seen K times.
        f"{number}/{site}/{name}": np.ascontiguousarray(of_site[name])
        for number, program in enumerate(programs)
        for site, of_site in program.sites.items()
        for name in ARRAYS
    }
    write_arrays(path, FORMAT, VERSION, content, arrays)


def read(path: str | os.PathLike[str]) -> tuple[list[Stored], dict[str, Any] | None]:
    """Read what :func:`write` wrote: the programs, bit for bit, and the schedule.

    Raises:
        InputError: the file is missing, truncated, altered, of another format or of another version.
    """
    content, tensors = read_arrays(path, FORMAT, VERSION, _tensors_of, {})
    programs = [
        Stored(
            program["name"],
            {site: {name: tensors[f"{number}/{site}/{name}"] for name in ARRAYS} for site in program["sites"]},
            None if program["origin"] is None else Origin(**program["origin"]),
        )
        for number, program in enumerate(content["programs"])
    ]
    return programs, content["schedule"]


def _tensors_of(content: dict[str, Any], room: int) -> dict[str, type[np.generic]] | None:
    """List the tensors that ``content`` describes: name -> type; None if it is not as :func:`write` makes it."""
    try:
        programs, schedule = content["programs"], content["schedule"]
        valid = isinstance(programs, list) and all(map(_is_program, programs))
        if not (valid and (len(programs) == 1 if schedule is None else _is_schedule(schedule, range(len(programs))))):
            return None
        return {
            f"{number}/{site}/{name}": kind
            for number, program in enumerate(programs)
            for site in program["sites"]
            for name, kind in ARRAYS.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _is_schedule(schedule: dict[str, Any], numbers: range) -> bool:
    given = [schedule[part] for part in PARTS] + [number for _, number in schedule["generated"]]
    return (
        isinstance(schedule["name"], str)
        and all(type(start) is int for start, _ in schedule["generated"])
        and all(number is None or (type(number) is int and number in numbers) for number in given)
    )


def _is_program(program: dict[str, Any]) -> bool:
    sites, origin = program["sites"], program["origin"]
    named = isinstance(program["name"], str) and all(isinstance(site, str) for site in sites)
    listed = isinstance(sites, list) and len(set(sites)) == len(sites)
    return named and listed and (origin is None or _is_origin(**origin))


def _is_origin(widths: Any, provenance: Any) -> bool:
    return isinstance(provenance, dict) and all(type(width) is int and width > 0 for width in widths.values())


def describe(sentence: str, origin: Origin | None) -> Description:
    """Describe a program or a schedule, given in a sentence, for a model card."""
    provenance = {} if origin is None else origin.provenance
    label = provenance.get("label")
    return Description(
        sentence,
        "program",
        "with affectron.intervene(model, program):\n    model.generate(**tokens)",
        provenance,
        labels=[label] if isinstance(label, str) else label or [],
        note="The masks were tested, not the program of this file.",
    )
