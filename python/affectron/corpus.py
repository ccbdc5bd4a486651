"""Labelled sentences from a file or from memory: read, checked and streamed. Apart from batching because nothing
here knows of a tokenizer or a model, and statistics, reports and the command line all name labels as found here.

A corpus is read once when it is made, to learn its labels, counts and hash and to find every bad line, and again
each time it is iterated. Between the two nothing is held but one entry for each distinct (split, label set).
"""

from __future__ import annotations

import codecs
import copy
import csv
import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

from affectron.errors import InputError
from affectron.files import digest

OnBadLine: TypeAlias = Literal["error", "skip"]

#: The task of all labels when neither a task column nor the caller names one.
DEFAULT_TASK = "label"
#: How many bad lines are remembered with their reason; all are counted.
KEPT_BAD_LINES = 20
#: How many sources a label set may have; with more the column names something else, such as an address a line.
MOST_SOURCES = 64
#: What separates the labels (and their tasks) in a cell of a CSV or TSV file.
CELL_SEPARATOR = "|"


class Message(NamedTuple):
    """One turn of a conversation; ``counts`` says whether its tokens do."""

    role: str
    content: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: its text as found, its labels in the corpus' label order, its split and its id.

    ``split`` is None where the file names none; ``id`` is the line's number where the file has no id. Where a row has
    spans each is a sentence of its own, with the row's whole text: ``span`` is its first character and the one after
    its last, and only tokens in it count. Where a row is a conversation ``messages`` are its (role, content, counts),
    and ``text`` is what counts of it, a line a message.
    """

    text: str
    labels: tuple[str, ...]
    split: str | None
    id: str
    span: tuple[int, int] | None = None
    messages: tuple[Message, ...] | None = None


class Corpus:
    """Sentences with labels; a view of one source, narrowed to a split and a task where asked.

    Attributes:
        path: the file, or None for records in memory.
        name: the file's name after that of its folder, or ``"records"``.
        split, task: what the view is narrowed to; None where it is not.
        tasks: task -> its labels, alphabetical; tasks in alphabetical order.
        labels: the labels of all tasks, in that order.
        task_of: label -> its task.
        segments: the distinct label sets that occur, each in label order; sorted by their labels' positions.
        splits: the names of the splits, alphabetical.
        counts: (split, label) -> number of sentences, for pairs that occur; the split is None where a line has none.
        sources: label -> source -> number of sentences, from the column ``source``; empty where there is no such
            column, where it is one of the others, or where it is not the same few names again and again.
        hash: hex digest of the view's sentences with their labels, as a multiset. File format, line order, ids,
            splits and all other columns leave it unchanged.
        order: hex digest of the whole source's sentences with their labels and splits, in the order in which they
            stand: what a place in the corpus means depends on it.
        skipped: how many bad lines of the source were left out (always 0 with ``on_bad_line="error"``).
        bad_lines: (line, reason) of the first 20 of them.
    """

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        text_column: str = "text",
        label_column: str | Sequence[str] = "label",
        task_column: str = "task",
        split_column: str = "split",
        id_column: str = "id",
        span_column: str | None = None,
        turns: str | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """Scan a corpus file; its suffix says how: .jsonl and .ndjson, .csv, .tsv, .parquet (all UTF-8).

        A label is a string or a list of strings, in CSV and TSV a cell with ``|`` between labels; CSV and TSV have
        a header line and CSV quoting. A task is one name for all labels of the line, or as many as there are labels.
        The columns ``task``, ``split`` and ``id`` may be absent as long as they are not called otherwise. A column
        ``source`` says where a sentence comes from (:attr:`sources`).

        Several label columns are as many tasks, each named after its column; a sentence needs a label in one of them.
        With ``span_column`` labels come from there instead: a list of objects with ``start``, ``end`` (characters, the
        end not included), ``label`` and perhaps ``task``; only the tokens of a span count for its label. With
        ``turns`` the text column holds conversations, lists of objects with ``role`` and ``content``, and the turns
        that count are those of this role, the ``last``, or ``all``.

        ``split`` and ``task`` narrow the corpus as :meth:`where` does; in a file without a task column ``task``
        instead names the task of all labels. The whole file is checked in any case.

        Raises:
            InputError: no such file, an unknown kind of file, a missing column (the columns found are named), an
                unknown split or task, no sentence at all, one label in two tasks; and, unless ``on_bad_line`` is
                ``"skip"``, the first bad line as ``file:line: reason`` (in Parquet, line means row).
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = _Form(span_column is not None, turns)
        return cls._scanned(_File(Path(path), columns), columns, form, split, task, on_bad_line)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        *,
        text_column: str = "text",
        label_column: str | Sequence[str] = "label",
        task_column: str = "task",
        split_column: str = "split",
        id_column: str = "id",
        span_column: str | None = None,
        turns: str | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """The same from mappings, kept in memory; a bad one is reported by its number, from 1.

        Raises:
            InputError: as :meth:`from_file`.
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = _Form(span_column is not None, turns)
        return cls._scanned(_Memory(records, columns), columns, form, split, task, on_bad_line)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        config: str | None = None,
        text_column: str = "text",
        label_column: str | Sequence[str] = "label",
        task_column: str = "task",
        split_column: str = "split",
        id_column: str = "id",
        span_column: str | None = None,
        turns: str | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """The same from a dataset of Hugging Face ``datasets``, streamed: it is read once now and once more each time
        the corpus is iterated, and never held.

        ``dataset`` is a dataset object (of one split or several, streaming or not), the folder of one that
        ``save_to_disk`` wrote, or whatever ``load_dataset`` takes: a folder of files or a name, with ``config`` where
        it has several. The split is the dataset's own where no column names one. Class labels come by their names.

        Raises:
            InputError: as :meth:`from_file`; ``datasets`` is not installed; the dataset cannot be loaded.
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = _Form(span_column is not None, turns)
        return cls._scanned(_Dataset(dataset, config, columns), columns, form, split, task, on_bad_line)

    @classmethod
    def _scanned(
        cls,
        source: _Source,
        columns: _Columns,
        form: _Form,
        split: str | None,
        task: str | None,
        on_bad_line: str,
    ) -> Corpus:
        scan = _Scan(source, columns, form, task or DEFAULT_TASK, on_bad_line)
        return cls(scan, None, None).where(split=split, task=task)

    def __init__(self, scan: _Scan, split: str | None, task: str | None, fold: tuple[int, int] = (0, 1)) -> None:
        """Internal: corpora are made by :meth:`from_file`, :meth:`from_records`, :meth:`where` and :meth:`folds`."""
        self._scan = scan
        self._fold = fold  # which one, of how many
        self.path = scan.source.path
        self.name = scan.source.name
        self.split = split
        self.task = task
        self.order = scan.order
        self.skipped = scan.skipped
        self.bad_lines = list(scan.bad_lines)

        # What each label set of the source becomes in this view, without the other tasks' labels.
        kept = {pairs: [pair for pair in pairs if task in (None, pair[1])] for _, pairs in scan.groups}
        groups = [
            (key, group) for key, group in scan.groups.items() if kept[key[1]] and (split is None or key[0] == split)
        ]
        self.task_of: dict[str, str] = dict(
            sorted((pair for (_, pairs), _ in groups for pair in kept[pairs]), key=lambda pair: (pair[1], pair[0]))
        )
        self.labels: tuple[str, ...] = tuple(self.task_of)
        self.tasks: dict[str, tuple[str, ...]] = {
            name: tuple(label for label in self.labels if self.task_of[label] == name)
            for name in dict.fromkeys(self.task_of.values())
        }
        self.splits: tuple[str, ...] = tuple(sorted({name for (name, _), _ in groups if name is not None}))

        rank = {label: position for position, label in enumerate(self.labels)}
        self._kept = {
            pairs: tuple(sorted((label for label, _ in own if label in rank), key=rank.__getitem__))
            for pairs, own in kept.items()
        }
        found = {self._kept[pairs] for (_, pairs), _ in groups}
        self.segments: tuple[tuple[str, ...], ...] = tuple(
            sorted(found, key=lambda one: [rank[label] for label in one])
        )
        self._segment_index = {labels: index for index, labels in enumerate(self.segments)}

        counts: Counter[tuple[str | None, str]] = Counter()
        sizes: Counter[tuple[str, ...]] = Counter()
        texts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        for (key_split, pairs), group in groups:
            labels = self._kept[pairs]
            texts[tuple(sorted(labels))] += group.texts
            sizes[labels] += group.count
            for label in labels:
                counts[key_split, label] += group.count
        # Of the sentences of a label set fold i of n takes the i-th, the (i + n)-th, and so on.
        self._len = sum(len(range(fold[0], size, fold[1])) for size in sizes.values())
        self.counts: dict[tuple[str | None, str], int] = dict(counts)
        sources = {label: Counter[str]() for label in self.labels}
        for (_, pairs), group in groups:
            for label in self._kept[pairs]:
                sources[label] += group.sources
        told = scan.tells_sources and any(sources.values())
        self.sources = {label: dict(sorted(found.items())) for label, found in sources.items()} if told else {}
        self.hash: str = digest(json.dumps(sorted(texts.items())).encode())

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
        narrowed = self.split if split is None else split, self.task if task is None else task
        view = Corpus(self._scan, *narrowed, self._fold)
        if not len(view):
            raise InputError(f"{self.name} has no sentence of task {view.task!r} in split {view.split!r}")
        return view

    def folds(self, number: int) -> list[Corpus]:
        """The corpus in ``number`` disjoint parts, into which the sentences of each label set are dealt in turn.

        A fold has the sentences of its own; its labels, segments, counts and hash are those of the whole.

        Raises:
            InputError: number is below 1, or a fold would have no sentence.
        """
        if number < 1:
            raise InputError(f"folds is {number}, expected at least 1")
        views = [Corpus(self._scan, self.split, self.task, (fold, number)) for fold in range(number)]
        if not len(views[-1]):
            raise InputError(f"folds is {number}, and no label set of {self.name} has as many sentences")
        return views

    def require(self, labels: Iterable[str]) -> None:
        """Check that each of the labels has a sentence in this corpus.

        Raises:
            InputError: one has none; the message names the split and the labels there are.
        """
        for label in labels:
            if label not in self.task_of:
                where = f"split {self.split!r} of {self.name}" if self.split is not None else self.name
                raise InputError(f"label {label!r} has no sentence in {where}; labels there: {_names(self.labels)}")

    def check_unchanged(self) -> None:
        """Check that the source is still the one that was scanned.

        Raises:
            InputError: the file was changed (size or time of change), or is gone.
        """
        self._scan.source.check_unchanged()

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
        fold, folds = self._fold
        dealt: Counter[tuple[str, ...]] = Counter()
        for line, row in scan.source.rows():
            try:
                units = scan.parse(line, row)
            except _Bad:
                continue  # the scan has counted it
            for text, pairs, own_split, id, span, messages, _ in units:
                labels = kept.get(pairs)
                if labels and (split is None or own_split == split):
                    turn, dealt[labels] = dealt[labels] % folds, dealt[labels] + 1
                    if turn == fold:
                        yield Sentence(text, labels, own_split, id, span, messages)

    def __repr__(self) -> str:
        narrowed = "".join(f", {key}={value!r}" for key, value in (("split", self.split), ("task", self.task)) if value)
        return f"<Corpus {self.name!r}{narrowed}: {self._len} sentences, {len(self.labels)} labels>"


