"""A report of a run with two tasks, built once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from affectron.report import build_report
from tests.support.results import make_run

TASKS = {
    "emotion": ["anger", "disgust", "fear", "happiness", "sadness", "surprise"],
    "rhetoric": ["hyperbole", "literal", "metaphor", "sarcasm", "simile"],
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The path of the page, and the content of its validation.json."""
    folder = tmp_path_factory.mktemp("run")
    content = make_run(folder, TASKS).to_json()
    return build_report(folder), content
