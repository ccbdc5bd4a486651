"""Schema of a corpus' rows: the column of each role, and the raw values of a row by role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from affectron.corpus.values import BadRow, kind_of, quoted
from affectron.errors import InputError
from affectron.options import Columns

#: Raw text, label, task, split, id and source of one row; None where the row has none.
Row: TypeAlias = tuple[Any, ...]
#: Numbered rows, from 1; in place of a row that cannot be used stands the reason.
Rows: TypeAlias = Iterator[tuple[int, "Row | BadRow"]]


class Schema:
    """The columns of a corpus by role.

    Attributes:
        options: the options of reading a corpus.
        label: the column of labels or of spans, or a tuple of label columns or of indicators.
        labels: the same as a tuple.
        source: the column that says where a sentence comes from; None if another role has that column.
        names: all columns.

    Raises:
        InputError: a column has two roles; there is no label column, or no indicator; the label separator is empty.
    """

    def __init__(self, options: Columns) -> None:
        if options.label_separator == "":
            raise InputError("label_separator is '', expected a character or several")
        self.options = options
        self.label = options.label if options.span is None else options.span
        if options.indicators is not None:
            self.label = options.indicator_columns
        self.labels = (self.label,) if isinstance(self.label, str) else self.label
        if not self.labels:
            given = "label_column" if options.indicators is None else "indicators"
            raise InputError(f"{given} is an empty sequence; expected one column or several")
        self.names = [options.text, *self.labels, options.task, options.split, options.id]
        for column, times in Counter(self.names).items():
            if times > 1:
                raise InputError(f"column {column!r} is given two roles; text, label, task, split and id must differ")
        self.source = None if "source" in self.names else "source"
        kind = "label" if options.indicators is None else "indicator"
        # A column that the caller has renamed must exist: a misspelt one would go unnoticed, and no split be read.
        optional = {"task": options.task, "split": options.split, "id": options.id}
        self._required = [("text", options.text), *((kind, column) for column in self.labels)]
        self._required += [(role, column) for role, column in optional.items() if column != role]
        if self.source is not None:
            self.names.append(self.source)

    def is_met_by(self, columns: Iterable[Any]) -> bool:
        """Tell whether every column that must exist is among ``columns``."""
        return all(column in columns for _, column in self._required)

    def require(self, columns: Iterable[Any]) -> None:
        """Check that every column that must exist is among ``columns``.

        Raises:
            BadRow: one is missing; the message names those that exist.
        """
        for role, column in self._required:
            if column not in columns:
                raise BadRow(f"no {role} column {column!r}; columns found: {quoted(columns)}")

    def row(self, record: Mapping[str, Any]) -> Row:
        """The row of a record that has the columns."""
        get = record.get
        options, label = self.options, self.label
        labels = get(label) if isinstance(label, str) else tuple(_hashable(get(column)) for column in label)
        source = None if self.source is None else get(self.source)
        return get(options.text), labels, get(options.task), get(options.split), get(options.id), source

    def checked_row(self, record: Any) -> Row | BadRow:
        """The row of a record that may be anything, or the reason why there is none."""
        try:
            if not isinstance(record, Mapping):
                raise BadRow(f"is {kind_of(record)}, expected an object with {quoted(self.names[:2])}")
            self.require(record)
        except BadRow as reason:
            return reason
        return self.row(record)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
