"""Labelled sentences from a file or from memory: read, checked and streamed.

A corpus is read once when it is made, to learn its labels, counts and hash and to find every bad line, and again each
time it is iterated. Between passes only one entry for each distinct (split, label set) is in memory.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from affectron._internal.arguments import CORPUS
from affectron._internal.checks import Whole, check
from affectron._internal.display import Shown, Summary, few
from affectron._internal.files import digest
from affectron._internal.frames import frame
from affectron._internal.names import DEFAULT_TASK
from affectron._internal.options import documented
from affectron._internal.wording import count
from affectron.corpus.keywords import Keywords, OnBadLine, column_names, columns_of, shows_keywords
from affectron.corpus.labels import LabelSet
from affectron.corpus.rows import Message
from affectron.corpus.scan import Group, Scan
from affectron.corpus.sources import Dataset, File, Frame, Records, Source
from affectron.corpus.values import quoted
from affectron.errors import InputError
from affectron.options import Columns

if TYPE_CHECKING:
    import pandas
    from typing_extensions import Unpack

__all__ = ["DEFAULT_TASK", "Corpus", "Message", "OnBadLine", "Sentence"]


@dataclass(frozen=True, slots=True)
class Sentence(Shown):
    """One sentence of a corpus.

    Attributes:
        text: the text as the source has it; of a conversation the contents that count, one a line.
        labels: its labels in the order of the corpus' labels.
        split: its split, or None.
        id: its id; the number of its line if the source has no ids. With spans ``#`` and the span's number follow.
        span: (start, end) in characters, the end not included, if only the tokens in this part of the text count.
        messages: the (role, content, counts) of each turn of a conversation.
    """

    text: str
    labels: tuple[str, ...]
    split: str | None
    id: str
    span: tuple[int, int] | None = None
    messages: tuple[Message, ...] | None = None


class Corpus(Shown):
    """Sentences with labels: a view of a source, perhaps narrowed to a split and a task.

    Attributes:
        path: the file; None for any other source.
        name: the file's name after that of its folder, the name of the dataset, or ``"records"``.
        split, task: what the view is narrowed to; None if it is not.
        tasks: task -> its labels, alphabetical; tasks in alphabetical order.
        labels: the labels of all tasks, in that order.
        task_of: label -> its task.
        segments: the distinct label sets that occur, each in label order; sorted by their labels' positions.
        splits: the names of the splits, alphabetical.
        counts: (split, label) -> number of sentences, for pairs that occur; the split is None for a line without one.
        sources: label -> source -> number of sentences, from the column ``source``. Empty if there is no such column,
            if it has another role, or if it does not hold the same few names again and again.
        hash: hex digest of the view's sentences with their labels, as a multiset. File format, line order, ids,
            splits and all other columns leave it unchanged.
        order: hex digest of the whole source's sentences with their labels and splits, in their order. It identifies
            what a position in the corpus refers to.
        skipped: number of bad lines of the source that were left out (always 0 with ``on_bad_line="error"``).
        bad_lines: (line, reason) of the first 20 of them.
    """

    _argument: ClassVar[str] = CORPUS

    @classmethod
    @documented(Columns)
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        text_column: str = Columns.text,
        label_column: str | Sequence[str] = Columns.label,
        indicators: str | Sequence[str] | None = Columns.indicators,
        without: str = Columns.without,
        task_column: str = Columns.task,
        split_column: str = Columns.split,
        held_out: float | None = Columns.held_out,
        id_column: str = Columns.id,
        span_column: str | None = Columns.span,
        turns: str | None = Columns.turns,
        label_separator: str | None = Columns.label_separator,
        quoting: bool | None = Columns.quoting,
        split: str | None = None,
        task: str | None = None,
        on_bad_line: OnBadLine = Columns.on_bad_line,
    ) -> Corpus:
        """Scan a corpus file. The format is that of the suffix: .jsonl, .ndjson, .csv, .tsv or .parquet, all in UTF-8.

        CSV and TSV have a header line. The delimiter of CSV is the comma, or else the semicolon or tab if that finds
        the columns in the header. Unless ``quoting`` is given, fields may be quoted if a comma or semicolon delimits.
        If a tab does, each line is a row and quotes are text; a file that may be quoted all the same is refused.

        A label is a string or whole number, or a list of them; a string that JSON or Python has written for a list is
        that list. In CSV and TSV ``|`` stands between labels unless ``label_separator`` is given. Class labels in the
        metadata that ``datasets`` writes into Parquet are replaced by their names; -1 is no label. A task is one name
        for all labels of the line, or one for each label. The columns ``task``, ``split`` and ``id`` may be absent
        under these names. A column ``source`` says where a sentence comes from (:attr:`sources`).

        Several label columns are as many tasks, each named after its column; a sentence needs a label in one of them.
        Indicators are columns of 0 and 1 (or true and false), and labels of one task: a sentence has those of its
        columns that are 1, or the label ``without`` if none is.
        With ``span_column`` labels come from that column instead: a list of objects with ``start``, ``end``
        (characters, the end not included), ``label`` and perhaps ``task``; only the tokens of a span count for its
        label. With ``turns`` the text column holds conversations, lists of objects with ``role`` and ``content``.

        The whole file is checked, also where the corpus is narrowed.

        Args:
            path: the file.
            split: narrow the corpus to this split, as :meth:`where` does.
            task: narrow the corpus to this task; in a file without a task column the name of the task of all labels.
            {options}

        Raises:
            InputError: no such file, an unknown kind of file, a missing column (the message names those that exist), an
                unknown split or task, no sentence at all, one label in two tasks, a label that lists others and no
                ``label_separator``, a quote that is never closed; and, unless ``on_bad_line`` is ``"skip"``, the first
                bad line as ``file:line: reason`` (in Parquet, line means row).

        Warns:
            UserWarning: labels that differ in case or blanks only.
        """
        columns = Columns(
            text=text_column,
            label=column_names(label_column),
            indicators=None if indicators is None else column_names(indicators),
            without=without,
            task=task_column,
            split=split_column,
            held_out=held_out,
            id=id_column,
            span=span_column,
            turns=turns,
            label_separator=label_separator,
            quoting=quoting,
            on_bad_line=on_bad_line,
        )
        return read_source(File(Path(path), columns), split, task)

    @classmethod
    @shows_keywords
    def from_records(cls, records: Iterable[Mapping[str, Any]], **options: Unpack[Keywords]) -> Corpus:
        """Scan mappings, which are kept in memory. The options are those of :meth:`from_file`.

        Raises:
            InputError: as :meth:`from_file`; a bad record is named by its number, from 1.
        """
        return read_source(Records(records, columns_of(options)), options.get("split"), options.get("task"))

    @classmethod
    @shows_keywords
    def from_dataset(cls, dataset: Any, *, config: str | None = None, **options: Unpack[Keywords]) -> Corpus:
        """Scan a dataset of Hugging Face ``datasets``. It is streamed in each pass and never held in memory.

        The split of a sentence is the dataset's own unless the dataset has a split column. Class labels are replaced
        by their names.

        Args:
            dataset: a dataset object (of one split or several, streaming or not), a folder that ``save_to_disk`` wrote,
                a folder of files, or ``hf://datasets/OWNER/NAME`` on the Hugging Face Hub. Nothing else is looked up
                there.
            config: the configuration, if the dataset has several.
            options: as :meth:`from_file`.

        Raises:
            InputError: as :meth:`from_file`; ``datasets`` is not installed; the dataset does not exist or cannot be
                loaded; Parquet files of the folder name their classes differently.
        """
        return read_source(Dataset(dataset, config, columns_of(options)), options.get("split"), options.get("task"))

    @classmethod
    @shows_keywords
    def from_pandas(cls, frame: Any, **options: Unpack[Keywords]) -> Corpus:
        """Scan a data frame of pandas, or one that becomes it by its own ``to_pandas`` (polars, Arrow, datasets).

        The options are those of :meth:`from_file`, and cells are read as its values are: a cell may hold a list, a
        whole number is a label too, and NaN, None and NA stand for no value. The columns in use are kept in memory.

        Raises:
            InputError: as :meth:`from_file`; a bad row is named by its number, from 1, as ``frame:row``. Also for
                anything that is no frame, columns of several levels, two columns of one name; pandas is not installed.
        """
        return read_source(Frame(frame, columns_of(options)), options.get("split"), options.get("task"))

    def __init__(self, scan: Scan, split: str | None, task: str | None, fold: tuple[int, int] = (0, 1)) -> None:
        """Internal: corpora are made by :meth:`from_file` and its like, by :meth:`where` and by :meth:`folds`.

        ``fold`` is (number of the fold, number of folds).
        """
        self._scan = scan
        self._fold = fold
        self.path = scan.source.path
        self.name = scan.source.name
        self.split = split
        self.task = task
        self.order = scan.order
        self.skipped = scan.skipped
        self.bad_lines = list(scan.bad_lines)

        members = [(key, group) for key, group in scan.groups.items() if split in (None, key[0])]
        self.task_of = _task_of((labels for (_, labels), _ in members), task)
        self.labels = tuple(self.task_of)
        self.tasks: dict[str, tuple[str, ...]] = {}
        for label, name in self.task_of.items():
            self.tasks[name] = (*self.tasks.get(name, ()), label)
        # Label set of the source -> its labels in this view: those of the task, in label order.
        rank = {label: position for position, label in enumerate(self.labels)}
        self._labels_of = {
            labels: tuple(sorted((label for label, _ in labels if label in rank), key=rank.__getitem__))
            for (_, labels), _ in members
        }
        groups = [
            (group_split, self._labels_of[labels], group)
            for (group_split, labels), group in members
            if self._labels_of[labels]
        ]
        self.splits: tuple[str, ...] = tuple(sorted({name for name, _, _ in groups if name is not None}))
        self.segments: tuple[tuple[str, ...], ...] = tuple(
            sorted({labels for _, labels, _ in groups}, key=lambda labels: [rank[label] for label in labels])
        )
        self._segment_index = {labels: index for index, labels in enumerate(self.segments)}
        self._len = _length(groups, fold)
        self.counts = _counts(groups)
        self.sources = _sources(groups, self.labels) if scan.tells_sources else {}
        self.hash = _hash(groups)

    def where(self, *, split: str | None = None, task: str | None = None) -> Corpus:
        """The sentences of one split, and of one task with that task's labels only. Nothing is read again.

        Raises:
            InputError: the split or task is not in this corpus, or no sentence is in both.
        """
        if split is not None and split not in self.splits:
            known = f"known: {quoted(self.splits)}" if self.splits else "it has no splits; held_out makes them"
            raise InputError(f"split {split!r} is not in {self.name}; {known}")
        if task is not None and task not in self.tasks:
            raise InputError(f"task {task!r} is not in {self.name}; known: {quoted(self.tasks)}")
        narrowed = self.split if split is None else split, self.task if task is None else task
        view = Corpus(self._scan, *narrowed, self._fold)
        if not len(view):
            raise InputError(f"{self.name} has no sentence of task {view.task!r} in split {view.split!r}")
        return view

    def folds(self, number: int) -> list[Corpus]:
        """Divide the corpus into ``number`` disjoint parts: the sentences of each label set are dealt out in turn.

        A fold has its own sentences; its labels, segments, counts and hash are those of the whole.

        Raises:
            InputError: number is below 1, or a fold would have no sentence.
        """
        check("folds", number, Whole(1))
        views = [Corpus(self._scan, self.split, self.task, (fold, number)) for fold in range(number)]
        if not len(views[-1]):
            raise InputError(f"folds is {number}, and no label set of {self.name} has as many sentences")
        return views

    def require(self, labels: Iterable[str]) -> None:
        """Check that each of the labels has a sentence in this corpus.

        Raises:
            InputError: a label has none; the message names the split and its labels.
        """
        for label in labels:
            if label not in self.task_of:
                part = f"split {self.split!r} of {self.name}" if self.split is not None else self.name
                raise InputError(f"label {label!r} has no sentence in {part}; labels there: {quoted(self.labels)}")

    def check_unchanged(self) -> None:
        """Check that the source is still the one that was scanned.

        Raises:
            InputError: the file was changed (size or time of change), or no longer exists.
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
        """Stream the sentences in the source's order, reading the source again.

        Raises:
            InputError: the file was changed (size or time of change) since it was scanned, or cannot be read.
        """
        return (sentence for sentence, _ in self._read())

    def _read(self) -> Iterator[tuple[Sentence, str | None]]:
        """Stream the sentences, each with its source."""
        labels_of, split = self._labels_of, self.split
        fold, folds = self._fold
        dealt: Counter[tuple[str, ...]] = Counter()
        for text, label_set, own_split, id, span, messages, source in self._scan.sentences():
            labels = labels_of.get(label_set)
            if labels and (split is None or own_split == split):
                turn, dealt[labels] = dealt[labels] % folds, dealt[labels] + 1
                if turn == fold:
                    yield Sentence(text, labels, own_split, id, span, messages), source

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each sentence, in the source's order. :meth:`from_pandas` makes the same corpus of it.

        The columns id, text and split (missing where there is none) are ``string``, as is ``source`` where the corpus
        has :attr:`sources`. So are label and task, unless a sentence has several labels: then both are lists in every
        row. Where only a part of each text counts, ``spans`` has it in the form that ``span_column`` reads, and each
        span is a row. Where texts are conversations, ``messages`` has their turns, for ``text_column`` and ``turns``.

        Raises:
            InputError: as :meth:`__iter__`; pandas is not installed.
        """
        rows = list(self._read())
        sentences = [sentence for sentence, _ in rows]
        tasks = [[self.task_of[label] for label in sentence.labels] for sentence in sentences]
        columns: dict[str, tuple[str, list[Any]]] = {
            "id": ("string", [sentence.id for sentence in sentences]),
            "text": ("string", [sentence.text for sentence in sentences]),
        }
        if all(len(labels) == 1 for labels in self.segments):
            columns["label"] = ("string", [sentence.labels[0] for sentence in sentences])
            columns["task"] = ("string", [task for (task,) in tasks])
        else:
            columns["label"] = ("object", [list(sentence.labels) for sentence in sentences])
            columns["task"] = ("object", tasks)
        columns["split"] = ("string", [sentence.split for sentence in sentences])
        if self.sources:
            columns["source"] = ("string", [source for _, source in rows])
        if any(sentence.span for sentence in sentences):
            columns["spans"] = ("object", [_span_objects(*row) for row in zip(sentences, tasks, strict=True)])
        if any(sentence.messages for sentence in sentences):
            columns["messages"] = ("object", [_turns(sentence) for sentence in sentences])
        return frame(columns)

    def _summary(self) -> Summary:
        narrowed = [f"{key} {value}" for key, value in (("split", self.split), ("task", self.task)) if value]
        facts = [self.name, *narrowed, count(self._len, "sentence")]
        facts.append(f"{count(len(self.labels), 'label')}: {few(self.labels)}")
        splits = [split for split in (None, *self.splits) if any(split == known for known, _ in self.counts)]
        rows = (
            (label, self.task_of[label], *(self.counts.get((split, label), 0) for split in splits))
            for label in self.labels
        )
        headings = ("label", "task", *("sentences" if split is None else split for split in splits))
        return Summary(facts, headings, rows, len(self.labels))


def read_source(source: Source, split: str | None, task: str | None) -> Corpus:
    """Scan a source and narrow the corpus to a split and a task; see :meth:`Corpus.from_file`."""
    return Corpus(Scan(source, task or DEFAULT_TASK), None, None).where(split=split, task=task)


def _span_objects(sentence: Sentence, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The span of a sentence, as an object for each of its labels."""
    start, end = sentence.span or (0, len(sentence.text))
    named = zip(sentence.labels, tasks, strict=True)
    return [{"start": start, "end": end, "label": label, "task": task} for label, task in named]


