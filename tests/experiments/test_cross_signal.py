"""Cross-signal matrix: omega is chosen on dev and reported on test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affectron.evaluation.exam import Exam
from affectron.experiments.cross_signal import cross_signal_matrix
from affectron.interventions import cross_signal
from affectron.models import intervene
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats
from tests.experiments.planted_model import MODEL
from tests.support.errors import message
from tests.support.planted import MOODS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_omega_is_chosen_on_dev_and_reported_on_test(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    result = cross_signal_matrix(exam, neurons, stats, "tone", "mood", (0.5, -500.0, 1.0), random_sets=2)
    assert result.options.omegas == (0.5, 1.0, -500.0)
    for label, signals in result.labels.items():
        for device, signal in signals.devices.items():
            assert len(signal.dev) == 3
            assert signal.omega == 0.5  # none helps a model that is always right: the weakest of equals
            assert max(signal.dev) == 0.0
            assert signal.helps is False
            questions = exam.questions("test", "mood")
            with torch.no_grad(), intervene(MODEL, cross_signal(neurons[label], stats, device, 0.5)):
                answers = questions.classifier(np.arange(len(questions)))[0]
            own = questions.own(list(MOODS).index(label))
            assert signal.accuracy == questions.right(answers)[own].mean()


def test_one_task_twice_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    text = message(lambda: cross_signal_matrix(exam, neurons, stats, "mood", "mood"))
    assert "source and target are both 'mood'" in text
