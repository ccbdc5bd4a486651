"""Programs: the parameters of each neuron, and their composition."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from affectron._internal.arguments import PROGRAM, checked_arguments
from affectron._internal.display import ROWS, Shown, Summary
from affectron._internal.frames import Categories, frame
from affectron._internal.hub import Shareable
from affectron._internal.model_card import Description
from affectron._internal.provenance import Origin
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.interventions import storage

if TYPE_CHECKING:
    import pandas

#: Parameters of a neuron, and those that keep every bit of h.
FIELDS = tuple(storage.ARRAYS)[1:]
NEUTRAL = np.array([1.0, 0.0, -np.inf, -0.0], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class SiteProgram(Shown):
    """Neurons of one site that a program touches, with their parameters.

    Attributes:
        index: int64 [K], ascending, each neuron once.
        scale: float32 [K], finite.
        damping: float32 [K], finite and not negative.
        floor: float32 [K], finite or -inf.
        shift: float32 [K], finite.

    Raises:
        InputError: an index or a parameter breaks these rules.
    """

    index: NDArray[np.int64]
    scale: NDArray[np.float32]
    damping: NDArray[np.float32]
    floor: NDArray[np.float32]
    shift: NDArray[np.float32]

    def __post_init__(self) -> None:
        index = np.asarray(self.index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise InputError(f"index is {index.dtype} {list(index.shape)}, expected integers [K]")
        if index.size and (index[0] < 0 or (np.diff(index.astype(np.int64)) <= 0).any()):
            raise InputError("index must be ascending, without repetition, and not negative")
        object.__setattr__(self, "index", index.astype(np.int64))
        for field in FIELDS:
            with np.errstate(over="ignore"):
                value = np.asarray(getattr(self, field), dtype=np.float32)
            if value.shape != index.shape:
                raise InputError(f"{field} has shape {list(value.shape)}, expected {list(index.shape)}")
            allowed = np.isfinite(value) | ((value == -np.inf) & (field == "floor"))
            if not allowed.all():
                at = int(np.argmin(allowed))
                raise InputError(f"{field} of neuron {index[at]} is {value[at]}, expected a finite float32")
            object.__setattr__(self, field, value)
        if (self.damping < 0).any():
            at = int(np.argmin(self.damping))
            raise InputError(f"damping of neuron {index[at]} is {self.damping[at]}, expected 0 or more")

    def scaled(self, weight: float) -> SiteProgram:
        """Weaken the program at the site, as :meth:`Program.scaled` does everywhere."""
        return SiteProgram(
            self.index,
            1 + weight * (self.scale - 1),
            weight * self.damping,
            1 + weight * (self.floor - 1),
            weight * self.shift,
        )


@dataclass(frozen=True, eq=False)
class Program(Shown, Shareable):
    """Intervention as data.

    Attributes:
        sites: site -> the neurons that the program touches, and their parameters.
        name: description for reports and messages.
        origin: widths of these sites in the model that the program was made for, and the provenance of the neurons or
            statistics, with the ``label`` of the neurons; None if it is not known.
    """

    _argument: ClassVar[str] = PROGRAM
    hub_file = storage.FILE

    sites: dict[str, SiteProgram]
    name: str
    origin: Origin | None = None

    def __len__(self) -> int:
        """Number of neurons that the program touches."""
        return sum(len(site.index) for site in self.sites.values())

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each neuron: site (``category``), index (``int64``), scale, damping, floor and shift (``float32``).

        Raises:
            InputError: pandas is not installed.
        """
        sizes = [len(part.index) for part in self.sites.values()]
        sites = Categories(list(self.sites), np.repeat(np.arange(len(sizes)), sizes))
        return frame({"site": sites, **{name: (str(array.dtype), array) for name, array in self._columns().items()}})

    def _columns(self) -> dict[str, NDArray[Any]]:
        """The indices of all neurons, and their parameters by name."""
        parts = self.sites.values()
        kinds = {"index": np.int64, **dict.fromkeys(FIELDS, np.float32)}
        return {
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in kinds.items()
        }

    def _summary(self) -> Summary:
        names = (site for site, part in self.sites.items() for _ in part.index)
        columns = self._columns()
        facts = [self.name, f"{count(len(self), 'neuron')} at {count(len(self.sites), 'site')}"]
        rows = zip(islice(names, ROWS), *(array[:ROWS].tolist() for array in columns.values()), strict=True)
        return Summary(facts, ("site", *columns), rows, len(self))

    def scaled(self, weight: float) -> Program:
        """Weaken the program: the result computes h + weight · (h' - h), for a weight in (0, 1].

        Raises:
            InputError: the weight is outside (0, 1].
        """
        if not 0 < weight <= 1:
            raise InputError(f"weight is {weight}, expected a number in (0, 1]")
        sites = {name: part.scaled(weight) for name, part in self.sites.items()}
        return replace(self, sites=sites, name=f"{self.name} x {weight:.3g}")

    def table(self, site: str, width: int) -> NDArray[np.float32]:
        """Make the parameter table of a site of ``width`` neurons.

        Returns:
            float32 [4, width], rows scale, damping, floor and shift; neutral where a neuron is untouched.

        Raises:
            InputError: the program touches a neuron beyond ``width``, or was made for a site of another width.
        """
        table = np.repeat(NEUTRAL[:, None], width, axis=1)
        program = self.sites.get(site)
        if program is not None and len(program.index):
            if program.index[-1] >= width:
                raise InputError(
                    f"program {self.name!r} touches neuron {program.index[-1]} of {site}, "
                    f"which has {width} neurons (0 to {width - 1})"
                )
            made_for = width if self.origin is None else self.origin.widths.get(site, width)
            if made_for != width:
                raise InputError(
                    f"program {self.name!r} was made for another model: {site} has {made_for} neurons there and "
                    f"{width} here"
                )
            table[:, program.index] = [getattr(program, field) for field in FIELDS]
        return table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically; equal programs give equal files.

        Tensors are named ``0/<site>/<parameter>``. The metadata entry ``affectron`` is JSON: the format, its version,
        ``content`` (name, sites and origin) and a BLAKE2b digest of the content and of every tensor.

        Raises:
            InputError: the file cannot be written; an older file is left unchanged.
        """
        storage.write(path, [self._stored()], None)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Program:
        """Read a file that :meth:`save` wrote. The program is the same, bit for bit.

        Raises:
            InputError: the file is missing, truncated, altered, of another format or version, or holds a schedule.
        """
        (stored, *_), schedule = storage.read(path)
        if schedule is not None:
            raise InputError(f"{path} holds a schedule, expected a program; read it with Schedule.load")
        return cls._of(stored, path)

    def _described(self) -> Description:
        changed = f"{count(len(self), 'neuron')} at {count(len(self.sites), 'site')}"
        return storage.describe(f"The program “{self.name}”. It changes {changed}.", self.origin)

    def _stored(self) -> storage.Stored:
        return storage.Stored(self.name, {site: vars(part) for site, part in self.sites.items()}, self.origin)

    @classmethod
    def _of(cls, stored: storage.Stored, path: str | os.PathLike[str]) -> Program:
        """The program that is stored in the file ``path``."""
        try:
            return cls(
                {site: SiteProgram(**arrays) for site, arrays in stored.sites.items()}, stored.name, stored.origin
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


@checked_arguments
def compose(*programs: Program) -> Program:
    """Compose programs into a single one that applies them from left to right.

    Where two programs touch the same neuron, the form can hold their composition only if one of them multiplies by a
    constant there. A constant factor of the second must not be negative if that of the first depends on h. If only the
    first has a constant factor, it must be 0, or positive and without a shift. The composed parameters are exact,
    rounded to float32.

    Raises:
        InputError: the form cannot hold the composition for a neuron, with its site, or a site has other widths in the
            models that the programs were made for.
    """
    merged: dict[str, dict[int, tuple[float, ...]]] = {}
    for program in programs:
        for site, part in program.sites.items():
            neurons = merged.setdefault(site, {})
            columns = (getattr(part, field).astype(np.float64).tolist() for field in FIELDS)
            for index, row in zip(part.index.tolist(), zip(*columns, strict=True), strict=True):
                combined = _then(neurons[index], row) if index in neurons else row
                if combined is None:
                    raise InputError(
                        f"neuron {index} of {site} is touched by {program.name!r} after another program, "
                        "and the two do not combine into one of the form h·max(s - d|h|, f) + b"
                    )
                neurons[index] = combined
    sites = {}
    for site, neurons in merged.items():
        index = np.array(sorted(neurons), dtype=np.int64)
        values = np.array([neurons[i] for i in index.tolist()], dtype=np.float64).reshape(-1, 4).T
        sites[site] = SiteProgram(index, *values)
    origin = Origin.union(program.origin for program in programs)
    return Program(sites, " + ".join(program.name for program in programs), origin)


def _then(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...] | None:
    """Compose the parameters of a neuron, ``first`` then ``second``; None if the form cannot hold the composition."""
    scale1, damping1, floor1, shift1 = first
    scale2, damping2, floor2, shift2 = second
    factor1, factor2 = _constant(first), _constant(second)
    if factor2 is not None:
        shift = factor2 * shift1 + shift2
        if factor1 is not None:
            return factor1 * factor2, 0.0, -math.inf, shift
        # c·max(a, b) = max(c·a, c·b) needs c >= 0. c = 0 has its own case, since 0·(-inf) is NaN.
        if factor2 > 0:
            return factor2 * scale1, factor2 * damping1, factor2 * floor1, shift
        return (0.0, 0.0, -math.inf, shift) if factor2 == 0 else None
    if factor1 == 0:  # the first returns its shift for every h
        return 0.0, 0.0, -math.inf, shift1 * max(scale2 - damping2 * abs(shift1), floor2) + shift2
    if factor1 is not None and factor1 > 0 and shift1 == 0:
        return factor1 * scale2, factor1**2 * damping2, factor1 * floor2, shift2
    return None


def _constant(row: tuple[float, ...]) -> float | None:
    """Factor max(scale - damping·|h|, floor) if it does not depend on h, else None."""
    scale, damping, floor, _ = row
    return max(scale, floor) if damping == 0 or floor >= scale else None
