"""Indicators: columns of 0 and 1 as labels of one task; and splits that are made for a source without any."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from affectron.corpus import DEFAULT_TASK, Corpus
from affectron.options import Columns
from tests.support.corpora import FORMATS, lines, write
from tests.support.errors import message

DEVICES = ("Hyperbole", "Metaphor")
#: Cells of the two columns, as a row has them, and the labels that these mean.
CELLS: list[tuple[Any, Any, tuple[str, ...]]] = [
    (1, 1, ("Hyperbole", "Metaphor")),
    (1, 0, ("Hyperbole",)),
    (0, 1, ("Metaphor",)),
    (0, 0, ("none",)),
]
#: What else means 1 and 0.
ONES: list[tuple[Any, Any]] = [(True, False), (1.0, 0.0), ("true", "FALSE"), (" True", "0 "), ("1.0", "0.0")]


def rows(one: Any = 1, zero: Any = 0) -> list[dict[str, Any]]:
    cell = {1: one, 0: zero}
    return [
        {"Sentence": f"t{number}", "Hyperbole": cell[first], "Metaphor": cell[second]}
        for number, (first, second, _) in enumerate(CELLS)
    ]


def read(path: Path, **options: Any) -> Corpus:
    return Corpus.from_file(path, text_column="Sentence", **{"indicators": DEVICES, **options})


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("one", "zero"), [(1, 0), *ONES])
def test_indicators_are_labels_of_one_task(tmp_path: Path, suffix: str, one: Any, zero: Any) -> None:
    corpus = read(write(tmp_path / f"c.{suffix}", rows(one, zero)))
    assert corpus.tasks == {DEFAULT_TASK: ("Hyperbole", "Metaphor", "none")}
    assert [sentence.labels for sentence in corpus] == [labels for _, _, labels in CELLS]


def test_indicators_of_records_and_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    expected = [labels for _, _, labels in CELLS]
    options: dict[str, Any] = {"text_column": "Sentence", "indicators": list(DEVICES)}
    assert [sentence.labels for sentence in Corpus.from_records(rows(), **options)] == expected
    assert [sentence.labels for sentence in Corpus.from_dataset(datasets.Dataset.from_list(rows()), **options)] == (
        expected
    )


def test_the_task_and_the_label_without_indicators_have_the_names_that_are_given(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", rows())
    corpus = read(path, without="literal", task="rhetoric")
    assert corpus.tasks == {"rhetoric": ("Hyperbole", "Metaphor", "literal")}
    alone = read(path, indicators="Metaphor")
    assert [sentence.labels for sentence in alone] == [("Metaphor",), ("none",), ("Metaphor",), ("none",)]
    tasked = Corpus.from_records([{**row, "task": "t"} for row in rows()], text_column="Sentence", indicators=DEVICES)
    assert list(tasked.tasks) == ["t"]


TEXT_CELLS = [("2", "'2'"), ("", "''"), ("yes", "'yes'"), ("nan", "'nan'")]
OTHER_CELLS = [(2, "'2'"), (0.5, "the number 0.5"), (None, "null"), ([1], "a list"), ({"a": 1}, "an object")]


@pytest.mark.parametrize(
    ("suffix", "cell", "shown"),
    [*(("csv", *pair) for pair in TEXT_CELLS), *(("jsonl", *pair) for pair in TEXT_CELLS + OTHER_CELLS)],
)
def test_any_other_cell_is_refused(tmp_path: Path, suffix: str, cell: Any, shown: str) -> None:
    path = write(tmp_path / f"c.{suffix}", rows())
    with open(path, "a", encoding="utf-8") as file:
        if suffix == "csv":
            file.write(f"a,0,{cell}\n")
        else:
            file.write(json.dumps({"Sentence": "a", "Hyperbole": 0, "Metaphor": cell}) + "\n")
    line = 5 if suffix == "jsonl" else 6
    assert message(lambda: read(path)) == f"{path}:{line}: Metaphor is {shown}, expected 0, 1, true or false"
    assert read(path, on_bad_line="skip").skipped == 1


def test_equal_cells_of_other_kinds_do_not_stand_for_each_other() -> None:
    """1, 1.0 and True are equal, and label fields are looked up by their cells."""
    for cells in ([1, True, 1.0, "1"], ["1", 1.0, True, 1]):
        records = [{"text": "a", "on": cell} for cell in cells]
        assert {sentence.labels for sentence in Corpus.from_records(records, indicators="on")} == {("on",)}
    records = [{"text": "a", "on": cell} for cell in (True, [1])]
    assert message(lambda: Corpus.from_records(records, indicators="on")) == (
        "records:2: on is a list, expected 0, 1, true or false"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label": "mood"}, "indicators and label_column are both given, expected one of them"),
        ({"span": "spans"}, "indicators and span_column are both given, expected one of them"),
        ({"without": "B"}, "without is 'B', a column of indicators; expected another name"),
        ({"indicators": None, "without": "B"}, "without is 'B', which goes with indicators, and there are none"),
        ({"held_out": 0.6}, "held_out is 0.6, expected a number in (0, 0.5]"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], expected: str) -> None:
    assert message(lambda: Columns(**{"indicators": ("A", "B"), **options})) == expected


def test_columns_of_indicators_must_exist_and_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", rows())
    assert message(lambda: read(path, indicators=("Hyperbole", "Irony"))) == (
        f"{path}: no indicator column 'Irony'; columns found: 'Sentence', 'Hyperbole', 'Metaphor'"
    )
    assert "is given two roles" in message(lambda: read(path, indicators=("Metaphor", "Metaphor")))
    assert message(lambda: read(path, indicators=())) == (
        "indicators is an empty sequence; expected one column or several"
    )


TEXTS = [f"w{number} é" for number in range(2000)]


def test_held_out_makes_splits_of_about_the_shares_that_are_asked_for(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.csv", "text,label", *(f"{text},x" for text in TEXTS))
    corpus = Corpus.from_file(path, held_out=0.2)
    assert corpus.splits == ("dev", "test", "train")
    counts = Counter(sentence.split for sentence in corpus)
    # Five standard deviations of a binomial.
    for split, share in (("dev", 0.2), ("test", 0.2), ("train", 0.6)):
        assert abs(counts[split] - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5
    assert Corpus.from_file(path, held_out=0.2, split="dev").counts == {("dev", "x"): counts["dev"]}


def test_a_text_has_one_split_wherever_it_stands() -> None:
    """Texts that the test of overlap takes for equal are in one split, in any order and with any label."""
    records = [{"text": text, "label": "x"} for text in TEXTS]
    split_of = {sentence.text: sentence.split for sentence in Corpus.from_records(records, held_out=0.3)}
    others = [{"text": f"  {unicodedata.normalize('NFD', text)} ".replace(" ", "  "), "label": "y"} for text in TEXTS]
    for sentence in Corpus.from_records([*records, *others[::-1]], held_out=0.3):
        assert sentence.split == split_of[unicodedata.normalize("NFC", " ".join(sentence.text.split()))]


def test_held_out_is_for_sources_without_splits() -> None:
    datasets = pytest.importorskip("datasets")
    records = [{"text": text, "label": "x", "split": None} for text in TEXTS[:40]]
    assert Corpus.from_records(records, held_out=0.3).splits == ("dev", "test", "train")
    expected = "split is 'dev', and held_out is for sentences without a split"
    assert message(lambda: Corpus.from_records([*records, {**records[0], "split": "dev"}], held_out=0.3)) == (
        f"records:41: {expected}"
    )
    # One split of a dataset is no division; several are.
    plain = [{"text": record["text"], "label": "x"} for record in records]
    alone = datasets.Dataset.from_list(plain)
    assert Corpus.from_dataset(datasets.DatasetDict({"train": alone}), held_out=0.3).splits == ("dev", "test", "train")
    divided = datasets.DatasetDict({"dev": alone, "train": alone})
    assert message(lambda: Corpus.from_dataset(divided, held_out=0.3)) == f"dataset:1: {expected}"
