"""Rows of a corpus: which columns are read, and how a row becomes labelled sentences or a reason why it cannot.

Neither where the rows come from nor what is counted about them is known here.
"""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

from affectron.errors import InputError

#: The raw values of one row, in the order of :attr:`Columns.roles`; None where the row has none.
Row: TypeAlias = tuple[Any, ...]
#: A row, or why it cannot be used, by its line.
Rows: TypeAlias = Iterator[tuple[int, "Row | Bad"]]
#: A sentence's label set with the task of each label, sorted by label.
Pairs: TypeAlias = tuple[tuple[str, str], ...]


class Bad(Exception):
    """Why a row cannot be used."""


class Message(NamedTuple):
    """One turn of a conversation; ``counts`` says whether its tokens do."""

    role: str
    content: str
    counts: bool


class Unit(NamedTuple):
    """One sentence of a row."""

    text: str
    pairs: Pairs
    split: str | None
    id: str
    span: tuple[int, int] | None
    messages: tuple[Message, ...] | None
    source: str | None


class Form(NamedTuple):
    """Contents of the text and the label column beside plain text and names."""

    spans: bool
    turns: str | None
    label_separator: str | None


@dataclass(frozen=True)
class Columns:
    """The column of each role. ``label`` is that of the spans where there are any, and may be several columns.

    Raises:
        InputError: a column has two roles, or there is no label column.
    """

    text: str
    label: str | tuple[str, ...]
    task: str
    split: str
    id: str
    source: str | None = field(init=False)  # None where another has the name
    names: list[str] = field(init=False)  # all of them, one by one
    _required: list[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.label:
            raise InputError("label_column is an empty sequence; expected one column or several")
        names = [self.text, *self.labels, self.task, self.split, self.id]
        for column, times in Counter(names).items():
            if times > 1:
                raise InputError(f"column {column!r} is given two roles; text, label, task, split and id must differ")
        object.__setattr__(self, "source", None if "source" in names else "source")
        object.__setattr__(self, "names", [*names, *([self.source] if self.source else [])])
        # Columns that the caller has renamed must exist: silently reading no split at all would be worse.
        required = [("text", self.text), *(("label", column) for column in self.labels)]
        required += [(role, getattr(self, role)) for role in ("task", "split", "id") if getattr(self, role) != role]
        object.__setattr__(self, "_required", required)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns, one or several."""
        return (self.label,) if isinstance(self.label, str) else self.label

    def present(self, found: Iterable[Any]) -> bool:
        """Whether every column that must exist is among those found."""
        return all(column in found for _, column in self._required)

    def require(self, found: Iterable[Any]) -> None:
        """Check that every column that must exist is among those found.

        Raises:
            Bad: one is missing; the message names those found.
        """
        for role, column in self._required:
            if column not in found:
                raise Bad(f"no {role} column {column!r}; columns found: {quoted(found)}")

    def checked_row(self, record: Any) -> Row | Bad:
        """The row of a record that may be anything."""
        try:
            if not isinstance(record, Mapping):
                raise Bad(f"is {kind_of(record)}, expected an object with {quoted(self.names[:2])}")
            self.require(record)
        except Bad as bad:
            return bad
        return self.row(record)

    def row(self, record: Mapping[str, Any]) -> Row:
        """The row of a record that has the columns."""
        get = record.get
        label = get(self.label) if isinstance(self.label, str) else tuple(_hashable(get(name)) for name in self.label)
        source = None if self.source is None else get(self.source)
        return get(self.text), label, get(self.task), get(self.split), get(self.id), source


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Parser:
    """Checks rows and takes sentences out of them, by the same rules in every pass over a source."""

    def __init__(self, source: object, columns: Columns, form: Form, default_task: str, separator: str | None) -> None:
        if form.label_separator == "":
            raise InputError("label_separator is '', expected a character or several")
        self.source = source  # its name in messages
        self.columns = columns
        self.form = form
        self.separator = form.label_separator or separator  # the second is the source's own
        self.default_task = default_task
        self._has_task: bool | None = None  # the first line with labels decides it for all
        self._task_of: dict[str, str] = {}
        self._first_line: dict[str, int] = {}  # of each label
        self._pairs: dict[tuple[Any, Any], Pairs] = {}  # by the raw values, as most lines repeat them

    def parse(self, line: int, row: Row | Bad) -> list[Unit]:
        """Check one line and take its sentences out of it: one, or one for each span. All passes go by the same rules.

        Raises:
            Bad: it cannot be used.
        """
        if isinstance(row, Bad):
            raise row
        text, label, task, split, id, source = row
        messages = None
        if self.form.turns is not None:
            messages = _read_messages(text, self.columns.text, self.form.turns)
            text = "\n".join(message.content for message in messages if message.counts)
        if not isinstance(text, str):
            raise Bad(f"{self.columns.text} is {kind_of(text)}, expected a string")
        if not text or text.isspace():
            raise Bad(f"{self.columns.text} is empty")
        if not is_unicode(text):
            raise Bad(f"{self.columns.text} holds half a surrogate pair")
        if split is not None and not isinstance(split, str):
            raise Bad(f"{self.columns.split} is {kind_of(split)}, expected a string")
        if isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        elif id is not None and not isinstance(id, str):
            raise Bad(f"{self.columns.id} is {kind_of(id)}, expected a string or an integer")
        split, id = split or None, id or str(line)
        source = source if isinstance(source, str) and source else None
        if self.form.spans:
            return [
                Unit(text, pairs, split, f"{id}#{number}", span, messages, source)
                for number, (span, pairs) in enumerate(self._spans(line, label, len(text)).items(), 1)
            ]
        return [Unit(text, self._label_pairs(line, label, task), split, id, None, messages, source)]

    def _label_pairs(self, line: int, label: Any, task: Any) -> Pairs:
        label, task = _plain(label), _plain(task)
        try:
            return self._pairs[label, task]
        except (KeyError, TypeError):  # not seen before, or of a kind that has no hash
            pairs = self._pairs[label, task] = self._labels(line, label, task)
            return pairs

    def check_labels(self) -> None:
        """Look at all labels together, once all rows are read.

        Warns of labels that differ in case or blanks only.

        Raises:
            InputError: a label lists others, and the caller has not said what separates labels.
        """
        if self.form.label_separator is None:
            for separator in ",;|/+&":
                self._refuse_lists(separator)
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for label in sorted(self._first_line):
            alike[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
        groups = [quoted(labels) for labels in alike.values() if len(labels) > 1]
        if groups:
            told = "; ".join(groups)
            warnings.warn(f"{self.source}: labels that differ in case or blanks only: {told}", stacklevel=2)

    def _refuse_lists(self, separator: str) -> None:
        """Refuse a label with the separator in it if one of its parts is a label and each of the others is one too or
        is a part of another label."""
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
                    f"{self.source}:{self._first_line[label]}: label {label!r} is a list, as {alone[0]!r} is a label "
                    f"too; give label_separator as {separator!r} to split it, as any other to keep it"
                )

    def _spans(self, line: int, spans: Any, length: int) -> dict[tuple[int, int], Pairs]:
        """The labels of each span, by its place in the text."""
        column = self.columns.label
        if not isinstance(spans, list):
            raise Bad(f"{column} is {kind_of(spans)}, expected a list of objects with start, end and label")
        found: dict[tuple[int, int], Pairs] = {}
        for span in spans:
            if not isinstance(span, Mapping):
                raise Bad(f"{column} holds {kind_of(span)}, expected objects with start, end and label")
            start: Any = span.get("start")
            end: Any = span.get("end")
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end))
            if not whole or not 0 <= start < end <= length:
                raise Bad(f"{column} holds a span from {start} to {end}, expected 0 <= start < end <= {length}")
            pairs = self._label_pairs(line, span.get("label"), span.get("task"))
            found[start, end] = tuple(sorted({*found.get((start, end), ()), *pairs}))
        if not found:
            raise Bad(f"{column} is an empty list")
        return found

    def _labels(self, line: int, label: Any, task: Any) -> Pairs:
        column, separator = self.columns.label, self.separator
        if isinstance(column, tuple):  # each of several is a task
            given = [(name, value) for name, value in zip(column, label, strict=True) if not _is_absent(value)]
            if not given:
                raise Bad(f"{', '.join(column)} are empty")
            each = [(one, name) for name, value in given for one in _read_names(value, name, separator)]
            labels, tasks = [one for one, _ in each], [name for _, name in each]
            task = tasks
        else:
            labels = _read_names(label, column, separator)
            tasks = [self.default_task] if task is None else _read_names(task, self.columns.task, separator)
        if len(tasks) not in (1, len(labels)):
            raise Bad(f"number of tasks is {len(tasks)}, of labels {len(labels)}; expected one, or one for each label")
        pairs = tuple(sorted(zip(labels, tasks * len(labels) if len(tasks) == 1 else tasks, strict=True)))
        for (first, _), (second, _) in pairwise(pairs):
            if first == second:
                raise Bad(f"{self.columns.label} holds {first!r} twice")
        # A task that only some lines name is a mistake.
        if self._has_task is None:
            self._has_task = task is not None
        elif self._has_task != (task is not None):
            raise Bad(f"has {'no' if task is None else 'a'} {self.columns.task}, unlike the lines before")
        for name, own_task in pairs:
            self._first_line.setdefault(name, line)
            known = self._task_of.setdefault(name, own_task)
            if known != own_task:  # no bad line that could be skipped: which of the two tasks is right?
                raise InputError(
                    f"{self.source}:{line}: label {name!r} is of task {own_task!r} here and of task {known!r} before; "
                    "a label belongs to one task"
                )
        return pairs


def _plain(value: Any) -> Any:
    """Names as strings: a whole number is its digits, as in a CSV cell. As 1, 1.0 and True are equal, what stays a
    number or truth value here would be taken for another where labels are looked up."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return str(value) if not isinstance(value, bool) and isinstance(value, Integral) else value


def _is_absent(value: Any) -> bool:
    """Whether one of several label columns has no label: NaN is what pandas has for that."""
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, (str, tuple)) and value in ("", "[]", ()))


