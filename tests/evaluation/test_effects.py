"""Effects follow from the answers, and a claim of specific neurons is seldom false; no model is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation import effects
from affectron.evaluation.effects import FIRST_SETS, Trial, measure, measure_effects, most_sets
from affectron.evaluation.intervals import LEVEL, Paired, contrast_interval, contrast_p, holm
from affectron.evaluation.resampling import Draws
from affectron.interventions import zero
from affectron.options import Controls
from tests.evaluation.scripted_exam import SITE, TASK, ScriptedExam, make_stats, quiet, ranked_of

LABELS = ("a", "b", "c")
STATS = make_stats(LABELS, 40)


def single_sets(first: int, sets: int) -> Draws:
    """Sets of one neuron each."""
    return Draws({SITE: np.arange(first, first + sets)[:, np.newaxis]}, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_effects_follow_from_the_answers(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 14))
    truth = [data.draw(st.sampled_from([(1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1)])) for _ in range(n)]
    truth[:2] = [(1, 0, 0), (0, 1, 0)]
    answers: dict[tuple[int, ...], np.ndarray] = {}
    for mask in [-1, 0, 1, *range(20, 24)]:
        answers[mask,] = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)))
    exam: Any = ScriptedExam(answers.__getitem__, truth)
    trials = {
        ("zero", LABELS[target]): Trial(
            ranked_of(exam, STATS, target, [target]), [(SITE, target)], zero, single_sets(20, 4) if target else None
        )
        for target in (0, 1)
    }
    found = measure_effects(exam, trials, Controls(random_sets=4), quiet())

    def change(mask: int, target: int, own: bool) -> np.ndarray:
        rows = [row for row in range(n) if truth[row][target] == own]
        right = [[answers[m,][row] >= 0 and truth[row][answers[m,][row]] for row in rows] for m in (mask, -1)]
        return np.array(right[0], dtype=int) - np.array(right[1], dtype=int)

    for target in (0, 1):
        effect = found["zero", LABELS[target]]
        own, others = change(target, target, True), change(target, target, False)
        before = np.mean([answers[-1,][row] >= 0 and truth[row][answers[-1,][row]] for row in range(n)
                          if truth[row][target]])  # fmt: skip
        on_own, on_others = (Paired(int((c < 0).sum()), int((c > 0).sum()), len(c)) for c in (own, others))
        assert effect.accuracy == pytest.approx(before + own.mean())
        assert (effect.delta, effect.others_delta) == pytest.approx((own.mean(), others.mean()))
        assert (effect.lost, effect.gained, effect.p) == (on_own.lost, on_own.gained, on_own.p())
        assert (effect.interval, effect.others_interval) == (on_own.interval(), on_others.interval())
        assert effect.specific_delta == pytest.approx(own.mean() - others.mean())
        assert effect.specific_interval == contrast_interval(on_own, on_others)
        assert effect.specific_p == contrast_p(on_own, on_others)
        named = np.array([int(answers[target,][row] == target) - int(answers[-1,][row] == target) for row in range(n)])
        has = np.array([bool(truth[row][target]) for row in range(n)])
        parts = [Paired(int((c < 0).sum()), int((c > 0).sum()), len(c)) for c in (named[has], named[~has])]
        assert (effect.answers_delta, effect.others_answers_delta) == pytest.approx([part.change for part in parts])
        assert effect.answers_p == contrast_p(*parts)
        assert effect.relative_change == pytest.approx(1.0)
    random = found["zero", "b"].random
    assert random is not None
    deltas = [change(20 + k, 1, True).mean() for k in range(4)]
    beyond = sum(delta <= found["zero", "b"].delta + 1e-9 for delta in deltas)
    assert random.deltas == pytest.approx(deltas)
    assert (random.sets, random.beyond, random.p) == (4, beyond, (1 + beyond) / 5)
    assert (random.mean, random.interval) == (pytest.approx(np.mean(deltas)), (min(random.deltas), max(random.deltas)))
    assert found["zero", "a"].random is None
    assert found["zero", "a"].specific_adjusted_p is None
    claims = [found["zero", label] for label in ("a", "b")]
    assert [claim.adjusted_p for claim in claims] == pytest.approx(holm([claim.p for claim in claims]))
    part = max(claims[1].p, random.p, claims[1].specific_p or 0, claims[1].answers_p or 0)
    assert claims[1].specific_adjusted_p == pytest.approx(min(1, 2 * part))


def test_a_label_that_every_sentence_has_has_no_others() -> None:
    exam: Any = ScriptedExam(lambda _: np.array([0, 0]), [(1, 0, 0)] * 2)
    trials = {("zero", "a"): Trial(ranked_of(exam, STATS, 0, [0]), [(SITE, 0)], zero, None)}
    (effect,) = measure_effects(exam, trials, Controls(), quiet()).values()
    measured = (effect.others_delta, effect.others_interval, effect.specific_delta, effect.specific_interval)
    assert measured == (None,) * 4
    assert (effect.specific_p, effect.others_answers_delta, effect.answers_p) == (None,) * 3


def test_no_trial_is_no_effect() -> None:
    exam: Any = ScriptedExam(lambda _: np.array([0, 1]), [(1, 0, 0), (0, 1, 0)])
    assert measure_effects(exam, {}, Controls(), quiet()) == {}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_curtailed_and_sequential_ranking_is_that_of_all_answers(data: st.DataObject) -> None:
    """Asked in full, set by set, the same sets are beyond, and p is that of the set at which drawing may stop."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    n, most = data.draw(st.integers(1, 70)), data.draw(st.sampled_from([0, 1, 7, 19, 60, 99, 219]))
    rises, claimed = data.draw(st.booleans()), data.draw(st.booleans())
    flips = rng.beta(*data.draw(st.sampled_from([(1, 30), (1, 4), (3, 3), (20, 1)])), size=most + 1)
    before = rng.random(n) < data.draw(st.sampled_from([0.2, 0.8, 1.0]))
    right = {-1: before, **{k: before ^ (rng.random(n) < flips[k]) for k in range(most + 1)}}
    margins = rng.normal(size=n) if data.draw(st.booleans()) else None
    exam: Any = ScriptedExam(lambda mask: np.where(right[mask[0]], 0, -1), [(1, 0, 0)] * n, margins)
    stats = make_stats(LABELS, 300)
    trial = Trial(ranked_of(exam, stats, 0, [0]), [(SITE, 0)], zero, single_sets(1, most) if most else None)
    (measured,) = effects._changes(exam, [trial])
    exam.asked.clear()
    sign = 1 if rises else -1
    found = effects._compared(exam, trial, measured, most, claimed, sign).random
    if not most:
        assert found is None
        return
    assert found is not None
    rows = np.arange(n) if margins is None else np.argsort(np.abs(margins), kind="stable")[:40]
    moved = [sign * (right[k][rows].astype(int) - before[rows]).sum() for k in range(most + 1)]
    beyond = [change >= moved[0] for change in moved[1:]]
    stop = int(LEVEL * (1 + most)) or 1
    drawn = next((k + 1 for k in range(most) if sum(beyond[: k + 1]) >= stop), most) if claimed else min(10, most)
    assert (found.sets, found.beyond, found.ranked) == (drawn, sum(beyond[:drawn]), len(rows))
    assert found.p == (1 + sum(beyond[:drawn])) / (1 + drawn)
    # With p above the level at the stop, it would be with all sets too.
    assert (found.p <= LEVEL) == ((1 + sum(beyond)) / (1 + most) <= LEVEL) or not claimed
    assert found.deltas == pytest.approx([right[k].mean() - before.mean() for k in range(1, min(10, most) + 1)])
    for mask, asked in exam.asked:
        assert mask[0] <= FIRST_SETS or (set(asked) <= set(rows.tolist()) and claimed)


