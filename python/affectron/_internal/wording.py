"""Wording of counts and p values in messages, tables and the report."""

from __future__ import annotations


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Format a count: ``1 label``, ``2 labels``, ``1,024 neurons``; ``plural`` defaults to ``singular`` with an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def p_value(p: float) -> str:
    """Format a p value: ``< 0.001``, or three significant digits such as ``0.0455``.

    A reader multiplies it by the number of labels and compares it with a level: 0.00455 for 11 labels is 0.05.
    """
    return "< 0.001" if p < 0.001 else f"{p:.3g}"