# --- one pass over the source: checks, counts, hash -------------------------------------------------------------

#: A sentence's label set with the task of each label, sorted by label.
_Pairs: TypeAlias = tuple[tuple[str, str], ...]


class _Columns(NamedTuple):
    text: str
    label: str | tuple[str, ...]  # that of the spans, where there are any
    task: str
    split: str
    id: str
    source: str | None  # None where another has the name

    @property
    def names(self) -> list[str]:
        """All of them, one by one."""
        labels = (self.label,) if isinstance(self.label, str) else self.label
        return [self.text, *labels, self.task, self.split, self.id, *([self.source] if self.source else [])]


def _columns(text: str, label: str | Sequence[str], task: str, split: str, id: str, spans: str | None) -> _Columns:
    if spans is not None:
        label = spans
    elif not isinstance(label, str):
        label = tuple(label)
        if not label:
            raise InputError("label_column is an empty sequence; expected one column or several")
    others = (text, *((label,) if isinstance(label, str) else label), task, split, id)
    return _Columns(text, label, task, split, id, None if "source" in others else "source")


class _Form(NamedTuple):
    """What the text and the label column hold beside plain text and names."""

    spans: bool
    turns: str | None


#: One sentence of a row: text, labels, split, id, span, messages, source.
_Unit: TypeAlias = tuple[
    str, "_Pairs", "str | None", str, "tuple[int, int] | None", "tuple[Message, ...] | None", "str | None"
]


