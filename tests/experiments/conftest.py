"""Fixtures of the experiments on the planted model."""

from __future__ import annotations

import pytest

from affectron.evaluation.exam import Exam
from affectron.neurons import NeuronSet
from affectron.screening.screen import screen_folds
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.experiments.planted_model import CORPUS, MODEL
from tests.support.planted import PROMPTS, TOKENIZER


@pytest.fixture(scope="session")
def folds() -> list[ActivationStats]:
    return screen_folds(MODEL, TOKENIZER, CORPUS.where(split="train"), 4)


@pytest.fixture(scope="session")
def stats(folds: list[ActivationStats]) -> ActivationStats:
    return ActivationStats.pooled(folds)


@pytest.fixture(scope="session")
def neurons(stats: ActivationStats) -> NeuronSet:
    return select(stats, top=0.05, score="entropy", filter_rate=None)


@pytest.fixture(scope="session")
def exam() -> Exam:
    return Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS)
