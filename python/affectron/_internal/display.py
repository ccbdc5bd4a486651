"""Printing of objects: one short line in a terminal, and that line with a small table in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from affectron._internal.wording import clean, count

#: Characters of the line, rows of the table, and characters of a cell, at most.
LENGTH, ROWS, CELL = 200, 20, 160
# Names in a list of them, and characters of a name or a text in the line, at most.
_NAMES, _NAME = 4, 32


@dataclasses.dataclass(frozen=True)
class Summary:
    """Summary of an object: a line, and a table.

    Attributes:
        facts: the parts of the line.
        columns: the headings of the table; empty for an object without one.
        rows: the cells of each row. No more than ``ROWS`` of them are taken.
        count: number of rows.
    """

    facts: Sequence[str]
    columns: Sequence[str] = ()
    rows: Iterable[Iterable[object]] = ()
    count: int = 0


class Shown:
    """Base of the objects that print as a line, ``Name(fact; fact)``, and in a notebook as a table too.

    A dataclass shows its fields unless it has a ``_summary`` of its own.
    """

    __slots__ = ()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # Of a class without a repr of its own a dataclass would write one with every value in it.
        if "__repr__" not in vars(cls):
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def _summary(self) -> Summary:
        values = {field.name: brief(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        line = ", ".join(f"{name}={value}" for name, value in values.items())
        return Summary([line], ("field", "value"), values.items(), len(values))

    def __repr__(self) -> str:
        return self._line(self._summary())

    def _line(self, summary: Summary) -> str:
        name = type(self).__name__
        return f"{name}({cut('; '.join(summary.facts), LENGTH - len(name) - 2)})"

    def _repr_html_(self) -> str:
        summary = self._summary()
        parts = [f'<p dir="auto">{escape(self._line(summary))}</p>']
        if summary.columns:
            head = _row("th", summary.columns)
            body = "".join(_row("td", row) for row in islice(summary.rows, ROWS))
            parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
        if summary.count > ROWS:
            parts.append(f"<p>… and {count(summary.count - ROWS, 'more row')}</p>")
        return f"<div>{''.join(parts)}</div>"


def cut(text: str, most: int) -> str:
    """The text on one line of at most ``most`` characters, with an ellipsis for what is left out."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip('…')}…"


def origin(provenance: Mapping[str, Any]) -> list[str]:
    """The facts of a provenance: the model and the split."""
    return [f"{field} {provenance[field]}" for field in ("model", "split") if provenance.get(field)]


def few(names: Collection[object]) -> str:
    """The first names, with an ellipsis if there are more."""
    first = [cut(str(name), _NAME) for name in islice(names, _NAMES)]
    return ", ".join([*first, "…"] if len(names) > _NAMES else first)


def brief(value: object) -> str:
    """A value in few words: an array by its type and shape, a list by its length, a mapping by its first keys."""
    if isinstance(value, str):
        return repr(cut(value, _NAME))
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{few(value)}}}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Collection):
        plain = len(value) <= _NAMES and all(item is None or isinstance(item, (str, float, int)) for item in value)
        return f"[{', '.join(map(brief, value))}]" if plain else f"[{count(len(value), 'item')}]"
    return f"{type(value).__name__}(…)"


def _row(tag: str, values: Iterable[object]) -> str:
    """The HTML of a row of cells."""
    cells = (f'<{tag} dir="auto">{_cell(value)}</{tag}>' for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object) -> str:
    """The HTML of a cell's value."""
    return escape(cut("–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value), CELL))
