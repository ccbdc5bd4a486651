"""Stability: planted neurons are selected again, neurons selected by chance are not."""

from __future__ import annotations

import numpy as np
import pytest

from affectron.experiments.stability import keep_stable, stability
from affectron.neurons import NeuronSet
from affectron.options import Select
from affectron.screening.screen import screen, screen_folds
from affectron.stats import FIELDS, ActivationStats
from tests.experiments.planted_model import CORPUS, MODEL, planted
from tests.support.errors import message
from tests.support.planted import TOKENIZER, make_corpus

pytestmark = pytest.mark.usefixtures("one_thread")


def test_folds_are_the_whole_dealt_out(folds: list[ActivationStats], stats: ActivationStats) -> None:
    whole = screen(MODEL, TOKENIZER, CORPUS.where(split="train"))
    for site in whole.sites:
        assert len({tuple(fold.count[site]) for fold in folds}) == 1  # 36 sentences a label in four
        for name in FIELDS:
            np.testing.assert_allclose(getattr(stats, name)[site], getattr(whole, name)[site], rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(stats.active[site], whole.active[site])
    assert stats.provenance == {key: value for key, value in whole.provenance.items() if key != "padding"}
    assert folds[2].provenance["fold"] == [2, 4]
    twice = ActivationStats.pooled([folds[0], folds[0], folds[1]])
    by_merging = folds[0].merge(folds[0]).merge(folds[1])
    for site in whole.sites:
        np.testing.assert_allclose(twice.m2[site], by_merging.m2[site], rtol=1e-9)
        np.testing.assert_array_equal(twice.active[site], by_merging.active[site])


def test_planted_neurons_are_stable_and_chance_is_not(folds: list[ActivationStats], neurons: NeuronSet) -> None:
    selection = Select(count=1)
    result = stability(folds, selection=selection, resamples=25, splits=4, seed=1)
    for label, stable in result.labels.items():
        frequency = {(site, index): share for site, index, share in stable.neurons}
        assert frequency[planted(label)] == 1.0
        assert stable.split_half is not None
        assert 0 <= stable.split_half <= 1
        assert all(0 < share <= 1 for _, _, share in stable.others)
    kept = keep_stable(neurons, result, 1.0)
    for label in neurons:
        always = {(site, index) for site, index, share in result.labels[label].neurons if share == 1.0}
        assert [neuron[:2] for neuron in kept[label]] == [
            neuron[:2] for neuron in neurons[label] if neuron[:2] in always
        ]
        assert kept.provenance["select"]["removed"][label]["min_frequency"] == len(neurons[label]) - len(kept[label])
    assert kept.provenance["select"]["min_frequency"] == 1.0
    noise = screen_folds(MODEL, TOKENIZER, make_corpus(shuffled=True).where(split="train"), 4)
    chance = stability(noise, selection=selection, resamples=25, splits=4, seed=1)
    halves = [[stable.split_half or 0.0 for stable in found.labels.values()] for found in (result, chance)]
    assert np.mean(halves[0]) > np.mean(halves[1]) + 0.2
    assert message(lambda: stability(folds[:1])) == "folds is 1, expected at least two"
    assert message(lambda: stability(folds, seed=-1)) == "seed is -1, expected an integer of at least 0, below 2^32"
