"""Scores of a task's labels while one neuron alone is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, Integers
from affectron.evaluation.exam import Exam, Questions, limited
from affectron.experiments.activity import Neuron
from affectron.interventions import Program

Array: TypeAlias = NDArray[np.float64]


def scores_alone(
    exam: Exam,
    asked: Questions,
    rows: Integers,
    neurons: Sequence[Neuron],
    programs: Callable[[Neuron], Sequence[Program]],
    sites: Sequence[str],
) -> tuple[Array, dict[Neuron, Array]]:
    """The scores of L labels for n sentences, without a program and under those of each neuron.

    Args:
        asked: questions of the exam.
        rows: int64 [n], positions of the sentences.
        neurons: the neurons.
        programs: the P programs of a neuron.
        sites: the model's sites in forward order.

    Returns:
        float64 [n, L], and neuron -> float64 [P, n, L].

    Raises:
        InputError: the exam's classifier gives no scores.
    """
    classifier: Any = asked.classifier
    if not hasattr(classifier, "scores"):
        raise InputError(f"the classifier of evaluator {exam.evaluator.name!r} gives no scores of labels")
    # By site, as the programs of a batch share all layers below the first one that any of them touches.
    ordered = sorted(neurons, key=lambda neuron: sites.index(neuron[0]))
    of_each = [programs(neuron) for neuron in ordered]
    every = limited([program for each in of_each for program in each], asked.where)
    before: Array = classifier.scores(rows, AS_IT_IS)[0]
    scores: Array = classifier.scores(rows, every) if every else np.zeros((0, *before.shape))
    parts = np.split(scores, np.cumsum([len(each) for each in of_each], dtype=np.int64))  # the last one is empty
    return before, dict(zip(ordered, parts, strict=False))
