"""Intervals cover and tests hold their level, by enumeration where it is possible, and agree with other derivations."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation.intervals import (
    LEVEL,
    Paired,
    Z,
    auroc_interval,
    contrast_interval,
    contrast_p,
    holm,
    rank_p,
    share_interval,
)

SIZES = (20, 50, 120)
# An interval of 95 % covers in at least so many cases.
COVERED = 0.93

cached = cache(Paired)


@cache
def changed_p(fewer: int, more: int) -> float:
    """p of so many changed answers, of any number of sentences."""
    return Paired(fewer, more, fewer + more + 1).p()


@st.composite
def pairs(draw: st.DrawFn, most: int = 60) -> Paired:
    n = draw(st.integers(1, most))
    lost = draw(st.integers(0, n))
    return Paired(lost, draw(st.integers(0, n - lost)), n)


@pytest.fixture(scope="module")
def outcomes() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """n -> every (lost, gained, unchanged) and its interval."""
    found = {}
    for n in SIZES:
        every = np.array([(lost, gained, n - lost - gained) for lost in range(n + 1) for gained in range(n + 1 - lost)])
        found[n] = every, np.array([Paired(lost, gained, n).interval() for lost, gained, _ in every.tolist()])
    return found


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("change", [0.0, -0.03, -0.08])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4])
def test_the_paired_interval_covers(
    outcomes: dict[int, tuple[np.ndarray, np.ndarray]], n: int, change: float, gain: float
) -> None:
    every, intervals = outcomes[n]
    probability = scipy.stats.multinomial.pmf(every, n, [gain - change, gain, 1 + change - 2 * gain])
    covered = (intervals[:, 0] <= change) & (change <= intervals[:, 1])
    assert probability.sum() == pytest.approx(1)
    assert probability[covered].sum() >= COVERED


@settings(max_examples=60, deadline=None)
@given(pairs(), st.floats(0.5, 3.5))
def test_the_paired_interval_ends_where_the_score_test_rejects(paired: Paired, z: float) -> None:
    lost, gained, n = paired.lost, paired.gained, paired.sentences

    def score(d: float) -> float:
        """(d - change) over its deviation at the most likely share of lost answers under d, found by search."""

        def unlikelihood(share: float) -> float:
            cells = ((lost, share), (gained, share + d), (n - lost - gained, 1 - 2 * share - d))
            return -sum(count * math.log(max(cell, 1e-300)) for count, cell in cells if count)

        low, high = max(0.0, -d), (1 - d) / 2
        q = scipy.optimize.minimize_scalar(unlikelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
        return abs(d - paired.change) / math.sqrt(max(2 * q.x + d - d * d, 1e-300) / n)

    low, high = paired.interval(z)
    assert -1 <= low <= paired.change <= high <= 1
    for end, outwards in ((low, -1), (high, 1)):
        if abs(end) < 1 - 1e-3:
            assert score(end - outwards * 1e-4 * abs(end - paired.change)) < z + 1e-3
            assert score(end + outwards * 1e-3 * (1 - abs(end))) > z - 1e-3


def test_the_paired_interval_agrees_with_published_ones() -> None:
    # Airway hyper-responsiveness, in Fagerland, Lydersen and Laake 2014: 7 lost and 1 gained of 21.
    assert Paired(7, 1, 21).interval() == pytest.approx((-0.517, -0.026), abs=5e-4)
    # R's PropCIs 0.3, scoreci.mp(25, 28, 618, 0.9).
    assert Paired(25, 28, 618).interval(scipy.special.ndtri(0.95)) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


@settings(deadline=None)
@given(pairs())
def test_the_paired_interval_is_odd_and_without_changes_that_of_a_share(paired: Paired) -> None:
    low, high = paired.interval()
    swapped = Paired(paired.gained, paired.lost, paired.sentences).interval()
    assert swapped == pytest.approx((-high, -low), abs=1e-12)
    wilson = scipy.stats.binomtest(0, paired.sentences).proportion_ci(1 - LEVEL, method="wilson").high
    assert Paired(0, 0, paired.sentences).interval() == pytest.approx((-wilson, wilson), abs=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1))
def test_a_pair_counts_changes(changes: list[float]) -> None:
    paired = Paired.of(np.array(changes))
    assert paired == Paired(changes.count(-1), changes.count(1), len(changes))
    assert paired.change == pytest.approx(np.mean(changes))


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("difference", [0.0, 0.2])
def test_the_interval_of_groups_covers_where_their_members_go_together(together: float, difference: float) -> None:
    """40 groups of 3 changes, each the group's own with probability ``together``; p holds its level with it."""
    rng = np.random.default_rng(4)
    cells = [0.2, 0.6 - difference, 0.2 + difference]  # lost, unchanged, gained
    shape = (1500, 40, 3)
    own, alone = rng.choice([-1, 0, 1], (*shape[:2], 1), p=cells), rng.choice([-1, 0, 1], shape, p=cells)
    changes = np.where(rng.random(shape) < together, own, alone)
    pairs = [Paired.of_groups(change) for change in changes]
    ends = np.array([pair.interval() for pair in pairs])
    assert ((ends[:, 0] <= difference) & (difference <= ends[:, 1])).mean() >= COVERED
    if not difference:
        assert np.mean([pair.p() <= LEVEL for pair in pairs]) <= 0.065


