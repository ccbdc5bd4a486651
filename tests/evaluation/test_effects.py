"""Effects of programs follow from the answers, counted here one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.evaluation.effects import Trial, measure_effects
from affectron.evaluation.exam import Questions
from affectron.interventions import Program

LABELS = ("a", "b", "c")


def scripted(answers: dict[str | None, Sequence[int]], truth: Any) -> Questions:
    """Questions whose answers under a program are those of the program's name."""

    def read(rows: np.ndarray, programs: Sequence[Program | None] = (None,)) -> np.ndarray:
        return np.array([np.array(answers[None if program is None else program.name])[rows] for program in programs])

    return Questions(read, np.array(truth, dtype=bool), LABELS)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_effects_follow_from_the_answers(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    truth = [data.draw(st.sampled_from([(1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1)])) for _ in range(n)]
    truth[0] = (1, 0, 0)
    names = ["mask", "other", "random 1", "random 2"]
    answers = {name: data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)) for name in (None, *names)}
    programs = {name: Program({}, name) for name in names}
    trials = {
        "mask": Trial(programs["mask"], [programs["random 1"], programs["random 2"]]),
        "other": Trial(programs["other"]),
    }
    effects = measure_effects(scripted(answers, truth), 0, trials, 50, np.random.default_rng(0))

    def accuracy(name: str | None, own: bool) -> float:
        rows = [row for row in range(n) if truth[row][0] == own]
        right = [answers[name][row] >= 0 and truth[row][answers[name][row]] for row in rows]
        return sum(right) / len(rows)

    others = any(not labels[0] for labels in truth)
    for name, effect in effects.items():
        assert effect.accuracy == pytest.approx(accuracy(name, True))
        assert effect.delta == pytest.approx(accuracy(name, True) - accuracy(None, True))
        assert effect.interval[0] <= effect.interval[1]
        measured = (effect.others_delta, effect.others_interval, effect.specific_delta, effect.specific_interval)
        if others:
            change = accuracy(name, False) - accuracy(None, False)
            assert effect.others_delta == pytest.approx(change)
            assert effect.specific_delta == pytest.approx(effect.delta - change)
        else:
            assert measured == (None,) * 4
    random = effects["mask"].random
    assert random is not None
    deltas = [accuracy(f"random {k}", True) - accuracy(None, True) for k in (1, 2)]
    assert random.deltas == pytest.approx(deltas)
    assert (random.sets, random.mean) == (2, pytest.approx(np.mean(deltas)))
    assert effects["mask"].beats_random == (effects["mask"].delta < random.interval[0])
    assert (effects["other"].random, effects["other"].beats_random) == (None, None)


def test_no_trial_is_no_effect() -> None:
    asked = scripted({None: [0, 1]}, [(1, 0, 0), (0, 1, 0)])
    assert measure_effects(asked, 0, {}, 5, np.random.default_rng(0)) == {}
