"""Tables of the report in three forms: HTML cells, LaTeX and CSV. A number has the same unit in each of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from affectron._internal.wording import p_value
from affectron.report import latex
from affectron.report import text as words

Kind = Literal[
    "text", "passage", "count", "percent", "points", "number", "change", "p", "interval", "percent interval",
    "points interval", "beyond",
]  # fmt: skip
#: Kinds of fractions -> the unit that their numbers are given in; one of it is a hundredth.
_UNITS: dict[Kind, str] = {
    "percent": "%", "percent interval": "%", "points": "points", "points interval": "points",
}  # fmt: skip
#: Kinds of two values -> the names of their columns in a CSV, after the column's own.
_PARTS: dict[Kind, tuple[str, str]] = {
    "interval": ("low", "high"), "percent interval": ("low", "high"), "points interval": ("low", "high"),
    "beyond": ("beyond", "sets"),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading, without the unit.
        kind: how its values are written. A column of text may hold settings that are numbers, shown as they are; a
            passage is text of any length; a change is a number with its sign; ``beyond`` is a number of random sets
            and that of all, as ``0 of 219``.
        place: in HTML and LaTeX it is a column of its own, or stands ``under`` the values of the column before; a
            ``detail`` stands in the CSV alone.
    """

    name: str
    kind: Kind = "text"
    place: Literal["column", "under", "detail"] = "column"

    @property
    def unit(self) -> str:
        """The unit of its numbers in every form of the table; empty for a number without one."""
        return _UNITS.get(self.kind, "")

    @property
    def numeric(self) -> bool:
        """It has numbers, which are aligned to the right."""
        return self.kind not in ("text", "passage")

    @property
    def heading(self) -> str:
        """The name with the unit."""
        return self._named(self.name)

    def headings(self) -> list[str]:
        """The headings of its columns in a CSV."""
        return [self._named(f"{self.name} {part}") for part in _PARTS.get(self.kind, ())] or [self.heading]

    def _named(self, name: str) -> str:
        return f"{name}, {self.unit}" if self.unit else name


@dataclass(frozen=True)
class Row:
    """A row for a reader: the lines of each cell. ``span`` is the number of rows that the first cell stands for, 0
    where it is that of a row above."""

    cells: list[list[str]]
    span: int


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: part of the names of its files.
        caption: what it shows.
        columns: name and kind of each column.
        rows: a value for each column, shares and their differences as fractions; None and NaN are missing values.
        source: the file of the run that has its numbers.
        grouped: the first column's text is the heading of the rows that share it, in HTML and LaTeX.
        links: text of a cell -> id of the element of the page that it leads to, in HTML.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    source: str
    grouped: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    _values: list[list[Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = [
            [_in_unit(value, column) for value, column in zip(row, self.columns, strict=True)] for row in self.rows
        ]
        object.__setattr__(self, "_values", values)

    @property
    def stacks(self) -> list[list[Column]]:
        """The columns for a reader, each with those under it."""
        stacks: list[list[Column]] = []
        for column in self.columns[self.grouped :]:
            if column.place == "column":
                stacks.append([column])
            elif column.place == "under":
                stacks[-1].append(column)
        return stacks

    def groups(self) -> list[tuple[str, list[Row]]]:
        """(heading, rows) of each group, in order; one without a heading where the table is not grouped."""
        groups: dict[str, list[list[list[str]]]] = {}
        for values in self._values:
            shown = [_shown(value, column) for value, column in zip(values, self.columns, strict=True)]
            cells: list[list[str]] = []
            for text, column in list(zip(shown, self.columns, strict=True))[self.grouped :]:
                if column.place == "column":
                    cells.append([text])
                elif column.place == "under" and text not in ("", _MISSING):
                    cells[-1].append(text)
            groups.setdefault(shown[0] if self.grouped else "", []).append(cells)
        return [(heading, _spanned(rows)) for heading, rows in groups.items()]

    def csv(self) -> str:
        """The table as comma-separated values: numbers with all their digits, text in quotes and never a formula. An
        interval takes two columns; a missing value is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for line in self._lines():
            writer.writerow([cell_text(cell) if isinstance(cell, str) else cell for cell in line])
        return text.getvalue()

    def _lines(self) -> list[list[Any]]:
        """Header and rows, a value of two parts as two cells, a missing one as empty text."""
        lines: list[list[Any]] = [[heading for column in self.columns for heading in column.headings()]]
        for values in self._values:
            line: list[Any] = []
            for value, column in zip(values, self.columns, strict=True):
                parts: Sequence[Any] = (
                    (value or ("", "")) if column.kind in _PARTS else ("" if _missing(value) else value,)
                )
                # A hundred times a fraction has digits that the fraction does not have: 7.000000000000001.
                line += [round(part, 10) if column.unit and part != "" else part for part in parts]
            lines.append(line)
        return lines

    def latex(self) -> str:
        """The table for a column of a paper (:func:`affectron.report.latex.tables`), with the cells of
        :meth:`groups`."""
        heads = [[column.heading for column in stack] for stack in self.stacks]
        numeric = [stack[0].numeric for stack in self.stacks]
        rows: list[str | list[list[str]]] = []
        for heading, of_group in self.groups():
            rows += [heading] if self.grouped else []
            rows += [row.cells for row in of_group]
        return latex.tables(self.name, self.caption, heads, numeric, rows)


_MISSING = "–"


def _spanned(rows: Sequence[list[list[str]]]) -> list[Row]:
    """The rows, with one first cell for neighbours in which it is the same."""
    spanned: list[Row] = []
    for cells in reversed(rows):
        span = 1
        if spanned and spanned[-1].cells[0] == cells[0]:
            span += spanned[-1].span
            spanned[-1] = Row(spanned[-1].cells, 0)
        spanned.append(Row(cells, span))
    return spanned[::-1]


#: Beginnings of a cell that a spreadsheet reads as a formula (OWASP, "CSV Injection"), in full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell_text(text: str) -> str:
    """The text for a spreadsheet's cell: with an apostrophe before it where it could be read as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _in_unit(value: Any, column: Column) -> Any:
    """The value in the unit of its column."""
    if not column.unit or _missing(value):
        return value
    return tuple(100 * part for part in value) if column.kind in _PARTS else 100 * value


def _shown(value: Any, column: Column) -> str:
    """A value in the unit of its column as text for a reader."""
    if _missing(value):
        return _MISSING
    match column.kind:
        case "count":
            return f"{value:,}"
        case "percent":
            return words.decimal(value, 1)
        case "points":
            return words.signed(value, 1)
        case "number":
            return words.decimal(value, 3)
        case "change":
            return words.signed(value, 3)
        case "p":
            return p_value(value)
        case "interval":
            return f"[{words.decimal(value[0], 3)}, {words.decimal(value[1], 3)}]"
        case "percent interval":
            return f"[{words.decimal(value[0], 1)}, {words.decimal(value[1], 1)}]"
        case "points interval":
            return f"[{words.signed(value[0], 1)}, {words.signed(value[1], 1)}]"
        case "beyond":
            return f"{value[0]:,} of {value[1]:,}"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)