def _read_names(value: Any, column: str, separator: str | None) -> list[str]:
    """The names in a label or task field: a string, or a list of them; blanks around a name do not count.

    A string may hold several, with the separator between them or written as a list.
    """
    if isinstance(value, str):
        listed = _written_list(value.strip(), column)
        value = (value,) if listed is None else _plain(listed)
    if not isinstance(value, tuple):
        raise Bad(f"{column} is {kind_of(value)}, expected {_NAMES}")
    if not value:
        raise Bad(f"{column} is an empty list")
    names: list[str] = []
    for name in value:
        if not isinstance(name, str):
            raise Bad(f"{column} holds {kind_of(name)}, expected strings or whole numbers")
        names += name.split(separator) if separator else [name]
    names = [name.strip() for name in names]
    for name in names:
        if not name:
            raise Bad(f"{column} is empty" if len(names) == 1 else f"{column} holds an empty name")
        if not is_unicode(name):
            raise Bad(f"{column} holds half a surrogate pair")
        if name in _MISSING:
            raise Bad(f"{column} is {name!r}, which stands for a missing value; expected a name")
        if _looks_like_list(name):
            raise Bad(f"{column} holds {name!r}, a list within a list")
    return names


_NAMES = "a string, a whole number or a list of them"
#: What pandas writes where there is no value.
_MISSING = frozenset({"nan", "NaN", "<NA>"})
#: What a string between these is plainly a list by.
_LIST_SIGNS = {"[]": " \t\n,;|'\"", "()": ",'\"", "{}": ",'\""}
#: How Python writes a list of strings.
_PYTHON_STRING = r"""'[^'\\]*'|"[^"\\]*\""""
_PYTHON_LIST = re.compile(rf"\[(?:{_PYTHON_STRING})(?:, ?(?:{_PYTHON_STRING}))*\]")


