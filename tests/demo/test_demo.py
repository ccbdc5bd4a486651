"""The embedded model against its own record, and the demo as a newcomer runs it."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from affectron.cli import app
from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import TASKS, generate
from affectron.models import load_model

RECORD = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))


def test_the_package_stays_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 4_000_000


@pytest.mark.parametrize("task", TASKS)
def test_the_recorded_accuracy_is_seen_on_other_sentences_than_train(task: str) -> None:
    """Sentence by sentence, 150 of the test split: within four standard errors of the recorded share. What was
    memorised would show as a test accuracy like that on train; what was not learnt, as one near chance."""
    recorded = {split: RECORD["accuracy"][split][task]["accuracy"] for split in ("train", "test")}
    assert 1.5 / len(TASKS[task]) < recorded["test"] < recorded["train"]
    model, tokenizer = load_model(MODEL, dtype="float32")
    answers = [tokenizer.encode(" " + label, add_special_tokens=False) for label in TASKS[task]]
    assert all(len(ids) == 1 for ids in answers)
    asked = []
    for record in generate():
        if record["split"] == "test":
            labels = record["label"] if isinstance(record["label"], list) else [record["label"]]
            asked += [(record["text"], label) for label in labels if label in TASKS[task]]
    asked = asked[:150]
    right = 0
    with torch.no_grad():
        for text, label in asked:
            prompt = PROMPTS[task].format(bos=tokenizer.bos_token, text=text)
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            logits = model(input_ids=ids).logits[0, -1]
            right += TASKS[task][int(logits[[ids[0] for ids in answers]].argmax())] == label
    p = recorded["test"]
    assert abs(right / len(asked) - p) <= 4 * math.sqrt(p * (1 - p) / len(asked))


def test_the_demo_from_corpus_to_report(tmp_path: Path) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert sum(found["seconds"].values()) <= time.monotonic() - start
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"corpus.jsonl", "stats.safetensors", "neurons.json", "validation.json", "report"}
    validation = json.loads((tmp_path / "demo" / "validation.json").read_text())
    assert found["validation"] == validation
    assert {task: set(part["labels"]) for task, part in validation["tasks"].items()} == {
        task: set(labels) for task, labels in TASKS.items()
    }
    tested = [r for part in validation["tasks"].values() for r in part["results"].values() if r["selected"]]
    assert tested
    assert all({"adaptive", "zero", "mean"} == set(r["masks"]) and r["random"]["sets"] == 10 for r in tested)
    assert validation["induction"]
    assert found["sample"]["unsteered"] != found["sample"]["steered"]
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    # Readable without a network: whatever is loaded lies in the page itself.
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all(not link.startswith(("http:", "https:", "//")) for link in loaded)
