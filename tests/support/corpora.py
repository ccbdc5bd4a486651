"""Rows of a small corpus, files of every format that hold them, and a corpus of random words."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from affectron.corpus import Corpus, Sentence

FORMATS = ("jsonl", "ndjson", "csv", "tsv", "parquet")

# Rows of two tasks: sentences with labels of both, a label set in either order, a duplicate, a row without a split.
ROWS: list[dict[str, Any]] = [
    {"text": "I could scream.", "label": ["anger"], "task": ["emotion"], "split": "train", "id": "a"},
    {
        "text": 'He said "no",\tthen\r\nleft \\ slammed the door.',
        "label": ["sarcasm", "anger"],
        "task": ["rhetoric", "emotion"],
        "split": "train",
        "id": "b",
    },
    {
        "text": " Her laugh is a brook | a river 😀 ",
        "label": ["joy", "allegory"],
        "task": ["emotion", "rhetoric"],
        "split": "dev",
        "id": "c",
    },
    {"text": "I could scream.", "label": ["anger"], "task": ["emotion"], "split": "dev", "id": "d"},
    {"text": "Ich weiß es nicht; 是的。", "label": ["allegory"], "task": ["rhetoric"], "split": None, "id": "e"},
    {"text": "Glad and cross.", "label": ["joy", "anger"], "task": ["emotion", "emotion"], "split": "train", "id": "f"},
    {"text": "Cross and glad.", "label": ["anger", "joy"], "task": ["emotion", "emotion"], "split": "train", "id": "g"},
]
# Labels are ordered by task, then by name, wherever they are named.
LABELS = ("anger", "joy", "allegory", "sarcasm")

#: A line of JSON that can be read.
GOOD = '{"text": "good", "label": ["x", "y"]}'


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows in the format of the path's suffix; a table has several labels as one cell, joined by bars."""
    if path.suffix in (".jsonl", ".ndjson"):
        kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            for row in rows:
                cells = {key: "|".join(value) if isinstance(value, list) else value for key, value in row.items()}
                writer.writerow(cells)
    return path


def read(path: Path, **options: Any) -> Corpus:
    """Read a corpus that :func:`write` wrote. Its TSV is quoted, as the csv module does it."""
    return Corpus.from_file(path, **{"quoting": True} if path.suffix == ".tsv" else {}, **options)


def lines(path: Path, *content: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in content))
    return path


def sentences_of(rows: Sequence[dict[str, Any]], split: str | None, task: str | None) -> list[Sentence]:
    """Select the sentences of one split and task from rows, by definition."""
    sentences = []
    for row in rows:
        tasks = dict(zip(row["label"], row["task"], strict=True))
        labels = tuple(label for label in LABELS if label in tasks and task in (None, tasks[label]))
        if labels and split in (None, row["split"]):
            sentences.append(Sentence(row["text"], labels, row["split"], row["id"]))
    return sentences


def random_corpus(sentences: int = 40, longest: int = 17) -> Corpus:
    """Random words of w0 to w59, with labels of two tasks; some sentences have labels of both, some two of one task."""
    rng = np.random.default_rng(3)
    kinds = [("anger",), ("joy",), ("irony",), ("anger", "irony"), ("anger", "joy")]
    records = []
    for i in range(sentences):
        labels = kinds[i] if i < len(kinds) else kinds[rng.integers(len(kinds) - 1)]
        records.append(
            {
                "text": " ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(1, longest))),
                "label": list(labels),
                "task": ["rhetoric" if label == "irony" else "emotion" for label in labels],
                "split": "train" if i % 3 else "dev",
            }
        )
    return Corpus.from_records(records)


CORPUS = random_corpus()
