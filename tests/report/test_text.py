"""Numbers and sentences of the report."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron._internal.wording import count, p_value
from affectron.evaluation.verdicts import VERDICTS
from affectron.experiments.results import (
    Curve,
    CurvePoint,
    Heights,
    LabelMethods,
    LabelResult,
    Mask,
    MethodResult,
    RandomSets,
)
from affectron.report import text as words
from tests.support.results import make_methods


@given(st.text(max_size=60), st.text(max_size=60))
def test_names_of_files_are_safe_and_never_shared(one: str, other: str) -> None:
    for text in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,49}", words.file_name(text))
    assert (words.file_name(one) == words.file_name(other)) == (one == other)


def test_counts_agree_with_their_nouns() -> None:
    assert count(1, "neuron") == "1 neuron"
    assert [count(n, "neuron") for n in (0, 2, 1024)] == ["0 neurons", "2 neurons", "1,024 neurons"]
    assert [count(n, "axis", "axes") for n in (1, 2)] == ["1 axis", "2 axes"]


def mask(verdict: str, delta: float = -0.2, **fields: Any) -> Mask:
    """A mask on 80 sentences; without random sets unless these are given."""
    made: dict[str, Any] = {
        "accuracy": 0.6 + delta, "interval": (delta - 0.1, delta + 0.1), "lost": 18, "gained": 2, "p": 0.0004,
        "others_delta": 0.005, "others_interval": (-0.01, 0.02), "specific_delta": delta - 0.005,
        "specific_interval": (-0.3, -0.1), "specific_p": 0.002, "answers_delta": -0.2,
        "others_answers_delta": -0.01, "answers_p": 0.003, "relative_change": 1.0, "random": None,
        "adjusted_p": 0.0044, "specific_adjusted_p": None, "reason": "", "loss_delta": None, **fields,
    }  # fmt: skip
    return Mask(delta=delta, verdict=verdict, **made)


def label_result(selected: int = 3, **masks: Mask) -> LabelResult:
    return LabelResult(selected, (), "caps reached", "rms", 0.5, 0.3, 3, {}, 0.6, 80, masks)


DRAWN = RandomSets(219, 0, 1 / 220, 40, (0.0,) * 10, 0.0, (0.0, 0.0), 1.0)


def test_the_first_line_counts_the_verdicts_of_each_mask() -> None:
    results = {
        "one": label_result(zero=mask("specific"), adaptive=mask("cannot tell")),
        "two": label_result(zero=mask("raises accuracy"), adaptive=mask("no effect")),
        "three": label_result(zero=mask("specific"), adaptive=mask("cannot tell")),
        "none": label_result(0),
    }
    assert words.headline(results) == (
        "Verdicts on 4 labels. Zero mask: specific 2, raises accuracy 1; adaptive mask: no effect 1, cannot tell 2; "
        "not tested 1."
    )


def test_each_claim_has_its_evidence() -> None:
    specific = mask("specific", random=DRAWN, specific_adjusted_p=11 / 220)
    lowers = mask("lowers accuracy", adjusted_p=0.00455, reason="3 of 60 random sets lower it as much")
    raises = mask("raises accuracy", 0.125, others_delta=None, others_interval=None)
    nothing = mask("no effect", 0.0, p=1.0, adjusted_p=1.0, reason="a change of 5 points is excluded")
    unknown = mask("cannot tell", -0.05, p=0.0123, adjusted_p=0.1, reason="80 sentences are too few")
    results = {
        "a": label_result(zero=specific),
        "b": label_result(9, mean=lowers),
        "c": label_result(adaptive=raises),
        "d": label_result(zero=nothing),
        "e": label_result(zero=unknown),
        "f": label_result(0),
        "g": label_result(),
    }
    accuracy = "accuracy on its 80 test sentences changes from 60.0\u00a0% by"
    assert words.claims(results) == {
        "a": f"specific. With its 3 neurons set to zero, {accuracy} −20.0 points (−30.0 to −10.0): McNemar's p < "
        "0.001, adjusted over 3 labels p = 0.0044; accuracy on the other labels changes by +0.5 points; 0 of 219 "
        "random sets fall as much; the largest p of these comparisons, adjusted alike, p = 0.05.",
        "b": f"lowers accuracy. With 3 of its 9 neurons set to their mean, {accuracy} −20.0 points (−30.0 to −10.0): "
        "McNemar's p < 0.001, adjusted over 1 label p = 0.00455; accuracy on the other labels changes by +0.5 points; "
        "not shown to be specific: 3 of 60 random sets lower it as much.",
        "c": f"raises accuracy. With its 3 neurons attenuated by the adaptive mask, {accuracy} +12.5 points (+2.5 to "
        "+22.5): McNemar's p < 0.001, adjusted over 1 label p = 0.0044.",
        "d": f"no effect. With its 3 neurons set to zero, {accuracy} 0.0 points (−10.0 to +10.0): McNemar's p = 1, "
        "adjusted over 3 labels p = 1; a change of 5 points is excluded.",
        "e": f"cannot tell. With its 3 neurons set to zero, {accuracy} −5.0 points (−15.0 to +5.0): McNemar's p = "
        "0.0123, adjusted over 3 labels p = 0.1; 80 sentences are too few.",
        "f": "not tested: no neuron was selected for it.",
        "g": "not tested.",
    }


@pytest.mark.parametrize(("weaker", "stronger"), list(pairwise(reversed(VERDICTS))))
def test_the_strongest_verdict_of_a_label_s_masks_is_claimed_whatever_their_p(weaker: str, stronger: str) -> None:
    for adaptive, zero in ((weaker, stronger), (stronger, weaker)):
        masks = {
            "adaptive": mask(adaptive, adjusted_p=0.04 if adaptive == stronger else 0.01),
            "zero": mask(zero, adjusted_p=0.04 if zero == stronger else 0.01),
        }
        assert masks[words.strongest(masks)].verdict == stronger


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"adjusted_p": 0.02, "p": 0.004}, {"adjusted_p": 0.01, "p": 0.005}),
        ({"adjusted_p": 1.0, "p": 0.5}, {"adjusted_p": 1.0, "p": 0.4, "relative_change": 0.02}),
        ({"adjusted_p": 1.0, "p": 1.0, "relative_change": 0.18}, {"adjusted_p": 1.0, "p": 1.0}),
        ({"adjusted_p": 1.0, "p": 1.0, "relative_change": None}, {"adjusted_p": 1.0, "p": 1.0}),
    ],
)
def test_among_equal_verdicts_the_smaller_p_is_claimed_and_then_the_mask_that_acts_more(
    first: dict[str, float], second: dict[str, float]
) -> None:
    better, worse = mask("cannot tell", **second), mask("cannot tell", **first)
    assert words.strongest({"adaptive": worse, "zero": better}) == "zero"
    assert words.strongest({"adaptive": better, "zero": worse}) == "adaptive"


def test_a_claim_of_specific_neurons_rests_on_the_largest_of_its_four_p() -> None:
    whole = mask("specific", p=0.001, adjusted_p=0.002, random=DRAWN, specific_adjusted_p=0.03)
    assert whole.claim_p == (1 / 220, 0.03)
    for name in ("p", "specific_p", "answers_p"):
        assert replace(whole, **{name: 0.02}).claim_p == (0.02, 0.03)
    assert replace(whole, random=replace(DRAWN, p=0.02)).claim_p == (0.02, 0.03)
    assert replace(whole, verdict="lowers accuracy").claim_p == (0.001, 0.002)
    # The smaller McNemar's p is not the better claim.
    other = replace(whole, p=0.002, adjusted_p=0.004, specific_adjusted_p=0.02)
    assert words.strongest({"adaptive": whole, "zero": other}) == "zero"
    assert words.strongest({"adaptive": other, "zero": whole}) == "adaptive"


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (1 / 220, "0.00455"), (11 / 220, "0.05"),
     (11 / 219, "0.0502"), (0.25, "0.25"), (1.0, "1")],
)  # fmt: skip
def test_a_p_value_times_the_number_of_labels_stays_on_its_side_of_the_level(p: float, shown: str) -> None:
    assert p_value(p) == shown
    assert words.p_told(p) == ("p < 0.001" if p < 0.001 else f"p = {shown}")


def test_the_best_claim_is_that_of_the_method_and_number_of_largest_difference() -> None:
    def curve(*heights: Heights) -> Curve:
        return Curve(tuple(map(CurvePoint, (4, 8), heights)), heights[-1])

    deep = curve(Heights(-0.1, 0.0, 0.0), Heights(-0.4, 0.1, -0.01))
    flat = curve(Heights(-0.5, -0.5, 0.0), Heights(-0.6, -0.55, 0.0))
    ended = Curve((CurvePoint(3, Heights(-0.2, 0.0, None)),), Heights(-0.2, 0.0, None))
    result = make_methods({"tone": ["calm", "loud"]})
    labels = {"calm": (deep, flat), "loud": (ended, flat)}
    compared = {
        label: LabelMethods(9, {"paper": MethodResult(3, None, paper), "lee": MethodResult(3, None, lee)}, None)
        for label, (paper, lee) in labels.items()
    }
    result = replace(result, tasks={"tone": replace(result.tasks["tone"], labels=compared)})
    line = words.best_claim(result)
    # The mean of −40 points and of −20, where the curve has ended; that of random sets is calm's alone.
    assert line.startswith(
        "With each label's 8 best neurons by paper set to zero, accuracy on the label's own test sentences changes by "
        "−30.0 points, on the other labels' by +5.0; with as many random neurons by −1.0 (means over 2 labels)."
    )
    worse = {label: replace(of_label, methods=dict.fromkeys(("paper", "lee"), MethodResult(0, None, Curve((), None))))
             for label, of_label in compared.items()}  # fmt: skip
    result = replace(result, tasks={"tone": replace(result.tasks["tone"], labels=worse)})
    assert words.best_claim(result) == (
        "No method's neurons matter more for their label's own sentences than for the others'."
    )


def test_numbers_as_words() -> None:
    assert words.decimal(-0.04, 1) == "0.0"
    assert words.signed(-0.04, 1) == words.signed(0.04, 1) == "0.0"
    assert words.signed(-9.26, 1) == "−9.3"
    assert words.points(0.0123) == "+1.2"
    assert words.layer_names(["model.layers.10.mlp", "model.layers.2.mlp"]) == ("layer", ["10", "2"])
    assert words.layer_names(["a.0.x1", "b.0.x2"]) == ("site, in the order of the forward pass", ["0", "1"])
