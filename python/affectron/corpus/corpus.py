"""Labelled sentences from a file or from memory: read, checked and streamed. Apart from batching because nothing
here knows of a tokenizer or a model, and statistics, reports and the command line all name labels as found here.

A corpus is read once when it is made, to learn its labels, counts and hash and to find every bad line, and again
each time it is iterated. Between the two nothing is held but one entry for each distinct (split, label set).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from affectron._internal.files import digest
from affectron.corpus.rows import Bad, Columns, Form, Message, Pairs, Parser, quoted
from affectron.corpus.sources import Dataset, File, Memory, Source
from affectron.errors import InputError

__all__ = ["DEFAULT_TASK", "Corpus", "Message", "OnBadLine", "Sentence"]

OnBadLine: TypeAlias = Literal["error", "skip"]

#: The task of all labels when neither a task column nor the caller names one.
DEFAULT_TASK = "label"
#: How many bad lines are remembered with their reason; all are counted.
KEPT_BAD_LINES = 20
#: How many sources a label set may have; with more the column names something else, such as an address a line.
MOST_SOURCES = 64


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
        label_separator: str | None = None,
        quoting: bool | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """Scan a corpus file; its suffix says how: .jsonl and .ndjson, .csv, .tsv, .parquet (all UTF-8).

        CSV and TSV have a header line. The delimiter of CSV is the comma, or the semicolon or tab if only that finds
        the columns in the header. ``quoting`` says whether fields may be quoted as in CSV. If it is not given they may
        where a comma or semicolon delimits. Where a tab does, a line is a row and quotes are text; a file that may as
        well be quoted is refused.

        A label is a string or whole number, or a list of them; a string that JSON or Python has written for a list is
        that list. ``label_separator`` stands between labels in a string, in CSV and TSV ``|`` unless given. Class
        labels in the metadata that ``datasets`` writes into Parquet come by their names; -1 is no label. A task is one
        name for all labels of the line, or as many as there are labels, written as they are. The columns ``task``,
        ``split`` and ``id`` may be absent as long as they are not called otherwise. A column ``source`` says where a
        sentence comes from (:attr:`sources`).

        Several label columns are as many tasks, each named after its column; a sentence needs a label in one of them.
        With ``span_column`` labels come from there instead: a list of objects with ``start``, ``end`` (characters, the
        end not included), ``label`` and perhaps ``task``; only the tokens of a span count for its label. With
        ``turns`` the text column holds conversations, lists of objects with ``role`` and ``content``, and the turns
        that count are those of this role, the ``last``, or ``all``.

        ``split`` and ``task`` narrow the corpus as :meth:`where` does; in a file without a task column ``task``
        instead names the task of all labels. The whole file is checked in any case.

        Raises:
            InputError: no such file, an unknown kind of file, a missing column (the columns found are named), an
                unknown split or task, no sentence at all, one label in two tasks, a label that lists others and no
                ``label_separator``, a quote that is never closed; and, unless ``on_bad_line`` is ``"skip"``, the first
                bad line as ``file:line: reason`` (in Parquet, line means row).

        Warns:
            UserWarning: labels that differ in case or blanks only.
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = Form(span_column is not None, turns, label_separator)
        return cls._scanned(File(Path(path), columns, quoting), form, split, task, on_bad_line)

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
        label_separator: str | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """The same from mappings, kept in memory; a bad one is reported by its number, from 1.

        Raises:
            InputError: as :meth:`from_file`.
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = Form(span_column is not None, turns, label_separator)
        return cls._scanned(Memory(records, columns), form, split, task, on_bad_line)

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
        label_separator: str | None = None,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = "error",
    ) -> Corpus:
        """The same from a dataset of Hugging Face ``datasets``, streamed: it is read once now and once more each time
        the corpus is iterated, and never held.

        ``dataset`` is a dataset object (of one split or several, streaming or not), a folder that ``save_to_disk``
        wrote, a folder of files, or ``hf://datasets/OWNER/NAME`` on the Hugging Face Hub; nothing else is looked up
        there. ``config`` says which where it has several. The split is the dataset's own where no column names one.
        Class labels come by their names.

        Raises:
            InputError: as :meth:`from_file`; ``datasets`` is not installed; the dataset does not exist or cannot be
                loaded; Parquet files of the folder name their classes differently.
        """
        columns = _columns(text_column, label_column, task_column, split_column, id_column, span_column)
        form = Form(span_column is not None, turns, label_separator)
        return cls._scanned(Dataset(dataset, config, columns), form, split, task, on_bad_line)

    @classmethod
    def _scanned(
        cls,
        source: Source,
        form: Form,
        split: str | None,
        task: str | None,
        on_bad_line: str,
    ) -> Corpus:
        scan = _Scan(source, Parser(source, source.columns, form, task or DEFAULT_TASK, source.separator), on_bad_line)
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
            known = f"known: {quoted(self.splits)}" if self.splits else "it has no splits"
            raise InputError(f"split {split!r} is not in {self.name}; {known}")
        if task is not None and task not in self.tasks:
            raise InputError(f"task {task!r} is not in {self.name}; known: {quoted(self.tasks)}")
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
                raise InputError(f"label {label!r} has no sentence in {where}; labels there: {quoted(self.labels)}")

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
            except Bad:
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


def _columns(text: str, label: str | Sequence[str], task: str, split: str, id: str, spans: str | None) -> Columns:
    if spans is not None:
        label = spans
    return Columns(text, label if isinstance(label, str) else tuple(label), task, split, id)


# --- one pass over the source: counts, hash ----------------------------------------------------------------------


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

    def __init__(self, source: Source, parser: Parser, on_bad_line: str) -> None:
        if on_bad_line not in ("error", "skip"):
            raise InputError(f"on_bad_line is {on_bad_line!r}, expected 'error' or 'skip'")
        self.source = source
        self._parser = parser
        self.parse = parser.parse
        self.on_bad_line = on_bad_line
        self.groups: defaultdict[tuple[str | None, Pairs], _Group] = defaultdict(_Group)
        self.tells_sources = True
        self.skipped = 0
        self.bad_lines: list[tuple[int, str]] = []
        self._run()

    def _run(self) -> None:
        order = hashlib.blake2b(digest_size=16)
        number_of: dict[tuple[str | None, Pairs], bytes] = {}
        for line, row in self.source.rows():
            try:
                units = self.parse(line, row)
            except Bad as bad:
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
        self._parser.check_labels()
        self.order = digest(order.digest(), json.dumps(list(number_of)).encode())
        if not self.groups:
            why = ""
            if self.bad_lines:
                line, reason = self.bad_lines[0]
                why = f": all {self.skipped} lines are bad, the first is line {line}: {reason}"
            raise InputError(f"{self.source} holds no sentence{why}")