#: The raw values of one line, in the order of _Columns; None where the line has none.
_Row: TypeAlias = tuple[Any, ...]


class _Bad(Exception):
    """Why a line cannot be used."""


@dataclass(slots=True)
class _Group:
    """All sentences of one split and label set: how many, the sum of their texts' digests, and their sources.

    Views are unions of groups, so that the sums give the hash of any view without another pass.
    """

    count: int = 0
    texts: int = 0
    sources: Counter[str] = field(default_factory=Counter)


class _Scan:
    """What one pass over a source has found; shared by all views of it."""

    def __init__(self, source: _Source, columns: _Columns, form: _Form, default_task: str, on_bad_line: str) -> None:
        if on_bad_line not in ("error", "skip"):
            raise InputError(f"on_bad_line is {on_bad_line!r}, expected 'error' or 'skip'")
        self.source = source
        self.columns = columns
        self.form = form
        self.default_task = default_task
        self.on_bad_line = on_bad_line
        self.groups: defaultdict[tuple[str | None, _Pairs], _Group] = defaultdict(_Group)
        self.tells_sources = True
        self.skipped = 0
        self.bad_lines: list[tuple[int, str]] = []
        self._has_task: bool | None = None  # the first line with labels decides it for all
        self._task_of: dict[str, str] = {}
        self._pairs: dict[tuple[Any, Any], _Pairs] = {}  # by the raw values, as most lines repeat them
        self._run()

    def _run(self) -> None:
        order = hashlib.blake2b(digest_size=16)
        number_of: dict[tuple[str | None, _Pairs], bytes] = {}
        for line, row in self.source.rows():
            try:
                units = self.parse(line, row)
            except _Bad as bad:
                if self.on_bad_line == "error":
                    raise InputError(f"{self.source}:{line}: {bad}") from None
                self.skipped += 1
                if len(self.bad_lines) < KEPT_BAD_LINES:
                    self.bad_lines.append((line, str(bad)))
                continue
            for text, pairs, split, _, span, messages, origin in units:
                group = self.groups[split, pairs]
                group.count += 1
                if origin is not None and self.tells_sources:
                    group.sources[origin] += 1
                    self.tells_sources = len(group.sources) <= MOST_SOURCES
                read = text if span is None and messages is None else json.dumps([text, span, messages])
                text_digest = hashlib.blake2b(read.encode(), digest_size=16).digest()
                group.texts += int.from_bytes(text_digest, "little")
                order.update(text_digest + number_of.setdefault((split, pairs), len(number_of).to_bytes(8, "little")))
        self.order = digest(order.digest(), json.dumps(list(number_of)).encode())
        if not self.groups:
            why = ""
            if self.bad_lines:
                line, reason = self.bad_lines[0]
                why = f": all {self.skipped} lines are bad, the first is line {line}: {reason}"
            raise InputError(f"{self.source} holds no sentence{why}")

    def parse(self, line: int, row: _Row | _Bad) -> list[_Unit]:
        """Check one line and take its sentences out of it: one, or one for each span. All passes go by the same rules.

        Raises:
            _Bad: it cannot be used.
        """
        if isinstance(row, _Bad):
            raise row
        text, label, task, split, id, source = row
        messages = None
        if self.form.turns is not None:
            messages = _read_messages(text, self.columns.text, self.form.turns)
            text = "\n".join(message.content for message in messages if message.counts)
        if not isinstance(text, str):
            raise _Bad(f"{self.columns.text} is {_kind(text)}, expected a string")
        if not text or text.isspace():
            raise _Bad(f"{self.columns.text} is empty")
        if not _is_unicode(text):
            raise _Bad(f"{self.columns.text} holds half a surrogate pair")
        if split is not None and not isinstance(split, str):
            raise _Bad(f"{self.columns.split} is {_kind(split)}, expected a string")
        if isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        elif id is not None and not isinstance(id, str):
            raise _Bad(f"{self.columns.id} is {_kind(id)}, expected a string or an integer")
        split, id = split or None, id or str(line)
        source = source if isinstance(source, str) and source else None
        if self.form.spans:
            return [
                (text, pairs, split, f"{id}#{number}", span, messages, source)
                for number, (span, pairs) in enumerate(self._spans(line, label, len(text)).items(), 1)
            ]
        return [(text, self._label_pairs(line, label, task), split, id, None, messages, source)]

    def _label_pairs(self, line: int, label: Any, task: Any) -> _Pairs:
        if isinstance(label, list):
            label = tuple(label)
        if isinstance(task, list):
            task = tuple(task)
        try:
            return self._pairs[label, task]
        except (KeyError, TypeError):  # not seen before, or of a kind that has no hash
            pairs = self._pairs[label, task] = self._labels(line, label, task)
            return pairs

    def _spans(self, line: int, spans: Any, length: int) -> dict[tuple[int, int], _Pairs]:
        """The labels of each span, by its place in the text."""
        column = self.columns.label
        if not isinstance(spans, list):
            raise _Bad(f"{column} is {_kind(spans)}, expected a list of objects with start, end and label")
        found: dict[tuple[int, int], _Pairs] = {}
        for span in spans:
            if not isinstance(span, Mapping):
                raise _Bad(f"{column} holds {_kind(span)}, expected objects with start, end and label")
            start: Any = span.get("start")
            end: Any = span.get("end")
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end))
            if not whole or not 0 <= start < end <= length:
                raise _Bad(f"{column} holds a span from {start} to {end}, expected 0 <= start < end <= {length}")
            pairs = self._label_pairs(line, span.get("label"), span.get("task"))
            found[start, end] = tuple(sorted({*found.get((start, end), ()), *pairs}))
        if not found:
            raise _Bad(f"{column} is an empty list")
        return found

    def _labels(self, line: int, label: Any, task: Any) -> _Pairs:
        column = self.columns.label
        if isinstance(column, tuple):  # each of several is a task
            given = [(name, value) for name, value in zip(column, label, strict=True) if value not in (None, "", ())]
            if not given:
                raise _Bad(f"{', '.join(column)} are empty")
            each = [(one, name) for name, value in given for one in _read_names(value, name)]
            labels, tasks = [one for one, _ in each], [name for _, name in each]
            task = tasks
        else:
            labels = _read_names(label, column)
            tasks = [self.default_task] if task is None else _read_names(task, self.columns.task)
        if len(tasks) not in (1, len(labels)):
            raise _Bad(f"number of tasks is {len(tasks)}, of labels {len(labels)}; expected one, or one for each label")
        pairs = tuple(sorted(zip(labels, tasks * len(labels) if len(tasks) == 1 else tasks, strict=True)))
        for (first, _), (second, _) in pairwise(pairs):
            if first == second:
                raise _Bad(f"{self.columns.label} holds {first!r} twice")
        # A task that only some lines name is a mistake.
        if self._has_task is None:
            self._has_task = task is not None
        elif self._has_task != (task is not None):
            raise _Bad(f"has {'no' if task is None else 'a'} {self.columns.task}, unlike the lines before")
        for name, own_task in pairs:
            known = self._task_of.setdefault(name, own_task)
            if known != own_task:  # no bad line that could be skipped: which of the two tasks is right?
                raise InputError(
                    f"{self.source}:{line}: label {name!r} is of task {own_task!r} here and of task {known!r} before; "
                    "a label belongs to one task"
                )
        return pairs


