"""Associations: overlaps, their tests and the correlations against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as distributions

from affectron.experiments.associations import associate, overlap_p
from affectron.experiments.results import LabelLayers
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import score
from affectron.stats import ActivationStats
from tests.experiments.planted_model import SITES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_overlap_p_is_the_tail_of_the_hypergeometric() -> None:
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.permutation(30)[:9]) & set(range(7))) for _ in range(20_000)]
    for common in range(6):
        expected = np.mean([number >= common for number in drawn])
        assert overlap_p(30, 7, 9, common) == pytest.approx(expected, abs=0.012)


def test_associations_count_and_correlate(stats: ActivationStats) -> None:
    lists = [
        NeuronList("w50", "mood", [(SITES[0], k, 0.0) for k in range(6)]),
        NeuronList("w51", "mood", [(SITES[2], 1, 0.0)]),
        NeuronList("w52", "mood", []),
        NeuronList("w7", "tone", [(SITES[0], k, 0.0) for k in range(3, 9)]),
        NeuronList("w8", "tone", [(SITES[1], 4, 0.0)]),
    ]
    result = associate(NeuronSet(lists, stats.widths), stats)
    pairs = {(pair.first, pair.second): pair for pair in result.pairs}
    assert len(pairs) == 10
    pair = pairs["w50", "w7"]
    assert (pair.overlap, pair.jaccard, pair.same_task) == (3, 3 / 9, False)
    assert pair.expected == pytest.approx(36 / 129)
    assert pair.p == pytest.approx(float(distributions.hypergeom(129, 6, 6).sf(2)))
    tested = [pair for pair in result.pairs if not pair.same_task and pair.p is not None]
    adjusted = distributions.false_discovery_control([pair.p for pair in tested])
    np.testing.assert_allclose([pair.q for pair in tested], adjusted)
    assert (pairs["w50", "w52"].p, pairs["w50", "w52"].q) == (None, None)
    scored = {task: score(stats, "hedges_g", task) for task in stats.tasks}
    values = {
        label: np.concatenate([scored[task][site][row] for site in stats.sites])
        for task, labels in stats.tasks.items()
        for row, label in enumerate(labels)
    }
    for (first, second), pair in pairs.items():
        both = np.isfinite(values[first]) & np.isfinite(values[second])
        expected = distributions.pearsonr(values[first][both], values[second][both]).statistic
        assert pair.correlation == pytest.approx(expected)
    assert result.layers["w50"] == LabelLayers(
        sites=dict(zip(SITES, (6, 0, 0), strict=True)), thirds={"bottom": 6, "middle": 0, "top": 0}
    )
