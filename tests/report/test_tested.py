"""Overlap of tested with screened sentences: refused, or stated on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from affectron.report import build_report
from affectron.report.tested import overlap_notices
from tests.report.reading import Page
from tests.support.errors import message
from tests.support.results import (
    PROVENANCE,
    make_candidates,
    make_run,
)


@pytest.mark.parametrize(
    ("tested", "named"),
    [
        (3, "provenance.tested is 3, expected an object"),
        (
            {"sentences": "1", "screened": 0, "texts": ""},
            "provenance.tested.sentences is '1', expected an integer",
        ),
        (
            {"sentences": 1, "screened": 0.5, "texts": ""},
            "provenance.tested.screened is 0.5, expected an integer",
        ),
        ({"sentences": 1, "screened": 0, "texts": "?"}, "provenance.tested.texts is '?', expected base64 of ascending"),
        ({"sentences": 1, "screened": 0}, "provenance.tested.texts is missing, expected text"),
    ],
)
def test_a_wrong_record_of_what_was_tested_is_named(tested: Any, named: str, tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]}).to_json()
    content["provenance"]["tested"] = tested
    (tmp_path / "validation.json").write_text(json.dumps(content))
    assert message(lambda: build_report(tmp_path)).startswith(f"validation.json: {named}")
    assert not (tmp_path / "report").exists()


def test_screened_sentences_of_any_file_are_refused_or_stated(tmp_path: Path) -> None:
    """Candidates of before the texts were kept, on the very sentences of the statistics; and a validation that states
    its own overlap, which needs no leave."""
    content = make_run(tmp_path, {"tone": ["calm", "loud"]}).to_json()
    content["provenance"]["tested"] = {"sentences": 9, "screened": 4, "texts": ""}
    (tmp_path / "validation.json").write_text(json.dumps(content))
    assert "4 of the 9 sentences that validation.json tests were screened too." in Page(build_report(tmp_path)).words
    candidates = replace(make_candidates({}, split="train"), provenance={**PROVENANCE, "split": "train"})
    candidates.save(tmp_path / "candidates.json")
    line = "all sentences of split 'train' that candidates.json tests were screened too"
    assert message(lambda: build_report(tmp_path)).startswith(line)
    assert f"A{line[1:]}." in Page(build_report(tmp_path, allow_overlap=True)).words
    candidates = replace(candidates, provenance={**PROVENANCE, "corpus": ["other"]})
    candidates.save(tmp_path / "candidates.json")
    shown = Page(build_report(tmp_path)).words
    assert "sentences that candidates.json and induction.json test were screened too cannot be checked" in shown


@pytest.mark.parametrize("repeated", [0, 3])
def test_tested_sentences_of_one_text_are_stated(repeated: int) -> None:
    tested = {"sentences": 9, "screened": 0, "texts": "", "repeated": repeated}
    candidates = replace(make_candidates({}), provenance={**PROVENANCE, "tested": tested})
    notices = overlap_notices({"candidates.json": candidates}, {}, allow_overlap=False)
    line = "3 of the sentences that candidates.json tests have the text of another one. Intervals and p values count"
    assert [notice[: len(line)] for notice in notices] == ([line] if repeated else [])
