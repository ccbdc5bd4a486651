"""Rows of a corpus: the sentences in a row, with their labels, spans and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from affectron._internal.overlap import text_hash
from affectron.corpus.labels import LabelReader, LabelSet
from affectron.corpus.schema import Row, Schema
from affectron.corpus.values import BadRow, is_unicode, kind_of, quoted


class Message(NamedTuple):
    """One turn of a conversation; ``counts`` says whether its tokens count."""

    role: str
    content: str
    counts: bool


class ParsedSentence(NamedTuple):
    """One sentence of a row."""

    text: str
    labels: LabelSet
    split: str | None
    id: str
    span: tuple[int, int] | None
    messages: tuple[Message, ...] | None
    source: str | None


class RowParser:
    """Takes sentences out of rows, by the same rules in every pass over a source."""

    def __init__(self, schema: Schema, labels: LabelReader) -> None:
        self._schema = schema
        self._labels = labels

    def parse(self, line: int, row: Row | BadRow) -> list[ParsedSentence]:
        """The sentences of one row: one, or one for each span.

        Raises:
            BadRow: the row cannot be used.
            InputError: a label had another task in a row before.
        """
        if isinstance(row, BadRow):
            raise row
        text, label, task, split, id, source = row
        columns = self._schema.options
        messages = None
        if columns.turns is not None:
            messages = _read_messages(text, columns.text, columns.turns)
            text = "\n".join(message.content for message in messages if message.counts)
        _check_text(text, columns.text)
        if split is not None and not isinstance(split, str):
            raise BadRow(f"{columns.split} is {kind_of(split)}, expected a string")
        if isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        elif id is not None and not isinstance(id, str):
            raise BadRow(f"{columns.id} is {kind_of(id)}, expected a string or an integer")
        split, id = self._split_of(text, split or None), id or str(line)
        source = source if isinstance(source, str) and source else None
        if columns.span is None:
            labels = self._labels.read(line, label, task)
            return [ParsedSentence(text, labels, split, id, None, messages, source)]
        return [
            ParsedSentence(text, labels, split, f"{id}#{number}", span, messages, source)
            for number, (span, labels) in enumerate(self._read_spans(line, label, len(text)).items(), 1)
        ]

    def _split_of(self, text: str, split: str | None) -> str | None:
        """The split of a text: the row's, or one that the text's hash decides if sentences are to be held out.

        The hash is that of the overlap: texts that it takes for equal are in one split.
        """
        options = self._schema.options
        if options.held_out is None:
            return split
        if split is not None:
            raise BadRow(f"{options.split} is {split!r}, and held_out is for sentences without a split")
        place = text_hash(text) / 2**64
        return "dev" if place < options.held_out else "test" if place < 2 * options.held_out else "train"

    def _read_spans(self, line: int, spans: Any, length: int) -> dict[tuple[int, int], LabelSet]:
        """The label set of each span, by the span's (start, end) in a text of ``length`` characters."""
        column = self._schema.options.span
        if not isinstance(spans, list):
            raise BadRow(f"{column} is {kind_of(spans)}, expected a list of objects with start, end and label")
        labels_of: dict[tuple[int, int], LabelSet] = {}
        for span in spans:
            if not isinstance(span, Mapping):
                raise BadRow(f"{column} holds {kind_of(span)}, expected objects with start, end and label")
            start: Any = span.get("start")
            end: Any = span.get("end")
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end))
            if not whole or not 0 <= start < end <= length:
                raise BadRow(f"{column} holds a span from {start} to {end}, expected 0 <= start < end <= {length}")
            labels = self._labels.read(line, span.get("label"), span.get("task"))
            labels_of[start, end] = tuple(sorted({*labels_of.get((start, end), ()), *labels}))
        if not labels_of:
            raise BadRow(f"{column} is an empty list")
        return labels_of


def _check_text(text: Any, column: str) -> None:
    if not isinstance(text, str):
        raise BadRow(f"{column} is {kind_of(text)}, expected a string")
    if not text or text.isspace():
        raise BadRow(f"{column} is empty")
    if not is_unicode(text):
        raise BadRow(f"{column} holds half a surrogate pair")


def _read_messages(value: Any, column: str, turns: str) -> tuple[Message, ...]:
    """The messages of a conversation, of which those of the role ``turns`` count; ``turns`` may be last or all."""
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"{column} is {kind_of(value)}, expected a list of objects with role and content")
    messages: list[tuple[str, str]] = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadRow(f"{column} holds {kind_of(turn)}, expected objects with role and content, both strings")
        messages.append((role, content))
    counts = [turns in ("all", role) for role, _ in messages]
    if turns == "last" and messages:
        counts[-1] = True
    if not any(counts):
        roles = quoted(dict.fromkeys(role for role, _ in messages))
        raise BadRow(f"{column} has no turn of {turns!r}; roles there: {roles}")
    return tuple(Message(role, content, flag) for (role, content), flag in zip(messages, counts, strict=True))
