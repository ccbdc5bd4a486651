"""Keyword arguments with which a corpus is made: the options of reading it, and the split and task to narrow it to."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar

from affectron._internal.options import default_of, described
from affectron.options import Columns

OnBadLine: TypeAlias = Literal["error", "skip"]

P = ParamSpec("P")
R = TypeVar("R")

#: Keyword -> field of :class:`affectron.options.Columns`.
FIELD_OF = {about.parameter or name: name for name, about in described(Columns).items()}


class Keywords(TypedDict, total=False):
    """Keyword arguments for any source; their meaning and defaults are those of :class:`affectron.options.Columns`."""

    text_column: str
    label_column: str | Sequence[str]
    indicators: str | Sequence[str] | None
    without: str
    task_column: str
    split_column: str
    held_out: float | None
    id_column: str
    span_column: str | None
    turns: str | None
    label_separator: str | None
    split: str | None
    task: str | None
    on_bad_line: OnBadLine


def columns_of(keywords: Mapping[str, Any]) -> Columns:
    """The options of reading a corpus among keyword arguments.

    Raises:
        TypeError: an unknown keyword.
        InputError: a value is out of its bound.
    """
    unknown = keywords.keys() - Keywords.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    options = {FIELD_OF[name]: value for name, value in keywords.items() if name in FIELD_OF}
    for name in ("label", "indicators"):
        if options.get(name) is not None:
            options[name] = column_names(options[name])
    return Columns(**options)


def column_names(columns: str | Sequence[str]) -> str | tuple[str, ...]:
    """One column, or several as a tuple."""
    return tuple(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else columns


def shows_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Let :func:`inspect.signature` show each of :class:`Keywords` in place of ``**options``."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default_of(Columns, FIELD_OF[name]) if name in FIELD_OF else None,
            annotation=annotation,
        )
        for name, annotation in Keywords.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return function