def test_a_set_that_changes_nothing_is_asked_no_more_than_decides() -> None:
    """Of 40 answers 30 are lost: a set whose first 13 all stay cannot lose as many."""
    before = np.zeros(45, dtype=int)
    lost = np.where(np.arange(45) < 30, -1, 0)
    exam: Any = ScriptedExam(lambda mask: lost if mask == (0,) else before, [(1, 0, 0)] * 45, np.arange(45.0) + 1)
    trial = Trial(ranked_of(exam, STATS, 0, [0]), [(SITE, 0)], zero, single_sets(1, 39))
    (measured,) = effects._changes(exam, [trial])
    exam.asked.clear()
    found = effects._compared(exam, trial, measured, 39, True, -1).random
    assert found is not None
    assert (found.sets, found.beyond, found.ranked) == (39, 0, 40)
    assert [len(asked) for _, asked in exam.asked] == [45] * 10 + [13] * 29


@pytest.mark.parametrize("most", [1, 5, 7, 8])
def test_the_nearest_are_those_of_the_smallest_margin(most: int) -> None:
    margins = np.array([3.0, -0.5, 1.0, 7.0, -0.25, 0.75, -9.0, 0.5])
    exam: Any = ScriptedExam(lambda _: np.zeros(8, dtype=int), [(1, 0, 0)] * 6 + [(0, 1, 0)] * 2, margins)
    rows = np.array([0, 1, 2, 3, 4, 5, 7])
    nearest = exam.questions("test", TASK).nearest(rows, most).tolist()
    assert nearest == sorted([4, 1, 7, 5, 2, 0, 3][:most])
    without: Any = ScriptedExam(lambda _: np.zeros(8, dtype=int), exam.truth)
    assert without.questions("test", TASK).nearest(rows, most) is rows


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("first", [5, 290])
def test_random_sets_are_of_similar_activity_under_the_label(target: int, first: int) -> None:
    stats = make_stats(LABELS, 300)
    activity = np.sqrt(stats.m2[SITE][target] / 9 + stats.mean[SITE][target] ** 2)
    neurons = np.argsort(activity)[first : first + 5].tolist()  # of the least or the largest activity
    exam: Any = None
    ranked = ranked_of(exam, stats, target, neurons)
    draws = ranked.draw(ranked.neurons, 50, np.random.default_rng(0))
    assert draws is not None
    drawn = draws.by_site[SITE]
    assert not np.isin(drawn, neurons).any()
    assert draws.activity == pytest.approx(np.median(activity[drawn]) / np.median(activity[neurons]))
    assert 0.6 < draws.activity < 1.6
    assert not 0.3 < np.median(activity) / np.median(activity[neurons]) < 3


