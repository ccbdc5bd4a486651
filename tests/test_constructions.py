"""Scores on neurons that are seldom active but under one label alone, and on neurons that are always active but
stronger under one."""

from __future__ import annotations

import pytest

from affectron.errors import Note
from affectron.neurons import NeuronSet
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.support.constructions import LABELS, PLANTED, TOKENIZER, make_corpus, make_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stats() -> ActivationStats:
    return screen(make_model(), TOKENIZER, make_corpus())


def found(neurons: NeuronSet) -> dict[str, int]:
    """Kind -> how many of its six planted neurons are selected for their label."""
    selected = {label: {(site, index) for site, index, _ in neurons[label]} for label in LABELS}
    return {
        kind: sum(
            (f"model.layers.{layer}.mlp", index) in selected[label]
            for label, planted in of_label.items()
            for layer, index in planted
        )
        for kind, of_label in PLANTED.items()
    }


def test_the_default_finds_both(stats: ActivationStats) -> None:
    neurons = select(stats)  # five a label, of which four are planted
    assert [len(members) for members in neurons.values()] == [5, 5, 5]
    assert found(neurons) == {"rare": 6, "always": 6}


def test_an_entropy_finds_neither_and_says_so(stats: ActivationStats) -> None:
    with pytest.warns(Note, match="the activity filter removed 6 neurons active under one label almost alone"):
        assert found(select(stats, score="entropy", count=5)) == {"rare": 0, "always": 0}
    assert found(select(stats, score="entropy", count=5, filter_rate=0)) == {"rare": 6, "always": 0}


@pytest.mark.parametrize("score", ["mutual_information", "log_odds"])
def test_other_scores_of_rates_do_not_see_strength(stats: ActivationStats, score: str) -> None:
    assert found(select(stats, score=score, count=5)) == {"rare": 6, "always": 0}
