"""The embedded model's record: it belongs to this model and this corpus; loading needs no network."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict

import pytest
import torch

from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import TASKS, generate
from affectron.demo.train import BOS, Options, examples, label_of
from affectron.models import load_model

RECORD = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))
RECORDS = generate()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_the_record_is_of_this_model_and_this_corpus() -> None:
    """The sums disagree where a phrase, an option or the weights changed without a new training."""
    model, tokenizer = load_model(MODEL, dtype=torch.float32)
    assert RECORD["options"] == asdict(Options())
    assert RECORD["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    shown = examples([record for record in RECORDS if record["split"] == "train"], tokenizer)
    assert RECORD["sequences"] == len(shown)
    assert RECORD["tokens_an_epoch"] == sum(len(example.ids) for example in shown)
    # The model has generalised: its accuracy on new sentences is above chance, and below that on train.
    for task, labels in TASKS.items():
        train, test = (RECORD["accuracy"][split][task]["accuracy"] for split in ("train", "test"))
        assert 1.5 / len(labels) < test < train
    for split, tasks in RECORD["accuracy"].items():
        asked = {task: sum(r["split"] == split and label_of(r, task) is not None for r in RECORDS) for task in TASKS}
        assert {task: figures["sentences"] for task, figures in tasks.items()} == asked


@pytest.mark.parametrize("task", TASKS)
def test_the_recorded_test_accuracy_is_reproduced(task: str) -> None:
    """The whole test split without padding (prompts of equal length together) gives the recorded number of right
    answers. Two near ties may differ between processors."""
    model, tokenizer = load_model(MODEL, dtype=torch.float32)
    answers = tokenizer.convert_tokens_to_ids(["Ġ" + label for label in TASKS[task]])
    by_length: dict[int, list[tuple[list[int], int]]] = {}
    for record in RECORDS:
        label = label_of(record, task)
        if record["split"] == "test" and label is not None:
            ids = tokenizer.encode(PROMPTS[task].format(bos=BOS, text=record["text"]), add_special_tokens=False)
            by_length.setdefault(len(ids), []).append((ids, TASKS[task].index(label)))
    right = 0
    with torch.no_grad():
        for rows in by_length.values():
            guesses = model(torch.tensor([ids for ids, _ in rows])).logits[:, -1, answers].argmax(1)
            right += int((guesses == torch.tensor([index for _, index in rows])).sum())
    recorded = RECORD["accuracy"]["test"][task]
    assert abs(right - recorded["accuracy"] * recorded["sentences"]) <= 2.1