def test_an_adjusted_p_can_reach_the_level() -> None:
    for labels in (1, 3, 11, 40):
        assert labels / (1 + most_sets(None, labels)) <= LEVEL + 1e-12
        assert most_sets(None, labels) >= 99
    assert most_sets(7, 11) == 7


# --- false and true claims -----------------------------------------------------------------------------------------

ELEVEN = tuple("abcdefghijk")
EACH, WIDTH, TOGETHER = 20, 300, 3
TRUTH = np.repeat(np.eye(len(ELEVEN), dtype=bool), EACH, axis=0)
OWNER = TRUTH.argmax(axis=1)
OF_ELEVEN = make_stats(ELEVEN, WIDTH)

#: (generator of a set, its label or -1 for a random set) -> probability [11] that a right answer of each label is lost.
Law = Callable[[np.random.Generator, int], np.ndarray]


def same_chance(rng: np.random.Generator, label: int) -> np.ndarray:
    """Every set loses each answer with the same probability."""
    return np.full(11, 0.1)


def all_lower_much(rng: np.random.Generator, label: int) -> np.ndarray:
    """Every set lowers accuracy, some by much more than others."""
    return np.full(11, rng.uniform(0.2, 0.8))


def by_label(rng: np.random.Generator, label: int) -> np.ndarray:
    """A set lowers each label by another amount."""
    return rng.beta(0.5, 2, 11)


def own_fragile(rng: np.random.Generator, label: int) -> np.ndarray:
    """Own sentences fall under the label's neurons as under any others, and far more than the others' sentences."""
    own = rng.beta(2, 5)
    return np.where(np.arange(11) == label, own, 0.02) if label >= 0 else np.full(11, own)


def all_alike(rng: np.random.Generator, label: int) -> np.ndarray:
    """The label's neurons matter, for all labels alike; random ones do not."""
    return np.full(11, 0.4 if label >= 0 else 0.01)


def matters(rng: np.random.Generator, label: int) -> np.ndarray:
    """The label's neurons matter, for the label."""
    return np.where(np.arange(11) == label, 0.7, 0.03)


