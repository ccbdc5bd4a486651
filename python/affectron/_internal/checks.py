"""Checks of values that users give: each bound says what it expects, and raises one line where a value is not that."""

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
    """The value as it stands in a message: its repr, no deeper and no longer than a line has room for."""
    return _SHORT.repr(value)


class Bound(Protocol):
    """What the value of an option has to be."""

    def accepts(self, value: Any) -> bool:
        """Tell whether ``value`` is within the bound."""
        ...

    def __str__(self) -> str:
        """What is expected, as it ends the sentence "expected ..."."""
        ...


def check(name: str, value: Any, bound: Bound) -> None:
    """Check a value.

    Raises:
        InputError: the value is out of its bound; names it, the value and what was expected.
    """
    if isinstance(bound, Each) and isinstance(value, Sequence) and not isinstance(value, str):
        for position, item in enumerate(value):
            check(f"{name}[{position}]", item, bound.bound)
    if not bound.accepts(value):
        raise InputError(f"{name} is {shown(value)}, expected {bound}")


def check_template(name: str, template: str) -> None:
    """Check that a prompt template has ``{text}`` in it exactly once.

    Raises:
        InputError: it does not.
    """
    if template.count("{text}") != 1:
        problem = "prompt without {text}" if "{text}" not in template else "prompt with {text} more than once"
        raise InputError(f"{problem}: {name} is {shown(template)}")


def number(value: object) -> float:
    """``value`` as a float; NaN where it is no real number, or one beyond a float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``; ``above`` leaves ``low`` itself out."""

    low: float
    high: float
    above: bool = False

    def accepts(self, value: Any) -> bool:
        return self.low <= number(value) <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        return f"a number in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Positive:
    """A finite number above zero, or zero too."""

    zero_too: bool = False

    def accepts(self, value: Any) -> bool:
        found = number(value)
        return 0 <= found < math.inf and (self.zero_too or found > 0)

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
    """A sequence of values, each within ``bound``; ``least`` says how many at least."""

    bound: Bound
    least: int = 0

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        return len(value) >= self.least and all(map(self.bound.accepts, value))

    def __str__(self) -> str:
        return f"a list{f' of at least {self.least}' if self.least else ''}, each {self.bound}"


#: A share of something: more than none of it, at most all.
SHARE = Between(0, 1, above=True)
#: A quantile, or a step that may be none.
UNIT = Between(0, 1)
