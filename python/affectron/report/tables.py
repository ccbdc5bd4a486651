"""Tables of the report in four forms: HTML cells, LaTeX, CSV and tab-separated text."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from affectron._internal.wording import p_value
from affectron.report import text as words

Kind = Literal["text", "passage", "count", "percent", "points", "number", "p", "interval", "points interval", "beyond"]
#: Kinds of two values -> the names of their columns in a CSV, after the column's own.
_PARTS: dict[Kind, tuple[str, str]] = {
    "interval": ("low", "high"), "points interval": ("low", "high"), "beyond": ("beyond", "sets")
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        kind: how its values are written. Fractions are shown as per cent or points; in a CSV they stay fractions. A
            column of text may hold settings that are numbers, shown as they are; a passage is text of any length;
            ``beyond`` is a number of random sets and that of all, as ``0 of 219``.
        detail: it stands in the CSV and the tab-separated text alone.
    """

    name: str
    kind: Kind = "text"
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: part of the names of its files.
        caption: what it shows.
        columns: name and kind of each column.
        rows: a value for each column; None and NaN are missing values.
        source: the file of the run that has its numbers.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    source: str

    @property
    def shown(self) -> list[Column]:
        """The columns for a reader: all but details."""
        return [column for column in self.columns if not column.detail]

    def cells(self) -> list[list[str]]:
        """The rows as text for a reader."""
        return [
            [_shown(value, column.kind) for value, column in zip(row, self.columns, strict=True) if not column.detail]
            for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """bool for each column for a reader: it has numbers, which are aligned to the right."""
        return [column.kind not in ("text", "passage") for column in self.shown]

    def csv(self) -> str:
        """The table as comma-separated values: numbers as they are in the source, text in quotes and never a formula.
        An interval takes two columns; a missing value is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for line in self._lines():
            writer.writerow([cell_text(cell) if isinstance(cell, str) else cell for cell in line])
        return text.getvalue()

    def tsv(self) -> str:
        """The same as tab-separated text, without quotes: each text on one line."""
        return "\n".join(
            "\t".join(cell_text(" ".join(cell.split())) if isinstance(cell, str) else str(cell) for cell in line)
            for line in self._lines()
        )

    def _lines(self) -> list[list[Any]]:
        """Header and rows, a value of two parts as two cells, a missing one as empty text."""
        header: list[str] = []
        for column in self.columns:
            header += [f"{column.name} {part}" for part in _PARTS.get(column.kind, ())] or [column.name]
        lines: list[list[Any]] = [header]
        for row in self.rows:
            line: list[Any] = []
            for value, column in zip(row, self.columns, strict=True):
                line += (value or ("", "")) if column.kind in _PARTS else ["" if _missing(value) else value]
            lines.append(line)
        return lines

    def latex(self) -> str:
        """The table as a LaTeX ``table`` with booktabs rules and the cells of :meth:`cells`."""
        align = "".join("r" if numeric else "l" for numeric in self.numeric())
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
        ]
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines.append(" & ".join(_escaped(column.name) for column in self.shown) + r" \\")
        lines.append(r"\midrule")
        lines += [" & ".join(map(_escaped, row)) + r" \\" for row in self.cells()]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        return "\n".join(lines)


#: Beginnings of a cell that a spreadsheet reads as a formula (OWASP, "CSV Injection"), in full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell_text(text: str) -> str:
    """The text for a spreadsheet's cell: with an apostrophe before it where it could be read as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any, kind: Kind) -> str:
    if _missing(value):
        return "–"
    match kind:
        case "count":
            return f"{value:,}"
        case "percent":
            return words.decimal(100 * value, 1)
        case "points":
            return words.points(value)
        case "number":
            return words.decimal(value, 3)
        case "p":
            return p_value(value)
        case "interval":
            return f"[{words.decimal(value[0], 3)}, {words.decimal(value[1], 3)}]"
        case "points interval":
            return words.pair((value[0], value[1]))
        case "beyond":
            return f"{value[0]:,} of {value[1]:,}"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "α": r"$\alpha$", "β": r"$\beta$",
    "τ": r"$\tau$", "ω": r"$\omega$", "Δ": r"$\Delta$", "<": "$<$", ">": "$>$", "\u00a0": "~",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row they would be its options
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in re.sub(r"[ \t\r\n]+", " ", text))
