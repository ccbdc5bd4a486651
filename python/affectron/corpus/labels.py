"""Labels of a corpus: names in the label and task fields of rows, and checks of all labels against one another."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeAlias

from affectron._internal.warning import warn
from affectron.corpus.schema import Schema
from affectron.corpus.values import BadRow, is_unicode, kind_of, quoted
from affectron.errors import InputError

#: The labels of a sentence with the task of each, sorted by label.
LabelSet: TypeAlias = tuple[tuple[str, str], ...]

_NAMES = "a string, a whole number or a list of them"
# Strings that pandas writes where there is no value.
_MISSING = frozenset({"nan", "NaN", "<NA>"})
# A string between these brackets is a list if it has one of these characters.
_LIST_SIGNS = {"[]": " \t\n,;|'\"", "()": ",'\"", "{}": ",'\""}
# A list of strings as Python writes it.
_PYTHON_STRING = r"""'[^'\\]*'|"[^"\\]*\""""
_PYTHON_LIST = re.compile(rf"\[(?:{_PYTHON_STRING})(?:, ?(?:{_PYTHON_STRING}))*\]")
# Cells of an indicator, in small letters: whether the sentence has the label.
_INDICATED = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
# Characters that may separate labels in a string.
_SEPARATORS = ",;|/+&"