def verdicts(law: Law, seed: int) -> list[str]:
    """The verdicts on eleven labels under a law."""
    rng = np.random.default_rng(seed)
    before = rng.random(len(OWNER)) < 0.85
    members = rng.permutation(WIDTH)[: len(ELEVEN) * TOGETHER].reshape(len(ELEVEN), TOGETHER).tolist()
    label_of = {tuple(sorted(neurons)): label for label, neurons in enumerate(members)}

    def answers(mask: tuple[int, ...]) -> np.ndarray:
        if mask == (-1,):
            return np.where(before, OWNER, -1)
        of_set = np.random.default_rng([seed, *mask])
        lost = law(of_set, label_of.get(tuple(sorted(mask)), -1))[OWNER]
        # An answer that is wrong becomes right in a twentieth of the cases.
        changed = of_set.random(len(OWNER)) < np.where(before, lost, 0.05)
        return np.where(before ^ changed, OWNER, -1)

    exam: Any = ScriptedExam(answers, TRUTH)
    trials = {}
    for target, neurons in enumerate(members):
        ranked = ranked_of(exam, OF_ELEVEN, target, neurons)
        draws = ranked.draw(ranked.neurons, most_sets(None, len(ELEVEN)), rng)
        trials["zero", ELEVEN[target]] = Trial(ranked, ranked.neurons, zero, draws)
    return [effect.verdict for effect in measure_effects(exam, trials, Controls(), quiet()).values()]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "contrast_p", cache(contrast_p))
    monkeypatch.setattr(effects, "contrast_interval", cache(contrast_interval))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("law", [same_chance, all_lower_much, by_label, own_fragile, all_alike])
def test_a_false_claim_of_specific_neurons_is_made_in_one_run_of_twenty_at_most(law: Law) -> None:
    runs = 50
    false = sum("specific" in verdicts(law, seed) for seed in range(runs))
    assert false <= scipy.stats.binom.ppf(0.99, runs, LEVEL)


@pytest.mark.usefixtures("quick")
def test_a_true_claim_is_made_nearly_always() -> None:
    found = [verdict for seed in range(10) for verdict in verdicts(matters, seed)]
    assert found.count("specific") >= 0.95 * len(found)


def test_one_mask_is_judged_without_the_others() -> None:
    lost = np.where(OWNER == 0, -1, OWNER)
    exam: Any = ScriptedExam(lambda mask: lost if 0 in mask else OWNER, TRUTH)
    ranked = ranked_of(exam, OF_ELEVEN, 0, [0, 1])
    trials = {
        (mask, "a"): Trial(ranked, neurons, zero, ranked.draw(neurons, 99, np.random.default_rng(0)))
        for mask, neurons in (("hits", ranked.neurons[:1]), ("misses", ranked.neurons[1:]))
    }
    found = measure_effects(exam, trials, Controls(), quiet())
    assert (found["hits", "a"].verdict, found["hits", "a"].adjusted_p) == ("specific", found["hits", "a"].p)
    assert found["misses", "a"].verdict == "cannot tell"  # 20 sentences exclude no change of 5 points
    assert found["misses", "a"].random is not None
    assert found["misses", "a"].random.sets == FIRST_SETS


def test_a_rise_is_ranked_among_rises() -> None:
    """Own sentences gain under the neurons; random sets lose as many, so none is beyond."""
    before = np.where(np.arange(len(OWNER)) % 2, OWNER, -1)
    answers = {0: OWNER, -1: before}
    exam: Any = ScriptedExam(lambda mask: answers.get(mask[0], np.full(len(OWNER), -1)), TRUTH)
    ranked = ranked_of(exam, OF_ELEVEN, 0, [0])
    trial = Trial(ranked, ranked.neurons, zero, ranked.draw(ranked.neurons, 99, np.random.default_rng(0)))
    for rises, expected in ((True, (99, 0)), (False, (FIRST_SETS, FIRST_SETS))):
        (found,) = measure(exam, {"a": trial}, [["a"]], None, quiet(), rises=rises).values()
        assert found.random is not None
        assert (found.random.sets, found.random.beyond) == expected