def _read_names(value: Any, column: str) -> list[str]:
    """The names in a label or task field: a string, or a list of them; blanks around a name do not count."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple):
        raise _Bad(f"{column} is {_kind(value)}, expected a string or a list of strings")
    if not names:
        raise _Bad(f"{column} is an empty list")
    for name in names:
        if not isinstance(name, str):
            raise _Bad(f"{column} holds {_kind(name)}, expected strings")
        if not name.strip():
            raise _Bad(f"{column} is empty" if len(names) == 1 else f"{column} holds an empty name")
        if not _is_unicode(name):
            raise _Bad(f"{column} holds half a surrogate pair")
    return [name.strip() for name in names]


def _read_messages(value: Any, column: str, turns: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Bad(f"{column} is {_kind(value)}, expected a list of objects with role and content")
    read: list[tuple[str, str]] = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise _Bad(f"{column} holds {_kind(turn)}, expected objects with role and content, both strings")
        read.append((role, content))
    counted = [turns in ("all", role) for role, _ in read]
    if turns == "last" and read:
        counted[-1] = True
    if not any(counted):
        raise _Bad(f"{column} has no turn of {turns!r}; roles there: {_names(dict.fromkeys(role for role, _ in read))}")
    return tuple(Message(role, content, counts) for (role, content), counts in zip(read, counted, strict=True))


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
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


def _names(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in names) or "none"


# --- sources: raw values, line by line --------------------------------------------------------------------------

_Rows: TypeAlias = Iterator[tuple[int, "_Row | _Bad"]]


class _Source:
    """Where lines come from; ``rows`` gives the same lines at each call."""

    path: Path | None
    name: str

    def __init__(self, columns: _Columns) -> None:
        for column, times in Counter(columns.names).items():
            if times > 1:
                raise InputError(f"column {column!r} is given two roles; text, label, task, split and id must differ")
        self.columns = columns
        # Columns that the caller has renamed must exist: silently reading no split at all would be worse.
        self._required = [
            (role, column)
            for role, given in columns._asdict().items()
            for column in ((given,) if isinstance(given, str) else given or ())
            if role in ("text", "label") or column != role
        ]

    def rows(self) -> _Rows:
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Memory does not change; a file may."""

    def require_columns(self, found: Iterable[Any]) -> None:
        for role, column in self._required:
            if column not in found:
                raise _Bad(f"no {role} column {column!r}; columns found: {_names(found)}")

    def _row(self, record: Any) -> _Row | _Bad:
        try:
            if not isinstance(record, Mapping):
                raise _Bad(f"is {_kind(record)}, expected an object with {_names(self.columns.names[:2])}")
            self.require_columns(record)
        except _Bad as bad:
            return bad
        return self._row_of(record)

    @property
    def label_columns(self) -> tuple[str, ...]:
        label = self.columns.label
        return (label,) if isinstance(label, str) else label

    def _row_of(self, record: Mapping[str, Any]) -> _Row:
        return tuple(
            tuple(_hashable(record.get(name)) for name in column)
            if isinstance(column, tuple)
            else None
            if column is None
            else record.get(column)
            for column in self.columns
        )

    def __str__(self) -> str:
        return str(self.path or self.name)