class LabelReader:
    """Reads label sets from the fields of rows, and checks each label against those before it.

    Args:
        source: the name of the rows' source in messages.
        schema: the columns.
        default_task: the task of all labels where there is no task column.
        separator: the characters between labels in a string; None if a string is one label.
    """

    def __init__(self, source: object, schema: Schema, default_task: str, separator: str | None) -> None:
        self._source = source
        self._schema = schema
        self._separator = separator
        self._default_task = default_task
        self._has_task: bool | None = None  # whether rows name tasks: the first row with labels decides it for all
        self._task_of: dict[str, str] = {}
        self._first_line: dict[str, int] = {}  # of each label
        self._cache: dict[tuple[Any, Any], LabelSet] = {}  # by the raw fields, since most rows repeat them

    def read(self, line: int, label: Any, task: Any) -> LabelSet:
        """The label set of a row's label and task fields.

        Raises:
            BadRow: the fields cannot be used.
            InputError: a label had another task in a row before.
        """
        label, task = _plain(label), _plain(task)
        try:
            return self._cache[label, task]
        except (KeyError, TypeError):  # not seen before, or of a kind that has no hash
            labels = self._cache[label, task] = self._read(line, label, task)
            return labels

    def _read(self, line: int, label: Any, task: Any) -> LabelSet:
        column, options = self._schema.label, self._schema.options
        tasks: list[str] = []
        if options.indicators is not None:
            names = _indicated(self._schema.labels, label) or [options.without]
        elif isinstance(column, tuple):
            names, tasks = self._read_columns(column, label)
        else:
            names = _read_names(label, column, self._separator)
        if task is not None and not tasks:
            tasks = _read_names(task, options.task, self._separator)
        has_task = bool(tasks)
        tasks = tasks or [self._default_task]
        if len(tasks) not in (1, len(names)):
            raise BadRow(
                f"number of tasks is {len(tasks)}, of labels {len(names)}; expected one, or one for each label"
            )
        labels = tuple(sorted(zip(names, tasks * len(names) if len(tasks) == 1 else tasks, strict=True)))
        for (first, _), (second, _) in pairwise(labels):
            if first == second:
                raise BadRow(f"{column} holds {first!r} twice")
        # A task that only some rows name is a mistake.
        if self._has_task is None:
            self._has_task = has_task
        elif self._has_task != has_task:
            raise BadRow(f"has {'a' if has_task else 'no'} {self._schema.options.task}, unlike the lines before")
        for name, name_task in labels:
            self._first_line.setdefault(name, line)
            known = self._task_of.setdefault(name, name_task)
            if known != name_task:  # not a bad row, which may be skipped: nothing tells which of the tasks is right
                raise InputError(
                    f"{self._source}:{line}: label {name!r} is of task {name_task!r} here and of task {known!r} "
                    "before; a label belongs to one task"
                )
        return labels

    def _read_columns(self, columns: tuple[str, ...], fields: Any) -> tuple[list[str], list[str]]:
        """Labels from several columns, and for each the name of its column, which is its task."""
        present = [(column, field) for column, field in zip(columns, fields, strict=True) if not _is_absent(field)]
        if not present:
            raise BadRow(f"{', '.join(columns)} are empty")
        labels = [(name, column) for column, field in present for name in _read_names(field, column, self._separator)]
        return [name for name, _ in labels], [column for _, column in labels]

    def check(self) -> None:
        """Check all labels together, after all rows are read.

        Warns:
            UserWarning: labels that differ in case or blanks only.

        Raises:
            InputError: a label is a list of others, and no label separator was given.
        """
        if self._schema.options.label_separator is None:
            for separator in _SEPARATORS:
                self._refuse_lists(separator)
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for label in sorted(self._first_line):
            alike[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
        groups = "; ".join(quoted(labels) for labels in alike.values() if len(labels) > 1)
        if groups:
            warn(f"{self._source}: labels that differ in case or blanks only: {groups}")

    def _refuse_lists(self, separator: str) -> None:
        """Refuse a label that the separator divides into parts of which one is a label, and each other part is a label
        or a part of another such label."""
        parts_of = {
            label: {part: None for part in map(str.strip, label.split(separator)) if part}
            for label in self._first_line
            if separator in label
        }
        times = Counter(part for parts in parts_of.values() for part in parts)
        for label, parts in parts_of.items():
            alone = [part for part in parts if part in self._first_line]
            if alone and len(parts) > 1 and all(part in alone or times[part] > 1 for part in parts):
                raise InputError(
                    f"{self._source}:{self._first_line[label]}: label {label!r} is a list, as {alone[0]!r} is a label "
                    f"too; give label_separator as {separator!r} to split it, as any other to keep it"
                )


def _plain(value: Any) -> Any:
    """The value with whole numbers as strings of digits, as in a CSV cell, and lists as tuples.

    A number or truth value that stays one is never a label. It must not be taken for a whole number where label sets
    are looked up: 1, 1.0 and True are equal.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return str(value) if not isinstance(value, bool) and isinstance(value, Integral) else value


def _indicated(columns: tuple[str, ...], cells: Any) -> list[str]:
    """The columns of indicators whose cell says yes."""
    indicated = []
    for column, cell in zip(columns, cells, strict=True):
        flag = _INDICATED.get(str(cell).strip().lower())
        if flag is None:
            value = repr(cell) if isinstance(cell, str) else kind_of(cell)
            raise BadRow(f"{column} is {value}, expected 0, 1, true or false")
        if flag:
            indicated.append(column)
    return indicated


def _is_absent(field: Any) -> bool:
    """Tell whether a label column has no label in a row; NaN is how pandas writes that."""
    if isinstance(field, float):
        return field != field
    return field is None or (isinstance(field, (str, tuple)) and field in ("", "[]", ()))


def _read_names(field: Any, column: str, separator: str | None) -> list[str]:
    """The names in a label or task field, without blanks around them.

    The field is a string or a list of strings. A string may hold several names, with the separator between them or
    written as a list.
    """
    if isinstance(field, str):
        written = _written_list(field.strip(), column)
        field = (field,) if written is None else _plain(written)
    if not isinstance(field, tuple):
        raise BadRow(f"{column} is {kind_of(field)}, expected {_NAMES}")
    if not field:
        raise BadRow(f"{column} is an empty list")
    names: list[str] = []
    for item in field:
        if not isinstance(item, str):
            raise BadRow(f"{column} holds {kind_of(item)}, expected strings or whole numbers")
        names += [name.strip() for name in (item.split(separator) if separator else [item])]
    for name in names:
        if not name:
            raise BadRow(f"{column} is empty" if len(names) == 1 else f"{column} holds an empty name")
        if not is_unicode(name):
            raise BadRow(f"{column} holds half a surrogate pair")
        if name in _MISSING:
            raise BadRow(f"{column} is {name!r}, which stands for a missing value; expected a name")
        if _looks_like_list(name):
            raise BadRow(f"{column} holds {name!r}, a list within a list")
    return names


def _looks_like_list(text: str) -> bool:
    return any(sign in text for sign in _LIST_SIGNS.get(text[:1] + text[-1:], ""))


def _written_list(text: str, column: str) -> list[Any] | None:
    """The list that JSON or Python has written as a string; None if the string is no list.

    Raises:
        BadRow: the string is a list that neither writes, such as ``['joy' 'love']`` (numpy) or ``{joy,love}``.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            if _PYTHON_LIST.fullmatch(text):
                return [name[1:-1] for name in re.findall(_PYTHON_STRING, text)]
        else:
            return value if isinstance(value, list) else None
    if _looks_like_list(text):
        raise BadRow(f"{column} is {text!r}, a list that neither JSON nor Python writes so; expected {_NAMES}")
    return None
