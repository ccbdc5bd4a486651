"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None):
    def run(name: str, *lines: str) -> str:
        said = iter([*lines, ""])

        def answer(prompt: str) -> str:
            print("\0")  # what comes after is what was said to this line
            return next(said)

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(sys, "argv", [name])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_steer_chat(run) -> None:
    said = run(
        "steer_chat.py", "This morning", "/surprise 4", "This morning", "/off", "This morning", "/envy 2", "/fear much"
    )
    labels, plain, set_surprise, surprised, set_off, again, unknown, wrong, _ = (
        part.strip() for part in said.split("\0")
    )
    assert "surprise" in labels
    assert plain
    assert set_surprise == set_off == ""
    assert surprised != plain
    assert again == plain
    assert "label 'envy'" in unknown
    assert "could not convert" in wrong


def test_per_request(run) -> None:
    lines = run("per_request.py").splitlines()
    assert [line.split(" ")[:2] for line in lines[::2]] == [["induce", strength] for strength in "4848"]
    assert all(line.strip().startswith("Yesterday evening") for line in lines[1::2])
    assert len(set(lines[1::2])) >= 3


def test_own_model(run) -> None:
    shown = run("own_model.py").splitlines()
    for label, line in enumerate(shown[2:5]):
        own, others = (float(word) for word in line.split(": ")[1].split(" against "))
        assert own > others + 0.1, line
        changes = [float(number) for number in shown[5 + label].split("[")[1].rstrip("]").replace("'", "").split(", ")]
        assert changes[label] > 0.05
        assert all(change < 1e-3 for other, change in enumerate(changes) if other != label)