def test_groups_of_one_are_as_single_changes_and_whole_groups_as_one() -> None:
    change = np.random.default_rng(5).choice([-1.0, 0.0, 1.0], 60)
    assert Paired.of_groups(change[:, None]) == Paired.of(change)
    repeated = Paired.of_groups(np.repeat(change[:, None], 4, axis=1))
    assert repeated.interval() == pytest.approx(Paired.of(change).interval(), rel=0.02)
    assert Paired.of_groups(np.zeros((20, 3))) == Paired(0, 0, 20)


@settings(deadline=None)
@given(pairs())
def test_p_of_a_pair_is_the_probability_of_as_uneven_a_coin(paired: Paired) -> None:
    changed = paired.lost + paired.gained
    tail = sum(math.comb(changed, k) for k in range(min(paired.lost, paired.gained) + 1)) / 2**changed
    assert paired.p() == pytest.approx(min(1.0, 2 * tail))
    assert paired.p() == changed_p(*sorted([paired.lost, paired.gained]))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("level", [0.05, 0.05 / 11])
def test_p_of_a_pair_holds_its_level(outcomes: dict[int, tuple[np.ndarray, np.ndarray]], n: int, level: float) -> None:
    every, _ = outcomes[n]
    rejected = np.array([changed_p(*sorted(changed)) <= level for changed in every[:, :2].tolist()])
    for share in (0.005, 0.03, 0.1, 0.3, 0.5):
        probability = scipy.stats.multinomial.pmf(every, n, [share, share, 1 - 2 * share])
        assert probability[rejected].sum() <= level


