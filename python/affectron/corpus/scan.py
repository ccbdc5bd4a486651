"""One pass over a source: the groups of sentences that views of a corpus consist of, its order and its bad rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from affectron._internal.files import digest
from affectron.corpus.labels import LabelReader, LabelSet
from affectron.corpus.rows import ParsedSentence, RowParser
from affectron.corpus.sources import Source
from affectron.corpus.values import BadRow
from affectron.errors import InputError

#: Most bad rows that are kept with their reason; all are counted.
KEPT_BAD_LINES = 20
#: Most sources of a group of sentences; with more the column holds something else, such as an address for each row.
MOST_SOURCES = 64


@dataclass(slots=True)
class Group:
    """All sentences of one split and label set.

    A view of a corpus is a union of groups: sums over them give its counts and its hash without another pass.

    Attributes:
        count: number of sentences.
        texts: sum of the digests of their texts.
        sources: source -> number of sentences.
    """

    count: int = 0
    texts: int = 0
    sources: Counter[str] = field(default_factory=Counter)


class Scan:
    """The result of one pass over a source, shared by all views of it.

    Attributes:
        source: the source.
        groups: (split, label set) -> its sentences, in the order in which they first occur.
        tells_sources: whether the column ``source`` holds the same few names again and again.
        order: digest of all sentences with their labels and splits, in their order.
        skipped: number of bad rows that were left out.
        bad_lines: (line, reason) of the first of them.

    Raises:
        InputError: the source cannot be read or has no sentence; labels that do not go together; a bad row, unless they
            are skipped.
    """

    def __init__(self, source: Source, default_task: str) -> None:
        separator = source.schema.options.label_separator or source.separator
        labels = LabelReader(source, source.schema, default_task, separator)
        self.source = source
        self._parser = RowParser(source.schema, labels)
        self.groups: defaultdict[tuple[str | None, LabelSet], Group] = defaultdict(Group)
        self.tells_sources = True
        self.skipped = 0
        self.bad_lines: list[tuple[int, str]] = []
        self.order = self._read_all()
        labels.check()
        if not self.groups:
            reason = ""
            if self.bad_lines:
                line, first = self.bad_lines[0]
                reason = f": all {self.skipped} lines are bad, the first is line {line}: {first}"
            raise InputError(f"{source} holds no sentence{reason}")

    def sentences(self) -> Iterator[ParsedSentence]:
        """Read the source again and stream its sentences, without bad rows.

        Raises:
            InputError: the source was changed, or cannot be read.
        """
        for line, row in self.source.rows():
            try:
                yield from self._parser.parse(line, row)
            except BadRow:
                continue  # counted by the scan

    def _read_all(self) -> str:
        """Read the source once, sort its sentences into groups, and return the digest of their order."""
        order = hashlib.blake2b(digest_size=16)
        number_of: dict[tuple[str | None, LabelSet], bytes] = {}
        for line, row in self.source.rows():
            try:
                sentences = self._parser.parse(line, row)
            except BadRow as reason:
                self._skip(line, reason)
                continue
            for sentence in sentences:
                key = sentence.split, sentence.labels
                text = self._add(self.groups[key], sentence)
                order.update(text + number_of.setdefault(key, len(number_of).to_bytes(8, "little")))
        return digest(order.digest(), json.dumps(list(number_of)).encode())

    def _add(self, group: Group, sentence: ParsedSentence) -> bytes:
        """Add a sentence to its group and return the digest of its text."""
        group.count += 1
        if sentence.source is not None and self.tells_sources:
            group.sources[sentence.source] += 1
            self.tells_sources = len(group.sources) <= MOST_SOURCES
        text, span, messages = sentence.text, sentence.span, sentence.messages
        content = text if span is None and messages is None else json.dumps([text, span, messages])
        text_digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
        group.texts += int.from_bytes(text_digest, "little")
        return text_digest

    def _skip(self, line: int, reason: BadRow) -> None:
        if self.source.schema.options.on_bad_line == "error":
            raise InputError(f"{self.source}:{line}: {reason}") from None
        self.skipped += 1
        if len(self.bad_lines) < KEPT_BAD_LINES:
            self.bad_lines.append((line, str(reason)))
