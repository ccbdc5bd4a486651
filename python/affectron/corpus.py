"""Labelled sentences from a file or from memory: read, checked and streamed. Apart from batching because nothing
here knows of a tokenizer or a model, and statistics, reports and the command line all name labels as found here.

A corpus is read once when it is made, to learn its labels, counts and hash and to find every bad line, and again
each time it is iterated. Between the two nothing is held but one entry for each distinct (split, label set).
"""

from __future__ import annotations

import csv
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

from affectron.errors import InputError
from affectron.files import digest

OnBadLine: TypeAlias = Literal["error", "skip"]

#: The task of all labels when neither a task column nor the caller names one.
DEFAULT_TASK = "label"
#: How many bad lines are remembered with their reason; all are counted.
KEPT_BAD_LINES = 20
#: What separates the labels (and their tasks) in a cell of a CSV or TSV file.
CELL_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: its text as found, its labels in the corpus' label order, its split and its id.

    ``split`` is None where the file names none; ``id`` is the line's number where the file has no id.
    """

    text: str
    labels: tuple[str, ...]
    split: str | None
    id: str


class Corpus:
    """Sentences with labels; a view of one source, narrowed to a split and a task where asked.

    Attributes:
        path: the file, or None for records in memory.
        name: the file's name, or ``"records"``.
        split, task: what the view is narrowed to; None where it is not.
        tasks: task -> its labels, alphabetical; tasks in alphabetical order.
        labels: the labels of all tasks, in that order.
        task_of: label -> its task.
        segments: the distinct label sets that occur, each in label order; sorted by their labels' positions.
        splits: the names of the splits, alphabetical.
        counts: (split, label) -> number of sentences, for pairs that occur; the split is None where a line has none.
        hash: hex digest of the view's sentences with their labels, as a multiset. File format, line order, ids,
            splits and all other columns leave it unchanged.
        skipped: how many bad lines of the source were left out (always 0 with ``on_bad_line="error"``).
        bad_lines: (line, reason) of the first 20 of them.
    """

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        text_column: str = "text",
        label_column: str = "label",
        task_column: str = "task",
        split_column: str = "split",
        id_column: str = "id",
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """Scan a corpus file; its suffix says how: .jsonl and .ndjson, .csv, .tsv, .parquet (all UTF-8).

        A label is a string or a list of strings, in CSV and TSV a cell with ``|`` between labels; CSV and TSV have
        a header line and CSV quoting. A task is one name for all labels of the line, or as many as there are labels.
        The columns ``task``, ``split`` and ``id`` may be absent as long as they are not called otherwise.

        ``split`` and ``task`` narrow the corpus as :meth:`where` does; in a file without a task column ``task``
        instead names the task of all labels. The whole file is checked in any case.

        Raises:
            InputError: no such file, an unknown kind of file, a missing column (the columns found are named), an
                unknown split or task, no sentence at all, one label in two tasks; and, unless ``on_bad_line`` is
                ``"skip"``, the first bad line as ``file:line: reason`` (in Parquet, line means row).
        """
        columns = _Columns(text_column, label_column, task_column, split_column, id_column)
        return cls._scanned(_File(Path(path), columns), columns, split, task, on_bad_line)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        *,
        text_column: str = "text",
        label_column: str = "label",
        task_column: str = "task",
        split_column: str = "split",
        id_column: str = "id",
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """The same from mappings, kept in memory; a bad one is reported by its number, from 1.

        Raises:
            InputError: as :meth:`from_file`.
        """
        columns = _Columns(text_column, label_column, task_column, split_column, id_column)
        return cls._scanned(_Memory(records, columns), columns, split, task, on_bad_line)

    @classmethod
    def _scanned(
        cls, source: _Source, columns: _Columns, split: str | None, task: str | None, on_bad_line: str
    ) -> Corpus:
        scan = _Scan(source, columns, task or DEFAULT_TASK, on_bad_line)
        if not scan.has_task:
            task = None  # it has named the task of all labels
        return cls(scan, None, None).where(split=split, task=task)

    def __init__(self, scan: _Scan, split: str | None, task: str | None) -> None:
        """Internal: corpora are made by :meth:`from_file`, :meth:`from_records` and :meth:`where`."""
        self._scan = scan
        self.path = scan.source.path
        self.name = scan.source.name
        self.split = split
        self.task = task
        self.skipped = scan.skipped
        self.bad_lines = list(scan.bad_lines)

        found: dict[str, set[str]] = {}
        groups = [
            (key_split, pairs, group)
            for (key_split, pairs), group in scan.groups.items()
            if (split is None or key_split == split) and (task is None or any(t == task for _, t in pairs))
        ]
        for _, pairs, _ in groups:
            for label, label_task in pairs:
                if task is None or label_task == task:
                    found.setdefault(label_task, set()).add(label)
        self.tasks: dict[str, tuple[str, ...]] = {name: tuple(sorted(found[name])) for name in sorted(found)}
        self.labels: tuple[str, ...] = tuple(label for labels in self.tasks.values() for label in labels)
        self.task_of: dict[str, str] = {label: name for name, labels in self.tasks.items() for label in labels}
        self.splits: tuple[str, ...] = tuple(sorted({name for name, _, _ in groups if name is not None}))

        # What each label set of the source becomes in this view: its own labels only, in label order.
        rank = {label: position for position, label in enumerate(self.labels)}
        self._kept: dict[_Pairs, tuple[str, ...]] = {
            pairs: tuple(sorted((label for label, _ in pairs if label in rank), key=rank.__getitem__))
            for _, pairs in scan.groups
        }
        self.segments: tuple[tuple[str, ...], ...] = tuple(
            sorted({self._kept[pairs] for _, pairs, _ in groups}, key=lambda labels: [rank[label] for label in labels])
        )
        self._segment_index = {labels: index for index, labels in enumerate(self.segments)}

        counts: Counter[tuple[str | None, str]] = Counter()
        total = 0
        self._len = 0
        for key_split, pairs, group in groups:
            self._len += group.count
            total += group.total if task is None else group.by_task.get(task, group.total)
            for label in self._kept[pairs]:
                counts[key_split, label] += group.count
        self.counts: dict[tuple[str | None, str], int] = dict(counts)
        self.hash: str = digest((total % (1 << 128)).to_bytes(16, "little"), self._len.to_bytes(8, "little"))

    def where(self, *, split: str | None = None, task: str | None = None) -> Corpus:
        """The sentences of one split, and of one task with that task's labels only. Nothing is read again.

        Raises:
            InputError: the split or task is not in this corpus, or no sentence is in both.
        """
        if split is not None and split not in self.splits:
            known = f"known: {_names(self.splits)}" if self.splits else "it has no splits"
            raise InputError(f"split {split!r} is not in {self.name}; {known}")
        if task is not None and task not in self.tasks:
            raise InputError(f"task {task!r} is not in {self.name}; known: {_names(self.tasks)}")
        view = Corpus(self._scan, self.split if split is None else split, self.task if task is None else task)
        if not len(view):
            raise InputError(f"{self.name} has no sentence of task {view.task!r} in split {view.split!r}")
        return view

    def require(self, labels: Iterable[str]) -> None:
        """Check that each of the labels has a sentence in this corpus.

        Raises:
            InputError: one has none; the message names the split and the labels there are.
        """
        for label in labels:
            if label not in self.task_of:
                where = f"split {self.split!r} of {self.name}" if self.split is not None else self.name
                raise InputError(f"label {label!r} has no sentence in {where}; labels there: {_names(self.labels)}")

    def segment_index(self, sentence: Sentence) -> int:
        """The position in ``segments`` of the sentence's label set.

        Raises:
            InputError: no sentence of the corpus has that label set.
        """
        index = self._segment_index.get(sentence.labels)
        if index is None:
            raise InputError(f"sentence {sentence.id}: no segment of {self.name} has the labels {sentence.labels}")
        return index

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Sentence]:
        """Stream the sentences in the source's order, reading it again.

        Raises:
            InputError: the file was changed (size or time of change) since it was scanned, or cannot be read.
        """
        scan, kept, split = self._scan, self._kept, self.split
        for _, row in scan.source.rows():
            parsed = scan.parse(row)
            if isinstance(parsed, _Bad):
                if scan.on_bad_line == "skip":
                    continue
                raise scan.source.changed()  # the scan found no bad line
            labels = kept.get(parsed.pairs)
            if labels is None:
                raise scan.source.changed()
            if labels and (split is None or parsed.split == split):
                yield Sentence(parsed.text, labels, parsed.split, parsed.id)

    def __repr__(self) -> str:
        narrowed = "".join(f", {key}={value!r}" for key, value in (("split", self.split), ("task", self.task)) if value)
        return f"<Corpus {self.name!r}{narrowed}: {self._len} sentences, {len(self.labels)} labels>"


# --- one pass over the source: checks, counts, hash -------------------------------------------------------------

#: A sentence's label set with the task of each label, sorted by label.
_Pairs: TypeAlias = tuple[tuple[str, str], ...]


class _Columns(NamedTuple):
    text: str
    label: str
    task: str
    split: str
    id: str


class _Absent:
    """The value of a column that a line does not have."""


_ABSENT = _Absent()


class _Row(NamedTuple):
    """The raw values of one line in the order of _Columns; optional ones may be _ABSENT."""

    line: int
    text: Any
    label: Any
    task: Any
    split: Any
    id: Any


class _Bad(NamedTuple):
    """Why a line cannot be used."""

    reason: str


class _Parsed(NamedTuple):
    text: str
    pairs: _Pairs
    split: str | None
    id: str


@dataclass(slots=True)
class _Group:
    """All sentences of one split and label set: how many, and the sum of their digests.

    The sum makes the hash of any view without another pass: views are unions of groups. ``by_task`` holds the sums
    with one task's labels only; it is empty where there is only one task, as the digests are then the same.
    """

    count: int = 0
    total: int = 0
    by_task: dict[str, int] = field(default_factory=dict)


class _Scan:
    """What one pass over a source has found; shared by all views of it."""

    def __init__(self, source: _Source, columns: _Columns, default_task: str, on_bad_line: str) -> None:
        if on_bad_line not in ("error", "skip"):
            raise InputError(f"on_bad_line is {on_bad_line!r}, expected 'error' or 'skip'")
        self.source = source
        self.columns = columns
        self.default_task = default_task
        self.on_bad_line = on_bad_line
        # None until the first usable line decides it for all: a task that only some lines name is a mistake.
        self.has_task: bool | None = True if columns.task != "task" else None
        self.groups: dict[tuple[str | None, _Pairs], _Group] = {}
        self.skipped = 0
        self.bad_lines: list[tuple[int, str]] = []
        self._pairs: dict[tuple[Any, Any], _Pairs] = {}  # by the raw values, as most lines repeat them
        self._run()

    def _run(self) -> None:
        task_of: dict[str, str] = {}
        # Columns that the caller has renamed must exist: silently reading no split at all would be worse.
        missing = {name for name, usual in (("split", "split"), ("id", "id")) if getattr(self.columns, name) != usual}
        for line, row in self.source.rows():
            if missing and isinstance(row, _Row):
                missing -= {name for name in missing if getattr(row, name) is not _ABSENT}
            parsed = self.parse(row)
            if isinstance(parsed, _Bad):
                if self.on_bad_line == "error":
                    raise InputError(f"{self.source}:{line}: {parsed.reason}")
                self.skipped += 1
                if len(self.bad_lines) < KEPT_BAD_LINES:
                    self.bad_lines.append((line, parsed.reason))
                continue
            text, pairs, split, _ = parsed
            group = self.groups.get((split, pairs))
            if group is None:
                for label, task in pairs:
                    if task_of.setdefault(label, task) != task:
                        raise InputError(
                            f"{self.source}:{line}: label {label!r} is of task {task!r} here and of task "
                            f"{task_of[label]!r} before; a label belongs to one task"
                        )
                group = self.groups[split, pairs] = _Group()
            group.count += 1
            group.total += _sentence_digest(text, pairs)
            tasks = {task for _, task in pairs} if len(pairs) > 1 else ()
            if len(tasks) > 1:
                for task in tasks:
                    of_task = tuple(pair for pair in pairs if pair[1] == task)
                    group.by_task[task] = group.by_task.get(task, 0) + _sentence_digest(text, of_task)
        for name in sorted(missing if self.groups else ()):
            raise self.source.no_column(name, getattr(self.columns, name))
        if not self.groups:
            why = ""
            if self.bad_lines:
                why = f": all {self.skipped} lines are bad, the first ({self.bad_lines[0][0]}): {self.bad_lines[0][1]}"
            raise InputError(f"{self.source} holds no sentence{why}")

    def parse(self, row: _Row | _Bad) -> _Parsed | _Bad:
        """Check one line. The rules are the same in every pass, so that every pass sees the same sentences."""
        if isinstance(row, _Bad):
            return row
        line, text, label, task, split, id = row
        if not isinstance(text, str):
            return _Bad(f"{self.columns.text} is {_kind(text)}, expected a string")
        if not text or text.isspace():
            return _Bad(f"{self.columns.text} is empty")
        if not text.isascii() and not _is_unicode(text):
            return _Bad(f"{self.columns.text} holds half a surrogate pair")
        try:
            pairs = self._pairs.get((label, task))
        except TypeError:  # a list, which has no hash
            pairs = None
        if pairs is None:
            read = self._labels(label, task)
            if isinstance(read, _Bad):
                return read
            pairs = read
        if split is _ABSENT or split is None or split == "":
            split = None
        elif not isinstance(split, str):
            return _Bad(f"{self.columns.split} is {_kind(split)}, expected a string")
        if id is _ABSENT or id is None or id == "":
            id = str(line)
        elif isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        elif not isinstance(id, str):
            return _Bad(f"{self.columns.id} is {_kind(id)}, expected a string or an integer")
        return _Parsed(text, pairs, split, id)

    def _labels(self, label: Any, task: Any) -> _Pairs | _Bad:
        labels = _read_names(label, self.columns.label)
        if isinstance(labels, _Bad):
            return labels
        if self.has_task is None:
            self.has_task = task is not _ABSENT
        if not self.has_task:
            if task is not _ABSENT:
                return _Bad(f"has a column {self.columns.task!r} that the lines before lack")
            tasks = [self.default_task] * len(labels)
        elif task is _ABSENT:
            first = _names(self.source.found)
            return _Bad(f"no task column {self.columns.task!r} here; columns of the first line: {first}")
        else:
            read = _read_names(task, self.columns.task)
            if isinstance(read, _Bad):
                return read
            tasks = read * len(labels) if len(read) == 1 else read
            if len(tasks) != len(labels):
                return _Bad(f"{len(labels)} labels but {len(tasks)} tasks; expected one task, or one for each label")
        pairs = tuple(sorted(zip(labels, tasks, strict=True)))
        for (first, _), (second, _) in pairwise(pairs):
            if first == second:
                return _Bad(f"{self.columns.label} holds {first!r} twice")
        if isinstance(label, str) and isinstance(task, (str, _Absent)):
            self._pairs[label, task] = pairs
        return pairs


def _read_names(value: Any, column: str) -> list[str] | _Bad:
    """The names in a label or task field: a string, or a list of them; blanks around a name do not count."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        return _Bad(f"{column} is {_kind(value)}, expected a string or a list of strings")
    if not names:
        return _Bad(f"{column} is an empty list")
    read = []
    for name in names:
        if not isinstance(name, str):
            return _Bad(f"{column} holds {_kind(name)}, expected strings")
        if not name.strip():
            return _Bad(f"{column} is empty" if len(names) == 1 else f"{column} holds an empty name")
        if not _is_unicode(name):
            return _Bad(f"{column} holds half a surrogate pair")
        read.append(name.strip())
    return read


