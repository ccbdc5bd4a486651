"""Numbers and sentences of the report."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from affectron._internal.wording import count
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


def mask(delta: float, verdict: str | None) -> Mask:
    random = None if verdict is None else RandomSets(20, (0.0,) * 20, -0.001, (-0.01, 0.01))
    beats = None if verdict is None else verdict == "specific"
    return Mask(0.5, delta, (delta - 0.1, delta + 0.1), None, None, None, None, random, beats, verdict, None)


def label_result(**masks: Mask) -> LabelResult:
    return LabelResult(9, (), "caps reached", "rms", 0.5, 0.3, 3, {}, 0.6, 80, masks)


def test_the_summary_names_every_label_under_its_verdict_and_begins_with_the_mask_of_most_specific_ones() -> None:
    results = {
        "one": label_result(zero=mask(-0.2, "specific"), adaptive=mask(0.0, "no effect")),
        "two": label_result(zero=mask(-0.4, "specific"), adaptive=mask(-0.1, "unspecific")),
        "three": label_result(zero=mask(0.0, "no effect"), adaptive=mask(-0.3, None)),
        "none": label_result(),
    }
    assert words.headline(results) == [
        "Neurons set to zero: specific for 2 of 3 labels (one and two; −30.0 points on average); no effect for 1 "
        "(three; 0.0 points on average).",
        "Neurons attenuated by the adaptive mask: unspecific for 1 of 3 labels (two; −10.0 points on average); no "
        "effect for 1 (one; 0.0 points on average); no verdict, without random sets, for 1 (three; −30.0 points on "
        "average).",
    ]
    for label, result in results.items():
        results[label] = LabelResult(**{**vars(result), "masks": {"adaptive": mask(-0.1, "specific")}})
    results["one"] = label_result(zero=mask(-0.2, "no effect"), adaptive=mask(-0.2, "specific"))
    assert [line.split(":")[0] for line in words.headline(results)] == [
        "Neurons attenuated by the adaptive mask", "Neurons set to zero",
    ]  # fmt: skip
    assert words.headline({}) == []


def test_a_label_s_sentence_has_each_mask_with_its_own_control() -> None:
    result = label_result(adaptive=mask(0.0, "no effect"), zero=mask(-0.2, "specific"))
    assert words.label_sentence(result) == (
        "from 60.0\u00a0% on 80 test sentences, with 3 of 9 neurons: set to zero, −20.0 points (−30.0 to −10.0), "
        "20 random sets −0.1: specific; attenuated by the adaptive mask, 0.0 points (−10.0 to +10.0), 20 random sets "
        "−0.1: no effect."
    )
    assert "set to zero, −20.0 points (−30.0 to −10.0), without random sets to compare with." in words.label_sentence(
        label_result(zero=mask(-0.2, None))
    )
    assert words.label_sentence(label_result()) == "not tested."


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
    (line,) = words.best_claim(result)
    # The mean of −40 points and of −20, where the curve has ended; that of random sets is calm's alone.
    assert line.startswith(
        "With each label's 8 best neurons by paper set to zero, accuracy on the label's own test sentences changes by "
        "−30.0 points, on the other labels' by +5.0; with as many random neurons by −1.0 (means over 2 labels)."
    )
    worse = {label: replace(of_label, methods=dict.fromkeys(("paper", "lee"), MethodResult(0, None, Curve((), None))))
             for label, of_label in compared.items()}  # fmt: skip
    result = replace(result, tasks={"tone": replace(result.tasks["tone"], labels=worse)})
    assert words.best_claim(result) == [
        "No method's neurons matter more for their label's own sentences than for the others'."
    ]
    assert words.best_claim(None) == []


def test_numbers_as_words() -> None:
    assert words.decimal(-0.04, 1) == "0.0"
    assert words.signed(-0.04, 1) == words.signed(0.04, 1) == "0.0"
    assert words.signed(-9.26, 1) == "−9.3"
    assert words.points(0.0123) == "+1.2"
    assert words.layer_names(["model.layers.10.mlp", "model.layers.2.mlp"]) == ("layer", ["10", "2"])
    assert words.layer_names(["a.0.x1", "b.0.x2"]) == ("site, in the order of the forward pass", ["0", "1"])
