"""Labels as people write them: lists in a string, numbers, missing values. No label is made up without a word."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus
from tests.support.corpora import write
from tests.support.errors import message

NAMES = st.lists(st.text("ab c-'", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=4)


def as_file(path: Path, labels: Sequence[Any]) -> Path:
    """Sentences with these label fields, in the format of the path."""
    return write(path, [{"text": f"t{number}", "label": label} for number, label in enumerate(labels)])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("written", [str, json.dumps])
@given(labels=NAMES)
@example(labels=["joy", "don't know"])
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_as_python_and_json_write_them_are_lists(
    tmp_path: Path, suffix: str, written: Any, labels: list[str]
) -> None:
    names = {label.strip() for label in labels}
    path = as_file(tmp_path / f"c.{suffix}", [written(labels), "anger"])
    if len(names) < len(labels):
        assert " holds " in message(lambda: Corpus.from_file(path))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = Corpus.from_file(path)
    assert (set(first.labels), second.labels) == (names, ("anger",))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "cell", ["['joy' 'love']", "[joy, love]", "('joy', 'love')", "{joy,love}", "{'joy'}", "[2 3]", "['it\\'s', 'joy']"]
)
def test_lists_that_are_written_otherwise_are_refused(tmp_path: Path, suffix: str, cell: str) -> None:
    path = as_file(tmp_path / f"c.{suffix}", ["joy", cell])
    line = message(lambda: Corpus.from_file(path, quoting=True if suffix == "tsv" else None))
    assert f":{2 if suffix in ('jsonl', 'parquet') else 3}: label is {cell!r}, a list that neither" in line


def test_a_list_in_a_list_is_refused() -> None:
    for label in (["['joy', 'love']"], ["joy", "[love, fear]"], ['["joy"]']):
        error = message(lambda label=label: Corpus.from_records([{"text": "a", "label": label}]))
        assert error.startswith("records:1: label holds ")
        assert error.endswith("a list within a list")
    assert Corpus.from_records([{"text": "a", "label": name} for name in ("[joy]", "(mild)")]).labels == (
        "(mild)",
        "[joy]",
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("separator", "joined"), [(",", "joy, love"), (";", "joy;love"), ("/", "joy/love"), ("+", "joy + love")]
)
def test_a_label_of_labels_is_refused_until_the_separator_is_given(
    tmp_path: Path, suffix: str, separator: str, joined: str
) -> None:
    cells = ["anger", joined, "love", "joy"]
    path = as_file(tmp_path / f"c.{suffix}", cells)
    line = 2 if suffix in ("jsonl", "parquet") else 3
    for on_bad_line in ("error", "skip"):
        error = message(lambda how=on_bad_line: Corpus.from_file(path, on_bad_line=how))
        assert error.startswith(f"{path}:{line}: label {joined!r} is a list, as 'joy' is a label too; ")
        assert error.endswith(f"give label_separator as {separator!r} to split it, as any other to keep it")
    assert joined in Corpus.from_file(path, label_separator="#").labels
    split = [sentence.labels for sentence in Corpus.from_file(path, label_separator=separator)]
    assert split == [("anger",), ("joy", "love"), ("love",), ("joy",)]


def test_lists_of_labels_of_which_some_never_stand_alone_are_refused() -> None:
    rows = [{"text": "a", "label": label} for label in ("joy, love", "love, fear", "anger", "joy")]
    error = message(lambda: Corpus.from_records(rows))
    assert error.startswith("records:1: label 'joy, love' is a list, as 'joy' is a label too")


def test_names_with_commas_of_which_not_all_parts_are_labels_are_names() -> None:
    for names in (
        ["Paris, France", "Lyon, France", "Paris, Texas"],
        ["sad, mild", "sad"],
        ["C", "C++"],
        ["and/or", "or"],
    ):
        corpus = Corpus.from_records([{"text": "a", "label": name} for name in names])
        assert set(corpus.labels) == set(names)
    assert "expected a character or several" in message(
        lambda: Corpus.from_records([{"text": "a", "label": "x"}], label_separator="")
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "records"])
def test_whole_numbers_are_labels_as_their_digits(tmp_path: Path, suffix: str) -> None:
    if suffix == "records":
        rows = [{"text": "a", "label": np.int64(3)}, {"text": "b", "label": [np.uint8(0), 3]}]
        corpus = Corpus.from_records(rows)
    elif suffix == "csv":
        corpus = Corpus.from_file(as_file(tmp_path / "c.csv", ["3", "[0, 3]"]))
    else:
        corpus = Corpus.from_file(as_file(tmp_path / "c.jsonl", [3, [0, 3]]))
    assert [sentence.labels for sentence in corpus] == [("3",), ("0", "3")]


@pytest.mark.parametrize("second", [True, 1.0, [True], [1.0]])
def test_what_equals_a_whole_number_is_not_taken_for_it(tmp_path: Path, second: Any) -> None:
    """1, 1.0 and True are equal: a label that was read before must not serve for the others."""
    path = as_file(tmp_path / "c.jsonl", [1, [1], second])
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:3: label ")


def test_missing_values_of_pandas_are_no_labels(tmp_path: Path) -> None:
    for cell in ("nan", "<NA>", "", " "):
        path = as_file(tmp_path / "c.csv", ["joy", cell])
        assert message(lambda path=path: Corpus.from_file(path)).startswith(f"{path}:3: label is ")
    rows = [{"text": "a", "mood": "joy", "tone": float("nan")}, {"text": "b", "mood": "[]", "tone": "wry"}]
    corpus = Corpus.from_records(rows, label_column=["mood", "tone"])
    assert [sentence.labels for sentence in corpus] == [("joy",), ("wry",)]


def test_labels_that_differ_in_case_or_blanks_are_told_of() -> None:
    names = ["Joy", "joy ", "very  sad", "very sad", "caf\u00e9", "cafe\u0301", "calm"]
    rows = [{"text": "a", "label": name} for name in names]
    with pytest.warns(UserWarning, match="differ in case or blanks only") as caught:
        Corpus.from_records(rows)
    (warning,) = caught
    text = str(warning.message)
    assert all(f"'{name.strip()}'" in text for name in names[:-1])
    assert "calm" not in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Corpus.from_records([{"text": "a", "label": name} for name in (" joy", "joy ", "joyful")])
