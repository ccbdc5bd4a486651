"""Random draws and bootstrap intervals against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation.resampling import bootstrap_interval, draw_matched


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_drawn_neurons_are_distinct_and_of_the_pool(data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1))
    pool = {site: np.array(sorted(data.draw(st.sets(st.integers(0, 60), max_size=25)))) for site in "abc"}
    wanted = {site: np.arange(size) for site, size in sizes.items()}
    drawn = draw_matched(wanted, pool, np.random.default_rng(data.draw(st.integers(0, 9))))
    if any(len(pool[site]) < size for site, size in sizes.items()):
        assert drawn is None
        return
    assert drawn is not None
    assert len(set(drawn)) == len(drawn)
    for site in "abc":
        members = {index for where, index in drawn if where == site}
        assert len(members) == sizes.get(site, 0)
        assert members <= set(pool[site].tolist())


def test_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(2000):
        for _, index in draw_matched({"a": np.arange(5)}, {"a": np.arange(20)}, rng) or []:
            counts[index] += 1
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 37, 400])
def test_the_interval_is_the_percentile_bootstrap_of_scipy(n: int) -> None:
    differences = np.random.default_rng(n).choice([-1.0, 0.0, 1.0], n, p=[0.3, 0.6, 0.1])
    low, high = bootstrap_interval(differences, 20_000, np.random.default_rng(0))
    assert differences.min() <= low <= differences.mean() <= high <= differences.max()
    if n > 2:
        expected = scipy.stats.bootstrap(
            (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        # Two bootstraps of 20,000 resamples differ by about 0.02 standard errors at these quantiles.
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.1 * differences.std() / np.sqrt(n))


def test_the_interval_covers_the_true_change() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.choice([-1.0, 0.0, 1.0], 110, p=[0.2, 0.7, 0.1]), 400, rng)
        covered += low <= -0.1 <= high
    assert 0.90 < covered / 300 < 0.985


def test_parts_of_a_large_bootstrap_are_put_together() -> None:
    differences = np.random.default_rng(0).normal(size=1 << 21)
    low, high = bootstrap_interval(differences, 5, np.random.default_rng(0))
    error = 1 / np.sqrt(1 << 21)
    assert -5 * error < low - differences.mean() < high - differences.mean() < 5 * error
