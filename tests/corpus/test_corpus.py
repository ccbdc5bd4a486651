"""Reading a corpus: the formats agree, views and hashes follow from their definition, and nothing is held. The oracles
are the json, csv and collections modules."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus, Sentence
from tests.support.corpora import FORMATS, LABELS, ROWS, lines, read, sentences_of, write
from tests.support.errors import message

# --- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_formats_give_the_same_corpus(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"corpus.{suffix}", ROWS)
    corpus = read(path)
    assert list(corpus) == sentences_of(ROWS, None, None)
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
    expected = sentences_of(ROWS, split, task)
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
    assert repr(view) == "Corpus(records; split train; task emotion; 4 sentences; 2 labels: anger, joy)"


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
    first: list[tuple[str, set[str]]], second: list[tuple[str, set[str]]], order: random.Random
) -> None:
    def multiset(pairs: list[tuple[str, set[str]]]) -> Counter[tuple[str, frozenset[str]]]:
        return Counter((text, frozenset(labels)) for text, labels in pairs)

    assert (hash_of(first) == hash_of(second)) == (multiset(first) == multiset(second))
    shuffled = first.copy()
    order.shuffle(shuffled)
    assert hash_of(shuffled, id="7", split="dev", other=1) == hash_of(first)


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


def test_on_bad_line_has_two_values() -> None:
    expected = "on_bad_line is 'warn', expected one of error, skip"
    assert message(lambda: Corpus.from_records(ROWS, on_bad_line="warn")) == expected  # type: ignore[arg-type]


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
    assert (
        message(lambda: plain.where(split="dev"))
        == "split 'dev' is not in records; it has no splits; held_out makes them"
    )
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
