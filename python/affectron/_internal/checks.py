"""Checks of user input: bounds, and errors of one line that state the value and the expected bound."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from affectron.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: object) -> str:
    """Format a value for a message: its repr, limited in depth and length, on one line."""
    return " ".join(line.strip() for line in _SHORT.repr(value).splitlines())


class Bound(Protocol):
    """Bound of a value."""

    def accepts(self, value: Any) -> bool:
        """Tell whether ``value`` is within the bound."""
        ...

    def __str__(self) -> str:
        """Description that completes the sentence "expected ..."."""
        ...


def check(name: str, value: Any, bound: Bound) -> None:
    """Check that a value is within its bound.

    Raises:
        InputError: it is not; gives the name, the value and the bound.
    """
    if isinstance(bound, Each) and isinstance(value, Sequence) and not isinstance(value, str):
        for position, item in enumerate(value):
            check(f"{name}[{position}]", item, bound.bound)
    if not bound.accepts(value):
        raise InputError(f"{name} is {shown(value)}, expected {bound}")


def check_template(name: str, template: str) -> None:
    """Check that a prompt template contains ``{text}`` exactly once.

    Raises:
        InputError: it does not.
    """
    if template.count("{text}") != 1:
        problem = "prompt without {text}" if "{text}" not in template else "prompt with {text} more than once"
        raise InputError(f"{problem}: {name} is {shown(template)}")


def number(value: object) -> float:
    """Convert ``value`` to a float; NaN if it is no real number or too large for a float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``; ``above`` excludes ``low`` itself."""

    low: float
    high: float
    above: bool = False

    def accepts(self, value: Any) -> bool:
        return self.low <= number(value) <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        return f"a number in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Positive:
    """A finite number above zero, or at least zero with ``zero_too``."""

    zero_too: bool = False

    def accepts(self, value: Any) -> bool:
        as_float = number(value)
        return 0 <= as_float < math.inf and (self.zero_too or as_float > 0)

    def __str__(self) -> str:
        return "a number >= 0" if self.zero_too else "a number above 0"


@dataclass(frozen=True)
class Finite:
    """A finite number."""

    def accepts(self, value: Any) -> bool:
        return math.isfinite(number(value))

    def __str__(self) -> str:
        return "a finite number"


@dataclass(frozen=True)
class Whole:
    """An integer of at least ``least``, below 2^32."""

    least: int = 0

    def accepts(self, value: Any) -> bool:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        return whole and self.least <= int(value) < 2**32

    def __str__(self) -> str:
        return f"an integer of at least {self.least}, below 2^32"


@dataclass(frozen=True)
class OneOf:
    """One of these names."""

    names: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Each:
    """A sequence of at least ``least`` values, each within ``bound``."""

    bound: Bound
    least: int = 0

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        return len(value) >= self.least and all(map(self.bound.accepts, value))

    def __str__(self) -> str:
        return f"a list{f' of at least {self.least}' if self.least else ''}, each {self.bound}"


#: Share of a whole, in (0, 1].
SHARE = Between(0, 1, above=True)
#: Quantile or step, in [0, 1].
UNIT = Between(0, 1)
