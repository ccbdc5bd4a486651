"""An exam without a model: a function of the masked neurons gives the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from affectron.evaluation.effects import Ranked
from affectron.evaluation.exam import Questions, Steps
from affectron.interventions import Program
from affectron.neurons import NeuronList
from affectron.stats import ActivationStats

SITE = "mlp"
TASK = "task"

#: Masked neurons -> the answer to every sentence; (-1,) is the model as it is.
Answers = Callable[[tuple[int, ...]], np.ndarray]


def quiet() -> Steps:
    return Steps(lambda _: None)


def make_stats(labels: Sequence[str], width: int, seed: int = 0) -> ActivationStats:
    """Statistics of one site with activations of lognormal size."""
    shape = (len(labels), width)
    mean = np.exp(np.random.default_rng(seed).normal(size=shape))
    arrays = {
        SITE: {
            "count": np.full(len(labels), 9), "active": np.full(shape, 9), "nonfinite": np.zeros(shape, np.int64),
            "mean": mean, "m2": 9 * mean**2, "min": np.zeros(shape, np.float32), "max": mean.astype(np.float32) * 3,
        }
    }  # fmt: skip
    return ActivationStats({TASK: list(labels)}, [[label] for label in labels], arrays, {})


def ranked_of(exam: Any, stats: ActivationStats, target: int, neurons: Sequence[int]) -> Ranked:
    label = stats.tasks[TASK][target]
    return Ranked(label, target, NeuronList(label, TASK, [(SITE, index, 1.0) for index in neurons]), stats, exam)


class ScriptedExam:
    """Questions whose answers are scripted, as an exam gives them; it notes what each mask is asked about."""

    test = "test"

    def __init__(self, answers: Answers, truth: Any, margins: Sequence[float] | None = None) -> None:
        self.answers, self.truth = answers, np.array(truth, dtype=bool)
        self.asked: list[tuple[tuple[int, ...], list[int]]] = []
        if margins is not None:
            # The first label that a sentence has is ahead of the others, or behind, by the margin.
            first = self.truth.argmax(axis=1)[:, np.newaxis] == np.arange(self.truth.shape[1])
            self.scores = lambda rows: np.where(first, np.array(margins)[:, np.newaxis], 0.0)[np.newaxis, rows]
        self._questions = Questions(self, self.truth, tuple(map(str, range(self.truth.shape[1]))))

    def __call__(self, rows: np.ndarray, programs: Sequence[Program | None] = (None,)) -> np.ndarray:
        masks = [(-1,) if program is None else tuple(program.sites[SITE].index.tolist()) for program in programs]
        self.asked += [(mask, rows.tolist()) for mask in masks]
        return np.array([self.answers(mask)[rows] for mask in masks])

    def questions(self, split: str, task: str) -> Questions:
        assert (split, task) == (self.test, TASK)
        return self._questions
