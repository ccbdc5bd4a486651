"""The question that P(label) is read from: as given, else as in the provenance of the neurons or of those beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from affectron import NeuronList, NeuronSet
from affectron.cli.inputs import label_questions

RECORDED = {"mood": "{text}\nMood:", "device": "{text}\nDevice:", "other": "{text}\nOther:"}
OF_TASKS = {"mood": RECORDED["mood"], "device": RECORDED["device"]}


def made(**provenance: Any) -> NeuronSet:
    lists = [NeuronList("joy", "mood", [("mlp", 1, 0.5)]), NeuronList("irony", "device", [("mlp", 2, 0.5)])]
    return NeuronSet(lists, {"mlp": 8}, {"weights": "a", **provenance})


def test_neurons_of_an_answer_keep_its_questions(tmp_path: Path) -> None:
    assert label_questions((), made(prompts=RECORDED), tmp_path / "neurons.json") == OF_TASKS


def test_a_given_question_comes_first(tmp_path: Path) -> None:
    asked = label_questions([r"mood={text}\nFeeling:"], made(prompts=RECORDED), tmp_path / "neurons.json")
    assert asked == {**OF_TASKS, "mood": "{text}\nFeeling:"}


@pytest.mark.parametrize(("weights", "expected"), [("a", OF_TASKS), ("b", {})])
def test_neurons_without_a_question_take_that_beside_of_the_same_model(
    tmp_path: Path, weights: str, expected: dict[str, str]
) -> None:
    made(prompts=RECORDED, weights=weights).save(tmp_path / "neurons.json")
    assert label_questions((), made(), tmp_path / "steering.json") == expected


@pytest.mark.parametrize("prompts", [None, 3, [], "mood", {"mood": 3}, {}])
def test_a_provenance_without_texts_has_no_question(tmp_path: Path, prompts: Any) -> None:
    assert label_questions((), made(prompts=prompts), tmp_path / "neurons.json") == {}
    assert label_questions((), made(), tmp_path / "neurons.json") == {}
