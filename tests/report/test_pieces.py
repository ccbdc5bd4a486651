"""Pieces of a run: what cannot be read is named, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from affectron._internal.artifacts import KINDS, findings_file
from affectron.errors import InputError
from affectron.experiments.results import RESULTS
from affectron.report import build_report
from affectron.report.pieces import Pieces
from tests.support.errors import message
from tests.support.results import (
    make_run,
)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("masked", None, "tasks.tone.results.calm.masked is None, expected an integer"),
        ("sites", {"nowhere": 3}, "site 'nowhere' of label 'calm' is not in neurons.json"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(name: str, value: Any, line: str, tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]}).to_json()
    content["tasks"]["tone"]["results"]["calm"][name] = value
    (tmp_path / "validation.json").write_text(json.dumps(content))
    told = message(lambda: build_report(tmp_path))
    assert line in told
    assert "\n" not in told
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("kind", RESULTS)
def test_a_result_that_lacks_a_field_is_named_with_the_command_that_makes_it(kind: str, tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"], "mood": ["glum"]}, *KINDS)
    assert getattr(Pieces.read(tmp_path), kind) is not None
    path = tmp_path / findings_file(kind)
    content = json.loads(path.read_text())
    del content["options"]
    path.write_text(json.dumps(content))
    command = "validate" if kind == "validation" else "run"
    told = message(lambda: build_report(tmp_path))
    assert told == (f"{path}: options is missing, expected an object; make the file anew with affectron {command}")


def test_no_run_folder_or_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent is not a folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has none of stats\.safetensors, neurons\.json, validation\.json"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
