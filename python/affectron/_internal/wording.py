"""Wording of counts in messages and in the report."""

from __future__ import annotations


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Format a count: ``1 label``, ``2 labels``, ``1,024 neurons``; ``plural`` defaults to ``singular`` with an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
