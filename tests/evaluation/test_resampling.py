"""Random draws: distinct sets of distinct neurons of the pool, matched by site and activity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation.resampling import draw_matched, label_rng


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_sets_are_distinct_and_of_the_pool_and_as_many_as_there_are(data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 8), min_size=1))
    pool = {site: np.array(sorted(data.draw(st.sets(st.integers(0, 60), max_size=25))), dtype=int) for site in "abc"}
    matched = {site: np.arange(size) for site, size in sizes.items()}
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    activity = data.draw(st.sampled_from([None, {site: rng.lognormal(size=61) for site in "abc"}]))
    asked = data.draw(st.integers(0, 300))
    draws = draw_matched(matched, pool, activity, asked, rng)
    if any(len(pool[site]) < size for site, size in sizes.items()):
        assert draws is None
        return
    assert draws is not None
    sets = [draws[position] for position in range(len(draws))]
    for drawn in sets:
        assert len(set(drawn)) == len(drawn)
        for site in "abc":
            members = {index for where, index in drawn if where == site}
            assert len(members) == sizes.get(site, 0)
            assert members <= set(pool[site].tolist())
    assert len(set(map(frozenset, sets))) == len(sets)
    every = math.prod(math.comb(len(pool[site]), size) for site, size in sizes.items())
    assert len(sets) == min(asked, every)


def test_a_single_neuron_of_a_small_site_has_as_many_sets_as_others_are_there() -> None:
    activity = {"a": np.random.default_rng(0).lognormal(size=43)}
    draws = draw_matched(
        {"a": np.array([7])}, {"a": np.delete(np.arange(43), 7)}, activity, 999, np.random.default_rng(1)
    )
    assert draws is not None
    assert sorted(draws.by_site["a"].ravel()) == [*range(7), *range(8, 43)]


@pytest.mark.parametrize("by_activity", [False, True])
def test_draws_are_uniform(by_activity: bool) -> None:
    # All of one activity: then the strata are parts of the pool in order, of which the matched ones share the last.
    activity = {"a": np.ones(40)} if by_activity else None
    pool = {"a": np.arange(20, 40)}
    counts = np.zeros(40)
    for seed in range(400):
        draws = draw_matched({"a": np.arange(5)}, pool, activity, 5, np.random.default_rng(seed))
        assert draws is not None
        counts[draws.by_site["a"]] += 1
    used = np.flatnonzero(counts)
    assert len(used) == (10 if by_activity else 20)
    assert scipy.stats.chisquare(counts[used]).pvalue > 1e-3


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9, 0.96])
def test_sets_are_of_similar_activity_where_a_draw_by_site_is_far_off(quantile: float) -> None:
    rng = np.random.default_rng(3)
    activity = {"a": np.exp(2 * rng.normal(size=3000)), "b": np.exp(2 * rng.normal(size=900) - 4)}
    matched, pool = {}, {}
    for site, size in (("a", 60), ("b", 11)):
        near = np.abs(scipy.stats.rankdata(activity[site]) / len(activity[site]) - quantile) < 0.04
        matched[site] = np.sort(rng.choice(np.flatnonzero(near), size, replace=False))
        pool[site] = np.setdiff1d(np.arange(len(activity[site])), matched[site])
    draws = draw_matched(matched, pool, activity, 99, rng)
    assert draws is not None
    assert draws.activity is not None
    by_site = draw_matched(matched, pool, None, 99, rng)
    assert by_site is not None
    assert by_site.activity is None

    def ratio(drawn: dict[str, np.ndarray]) -> float:
        found = np.concatenate([activity[site][drawn[site]].ravel() for site in drawn])
        return float(np.median(found) / np.median(np.concatenate([activity[site][matched[site]] for site in matched])))

    assert draws.activity == pytest.approx(ratio(draws.by_site))
    assert 0.75 < draws.activity < 1.33
    if quantile != 0.5:
        assert not 0.2 < ratio(by_site.by_site) < 5


def test_each_neuron_is_matched_by_one_of_nearly_its_rank() -> None:
    activity = {"a": np.arange(200.0)}
    matched = np.array([3, 4, 55, 199])
    pool = np.setdiff1d(np.arange(200), matched)
    draws = draw_matched({"a": matched}, {"a": pool}, activity, 50, np.random.default_rng(0))
    assert draws is not None
    # Fifty strata have three or four neurons each, and 6 x 3 x 4 different draws; a hundred have no two for 3 and 4.
    assert np.abs(draws.by_site["a"] - matched).max() <= 5
    assert len(draws) == 50
    assert draws.activity == pytest.approx(np.median(draws.by_site["a"]) / np.median(matched))


def test_a_silent_neuron_has_no_ratio_of_activity_and_nothing_no_set() -> None:
    zeros = {"a": np.zeros(9)}
    draws = draw_matched({"a": np.array([0])}, {"a": np.arange(1, 9)}, zeros, 4, np.random.default_rng(0))
    assert draws is not None
    assert draws.activity is None
    assert draw_matched({}, {}, None, 4, np.random.default_rng(0)) is None


def test_the_numbers_of_a_label_are_its_own() -> None:
    drawn = {key: label_rng(*key).random() for key in [(0, "t", "a"), (0, "t", "b"), (0, "u", "a"), (1, "t", "a")]}
    assert len(set(drawn.values())) == 4
    assert label_rng(0, "t", "a").random() == drawn[0, "t", "a"]