def _sentence_digest(text: str, pairs: _Pairs) -> int:
    return int(digest(text.encode(), *(label.encode() for label, _ in pairs)), 16)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
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


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


# --- sources: raw values, line by line --------------------------------------------------------------------------

_Rows: TypeAlias = Iterator[tuple[int, "_Row | _Bad"]]


class _Source:
    """Where lines come from; ``rows`` gives the same lines at each call."""

    path: Path | None
    name: str

    def __init__(self, columns: _Columns) -> None:
        doubled = [column for column, times in Counter(columns).items() if times > 1]
        if doubled:
            raise InputError(f"column {doubled[0]!r} is given two roles; text, label, task, split and id must differ")
        self.columns = columns
        self.found: tuple[str, ...] = ()  # the header, or the keys of the first object

    def rows(self) -> _Rows:
        raise NotImplementedError

    def changed(self) -> InputError:
        return InputError(f"{self} was changed after it was scanned; make the corpus anew")

    def no_column(self, role: str, column: str) -> InputError:
        return InputError(f"{self}: no {role} column {column!r}; columns found: {_names(self.found) or 'none'}")

    def _from_mapping(self, line: int, record: Any) -> _Row | _Bad:
        if not isinstance(record, Mapping):
            return _Bad(f"is {_kind(record)}, expected an object with {_names(self.columns[:2])}")
        if not self.found:
            self.found = tuple(str(key) for key in record)
        get = record.get
        row = _Row(line, *[get(column, _ABSENT) for column in self.columns])
        if row.text is _ABSENT or row.label is _ABSENT:
            role = "text" if row.text is _ABSENT else "label"
            column = getattr(self.columns, role)
            return _Bad(f"no {role} column {column!r}; columns found: {_names(map(str, record)) or 'none'}")
        return row

    def __str__(self) -> str:
        return str(self.path or self.name)


