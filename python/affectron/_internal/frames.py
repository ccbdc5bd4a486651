"""Data frames of pandas, and records as their rows: a column for each field that holds a single value."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin

from numpy.typing import ArrayLike

from affectron._internal.records import hints, inlined, members
from affectron.errors import InputError

if TYPE_CHECKING:
    import pandas

#: Type of a field -> type of its column, and of one with missing values.
_TYPES = {
    str: ("string", "string"), int: ("int64", "Int64"), float: ("float64", "float64"), bool: ("bool", "boolean"),
}  # fmt: skip


class Column(NamedTuple):
    """A column: its name, its type, and the way to its value in a record."""

    name: str
    type: str
    path: tuple[str | int, ...]

    def of(self, record: Any) -> Any:
        """The value in a record; None where the record, or a record on the way, is None."""
        for step in self.path:
            if record is None:
                return None
            record = record[step] if isinstance(step, int) else getattr(record, step)
        return str(record) if self.type == "string" and record is not None else record


def pandas_module() -> Any:
    """Import pandas.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("a data frame needs pandas (pip install 'affectron[data]')") from None
    return pandas


class Categories(NamedTuple):
    """Values of a column of the type ``category``: all names, and for each row the position of its own."""

    names: Sequence[str]
    codes: ArrayLike


def frame(columns: Mapping[str, Categories | tuple[str, Any]]) -> pandas.DataFrame:
    """Make a frame of name -> categories, or (type, values).

    Raises:
        InputError: pandas is not installed.
    """
    pandas = pandas_module()
    made = {
        name: pandas.Series(
            pandas.Categorical.from_codes(values.codes, values.names)
            if isinstance(values, Categories)
            else pandas.Series(values[1], dtype=values[0])
        )
        for name, values in columns.items()
    }
    return pandas.DataFrame(made, copy=False)


def frame_of(kind: type[Any], records: Iterable[Any]) -> pandas.DataFrame:
    """Make a frame of records of a dataclass, by :func:`columns_of`."""
    records = list(records)
    return frame({column.name: (column.type, list(map(column.of, records))) for column in columns_of(kind)})


def columns_of(kind: type[Any]) -> tuple[Column, ...]:
    """The columns of a dataclass.

    A field that is a dataclass has the columns of that: under its own name and an underscore, or if it is inline under
    their names alone. A field of two numbers has the columns ``<field>_low`` and ``<field>_high``. One that holds
    several values, a list or a mapping, has none.
    """
    return _columns_of(typing.cast("Any", kind))


@cache
def _columns_of(kind: Any) -> tuple[Column, ...]:
    return tuple(_columns(kind, "", (), False))


def _columns(kind: Any, prefix: str, path: tuple[str, ...], optional: bool) -> Iterable[Column]:
    for field, annotation in hints(kind).items():
        bare, missing = _bare(annotation)
        missing, way = missing or optional, (*path, field)
        name = f"{prefix}{field}"
        if dataclasses.is_dataclass(bare):
            yield from _columns(bare, prefix if inlined(annotation) else f"{name}_", way, missing)
        elif bare is Any:  # a name or a number
            yield Column(name, "string", way)
        elif bare in _TYPES:
            yield Column(name, _TYPES[bare][missing], way)
        elif get_origin(bare) is tuple and get_args(bare) == (float, float):
            yield Column(f"{name}_low", "float64", (*way, 0))
            yield Column(f"{name}_high", "float64", (*way, 1))


def _bare(annotation: Any) -> tuple[Any, bool]:
    """The type inside ``Annotated`` and ``| None``, and whether None is allowed."""
    missing = type(None) in get_args(annotation)
    inner = members(annotation)[0]
    if get_origin(inner) is Annotated:
        bare, inside = _bare(get_args(inner)[0])
        return bare, missing or inside
    return inner, missing
