"""Induction: a shift of the planted neurons moves sentences to their label, a shift of random ones does not."""

from __future__ import annotations

import pytest
import torch

from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.experiments.induction import induction
from affectron.interventions import induce
from affectron.models import intervene
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats
from tests.experiments.planted_model import MODEL
from tests.support.planted import MOODS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_induction_moves_sentences_to_the_label_and_random_neurons_do_not(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = induction(exam, neurons, stats, (0.1, 40.0), task="mood", random_sets=3)
    for label, curve in result.tasks["mood"].items():
        assert curve.sentences == 2 * 12
        assert (curve.baseline, curve.share, curve.random) == (0.0, (0.0, 1.0), (0.0, 0.0))
        exact = 0.025 ** (1 / 24)
        assert curve.interval == (pytest.approx((0.0, 1 - exact)), pytest.approx((exact, 1.0)))
        questions, text = exam.questions("test", "mood"), exam.text("test", "mood")
        rows = questions.others(list(MOODS).index(label))
        before = text.unmasked[rows].sum()
        with torch.no_grad(), intervene(MODEL, induce(neurons[label], stats, 40.0)):
            after = text.loss(rows, (None,))[0].sum()
        assert curve.loss_delta[1] == pytest.approx((after - before) / text.tokens[rows].sum(), rel=1e-5)


def test_a_strength_that_is_not_finite_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    with pytest.raises(InputError, match=r"betas\[1\] is inf, expected a finite number"):
        induction(exam, neurons, stats, (1.0, float("inf")))
