"""Wording of counts, differences and p values in messages, tables and the report."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Format a count: ``1 label``, ``2 labels``, ``1,024 neurons``; ``plural`` defaults to ``singular`` with an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def p_value(p: float) -> str:
    """Format a p value: ``< 0.001``, or three significant digits such as ``0.0455``.

    A reader multiplies it by the number of labels and compares it with a level: 0.00455 for 11 labels is 0.05.
    """
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def clean(text: str) -> str:
    """Replace by U+FFFD the characters that HTML, SVG or UTF-8 cannot carry (control characters, lone surrogates), and
    the marks that embed or override a direction, which would turn the text after them around."""
    return _UNPRINTABLE.sub("\ufffd", text)


def decimal(value: float, places: int) -> str:
    """``value`` with that many decimals and a true minus sign; never a negative zero."""
    text = f"{value:.{places}f}"
    if text.startswith("-"):
        text = "−" + text[1:] if float(text) else text[1:]
    return text


def signed(value: float, places: int) -> str:
    """:func:`decimal` with a plus sign where the written number is above zero."""
    text = decimal(value, places)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def points(fraction: float) -> str:
    """A difference of two fractions in points: -0.093 -> ``−9.3``."""
    return signed(100 * fraction, 1)


def pair(interval: tuple[float, float]) -> str:
    """An interval of differences in points, for a table: ``[−15.1, −3.4]``."""
    return f"[{points(interval[0])}, {points(interval[1])}]"