def _looks_like_list(text: str) -> bool:
    return any(sign in text for sign in _LIST_SIGNS.get(text[:1] + text[-1:], ""))


def _written_list(text: str, column: str) -> list[Any] | None:
    """The list in a string that JSON or Python has written for one; None for other strings.

    Raises:
        Bad: it is plainly a list and neither wrote it, such as ``['joy' 'love']`` (numpy) or ``{joy,love}``.
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
        raise Bad(f"{column} is {text!r}, a list that neither JSON nor Python writes so; expected {_NAMES}")
    return None


def _read_messages(value: Any, column: str, turns: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)):
        raise Bad(f"{column} is {kind_of(value)}, expected a list of objects with role and content")
    read: list[tuple[str, str]] = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise Bad(f"{column} holds {kind_of(turn)}, expected objects with role and content, both strings")
        read.append((role, content))
    counted = [turns in ("all", role) for role, _ in read]
    if turns == "last" and read:
        counted[-1] = True
    if not any(counted):
        raise Bad(f"{column} has no turn of {turns!r}; roles there: {quoted(dict.fromkeys(role for role, _ in read))}")
    return tuple(Message(role, content, counts) for (role, content), counts in zip(read, counted, strict=True))


def is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    """A value's kind in the words of the file formats."""
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
    return f"of type {type(value).__name__}"


def quoted(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in names) or "none"