class _Memory(_Source):
    """Records held in memory, reduced to the columns in use so that later changes by their owner do not show."""

    path = None
    name = "records"

    def __init__(self, records: Iterable[Mapping[str, Any]], columns: _Columns) -> None:
        super().__init__(columns)
        self._rows = [(line, copy.deepcopy(self._row(record))) for line, record in enumerate(records, 1)]

    def rows(self) -> _Rows:
        return iter(self._rows)


class _Dataset(_Source):
    """A dataset of Hugging Face: an object, or where to load one from."""

    path = None

    def __init__(self, dataset: Any, config: str | None, columns: _Columns) -> None:
        super().__init__(columns)
        try:
            import datasets
        except ImportError:
            raise InputError("reading a dataset needs datasets (pip install 'affectron[data]')") from None
        self.name = "dataset"
        if isinstance(dataset, (str, os.PathLike)):
            self.name = Path(dataset).name
            folder = Path(dataset)
            saved = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
            try:
                if saved:
                    dataset = datasets.load_from_disk(str(folder))
                else:
                    dataset = datasets.load_dataset(str(dataset), config, streaming=True)
            except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise InputError(f"cannot load the dataset {self.name}: {why}") from error
        if isinstance(dataset, Mapping):  # of several splits
            self._parts = {str(split): part for split, part in dataset.items()}
        else:
            own = str(getattr(dataset, "split", None) or "")
            self._parts = {own: dataset}

    def rows(self) -> _Rows:
        line = 0
        for split, part in self._parts.items():
            features = getattr(part, "features", None) or {}
            named = {name: _class_names(features.get(name)) for name in (*self.label_columns, self.columns.task)}
            for record in part:
                line += 1
                record = {**record, self.columns.split: record.get(self.columns.split, split or None)}
                for name, names in named.items():
                    if names is not None and record.get(name) is not None:
                        record[name] = _by_name(record[name], names)
                yield line, self._row(record)


