"""Counts in words, for what commands and the report say. Apart so that both can import it without torch."""

from __future__ import annotations


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 label``, ``2 labels``, ``1,024 neurons``; ``many`` is the plural where it is not ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
