"""Figures: marks, bars and numbers stand where the files say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.experiments.results import CurvePoint, EstimatedNeuron, Heights, LabelEstimate, Validation
from affectron.neurons import NeuronSet
from affectron.report import curves as figures_of_curves
from affectron.report import figures
from affectron.report.drawing import inline
from tests.report.reading import SVG, texts
from tests.support.results import (
    SITES,
)


def test_accuracy_figure_places_marks_at_the_numbers(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    root = ElementTree.parse(path.parent / "figure-accuracy.svg").getroot()
    legend = {use for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("legend") for use in group.iter()}
    results = [r for part in content["tasks"].values() for r in part["results"].values()]
    places, values = [], []
    for name, color in (("adaptive", "#d55e00"), ("zero", "#0072b2"), ("mean", "#009e73")):
        marks = [
            float(use.get("x", ""))
            for use in root.iter(f"{SVG}use")
            if use not in legend and f"fill: {color}" in use.get("style", "")
        ]
        assert len(marks) == len(results)
        places += marks
        values += [result["masks"][name]["delta"] for result in results]
    # One linear scale takes all deltas to their marks, to a hundredth of a point of the figure.
    slope, offset = np.polyfit(values, places, 1)
    assert slope > 0
    np.testing.assert_allclose(np.polyval([slope, offset], values), places, atol=0.01)


def test_trace_figure_marks_the_setting_used_on_test(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    root = ElementTree.parse(path.parent / "figure-trace.svg").getroot()
    panels = [node for node in root.iter(f"{SVG}g") if node.get("id", "").startswith("axes_")]
    results = [r for part in content["tasks"].values() for r in part["results"].values()]
    assert len([panel for panel in panels if len(panel) > 1]) == len(results)
    panels = [panel for panel in panels if len(panel) > 1]
    for panel, result in zip(panels, results, strict=True):
        rounds, used = (
            [use.get("x") for use in panel.iter(f"{SVG}use") if f"fill: {color}" in use.get("style", "")]
            for color in ("#0072b2", "#d55e00")
        )
        assert len(rounds) == len(result["trace"])
        place = [(step["alpha"], step["share"]) for step in result["trace"]].index((result["alpha"], result["share"]))
        assert used == [rounds[place]]


def test_trace_figure_marks_the_round_of_the_reference_used_on_test(whole: tuple[Path, dict[str, Any]]) -> None:
    """The same strength and share come again with the next reference."""
    result = next(iter(Validation.from_json(whole[1]).results.values()))
    rounds = tuple(
        replace(result.trace[0], reference=reference, alpha=alpha, share=alpha, dev_drop=alpha / 10)
        for reference in ("max", "rms")
        for alpha in (0.3, 0.4)
    )
    result = replace(result, trace=rounds, reference="rms", alpha=0.3, share=0.3)
    svg = figures.trace_figure({"calm": result}, None).svg
    (every,), (used,) = (marks(svg, color) for color in ("#0072b2", "#d55e00"))
    assert used == [every[2]]


def test_layer_figure_bars_are_the_counts(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    neurons = NeuronSet.load(path.parent.parent / "neurons.json")
    selected = [int(count) for row in neurons.site_counts()[1] for count in row]
    masked = [n for part in content["tasks"].values() for r in part["results"].values() for n in r["sites"].values()]
    root = ElementTree.parse(path.parent / "figure-layers.svg").getroot()
    legend = {node for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("legend") for node in g.iter()}
    scales = []
    for color, counts in (("#56b4e9", selected), ("#d55e00", masked)):
        heights = []
        for node in root.iter(f"{SVG}path"):
            if node not in legend and f"fill: {color}" in node.get("style", ""):
                ys = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", node.get("d", ""))]
                heights.append(max(ys) - min(ys))
        scales.append(max(heights) / max(counts))
        np.testing.assert_allclose(heights, np.array(counts) * scales[-1], atol=0.01)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_overlap_figure_shows_the_jaccard_numbers(whole: tuple[Path, dict[str, Any]]) -> None:
    path, _ = whole
    sets = {
        label: {(site, index) for site, index, _ in found}
        for label, found in json.loads((path.parent.parent / "neurons.json").read_text())["labels"].items()
    }
    expected = [
        f"n={len(a)}" if a is b else f"{len(a & b) / len(a | b):.2f}" for a in sets.values() for b in sets.values()
    ]
    assert [
        text for text in texts(path.parent / "figure-overlap.svg") if re.fullmatch(r"n=\d+|\d\.\d\d", text)
    ] == expected


@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=2, unique=True))
def test_any_label_makes_a_figure(labels: list[str]) -> None:
    selected = {label: {SITES[0]: place + 1} for place, label in enumerate(labels)}
    drawn = figures.layers_figure(selected, {}, SITES)
    # The label comes back as it is but for blanks, length and what XML cannot hold.
    shown = ["".join(node.itertext()) for node in ElementTree.fromstring(drawn.svg).iter(f"{SVG}text")]
    for label in labels:
        kept = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in label)
        assert not label.isprintable() or len(label) > 22 or (" ".join(kept.split()) or "(empty)") in shown
    ElementTree.fromstring(inline(drawn.svg, "f1", labels[0]))


def marks(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """For each panel the places of the marks of a colour, in the order of drawing."""
    panels = [node for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("id", "").startswith("axes_")]
    return [
        [
            (float(use.get("x", "")), float(use.get("y", "")))
            for use in panel.iter(f"{SVG}use")
            if f"fill: {color}" in use.get("style", "")
        ]
        for panel in panels
        if len(panel) > 1
    ]


def test_curves_are_the_heights_over_the_logarithm_of_the_number() -> None:
    points = {
        "one": [CurvePoint(count, Heights(-0.01 * count, 0.001 * count, 0.02)) for count in (4, 8, 16, 32)],
        "two": [CurvePoint(5, Heights(-0.3, None, None))],
    }
    svg = figures_of_curves.curves_figure(points).svg
    for color, name in (("#d55e00", "own"), ("#0072b2", "others"), ("#777777", "random")):
        first, second = marks(svg, color)
        x, y = np.array(first).T
        np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.01)  # each number is twice the one before
        heights = [getattr(point.height, name) for point in points["one"]]
        np.testing.assert_allclose(y - y[0], (np.array(heights) - heights[0]) * scale_of(svg), atol=0.02)
        assert len(second) == (name == "own")


def scale_of(svg: str) -> float:
    """Points of the figure for a change of accuracy of one, from the curve of the label's own sentences."""
    (_, first), *_, (_, last) = marks(svg, "#d55e00")[0]
    return (last - first) / (-0.32 + 0.04)


def test_the_estimate_has_a_mark_for_each_neuron() -> None:
    rng = np.random.default_rng(0)
    neurons = [
        EstimatedNeuron("site", index, index % 3 == 0, float(a), float(e))
        for index, (a, e) in enumerate(rng.normal(size=(11, 2)))
    ]
    svg = figures_of_curves.estimate_figure({"calm": LabelEstimate(9, tuple(neurons), 0.25, None, None)}).svg
    (selected,), (random,) = marks(svg, "#d55e00"), marks(svg, "#777777")
    shown = [one for one in neurons if one.selected] + [one for one in neurons if not one.selected]
    assert len(selected) == 4
    for places, values in zip(
        np.array([*selected, *random]).T, np.array([(one.attribution, one.effect) for one in shown]).T, strict=True
    ):
        slope, offset = np.polyfit(values, places, 1)
        np.testing.assert_allclose(np.polyval([slope, offset], values), places, atol=0.01)
    assert "ρ 0.25" in svg
