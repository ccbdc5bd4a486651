"""The demo as a newcomer runs it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from typer.testing import CliRunner

from affectron.cli import app
from affectron.demo import MODEL
from affectron.demo.corpus import TASKS


def test_the_package_stays_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 4_000_000


def test_the_demo_from_corpus_to_report(tmp_path: Path) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert sum(found["seconds"].values()) <= time.monotonic() - start
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"corpus.jsonl", "stats.safetensors", "neurons.json", "validation.json", "induction.json", "report"}
    validation = json.loads((tmp_path / "demo" / "validation.json").read_text())
    assert found["validation"] == validation
    assert {task: set(part["labels"]) for task, part in validation["tasks"].items()} == {
        task: set(labels) for task, labels in TASKS.items()
    }
    tested = [r for part in validation["tasks"].values() for r in part["results"].values() if r["selected"]]
    assert tested
    assert all({"adaptive", "zero", "mean"} == set(r["masks"]) and r["random"]["sets"] == 10 for r in tested)
    assert found["sample"]["unsteered"] != found["sample"]["steered"]
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    # Readable without a network: whatever is loaded lies in the page itself.
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all(not link.startswith(("http:", "https:", "//")) for link in loaded)
