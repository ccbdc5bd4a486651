"""Reading a corpus: the formats agree, views and hashes follow from their definition, nothing is held, and every bad
line or file is told from a good one. The oracles are the json, csv and collections modules."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus, Sentence
from tests.support.errors import message

FORMATS = ("jsonl", "ndjson", "csv", "tsv", "parquet")

# Two tasks, sentences with labels of both, a label set in either order, one sentence twice, one without a split.
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


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as the path's suffix says; labels as lists, in a table as cells with bars."""
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
    """The corpus that :func:`write` has written: TSV is quoted there, as the csv module does it."""
    return Corpus.from_file(path, **{"quoting": True} if path.suffix == ".tsv" else {}, **options)


def lines(path: Path, *content: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in content))
    return path


def sentences_by_hand(rows: Sequence[dict[str, Any]], split: str | None, task: str | None) -> list[Sentence]:
    found = []
    for row in rows:
        tasks = dict(zip(row["label"], row["task"], strict=True))
        own = tuple(label for label in LABELS if label in tasks and task in (None, tasks[label]))
        if own and split in (None, row["split"]):
            found.append(Sentence(row["text"], own, row["split"], row["id"]))
    return found


# --- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_formats_give_the_same_corpus(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"corpus.{suffix}", ROWS)
    corpus = read(path)
    assert list(corpus) == sentences_by_hand(ROWS, None, None)
    assert list(corpus) == list(corpus)
    assert len(corpus) == len(ROWS)
    assert (corpus.path, corpus.name) == (path, f"{tmp_path.name}/corpus.{suffix}")
    assert corpus.tasks == {"emotion": ("anger", "joy"), "rhetoric": ("allegory", "sarcasm")}
    assert list(corpus.tasks) == ["emotion", "rhetoric"]
    assert corpus.labels == LABELS
    assert corpus.task_of == {"anger": "emotion", "joy": "emotion", "allegory": "rhetoric", "sarcasm": "rhetoric"}
    assert corpus.segments == (
        ("anger",),
        ("anger", "joy"),
        ("anger", "sarcasm"),
        ("joy", "allegory"),
        ("allegory",),
    )
    assert corpus.splits == ("dev", "train")
    assert corpus.counts == Counter((row["split"], label) for row in ROWS for label in row["label"])
    assert (corpus.skipped, corpus.bad_lines) == (0, [])
    assert corpus.hash == Corpus.from_records(ROWS).hash
    assert [corpus.segments[corpus.segment_index(sentence)] for sentence in corpus] == [s.labels for s in corpus]


