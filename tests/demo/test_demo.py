"""The demo through its command: files, fields and figures."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from affectron.cli.app import app
from affectron.demo import MODEL
from affectron.demo import run as demo
from affectron.demo.corpus import TASKS
from affectron.evaluation.verdicts import SPECIFIC, VERDICTS
from tests.support import golden
from tests.support.results import make_methods


def described(folder: Path) -> Iterator[str]:
    """The files of a folder and the fields of each JSON file; labels, sites and list items count as one field."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            yield name
            if file.suffix == ".json":
                yield from sorted({f"  {name}: {field}" for field in fields(json.loads(file.read_text()))})


def fields(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            kind = "SITE" if "layers" in key else "LABEL" if any(key in labels for labels in TASKS.values()) else key
            yield from fields(inner, f"{path}.{kind}" if path else kind)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from fields(inner, f"{path}[]")
    else:
        yield path


def test_the_package_stays_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 4_000_000


def test_the_demo_from_corpus_to_report(tmp_path: Path) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.stderr
    output = json.loads(result.stdout)
    assert sum(output["seconds"].values()) <= time.monotonic() - start
    golden.compare("demo-files.txt", "".join(f"{line}\n" for line in described(tmp_path / "demo")))
    validation = json.loads((tmp_path / "demo" / "validation.json").read_text())
    assert output["validation"] == validation
    assert {task: set(part["labels"]) for task, part in validation["tasks"].items()} == {
        task: set(labels) for task, labels in TASKS.items()
    }
    tested = [r for part in validation["tasks"].values() for r in part["results"].values() if r["selected"]]
    assert tested
    masks = [mask for r in tested for mask in r["masks"].items()]
    assert {name for name, _ in masks} == {"adaptive", "zero", "mean"}
    assert {mask["verdict"] for _, mask in masks} <= set(VERDICTS)
    # The answers need the neurons of attribution: some label's are specific.
    assert any(mask["verdict"] == SPECIFIC for name, mask in masks if name == "zero")
    assert output["methods"] == json.loads((tmp_path / "demo" / "methods.json").read_text())
    # The neurons that the answers need matter more than as many random ones; those of activity alone need not.
    effects = [
        label["methods"]["attribution_moderated"]
        for task in output["methods"]["tasks"].values()
        for label in task["labels"].values()
    ]
    assert np.mean([effect["delta"] for effect in effects]) < np.mean([e["random"]["mean"] for e in effects]) - 0.05
    assert len(output["steered"]) == 6
    assert np.mean([of["after"] - of["before"] for of in output["steered"]]) > 0
    assert all(len(of["texts"]) == 6 for of in output["steered"])
    assert 0.5 < output["judge"] < 1
    page = Path(output["report"]).read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    # The page is readable without a network: it loads nothing from outside itself.
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all(not link.startswith(("http:", "https:", "//")) for link in loaded)


def test_the_demo_ends_with_the_commands_that_come_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (("We", "are", "cry"),)
    steered = (demo.Steered("fear", 0.5, 0.6, texts), demo.Steered("joy", 0.0, 0.5, texts))
    result = demo.Demo(
        make_methods(TASKS), None, steered, 0.5, tmp_path / "index.html", {"all": 1.0}
    )  # fmt: skip
    monkeypatch.setattr(demo, "run", lambda *_, **options: result)
    folder = tmp_path / "a demo"
    shown = CliRunner().invoke(app, ["demo", "-o", str(folder)])
    assert shown.exit_code == 0, shown.output
    neurons, chat = map(shlex.split, shown.stdout.splitlines()[-2:])
    assert neurons[-4:] == ["neurons", str(folder), "--label", "joy"]
    assert chat[-4:] == ["chat", str(MODEL), "--neurons", str(folder / "steering.json")]
    monkeypatch.setattr("shutil.which", lambda name: None)
    unnamed = CliRunner().invoke(app, ["demo", "-o", str(folder)]).stdout.splitlines()[-1]
    assert shlex.split(unnamed)[1:4] == ["-m", "affectron", "chat"]
