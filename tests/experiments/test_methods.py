"""Selection methods side by side: each finds the planted neurons, and the best is named."""

from __future__ import annotations

import numpy as np
import pytest

from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.experiments.methods import compare_methods
from affectron.neurons import NeuronSet
from affectron.selection import METHODS, select_by
from affectron.stats import ActivationStats
from tests.experiments.planted_model import planted
from tests.support.planted import MOODS, TASKS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_planted_neurons(stats: ActivationStats, method: str) -> None:
    for task, labels in TASKS.items():
        selected = select_by(stats, method, task, top=0.04)
        for label in labels:
            assert planted(label) in {neuron[:2] for neuron in selected[label]}


def test_methods_side_by_side_name_the_one_that_drops_most(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = compare_methods(
        exam, neurons, stats, task="mood", methods=("lee", "effect_size", "npti"), top=0.04, random_sets=20,
        bootstrap=50,
    )  # fmt: skip
    mood = result.tasks["mood"]
    for label in MOODS:
        compared = mood.labels[label]
        effects = [selected.effect for selected in compared.methods.values()]
        assert all(effect and (effect.delta, effect.verdict) == (-1.0, "specific") for effect in effects)
        assert compared.best in compared.methods
    matrix = np.array(mood.agreement)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)
    lists = [select_by(stats, method, "mood", 0.04) for method in ("lee", "npti")]
    shares = []
    for label in MOODS:
        first, second = ({neuron[:2] for neuron in selected[label]} for selected in lists)
        shares.append(len(first & second) / len(first | second))
    assert matrix[0, 2] == pytest.approx(np.mean(shares))


def test_a_method_without_neurons_of_a_label_has_no_effect_there(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = compare_methods(exam, neurons, stats, task="mood", methods=("lee",), top=1e-9, random_sets=0, bootstrap=2)
    compared = result.tasks["mood"].labels
    for label, selected in select_by(stats, "lee", "mood", 1e-9).items():
        method = compared[label].methods["lee"]
        assert method.selected == len(selected)
        assert (method.effect is None) == (not selected)
    assert any(not labels.methods["lee"].selected for labels in compared.values())


def test_an_unknown_method_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    with pytest.raises(InputError, match=r"methods\[0\] is 'mine', expected one of paper"):
        compare_methods(exam, neurons, stats, methods=("mine",))
