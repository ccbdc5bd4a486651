"""Contrastive pairs: two texts that differ in what a label names, from mappings or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from affectron._internal.files import read_text
from affectron.errors import InputError


@dataclass(frozen=True)
class Pair:
    """A text that has the label, and an ``other`` text that differs from it in not having the label.

    ``answer`` is what follows the text, and ``other_answer`` what would follow the other; None where a pair has none.
    """

    label: str
    text: str
    other: str
    answer: str | None = None
    other_answer: str | None = None


def read_pairs(records: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Read pairs from mappings with the fields ``label``, ``text`` and ``other``, and perhaps ``answer`` and
    ``other_answer``.

    Raises:
        InputError: a field is missing or is not text (the message gives the record's number, from 1); there is no
            record.
    """
    pairs = []
    for number, record in enumerate(records, start=1):
        answers = ("answer", "other_answer") if {"answer", "other_answer"} & record.keys() else ()
        fields = ("label", "text", "other", *answers)
        for field in fields:
            value = record.get(field)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"pair {number}: {field} is {value!r}, expected text")
        pairs.append(Pair(**{field: record[field] for field in fields}))
    if not pairs:
        raise InputError("pairs is empty, expected at least one")
    return pairs


def load_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Load pairs from a JSONL file with an object on each line.

    Raises:
        InputError: the file cannot be read; a line is not a JSON object; as :func:`read_pairs`.
    """
    records = []
    # Only a line feed ends a line: a JSON string may hold any other character that ends a line of text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} is no JSON object, expected label, text and other")
        records.append(record)
    return read_pairs(records)