def drawn(rng: np.random.Generator, n: int, change: float, gain: float, draws: int) -> list[Paired]:
    counts = rng.multinomial(n, [gain - change, gain, 1 + change - 2 * gain], draws)
    return [cached(lost, gained, n) for lost, gained, _ in counts.tolist()]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interval is computed once."""
    monkeypatch.setattr(Paired, "interval", cache(Paired.interval))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("times", [1, 5])
def test_the_contrast_covers(n: int, times: int) -> None:
    rng = np.random.default_rng(n + times)
    laws = [(0.0, 0.03, 0.0, 0.03), (0.0, 0.1, -0.03, 0.0), (-0.3, 0.02, -0.03, 0.1)]
    laws += [(own, 0.02, others, 0.02) for own in (-0.03, -0.08) for others in (0.0, -0.03, -0.08)]
    for own, own_gain, others, others_gain in laws:
        sides = zip(drawn(rng, n, own, own_gain, 2000), drawn(rng, n * times, others, others_gain, 2000), strict=True)
        ends = np.array([contrast_interval(*side) for side in sides])
        contrast = own - others
        covered = (ends[:, 0] <= contrast + 1e-12) & (contrast - 1e-12 <= ends[:, 1])
        assert covered.mean() >= COVERED


@settings(max_examples=25, deadline=None)
@given(pairs(25), pairs(25), st.sampled_from([0.3, 0.05, 0.0045]))
def test_p_of_the_contrast_is_the_level_at_which_its_interval_leaves_zero(
    own: Paired, others: Paired, level: float
) -> None:
    p = contrast_p(own, others)
    assert 0 <= p <= 1
    if abs(p - level) > 1e-9:
        low, high = contrast_interval(own, others, -scipy.special.ndtri(level / 2))
        assert (p < level) == (low > 0 or high < 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("level", [0.05, 0.05 / 11])
@pytest.mark.parametrize("n", SIZES)
def test_p_of_the_contrast_holds_its_level(n: int, level: float) -> None:
    # p is at most the level exactly where the interval at it leaves 0 (the test above); it is far quicker to ask so.
    rng = np.random.default_rng(n)
    z = -scipy.special.ndtri(level / 2)
    draws = 3000 if level == LEVEL else 8000
    for times, change, own_gain, others_gain in (
        (1, 0.0, 0.02, 0.02), (5, -0.03, 0.02, 0.02), (5, -0.3, 0.02, 0.02), (10, -0.08, 0.0, 0.1), (1, -0.3, 0.0, 0.1),
    ):  # fmt: skip
        sides = zip(
            drawn(rng, n, change, own_gain, draws), drawn(rng, n * times, change, others_gain, draws), strict=True
        )
        ends = np.array([contrast_interval(*side, z) for side in sides])
        false = int(((ends[:, 1] < 0) | (ends[:, 0] > 0)).sum())
        # The true rate would be above 1.2 times the level otherwise.
        assert false <= scipy.stats.binom.ppf(0.999, draws, 1.2 * level)


@pytest.mark.parametrize("n", [1, *SIZES])
def test_the_interval_of_a_share_is_exact(n: int) -> None:
    low, high = share_interval(np.arange(n + 1), n)
    for successes in range(n + 1):
        expected = scipy.stats.binomtest(successes, n).proportion_ci(1 - LEVEL, method="exact")
        assert (low[successes], high[successes]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    for share in (0.0, 0.003, 0.01, 0.05, 0.2, 0.5, 0.93, 1.0):
        covered = (low <= share) & (share <= high)
        assert scipy.stats.binom.pmf(np.arange(n + 1), n, share)[covered].sum() >= 1 - LEVEL


def normal(shift: float, deviation: float):
    """Normal with the label, standard normal without it."""
    auroc = scipy.special.ndtr(shift / math.hypot(deviation, 1))
    return auroc, lambda rng, size: shift + deviation * rng.normal(size=size), lambda rng, size: rng.normal(size=size)


def rectified(shift: float, threshold: float):
    """Normal beyond a threshold, else 0: most sentences are tied there."""
    above = scipy.integrate.quad(
        lambda x: scipy.stats.norm.pdf(x - shift) * scipy.special.ndtr(x), threshold, math.inf
    )[0]
    auroc = above + scipy.special.ndtr(threshold - shift) * scipy.special.ndtr(threshold) / 2
    return (
        auroc,
        lambda rng, size: np.maximum(rng.normal(size=size) + shift - threshold, 0),
        lambda rng, size: np.maximum(rng.normal(size=size) - threshold, 0),
    )


def firing(with_label: float, without: float):
    """Lognormal in a share of the sentences, else 0."""

    def lognormal(share: float):
        return lambda rng, size: np.where(rng.random(size) < share, np.exp(3 * rng.normal(size=size)), 0)

    return 0.5 + (with_label - without) / 2, lognormal(with_label), lognormal(without)


def mixed(share: float):
    """Above all others in a share of the label's sentences, below them in the rest."""
    return (
        share,
        lambda rng, size: np.where(rng.random(size) < share, 100, -100) + rng.normal(size=size),
        lambda rng, size: rng.normal(size=size),
    )


