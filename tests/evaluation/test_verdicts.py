"""The verdict follows its rule: a case for each verdict and for each reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation.intervals import LEVEL, Paired, contrast_interval, contrast_p, rank_p
from affectron.evaluation.verdicts import (
    CANNOT_TELL,
    LEAST_CHANGE,
    LOWERS,
    NO_EFFECT,
    RAISES,
    RULE,
    SPECIFIC,
    VERDICTS,
    Change,
    Effect,
    Measured,
    RandomSets,
    adjust,
    judge,
    significant,
)

AS_BEFORE = Paired(3, 3, 200)


def measured(
    own: Paired,
    others: Paired | None = AS_BEFORE,
    *,
    right: int | None = None,
    chance: float = 0.25,
    relative_change: float | None = 1.0,
    random: tuple[int, int] | None = (0, 199),
    answers: tuple[float, float, float] = (-0.3, 0.0, 0.001),
) -> Measured:
    """Effect of a mask; ``random`` is the number of sets beyond, and of all."""
    change = Change(
        accuracy=0.5, delta=own.change, interval=own.interval(), lost=own.lost, gained=own.gained, p=own.p(),
        others_delta=others and others.change, others_interval=others and others.interval(),
        specific_delta=others and own.change - others.change,
        specific_interval=others and contrast_interval(own, others), specific_p=others and contrast_p(own, others),
        answers_delta=answers[0], others_answers_delta=others and answers[1], answers_p=others and answers[2],
        relative_change=relative_change,
    )  # fmt: skip
    changes = np.repeat([-1.0, 1.0, 0.0], [own.lost, own.gained, own.sentences - own.lost - own.gained])
    sets = random and RandomSets(random[1], random[0], rank_p(*random), 40, (0.0,), 0.0, (0.0, 0.0), 1.0)
    return Measured(change, changes, own.sentences if right is None else right, chance, sets)


def verdict_of(case: Measured, beside: int = 0, smallest_effect: float = 0.05) -> Effect:
    """The effect of one label, judged beside others that show nothing."""
    nothing = measured(Paired(0, 0, 60), random=(10, 10))
    return judge({"label": case} | {str(k): nothing for k in range(beside)}, smallest_effect)["label"]


FALL = Paired(20, 1, 60)


@pytest.mark.parametrize(
    ("case", "beside", "verdict", "reason"),
    [
        (measured(FALL), 0, SPECIFIC, ""),
        (measured(FALL), 9, SPECIFIC, ""),
        (measured(FALL, None), 9, SPECIFIC, ""),  # there are no others to suffer
        (measured(FALL, relative_change=0.01), 0, SPECIFIC, ""),  # what is shown is shown
        (measured(FALL, random=None), 0, LOWERS, "no random sets to compare with"),
        (measured(FALL, random=(11, 40)), 0, LOWERS, "11 of 40 random sets lower it as much"),
        (measured(FALL, random=(1, 10)), 0, LOWERS, "1 of 10 random sets lower it as much"),
        (measured(FALL, random=(0, 12)), 0, LOWERS, "12 random sets are too few for 1 label"),
        (measured(FALL, random=(0, 42)), 2, LOWERS, "42 random sets are too few for 3 labels"),
        (measured(FALL, random=(2, 199)), 9, LOWERS, "p does not hold for 10 labels together"),
        (
            measured(FALL, random=(0, 10), answers=(-0.2, -0.1, 0.02)), 9, LOWERS,
            "p does not hold for 10 labels together",
        ),
        (
            measured(FALL, answers=(-0.2, -0.1, 0.2)), 0, LOWERS,
            "no larger fall than on the other labels is shown",
        ),
        (measured(FALL, Paired(60, 1, 200)), 0, LOWERS, "no larger fall than on the other labels is shown"),
        (measured(FALL, Paired(190, 0, 200)), 0, LOWERS, "no larger fall than on the other labels is shown"),
        (
            measured(FALL, Paired(60, 1, 200), random=(11, 40)), 0, LOWERS,
            "11 of 40 random sets lower it as much; no larger fall than on the other labels is shown",
        ),
        (measured(Paired(1, 20, 60), right=20), 0, RAISES, ""),
        (measured(Paired(0, 0, 400)), 0, NO_EFFECT, "a change of 5 points is excluded"),
        (measured(Paired(4, 6, 400)), 9, NO_EFFECT, "a change of 5 points is excluded"),
        (
            measured(Paired(0, 0, 20)), 0, CANNOT_TELL,
            "20 sentences are too few: a change of 5 points is neither shown nor excluded",
        ),
        (
            measured(Paired(12, 9, 110)), 0, CANNOT_TELL,
            "110 sentences are too few: a change of 5 points is neither shown nor excluded",
        ),
        (
            measured(Paired(0, 0, 400), right=110), 0, CANNOT_TELL,
            "the model answers 110 of 400 right, near chance (25 %)",
        ),
        (
            measured(Paired(0, 0, 400), relative_change=0.03), 0, CANNOT_TELL,
            "the mask changes a typical activation by 3 % only",
        ),
        (
            measured(Paired(0, 0, 400), relative_change=None), 0, CANNOT_TELL,
            "no masked neuron is active under the label",
        ),
        (
            measured(Paired(0, 0, 400), right=110, relative_change=0.0), 0, CANNOT_TELL,
            "the mask changes a typical activation by 0 % only; the model answers 110 of 400 right, near chance (25 %)",
        ),
        (measured(Paired(6, 0, 60)), 10, CANNOT_TELL, "p does not hold for 11 labels together"),
        (
            measured(Paired(6, 0, 60), relative_change=0.05), 10, CANNOT_TELL,
            "the mask changes a typical activation by 5 % only; p does not hold for 11 labels together",
        ),
    ],
)  # fmt: skip
def test_the_verdict_follows_its_rule(case: Measured, beside: int, verdict: str, reason: str) -> None:
    effect = verdict_of(case, beside)
    assert (effect.verdict, effect.reason) == (verdict, reason)
    assert effect.random is case.random
    assert effect.measures() == case.change.measures()


def test_the_rule_tells_of_every_verdict() -> None:
    assert tuple(RULE) == VERDICTS


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.builds(
            measured,
            st.integers(1, 400).flatmap(
                lambda n: st.integers(0, n).flatmap(
                    lambda lost: st.builds(Paired, st.just(lost), st.integers(0, n - lost), st.just(n))
                )
            ),
            st.none() | st.builds(Paired, st.integers(0, 40), st.integers(0, 40), st.integers(80, 200)),
            right=st.integers(0, 1),
            chance=st.sampled_from([0.1, 0.5]),
            relative_change=st.none() | st.floats(0, 2),
            random=st.none() | st.integers(1, 220).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.02, 0.05, 0.2]),
)
def test_no_claim_goes_beyond_what_was_measured(cases: list[Measured], smallest_effect: float) -> None:
    # All right or none; in between the table has its cases.
    cases = [replace(case, right=case.right * case.sentences) for case in cases]
    found = judge(dict(enumerate(cases)), smallest_effect)
    for key, case in enumerate(cases):
        effect, change = found[key], case.change
        assert effect.adjusted_p >= change.p
        assert (effect.reason == "") == (effect.verdict in (SPECIFIC, RAISES))
        if effect.verdict == SPECIFIC:
            assert case.random is not None
            assert change.delta < 0
            assert change.specific_delta is None or change.specific_delta < 0
            assert max(effect.adjusted_p, case.random.p, change.specific_p or 0, change.answers_p or 0) <= LEVEL + 1e-9
        elif effect.verdict in (LOWERS, RAISES):
            assert effect.adjusted_p <= LEVEL + 1e-9
            assert (change.delta < 0) == (effect.verdict == LOWERS)
        elif effect.verdict == NO_EFFECT:
            assert max(map(abs, change.interval)) < smallest_effect
            assert case.right > case.chance * case.sentences
            assert change.relative_change is not None
            assert change.relative_change >= LEAST_CHANGE
        if effect.adjusted_p <= LEVEL:
            assert effect.verdict in (SPECIFIC, LOWERS, RAISES)


def test_a_p_that_was_not_measured_counts_as_one_and_the_level_itself_is_enough() -> None:
    assert adjust({"a": 0.02, "b": None, "c": 0.5}) == {"a": pytest.approx(0.06), "b": None, "c": 1.0}
    assert adjust({}) == {}
    cases: list[tuple[Any, bool]] = [(None, False), (LEVEL, True), (11 * (1 / 220), True), (0.0501, False), (0.0, True)]
    assert [significant(p) for p, _ in cases] == [claim for _, claim in cases]