@pytest.mark.parametrize("split", [None, "train", "dev"])
@pytest.mark.parametrize("task", [None, "emotion", "rhetoric"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_view_is_the_corpus_of_the_sentences_picked_by_hand(
    tmp_path: Path, suffix: str, split: str | None, task: str | None
) -> None:
    path = write(tmp_path / f"corpus.{suffix}", ROWS)
    expected = sentences_by_hand(ROWS, split, task)
    task_of = {label: name for row in ROWS for label, name in zip(row["label"], row["task"], strict=True)}
    alone = Corpus.from_records(
        [{"text": s.text, "label": s.labels, "task": [task_of[label] for label in s.labels]} for s in expected]
    )
    view = Corpus.from_file(path).where(split=split, task=task)
    for corpus in (view, Corpus.from_file(path, split=split, task=task)):
        assert list(corpus) == expected
        assert len(corpus) == len(expected)
        assert (corpus.split, corpus.task) == (split, task)
        assert corpus.splits == tuple(sorted({s.split for s in expected if s.split is not None}))
        assert corpus.counts == Counter((s.split, label) for s in expected for label in s.labels)
        for field in ("labels", "tasks", "segments", "hash"):
            assert getattr(corpus, field) == getattr(alone, field), field
    assert list(Corpus.from_file(path).where(task=task).where(split=split)) == expected
    assert list(Corpus.from_file(path).where(split=split).where(task=task)) == expected


def test_a_corpus_says_what_it_is() -> None:
    view = Corpus.from_records(ROWS).where(split="train", task="emotion")
    assert repr(view) == "<Corpus 'records', split='train', task='emotion': 4 sentences, 2 labels>"


def test_a_string_is_one_label_and_one_task_serves_all_labels() -> None:
    corpus = Corpus.from_records(
        [
            {"text": "a", "label": " joy ", "task": "emotion"},
            {"text": "b", "label": ("joy", "anger"), "task": ["emotion"]},
        ]
    )
    assert corpus.segments == (("anger", "joy"), ("joy",))
    assert corpus.tasks == {"emotion": ("anger", "joy")}


def test_without_a_task_column_all_labels_are_of_one_task() -> None:
    rows = [{"text": "a", "label": "joy"}, {"text": "b", "label": ["anger", "joy"], "task": None}]
    assert Corpus.from_records(rows).tasks == {"label": ("anger", "joy")}
    named = Corpus.from_records(rows, task="emotion")
    assert named.tasks == {"emotion": ("anger", "joy")}
    assert [s.labels for s in named] == [("joy",), ("anger", "joy")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_can_have_any_name(tmp_path: Path, suffix: str) -> None:
    names = {"text": "Satz", "label": "text", "task": "kind", "split": "fold", "id": "nr"}
    path = write(tmp_path / f"c.{suffix}", [{names[key]: value for key, value in row.items()} for row in ROWS[:4]])
    corpus = read(path, **{f"{role}_column": name for role, name in names.items()})
    assert list(corpus) == sentences_by_hand(ROWS[:4], None, None)


def test_the_id_is_the_line_number_where_there_is_none(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.csv", "text,label,id", '"two', 'lines",x,', "", "one,x,007", "last,x,")
    assert [s.id for s in Corpus.from_file(path)] == ["2", "007", "6"]
    path = lines(tmp_path / "c.jsonl", "", '{"text": "a", "label": "x"}', '{"text": "b", "label": "x", "id": 12}')
    assert [s.id for s in Corpus.from_file(path)] == ["2", "12"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_bom_crlf_blank_lines_and_no_last_newline_change_nothing(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "é one", "label": "x"}, {"text": "two", "label": "y"}]
    path = write(tmp_path / f"c.{suffix}", rows)
    plain = Corpus.from_file(path)
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + content.rstrip(b"\r\n"))
    corpus = Corpus.from_file(path)
    assert [(s.text, s.labels) for s in corpus] == [("é one", ("x",)), ("two", ("y",))]
    assert corpus.hash == plain.hash


TEXTS = st.lists(st.text(min_size=1).filter(lambda text: not text.isspace()), min_size=1, max_size=8)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
@given(texts=TEXTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_unicode_text_comes_back_as_it_was(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    if suffix in ("csv", "tsv"):  # the csv module of Python 3.10 cannot read NUL
        texts = [text.replace("\0", "0") for text in texts]
    path = write(tmp_path / f"c.{suffix}", [{"text": text, "label": "x"} for text in texts])
    assert [s.text for s in read(path)] == texts


def test_parquet_dictionaries_lists_and_many_batches(tmp_path: Path) -> None:
    count = 10_000
    table = pa.table(
        {
            "unused": [b"\xff"] * count,
            "label": pa.array([["x", "y"] if row % 2 else ["x"] for row in range(count)]),
            "text": pa.array([f"t{row % 7}" for row in range(count)]).dictionary_encode(),
            "id": range(count),
        }
    )
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=3000)
    corpus = Corpus.from_file(tmp_path / "c.parquet")
    assert [(s.text, s.id) for s in corpus] == [(f"t{row % 7}", str(row)) for row in range(count)]
    assert corpus.counts == {(None, "x"): count, (None, "y"): count // 2}


def test_records_are_checked_alike_and_kept_as_they_were() -> None:
    rows = [{**row, "label": list(row["label"])} for row in ROWS]
    corpus = Corpus.from_records(MappingProxyType(row) for row in rows)
    rows[0]["text"] = "changed"
    rows[1]["label"].append("changed")
    assert list(corpus) == sentences_by_hand(ROWS, None, None)
    assert (corpus.path, corpus.name) == (None, "records")
    bad = message(lambda: Corpus.from_records([ROWS[0], ["text", "label"]]))  # type: ignore[list-item]
    assert bad == "records:2: is a list, expected an object with 'text', 'label'"
    bad = message(lambda: Corpus.from_records([{"text": b"bytes", "label": "x"}]))
    assert bad == "records:1: text is of type bytes, expected a string"


def test_a_real_corpus(shared: Path) -> None:
    path = shared / "data" / "core" / "data.jsonl"
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    corpus = Corpus.from_file(path)
    assert corpus.counts == Counter((row["split"], row["label"]) for row in rows)
    assert corpus.task_of == {row["label"]: row["task"] for row in rows}
    dev = [row["text"] for row in rows if row["split"] == "dev" and row["task"] == "rhetoric"]
    assert [s.text for s in corpus.where(split="dev", task="rhetoric")] == dev
    assert (corpus.sources["hyperbole"], corpus.sources["simile"]) == ({"hypo": 600}, {"flute": 600})


def test_sources_are_counted_by_label_in_every_view(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": ["x", "y"], "source": "web", "split": "train"},
        {"text": "b", "label": "x", "source": "books", "split": "dev"},
        {"text": "c", "label": "y", "source": None, "split": "dev"},
        {"text": "d", "label": "z", "source": {"any": "thing"}, "split": "dev"},
    ]
    corpus = Corpus.from_file(write(tmp_path / "c.jsonl", rows))
    assert corpus.sources == {"x": {"books": 1, "web": 1}, "y": {"web": 1}, "z": {}}
    assert corpus.where(split="dev").sources == {"x": {"books": 1}, "y": {}, "z": {}}
    assert corpus.hash == Corpus.from_records([{**row, "source": None} for row in rows]).hash
    by_source = Corpus.from_records(rows[:2], label_column="source")
    assert (by_source.labels, by_source.sources) == (("books", "web"), {})
    addresses = [{"text": "a", "label": "x", "source": f"page {k}"} for k in range(100)]
    assert Corpus.from_records(addresses).sources == {}


# --- the hash --------------------------------------------------------------------------------------------------

PAIRS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c d"]), st.sets(st.sampled_from(["x", "y", "xy"]), min_size=1)),
    min_size=1,
    max_size=6,
)


def hash_of(pairs: Sequence[tuple[str, set[str]]], **more: Any) -> str:
    return Corpus.from_records([{"text": text, "label": sorted(labels), **more} for text, labels in pairs]).hash


@given(PAIRS, PAIRS, st.randoms())
@settings(deadline=None)
def test_hashes_are_equal_exactly_where_the_labelled_sentences_are(
    one: list[tuple[str, set[str]]], other: list[tuple[str, set[str]]], order: random.Random
) -> None:
    def multiset(pairs: list[tuple[str, set[str]]]) -> Counter[tuple[str, frozenset[str]]]:
        return Counter((text, frozenset(labels)) for text, labels in pairs)

    assert (hash_of(one) == hash_of(other)) == (multiset(one) == multiset(other))
    shuffled = one.copy()
    order.shuffle(shuffled)
    assert hash_of(shuffled, id="7", split="dev", other=1) == hash_of(one)


def test_the_hash_tells_texts_and_labels_apart() -> None:
    base = hash_of([("a", {"x"}), ("b", {"y"})])
    others = [
        [("b", {"x"}), ("a", {"y"})],
        [("a", {"x"}), ("b", {"x"})],
        [("a", {"x"}), ("b ", {"y"})],
        [("a", {"x"}), ("b", {"y", "z"})],
        [("a", {"x"}), ("b", {"y"}), ("b", {"y"})],
    ]
    assert len({base, *map(hash_of, others)}) == 6


def test_the_hash_is_of_label_names_whatever_their_tasks() -> None:
    plain = Corpus.from_records([{**row, "task": None} for row in ROWS])
    assert plain.labels != Corpus.from_records(ROWS).labels  # another order
    assert plain.hash == Corpus.from_records(ROWS).hash


# --- streaming -------------------------------------------------------------------------------------------------


def peak_of_reading(path: Path) -> int:
    """Bytes at the highest, above what was there before, while a file is scanned and iterated."""
    tracemalloc.start()
    try:
        corpus = Corpus.from_file(path)
        assert sum(1 for _ in corpus) == len(corpus)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_no_more_memory_for_many_lines_than_for_few(tmp_path: Path, suffix: str) -> None:
    few, many = 1000, 10_000
    rows = [{"text": f"{row} " + "word " * 20, "label": ["x", "y"][: 1 + row % 2]} for row in range(many)]
    paths = write(tmp_path / f"few.{suffix}", rows[:few]), write(tmp_path / f"many.{suffix}", rows)
    # The lower of two, as what the interpreter keeps for itself at a first time is not the corpus'.
    short, long = (min(peak_of_reading(path) for _ in range(2)) for path in paths)
    assert long - short < 8 * (many - few)  # not even a pointer for each line


# --- bad lines -------------------------------------------------------------------------------------------------

NAMES = "a string, a whole number or a list of them"
GOOD = '{"text": "good", "label": ["x", "y"]}'
BAD_JSON: list[tuple[str | bytes, str]] = [
    ('{"text": "a", "label": "x"', "not JSON: Expecting ',' delimiter at column 27"),
    ('{"text": "a", "label": "x"} {}', "not JSON: Extra data at column 28"),
    ('["a", "x"]', "is a list, expected an object with 'text', 'label'"),
    ("null", "is null, expected an object with 'text', 'label'"),
    (b'{"text": "caf\xe9", "label": "x"}', "not UTF-8 (byte 0xe9)"),
    (b'{"text": "a", "label": "x", "unused": "\xff"}', "not UTF-8 (byte 0xff)"),
    ('{"text": "\\ud83d", "label": "x"}', "text holds half a surrogate pair"),
    ('{"label": "x", "id": 1}', "no text column 'text'; columns found: 'label', 'id'"),
    ('{"text": "a", "labels": "x"}', "no label column 'label'; columns found: 'text', 'labels'"),
    ("{}", "no text column 'text'; columns found: none"),
    ('{"text": "", "label": "x"}', "text is empty"),
    ('{"text": " \\n\\u00a0", "label": "x"}', "text is empty"),
    ('{"text": null, "label": "x"}', "text is null, expected a string"),
    ('{"text": 3.5, "label": "x"}', "text is the number 3.5, expected a string"),
    ('{"text": NaN, "label": "x"}', "text is the number nan, expected a string"),
    ('{"text": true, "label": "x"}', "text is the truth value True, expected a string"),
    ('{"text": ["a"], "label": "x"}', "text is a list, expected a string"),
    ('{"text": {"a": 1}, "label": "x"}', "text is an object, expected a string"),
    ('{"text": "a", "label": ""}', "label is empty"),
    ('{"text": "a", "label": [" "]}', "label is empty"),
    ('{"text": "a", "label": []}', "label is an empty list"),
    ('{"text": "a", "label": null}', f"label is null, expected {NAMES}"),
    ('{"text": "a", "label": 4.0}', f"label is the number 4.0, expected {NAMES}"),
    ('{"text": "a", "label": NaN}', f"label is the number nan, expected {NAMES}"),
    (
        '{"text": "a", "label": true}',
        f"label is the truth value True, expected {NAMES}",
    ),
    ('{"text": "a", "label": "nan"}', "label is 'nan', which stands for a missing value; expected a name"),
    ('{"text": "a", "label": {"x": 1}}', f"label is an object, expected {NAMES}"),
    ('{"text": "a", "label": ["x", 4.5]}', "label holds the number 4.5, expected strings or whole numbers"),
    ('{"text": "a", "label": ["x", ["y"]]}', "label holds a list, expected strings or whole numbers"),
    ('{"text": "a", "label": ["x", ""]}', "label holds an empty name"),
    ('{"text": "a", "label": ["\\udc00"]}', "label holds half a surrogate pair"),
    ('{"text": "a", "label": ["x", "y", "x"]}', "label holds 'x' twice"),
    ('{"text": "a", "label": ["x", " x"]}', "label holds 'x' twice"),
    ('{"text": "a", "label": "x", "task": "t"}', "has a task, unlike the lines before"),
    ('{"text": "a", "label": "x", "split": 1}', "split is the number 1, expected a string"),
    ('{"text": "a", "label": "x", "id": 1.5}', "id is the number 1.5, expected a string or an integer"),
    ('{"text": "a", "label": "x", "id": false}', "id is the truth value False, expected a string or an integer"),
]
TASKED = '{"text": "good", "label": ["x", "y"], "task": ["t", "u"]}'
BAD_TASKS: list[tuple[str | bytes, str]] = [
    ('{"text": "a", "label": "x"}', "has no task, unlike the lines before"),
    ('{"text": "a", "label": "x", "task": null}', "has no task, unlike the lines before"),
    ('{"text": "a", "label": "x", "task": ""}', "task is empty"),
    (
        '{"text": "a", "label": "x", "task": 1.5}',
        f"task is the number 1.5, expected {NAMES}",
    ),
    (
        '{"text": "a", "label": ["x", "y", "z"], "task": ["t", "u"]}',
        "number of tasks is 2, of labels 3; expected one, or one for each label",
    ),
    (
        '{"text": "a", "label": "x", "task": ["t", "u"]}',
        "number of tasks is 2, of labels 1; expected one, or one for each label",
    ),
]
BAD_CSV: list[tuple[str | bytes, str]] = [
    ("a", "number of fields is 1, expected 2 as in the header"),
    ("a,x,more", "number of fields is 3, expected 2 as in the header"),
    (b"caf\xe9,x", "not UTF-8 (byte 0xe9)"),
    (b'"two\nlin\xe9s",x', "not UTF-8 (byte 0xe9)"),
    (",x", "text is empty"),
    ("a,", "label is empty"),
    ("a,x||y", "label holds an empty name"),
    ("a,x|y|x", "label holds 'x' twice"),
    (
        '"a" b,x',
        "',' expected after '\"' (a field with quotes in it must be quoted whole, its quotes doubled)",
    ),
]


@pytest.mark.parametrize(
    ("suffix", "start", "bad", "reason"),
    [
        *[pytest.param("jsonl", GOOD, *case, id=f"json-{case[1]}") for case in BAD_JSON],
        *[pytest.param("jsonl", TASKED, *case, id=f"task-{case[1]}") for case in BAD_TASKS],
        *[pytest.param("csv", "text,label\ngood,x|y", *case, id=f"csv-{case[1]}") for case in BAD_CSV],
    ],
)
def test_a_bad_line_is_reported_with_its_number_or_skipped_and_counted(
    tmp_path: Path, suffix: str, start: str, bad: str | bytes, reason: str
) -> None:
    good = start.rpartition("\n")[2]
    path = lines(tmp_path / f"c.{suffix}", start, "", bad, good)
    line = start.count("\n") + 3
    assert message(lambda: Corpus.from_file(path)) == f"{path}:{line}: {reason}"
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert (corpus.skipped, corpus.bad_lines) == (1, [(line, reason)])
    assert [(s.text, s.labels) for s in corpus] == [("good", ("x", "y"))] * 2
    assert corpus.hash == Corpus.from_file(lines(tmp_path / f"good.{suffix}", start, good)).hash


def test_lines_too_deep_or_numbers_too_long_are_bad_lines(tmp_path: Path) -> None:
    # Python 3.10 reads numbers of any length and later ones nest deeper than 1000, so the reasons differ.
    path = lines(tmp_path / "c.jsonl", GOOD, '{"text": ' + "[" * 10**5 + "]" * 10**5 + ', "label": "x"}', GOOD)
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: not JSON that can be read: ")
    path = lines(tmp_path / "d.jsonl", GOOD, '{"text": ' + "1" * 5000 + ', "label": "x"}', GOOD)
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: ")
    assert len(Corpus.from_file(path, on_bad_line="skip")) == 2


def test_an_unclosed_quote_is_reported_where_it_opens(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.csv", "text,label", "good,x", '"open,x', *["more,x"] * 5)
    for on_bad_line in ("error", "skip"):  # what follows is within the quotes, so that there is nothing to go on with
        line = message(lambda how=on_bad_line: Corpus.from_file(path, on_bad_line=how))
        assert line == f"{path}:3: a field that opens here with a quote is never closed"
    path = lines(tmp_path / "d.csv", "text,label", '"open,x', *["more,x"] * 5, '"closed",x', "good,x")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: ',' expected after '\"'")
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert [s.text for s in corpus] == ["good"]
    assert corpus.bad_lines[0][1].endswith("; the row ends in line 8")


def test_all_skipped_lines_are_counted_and_the_first_twenty_kept(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.jsonl", *[GOOD, "{"] * 25)
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert (len(corpus), corpus.skipped) == (25, 25)
    assert [line for line, _ in corpus.bad_lines] == list(range(2, 42, 2))
    assert corpus.where(task="label").skipped == 25


def test_invalid_utf8_in_parquet(tmp_path: Path) -> None:
    raw = [b"one", b"caf\xe9", "drei \u00df".encode(), b"\xff"]
    text = pa.array(raw, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": ["x"] * 4}), tmp_path / "c.parquet")
    assert message(lambda: Corpus.from_file(tmp_path / "c.parquet")).endswith("c.parquet:2: not UTF-8 (byte 0xe9)")
    corpus = Corpus.from_file(tmp_path / "c.parquet", on_bad_line="skip")
    assert [(s.text, s.id) for s in corpus] == [("one", "1"), ("drei \u00df", "3")]
    assert corpus.bad_lines == [(2, "not UTF-8 (byte 0xe9)"), (4, "not UTF-8 (byte 0xff)")]


@pytest.mark.parametrize("on_bad_line", ["error", "skip"])
def test_a_label_in_two_tasks_is_always_refused(tmp_path: Path, on_bad_line: Any) -> None:
    rows = ['{"text": "a", "label": "x", "task": "t"}', '{"text": "b", "label": ["y", "x"], "task": "u"}']
    path = lines(tmp_path / "c.jsonl", *rows)
    expected = f"{path}:2: label 'x' is of task 'u' here and of task 't' before; a label belongs to one task"
    assert message(lambda: Corpus.from_file(path, on_bad_line=on_bad_line)) == expected


# --- files and columns that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("column", ["text", "label", "task", "split", "id"])
def test_a_missing_column_names_those_found(tmp_path: Path, suffix: str, column: str) -> None:
    path = write(tmp_path / f"c.{suffix}", [{"words": "a", "label": "x", "text": "b"}])
    options = {f"{column}_column": "Words"}
    expected = f"{path}: no {column} column 'Words'; columns found: 'words', 'label', 'text'"
    assert message(lambda: Corpus.from_file(path, **options)) == expected
    assert message(lambda: Corpus.from_file(path, **options, on_bad_line="skip")) == expected


@pytest.mark.parametrize("column", ["task", "split", "id"])
def test_a_renamed_column_must_be_in_every_object(tmp_path: Path, column: str) -> None:
    row = {"text": "a", "label": "x", "kind": "t"}
    path = write(tmp_path / "c.jsonl", [row, {**row, "kind": None}])
    expected = f"{path}:2: no {column} column 'kind'; columns found: 'text', 'label'"
    assert message(lambda: Corpus.from_file(path, **{f"{column}_column": "kind"})) == expected


def test_a_column_has_one_role() -> None:
    expected = "column 'text' is given two roles; text, label, task, split and id must differ"
    assert message(lambda: Corpus.from_records([], label_column="text")) == expected


def test_a_header_that_cannot_be_used(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.csv", "text,label,text", "a,x,b")
    assert message(lambda: Corpus.from_file(path)) == f"{path}: the header names column 'text' more than once"
    path = lines(tmp_path / "d.csv", '"text" ,label', "a,x")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:1: the header cannot be read: ")
    path = lines(tmp_path / "e.csv", b"t\xe9xt,label", "a,x")
    assert message(lambda: Corpus.from_file(path)) == f"{path}:1: not UTF-8 (byte 0xe9)"
    path = lines(tmp_path / "f.csv", "text,label\ra,x\rb,y")
    assert "a carriage return stands within the line" in message(lambda: Corpus.from_file(path))


def test_on_bad_line_has_two_values() -> None:
    expected = "on_bad_line is 'warn', expected 'error' or 'skip'"
    assert message(lambda: Corpus.from_records(ROWS, on_bad_line="warn")) == expected  # type: ignore[arg-type]


def test_nothing_to_read(tmp_path: Path) -> None:
    for suffix in ("jsonl", "ndjson"):
        path = lines(tmp_path / f"c.{suffix}")
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} holds no sentence"
    for suffix in ("csv", "tsv"):
        path = lines(tmp_path / f"c.{suffix}")
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} is empty; expected a header line"
        path = lines(tmp_path / f"d.{suffix}", "text,label".replace(",", "," if suffix == "csv" else "\t"))
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} holds no sentence"
    path = lines(tmp_path / "c.parquet")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path} is not a Parquet file that can be read: ")
    assert message(lambda: Corpus.from_records([])) == "records holds no sentence"
    path = lines(tmp_path / "d.jsonl", "", '{"text": 1}', "[]")
    assert message(lambda: Corpus.from_file(path, on_bad_line="skip")) == (
        f"{path} holds no sentence: all 2 lines are bad, the first is line 2: "
        "no label column 'label'; columns found: 'text'"
    )


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: No such file or directory"
    path.symlink_to(path)
    assert message(lambda: Corpus.from_file(path)).startswith(f"cannot read {path}: Too many levels")
    for make, name in ((os.mkdir, "d.csv"), (os.mkfifo, "e.csv")):
        make(tmp_path / name)
        expected = f"{tmp_path / name} is not a regular file; a corpus is read more than once"
        assert message(lambda name=name: Corpus.from_file(tmp_path / name)) == expected


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens but cannot be read")
def test_a_file_that_fails_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.symlink_to("/proc/self/mem")  # nothing is mapped at address 0
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: Input/output error"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    path.chmod(0)
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: Permission denied"


def test_suffixes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS).rename(tmp_path / "c.JSONL")
    assert len(Corpus.from_file(str(path))) == len(ROWS)
    for name in ("c.txt", "corpus", "c.jsonl.gz"):
        expected = f"suffix is {Path(name).suffix!r}, expected one of .jsonl, .ndjson, .csv, .tsv, .parquet"
        assert message(lambda name=name: Corpus.from_file(tmp_path / name)) == f"{tmp_path / name}: {expected}"
    assert message(lambda: Corpus.from_file("c.json")).endswith("write an object a line as .jsonl")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path} is not a Parquet file that can be read: ")


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected = f"{path}: reading Parquet needs pyarrow (pip install 'affectron[data]')"
    assert message(lambda: Corpus.from_file(path)) == expected


def test_unknown_splits_and_tasks(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    corpus = Corpus.from_file(path)
    unknown = f"split 'test' is not in {corpus.name}; known: 'dev', 'train'"
    assert message(lambda: corpus.where(split="test")) == unknown
    assert message(lambda: Corpus.from_file(path, split="test")) == unknown
    unknown = f"task 'mood' is not in {corpus.name}; known: 'emotion', 'rhetoric'"
    assert message(lambda: corpus.where(task="mood")) == unknown
    assert message(lambda: Corpus.from_file(path, task="mood")) == unknown
    assert message(lambda: corpus.where(split="dev").where(split="train")).endswith("known: 'dev'")
    plain = Corpus.from_records([{"text": "a", "label": "x"}])
    assert message(lambda: plain.where(split="dev")) == "split 'dev' is not in records; it has no splits"
    apart = Corpus.from_records([{**ROWS[0], "split": "dev"}, {**ROWS[4], "split": "train"}])
    expected = "records has no sentence of task 'rhetoric' in split 'dev'"
    assert message(lambda: apart.where(split="dev", task="rhetoric")) == expected


def test_labels_that_a_view_lacks() -> None:
    corpus = Corpus.from_records(ROWS)
    corpus.require(LABELS)
    expected = "label 'sarcasm' has no sentence in split 'dev' of records; labels there: 'anger', 'joy', 'allegory'"
    assert message(lambda: corpus.where(split="dev").require(LABELS)) == expected
    foreign = Sentence("a", ("joy", "sarcasm"), None, "9")
    expected = "sentence 9: no segment of records has the labels ('joy', 'sarcasm')"
    assert message(lambda: corpus.segment_index(foreign)) == expected


@pytest.mark.parametrize("change", ["append", "touch", "replace", "remove"])
def test_a_file_that_changes_after_the_scan_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    corpus = Corpus.from_file(path)
    if change == "append":
        with open(path, "a", encoding="utf-8") as file:
            file.write(GOOD)
    elif change == "touch":
        os.utime(path, ns=(0, 0))
    elif change == "replace":
        os.replace(write(tmp_path / "new.jsonl", ROWS[:3]), path)
    else:
        path.unlink()
    expected = "cannot read .*: No such file" if change == "remove" else "was changed after it was scanned"
    assert re.search(expected, message(lambda: next(iter(corpus))))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS * 2000)
    assert path.stat().st_size > io.DEFAULT_BUFFER_SIZE
    sentences = iter(Corpus.from_file(path))
    next(sentences)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "was changed after it was scanned" in message(lambda: list(sentences))