@pytest.mark.parametrize(
    ("auroc", "label", "rest"),
    [
        normal(0, 1), normal(1, 1), normal(3, 1), normal(0, 3), normal(3, 3), normal(30, 10), normal(0.5, 1 / 3),
        rectified(0, 1.3), rectified(2, 1.3), rectified(3, 1.3), rectified(3, 2.3),
        firing(0.1, 0), firing(0.6, 0), firing(0.97, 0), firing(0.6, 0.05), firing(0.98, 0.02),
        mixed(0.5), mixed(0.9), mixed(0.98),
    ],
)  # fmt: skip
def test_the_interval_of_an_auroc_covers(auroc: float, label, rest) -> None:
    rng = np.random.default_rng(7)
    draws = 1000
    for positives in SIZES:
        for times in (1, 5):
            values = np.concatenate([label(rng, (positives, draws)), rest(rng, (positives * times, draws))])
            low, high = auroc_interval(values, np.arange(len(values)) < positives)
            assert np.mean((low <= auroc + 1e-12) & (auroc - 1e-12 <= high)) >= COVERED


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_interval_of_an_auroc_holds_it_and_follows_from_the_order(m: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, has = rng.integers(0, 6, (m + n, 3)).astype(float), np.arange(m + n) < m
    low, high = auroc_interval(values, has)
    pairs = np.sign(values[:m, np.newaxis] - values[m:]).mean(axis=(0, 1)) / 2 + 0.5
    assert (low <= pairs + 1e-12).all()
    assert (pairs <= high + 1e-12).all()
    np.testing.assert_allclose(auroc_interval(np.exp(values), has), (low, high))
    np.testing.assert_allclose(auroc_interval(-values, has), (1 - high, 1 - low), atol=1e-12)
    # Parted wholly, it is that of a share of 1 in as many trials as the smaller part has sentences.
    (low,), (high,) = auroc_interval(has[:, np.newaxis].astype(float), has)
    assert (low, high) == (pytest.approx((LEVEL / 2) ** (1 / min(m, n))), 1.0)


@pytest.mark.parametrize(("most", "stop"), [(99, 5), (219, 11), (19, 1)])
def test_p_of_a_rank_holds_its_level_where_drawing_stops_early(most: int, stop: int) -> None:
    rng = np.random.default_rng(0)
    runs = 20_000
    # Under the null hypothesis the own set is one of the random ones: its place among them is uniform.
    beyond = rng.random((runs, most)) < rng.random((runs, 1))
    counted = np.cumsum(beyond, axis=1)
    last = np.where(counted[:, -1] >= stop, np.argmax(counted >= stop, axis=1), most - 1)
    p = np.array([rank_p(int(counted[run, end]), int(end) + 1) for run, end in enumerate(last)])
    for level in (0.01, 0.05, 0.1, 0.3, 0.6):
        assert (p <= level).sum() <= scipy.stats.binom.ppf(0.999, runs, level)
    # The test is no weaker than its number of sets allows.
    assert (p <= LEVEL).mean() == pytest.approx(LEVEL, abs=0.006)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.02, 0.04, 0.05, 0.3, 1.0]), max_size=5))
def test_adjusted_p_is_that_of_the_closed_test(values: list[float]) -> None:
    """A hypothesis is rejected if each set of hypotheses with it is, by its smallest p times their number."""
    every = range(len(values))
    families = [family for size in every for family in combinations(every, size + 1)]
    closed = [
        max(min(1.0, len(family) * min(values[k] for k in family)) for family in families if own in family)
        for own in every
    ]
    assert holm(values) == pytest.approx(closed)


def test_the_quantile_is_that_of_the_level() -> None:
    assert scipy.stats.norm.cdf(Z) - scipy.stats.norm.cdf(-Z) == pytest.approx(1 - LEVEL)
