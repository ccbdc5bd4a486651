"""Columns of a corpus: any name, one role each, and every one that must exist is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from affectron.corpus import Corpus
from tests.support.corpora import FORMATS, ROWS, lines, read, sentences_of, write
from tests.support.errors import message


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_can_have_any_name(tmp_path: Path, suffix: str) -> None:
    names = {"text": "Satz", "label": "text", "task": "kind", "split": "fold", "id": "nr"}
    path = write(tmp_path / f"c.{suffix}", [{names[key]: value for key, value in row.items()} for row in ROWS[:4]])
    corpus = read(path, **{f"{role}_column": name for role, name in names.items()})
    assert list(corpus) == sentences_of(ROWS[:4], None, None)


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