class _Memory(_Source):
    """Records held in memory, reduced to the columns in use so that later changes by their owner do not show."""

    path = None
    name = "records"

    def __init__(self, records: Iterable[Mapping[str, Any]], columns: _Columns) -> None:
        super().__init__(columns)
        self._rows = [(line, self._copied(line, record)) for line, record in enumerate(records, 1)]

    def _copied(self, line: int, record: Any) -> _Row | _Bad:
        row = self._from_mapping(line, record)
        if isinstance(row, _Bad):
            return row
        return _Row(line, *[tuple(value) if isinstance(value, list) else value for value in row[1:]])

    def rows(self) -> _Rows:
        return iter(self._rows)


class _File(_Source):
    """A file, whose suffix says how it is read and whose size and time of change say whether it is still the same."""

    path: Path

    def __init__(self, path: Path, columns: _Columns) -> None:
        super().__init__(columns)
        self.path = path
        self.name = path.name
        suffix = path.suffix.lower()
        if suffix == ".json":
            raise InputError(f"{path}: one JSON document is not read line by line; write an object a line as .jsonl")
        if suffix not in _READERS:
            raise InputError(f"{path}: suffix is {suffix!r}, expected one of {', '.join(_READERS)}")
        self._read = _READERS[suffix]
        with self._reading() as file:
            self._stamp = self._stamp_of(file)

    def rows(self) -> _Rows:
        with self._reading() as file:
            if self._stamp_of(file) != self._stamp:
                raise self.changed()
            try:
                yield from self._read(self, file)
            except OSError as error:
                raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
            if self._stamp_of(file) != self._stamp:
                raise self.changed()

    def _reading(self) -> BinaryIO:
        try:
            # Looked at before it is opened: opening a pipe would wait for a writer.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise InputError(f"{self.path} is not a regular file; a corpus is read more than once")
            return open(self.path, "rb")
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error

    @staticmethod
    def _stamp_of(file: BinaryIO) -> tuple[int, int]:
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns

    def _read_jsonl(self, file: BinaryIO) -> _Rows:
        lines = _Lines(file)
        while True:
            try:
                text = next(lines)
                if text.isspace():
                    continue  # a blank line
                record = json.loads(text)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                yield lines.number, _not_utf8(error)
            except json.JSONDecodeError as error:
                yield lines.number, _Bad(f"not JSON: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:  # a number too long to be read; nested too deep
                yield lines.number, _Bad(f"not JSON that can be read: {error}")
            else:
                yield lines.number, self._from_mapping(lines.number, record)

    def _read_table(self, file: BinaryIO, delimiter: str) -> _Rows:
        lines = _Lines(file)
        # strict: a quote that is never closed is reported where it opens, not read as one long field.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader)
        except StopIteration:
            raise InputError(f"{self.path} is empty; expected a header line") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}:1: the header is {_not_utf8(error).reason}") from None
        except csv.Error as error:
            raise InputError(f"{self.path}:1: the header cannot be read: {error}") from None
        places = self._find_columns(header)
        while True:
            line = lines.number + 1
            try:
                cells: list[Any] = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                yield lines.number, _not_utf8(error)
                continue
            except csv.Error as error:
                yield line, _Bad(f"{error} (a field with quotes in it must be quoted whole, its quotes doubled)")
                continue
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                yield line, _Bad(f"{len(cells)} fields, but the header has {len(header)}")
                continue
            text, label, task, split, id = [_ABSENT if place is None else cells[place] for place in places]
            yield line, _Row(line, text, _cell_names(label), _cell_names(task), split, id)

    def _read_csv(self, file: BinaryIO) -> _Rows:
        return self._read_table(file, ",")

    def _read_tsv(self, file: BinaryIO) -> _Rows:
        return self._read_table(file, "\t")

    def _read_parquet(self, file: BinaryIO) -> _Rows:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"{self.path}: reading Parquet needs pyarrow (pip install 'affectron[data]')") from None
        try:
            table = pq.ParquetFile(file)
            places = self._find_columns(table.schema_arrow.names)
            names = list(dict.fromkeys(self.found[place] for place in places if place is not None))
            start = 0
            for batch in table.iter_batches(batch_size=4096, columns=names):
                columns = [
                    [_ABSENT] * len(batch) if place is None else _arrow_values(batch.column(self.found[place]))
                    for place in places
                ]
                for line, values in enumerate(zip(*columns, strict=True), start + 1):
                    bad = next((value for value in values if isinstance(value, _Bad)), None)
                    yield line, bad or _Row(line, *values)
                start += len(batch)
        except pa.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise InputError(f"{self.path} is not a Parquet file that can be read: {why}") from error

    def _find_columns(self, header: list[str]) -> list[int | None]:
        """The place of each column in a header; None for an optional one that is absent and was not renamed."""
        self.found = tuple(header)
        places: list[int | None] = []
        for role, column in self.columns._asdict().items():
            if header.count(column) > 1:
                raise InputError(f"{self.path}: the header names the {role} column {column!r} more than once")
            if column in header:
                places.append(header.index(column))
            elif role in ("task", "split", "id") and column == role:
                places.append(None)
            else:
                raise self.no_column(role, column)
        return places


class _Lines:
    """The lines of a file as text, counted; goes on after a line that is not UTF-8, as a generator could not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte-order mark that some editors write
        return line.decode("utf-8")


def _cell_names(cell: Any) -> Any:
    return cell.split(CELL_SEPARATOR) if cell is not _ABSENT and CELL_SEPARATOR in cell else cell


def _not_utf8(error: UnicodeDecodeError) -> _Bad:
    return _Bad(f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}")


def _arrow_values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        # One value spoils the whole column, so look at each.
        values = []
        for scalar in column:
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError as error:
                values.append(_not_utf8(error))
    return values


_READERS: dict[str, Callable[[_File, BinaryIO], _Rows]] = {
    ".jsonl": _File._read_jsonl,
    ".ndjson": _File._read_jsonl,
    ".csv": _File._read_csv,
    ".tsv": _File._read_tsv,
    ".parquet": _File._read_parquet,
}