def _turns(sentence: Sentence) -> list[dict[str, str]]:
    """The turns of a conversation, as objects."""
    return [{"role": message.role, "content": message.content} for message in sentence.messages or ()]


# --- sums over the groups of a view -----------------------------------------------------------------------------

#: The split, labels and sentences of a group, with only those labels that are in the view.
_ViewGroup: TypeAlias = tuple[str | None, tuple[str, ...], Group]


def _task_of(label_sets: Iterable[LabelSet], task: str | None) -> dict[str, str]:
    """Label -> task, sorted by task and label; of one task if it is given."""
    pairs = {pair for labels in label_sets for pair in labels if task in (None, pair[1])}
    return dict(sorted(pairs, key=lambda pair: (pair[1], pair[0])))


def _counts(groups: Iterable[_ViewGroup]) -> dict[tuple[str | None, str], int]:
    """(split, label) -> number of sentences."""
    counts: Counter[tuple[str | None, str]] = Counter()
    for split, labels, group in groups:
        for label in labels:
            counts[split, label] += group.count
    return dict(counts)


def _sources(groups: Iterable[_ViewGroup], labels: Iterable[str]) -> dict[str, dict[str, int]]:
    """Label -> source -> number of sentences; empty if no sentence has a source."""
    sources = {label: Counter[str]() for label in labels}
    for _, own_labels, group in groups:
        for label in own_labels:
            sources[label] += group.sources
    return {label: dict(sorted(counts.items())) for label, counts in sources.items()} if any(sources.values()) else {}


def _length(groups: Iterable[_ViewGroup], fold: tuple[int, int]) -> int:
    """The number of sentences in a fold: of a label set fold i of n has the sentences i, i + n, i + 2n, ..."""
    sizes: Counter[tuple[str, ...]] = Counter()
    for _, labels, group in groups:
        sizes[labels] += group.count
    return sum(len(range(fold[0], size, fold[1])) for size in sizes.values())


def _hash(groups: Iterable[_ViewGroup]) -> str:
    """Digest of the sums of the texts' digests by label set."""
    texts: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for _, labels, group in groups:
        texts[tuple(sorted(labels))] += group.texts
    return digest(json.dumps(sorted(texts.items())).encode())
