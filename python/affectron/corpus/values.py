"""Values in a corpus' rows: the reason why one cannot be used, and words for its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class BadRow(Exception):
    """The reason why a row cannot be used."""


def kind_of(value: Any) -> str:
    """A value's kind in the words of the file formats, as it stands after "is" or "holds" in a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {value}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a value of type {type(value).__name__}"


def quoted(names: Iterable[Any]) -> str:
    """Names in quotes, with commas between them."""
    return ", ".join(repr(str(name)) for name in names) or "none"


def is_unicode(text: str) -> bool:
    """Tell whether the text can be encoded, that is, has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
