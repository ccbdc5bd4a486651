"""Sentences of an exam, and what is counted of its answers, against sets and loops; no model is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus, Sentence
from affectron.evaluation.exam import Exam, Questions
from affectron.interventions import Program
from tests.support.errors import message

LABELS = ("a", "b", "c")
LABEL_SETS = st.lists(st.sets(st.sampled_from(LABELS), min_size=1), min_size=1, max_size=25)


def exam_of(label_sets: Sequence[set[str]], **options: Any) -> Exam:
    """An exam on a corpus whose test split has these label sets, and whose other splits have all labels."""
    rows = [{"text": f"t{n}", "label": sorted(labels), "split": "test"} for n, labels in enumerate(label_sets)]
    rows += [{"text": "other", "label": list(LABELS), "split": split} for split in ("dev", "train")]
    return Exam(None, None, Corpus.from_records(rows, task="mood"), **options)


@given(label_sets=LABEL_SETS, limit=st.integers(1, 6), seed=st.integers(0, 9))
@settings(deadline=None)
def test_a_limit_keeps_so_many_of_each_label_in_the_corpus_order(
    label_sets: list[set[str]], limit: int, seed: int
) -> None:
    whole = exam_of(label_sets).sentences("test", "mood")
    assert [sentence.text for sentence in whole] == [f"t{n}" for n in range(len(label_sets))]
    kept = exam_of(label_sets, limit=limit, seed=seed).sentences("test", "mood")
    assert kept == exam_of(label_sets, limit=limit, seed=seed).sentences("test", "mood")
    assert [sentence for sentence in whole if sentence in kept] == kept
    counts = [sum(label in labels for labels in label_sets) for label in LABELS]
    for label, count in zip(LABELS, counts, strict=True):
        assert sum(label in sentence.labels for sentence in kept) >= min(limit, count)
    assert len(kept) <= sum(min(limit, count) for count in counts)


class Scripted:
    """An evaluator whose answers are given, and that records what it is asked."""

    name = "scripted"

    def __init__(self, answers: Sequence[int], trains: bool = False) -> None:
        self.answers, self.trains = np.array(answers), trains
        self.options: dict[str, Any] = {"chosen": {"mood": 1, "tone": 2}, "script": 3}
        self.fitted: list[tuple[list[str], list[str]]] = []
        self.asked: list[tuple[list[int], int]] = []

    def fit(
        self, model: Any, tokenizer: Any, train: Sequence[Sentence], dev: Sequence[Sentence], task: str, labels: Any
    ) -> None:
        self.fitted.append(([sentence.split for sentence in train], [sentence.split for sentence in dev]))

    def classifier(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Any) -> Any:
        def classify(rows: np.ndarray, programs: Sequence[Program | None] = (None,)) -> np.ndarray:
            self.asked.append((rows.tolist(), len(programs)))
            return np.tile(self.answers[rows], (len(programs), 1))

        return classify


@given(data=st.data(), label_sets=LABEL_SETS)
@settings(deadline=None)
def test_an_answer_is_right_if_the_sentence_has_that_label(data: st.DataObject, label_sets: list[set[str]]) -> None:
    label_sets = [*label_sets, set(LABELS)]
    answers = data.draw(st.lists(st.integers(-1, 2), min_size=len(label_sets), max_size=len(label_sets)))
    questions = exam_of(label_sets, evaluator=Scripted(answers)).questions("test", "mood")
    right = [answer >= 0 and LABELS[answer] in labels for answer, labels in zip(answers, label_sets, strict=True)]
    assert questions.right(questions.unmasked).tolist() == right
    accuracy = questions.accuracy(questions.unmasked)
    assert accuracy["accuracy"] == pytest.approx(np.mean(right))
    for target, label in enumerate(LABELS):
        own = [position for position, labels in enumerate(label_sets) if label in labels]
        assert questions.own(target).tolist() == own
        assert sorted([*own, *questions.others(target)]) == list(range(len(label_sets)))
        assert accuracy["per_label"][label] == pytest.approx(np.mean([right[position] for position in own]))
        assert questions.right(questions.unmasked[own], questions.own(target)).tolist() == [right[k] for k in own]


def test_the_unmasked_model_is_asked_once_and_nothing_is_asked_without_sentences_or_programs() -> None:
    evaluator = Scripted([0, 1])
    questions = exam_of([{"a"}, {"b"}], evaluator=evaluator).questions("test", "mood")
    assert isinstance(questions, Questions)
    assert questions.unmasked is questions.unmasked
    assert questions.ask([None, None], np.array([1])).tolist() == [[1], [1]]
    assert questions.ask([], np.array([1])).shape == (0, 1)
    assert questions.ask([None], np.array([], dtype=np.int64)).shape == (1, 0)
    assert evaluator.asked == [([0, 1], 1), ([1], 2)]


def test_an_evaluator_that_learns_does_so_once_from_train_and_dev() -> None:
    evaluator = Scripted([0, 1], trains=True)
    exam = exam_of([{"a"}, {"b"}], evaluator=evaluator)
    assert exam.splits == {"dev": "dev", "test": "test", "train": "train"}
    assert exam.questions("test", "mood") is exam.questions("test", "mood")
    exam.questions("dev", "mood")
    assert evaluator.fitted == [(["train"], ["dev"])]
    assert exam_of([{"a"}], evaluator=Scripted([0])).splits == {"dev": "dev", "test": "test"}


def test_options_are_those_of_the_tasks_asked_about() -> None:
    exam = exam_of([{"a"}], evaluator=Scripted([0]), limit=4, seed=5)
    chosen = {"dev": "dev", "test": "test", "limit": 4, "where": "all", "seed": 5}
    expected = {"evaluator": "scripted", "script": 3, **chosen}
    assert exam.options(["mood"]) == {**expected, "chosen": {"mood": 1}}
    assert exam.options([]) == {**expected, "chosen": {}}


def test_bad_options_are_named() -> None:
    for options, expected in (
        ({"seed": -1}, "seed is -1, expected an integer of at least 0, below 2^32"),
        ({"limit": 0}, "limit is 0, expected an integer of at least 1, below 2^32"),
        ({"evaluator": "guess"}, "evaluator is 'guess', expected one of label_likelihood, linear_probe"),
        ({"test": "dev"}, "the splits are dev 'dev', test 'dev'; expected different ones"),
        ({"prompts": {"tone": "{text}"}}, "prompts has task 'tone', expected mood"),
    ):
        assert message(lambda options=options: exam_of([{"a"}], **options)) == expected
