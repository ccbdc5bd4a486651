"""The record of a run folder: what it keeps, and records that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from affectron.runs.cache import Cache
from tests.support.errors import message

ENTRY: dict[str, Any] = {"key": "k", "files": {"a/b.json": "0"}, "seconds": 1.5, "peak_bytes": 7}


def write_record(folder: Path, **changes: Any) -> Path:
    """Write a record of one stage, with changed fields, into a folder; None leaves a field out."""
    fields = {"format": "affectron.run", "version": 1, "stages": {"select": ENTRY}, **changes}
    file = folder / "run.json"
    file.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return file


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.stages == {}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.json").write_text("1")
    cache.made_with = {"affectron": "0", "config": {"model": "m"}}
    cache.add("select", "k", ["a/b.json"], 1.5)
    again = Cache(tmp_path)
    assert (again.stages, again.made_with) == (cache.stages, cache.made_with)
    assert again.done("select", "k")
    assert not again.done("select", "other")
    assert not again.done("screen", "k")
    (tmp_path / "a" / "b.json").write_text("2")
    assert not again.done("select", "k")
    again.drop("select")
    assert not (tmp_path / "a" / "b.json").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 0}, "version is 0, expected 1"),
        ({"format": "other"}, "format is 'other', expected 'affectron.run'"),
        ({"stages": None}, "stages is missing, expected an object"),
        ({"stages": []}, "stages is [], expected an object"),
        ({"stages": {"select": {}}}, "stages.select.key is missing, expected text"),
        ({"stages": {"select": ENTRY | {"more": 1}}}, "stages.select.more is not a field, expected one of key, files"),
        ({"stages": {"select": ENTRY | {"seconds": "1"}}}, "stages.select.seconds is '1', expected a finite number"),
        ({"stages": {"select": ENTRY | {"files": ["x"]}}}, "stages.select.files is ['x'], expected an object"),
    ],
)
def test_a_record_that_cannot_be_used_says_how_to_begin_anew(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    file = write_record(tmp_path, **changes)
    text = message(lambda: Cache(tmp_path))
    assert text.startswith(f"{file}: {named}")
    assert text.endswith("; without this file, all stages are run anew")


@pytest.mark.parametrize("name", ["../kept.txt", "a/../../kept.txt", "ABSOLUTE", "kept\0.txt"])
def test_a_record_names_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    kept, run = tmp_path / "kept.txt", tmp_path / "run"
    kept.write_text("kept")
    run.mkdir()
    named = str(kept) if name == "ABSOLUTE" else name
    write_record(run, stages={"select": ENTRY | {"files": {named: "0"}}})
    text = message(lambda: Cache(run).drop("select"))
    assert "expected paths within the run folder" in text
    assert kept.read_text() == "kept"
