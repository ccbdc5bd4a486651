"""Numbers and sentences of the report."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from affectron._internal.wording import count
from affectron.experiments.results import LabelResult, Mask, RandomSets
from affectron.report import text as words


@given(st.text(max_size=60), st.text(max_size=60))
def test_names_of_files_are_safe_and_never_shared(one: str, other: str) -> None:
    for text in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,49}", words.file_name(text))
    assert (words.file_name(one) == words.file_name(other)) == (one == other)


def test_counts_agree_with_their_nouns() -> None:
    assert count(1, "neuron") == "1 neuron"
    assert [count(n, "neuron") for n in (0, 2, 1024)] == ["0 neurons", "2 neurons", "1,024 neurons"]
    assert [count(n, "axis", "axes") for n in (1, 2)] == ["1 axis", "2 axes"]


def label_result(beats: bool | None, interval: tuple[float, float] | None) -> LabelResult:
    """A label whose adaptive mask has this interval (None: no adaptive mask), and beats the random sets or not (None:
    there are no random sets)."""
    random = None if beats is None else RandomSets(20, (0.0,) * 20, -0.001, (-0.01, 0.01))
    masks = {}
    if interval is not None:
        masks["adaptive"] = Mask(0.5, -0.05 if beats else 0.0, interval, None, None, None, None, None)
    return LabelResult(9, (), "caps reached", 0.5, 0.3, 3, {}, 0.6, 80, masks, random, beats, None)


def test_the_summary_claims_an_effect_only_where_both_controls_agree() -> None:
    below, across = (-0.09, -0.01), (-0.09, 0.01)
    results = {
        f"{beats} {interval}": label_result(beats, interval)
        for beats in (True, False, None)
        for interval in (below, across, None)
    }
    lines = words.headline(results)
    for label, result in results.items():
        adaptive = result.masks.get("adaptive")
        # Each tested label stands in one sentence; a plain "fell beyond" needs both the random sets and the interval.
        assert sum(label in line for line in lines) == (adaptive is not None)
        line = next((line for line in lines if label in line), "")
        sure = result.beats_random is True and adaptive is not None and adaptive.interval == below
        assert ("fell beyond what random sets did, with an interval below zero" in line) == sure
        assert ("beyond the random sets, and the interval is below zero" in words.label_sentence(result)) == sure
    assert words.headline({}) == []


def test_numbers_as_words() -> None:
    assert words.decimal(-0.04, 1) == "0.0"
    assert words.signed(-0.04, 1) == words.signed(0.04, 1) == "0.0"
    assert words.signed(-9.26, 1) == "−9.3"
    assert words.points(0.0123) == "+1.2"
    assert words.layer_names(["model.layers.10.mlp", "model.layers.2.mlp"]) == ("layer", ["10", "2"])
    assert words.layer_names(["a.0.x1", "b.0.x2"]) == ("site, in the order of the forward pass", ["0", "1"])