def _class_names(feature: Any) -> list[str] | None:
    """The names of a column of class labels, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list) and inner:
        inner = inner[0]
    names = getattr(inner, "names", None)
    return list(names) if names else None


def _by_name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_by_name(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


class _File(_Source):
    """A file, whose suffix says how it is read and whose size and time of change say whether it is still the same."""

    path: Path

    def __init__(self, path: Path, columns: _Columns) -> None:
        super().__init__(columns)
        self.path = path
        self.name = "/".join(path.absolute().parts[-2:])  # many files are called data.jsonl
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
            self._check_unchanged(file)
            try:
                yield from self._read(self, file)
            except OSError as error:
                why = error.strerror or str(error).partition("\n")[0]  # Parquet's own have lines
                raise InputError(f"cannot read {self.path}: {why}") from error
            self._check_unchanged(file)

    def check_unchanged(self) -> None:
        with self._reading() as file:
            self._check_unchanged(file)

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

    def _check_unchanged(self, file: BinaryIO) -> None:
        if self._stamp_of(file) != self._stamp:
            raise InputError(f"{self.path} was changed after it was scanned; make the corpus anew")

    def _read_jsonl(self, file: BinaryIO) -> _Rows:
        decode = json.JSONDecoder().raw_decode  # json.loads takes twice the time
        for line, text in enumerate(map(str.strip, _lines(file)), 1):
            if not text:
                continue  # a blank line
            row: _Row | _Bad
            try:
                record, end = decode(text)
                if end < len(text):
                    raise json.JSONDecodeError("Extra data", text, end)
                row = self._row(record) if _is_unicode(text) else _not_utf8(text)
            except json.JSONDecodeError as error:
                row = _Bad(f"not JSON: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:  # a number too long to be read; nested too deep
                row = _Bad(f"not JSON that can be read: {error}")
            yield line, row

    def _read_table(self, file: BinaryIO, delimiter: str) -> _Rows:
        # strict: a quote that is never closed is reported where it opens, not read as one long field.
        reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        try:
            header = next(reader)
        except StopIteration:
            raise InputError(f"{self.path} is empty; expected a header line") from None
        except csv.Error as error:
            raise InputError(f"{self.path}:1: the header cannot be read: {error}") from None
        places = self._find_columns(header)
        while True:
            line = reader.line_num + 1
            row: _Row | _Bad
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = _Bad(f"{error} (a field with quotes in it must be quoted whole, its quotes doubled)")
            else:
                if not cells:
                    continue  # a blank line
                if not _is_unicode("".join(cells)):
                    row = _not_utf8("".join(cells))
                elif len(cells) != len(header):
                    row = _Bad(f"number of fields is {len(cells)}, expected {len(header)} as in the header")
                else:
                    record: dict[str, Any] = {name: cells[at] for name, at in places.items() if at is not None}
                    for name in (*self.label_columns, self.columns.task):
                        record[name] = _cell_names(record.get(name))
                    row = self._row_of(record)
            yield line, row

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
            names = [name for name, place in places.items() if place is not None]
            line = 0
            for batch in table.iter_batches(batch_size=4096, columns=names):
                for record in _arrow_records(batch, names):
                    row = record if isinstance(record, _Bad) else self._row_of(record)
                    line += 1
                    yield line, row
        except pa.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise InputError(f"{self.path} is not a Parquet file that can be read: {why}") from error

    def _find_columns(self, header: list[str]) -> dict[str, int | None]:
        """The place of each column in a header; None for an optional one that is absent."""
        try:
            self.require_columns(header)
        except _Bad as bad:
            raise InputError(f"{self.path}: {bad}") from None
        for column in self.columns.names:
            if header.count(column) > 1:
                raise InputError(f"{self.path}: the header names column {column!r} more than once")
        return {column: header.index(column) if column in header else None for column in self.columns.names}


def _lines(file: BinaryIO) -> Iterator[str]:
    """The file's lines without a byte-order mark; bytes that are not UTF-8 become lone surrogates, as an exception
    would end the reading."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    return map(bytes.decode, file, repeat("utf-8"), repeat("surrogateescape"))


def _not_utf8(text: str) -> _Bad:
    byte = next(ord(char) - 0xDC00 for char in text if 0xDC80 <= ord(char) <= 0xDCFF)
    return _Bad(f"not UTF-8 (byte 0x{byte:02x})")


def _cell_names(cell: str | None) -> str | list[str] | None:
    return cell.split(CELL_SEPARATOR) if cell is not None and CELL_SEPARATOR in cell else cell


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _arrow_records(batch: Any, names: list[str]) -> Iterator[dict[str, Any] | _Bad]:
    """The batch's rows by column."""
    try:
        values = [batch.column(name).to_pylist() for name in names]
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield _Bad(f"not UTF-8 (byte 0x{error.object[error.start]:02x})")
        else:  # one value spoils the whole batch
            for place in range(len(batch)):
                yield from _arrow_records(batch.slice(place, 1), names)
    else:
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


_READERS: dict[str, Callable[[_File, BinaryIO], _Rows]] = {
    ".jsonl": _File._read_jsonl,
    ".ndjson": _File._read_jsonl,
    ".csv": _File._read_csv,
    ".tsv": _File._read_tsv,
    ".parquet": _File._read_parquet,
}
