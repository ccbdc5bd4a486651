"""Figures: marks, bars and numbers stand where the files say."""

from __future__ import annotations

import html
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
from affectron.report.text import decimal
from tests.report.reading import SVG, Page, contrast, rgb, texts, written
from tests.support.results import SITES, make_effect, make_induction


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
    ElementTree.fromstring(inline(drawn, "f1", "Figure 1"))


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


def fills(svg: str) -> list[str]:
    """The colours of the cells of a heat map, in the order of drawing."""
    panel = next(node for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("id") == "axes_1")
    paths = [
        path.get("style", "")
        for group in panel.iter(f"{SVG}g")
        if group.get("id", "").startswith("patch_")
        for path in group.iter(f"{SVG}path")
    ]
    return [found[1] for style in paths if "#dddddd" in style and (found := re.search(r"fill: (#\w{6})", style))]


def darkness(color: str) -> float:
    return 1 - sum(int(color[place : place + 2], 16) for place in (1, 3, 5)) / 765


def test_one_sentence_of_forty_is_not_dark_whatever_the_other_values_are() -> None:
    small = np.array([[0.025, -0.025], [0.0, np.nan]])
    large = np.array([[0.025, -0.5], [0.8, np.nan]])
    names = ["a", "b"]
    one, other, most = (
        fills(figures.matrix_figure(names, ["x", "y"], values, subject="s", written=written, bound=0.5).svg)
        for values in (small, large, np.full((2, 2), figures.MOST_CHANGE))
    )
    assert one[0] == other[0]
    assert darkness(one[0]) < 0.06
    assert darkness(one[1]) < 0.06
    assert darkness(other[1]) > 0.5
    assert other[2] == most[0]
    index = [0.01, 1.0]
    pale, dark = (
        fills(figures.overlap_figure(names, np.array([[1.0, value], [value, 1.0]]), [3, 3], ["t", "t"]).svg)[1]
        for value in index
    )
    assert darkness(pale) < 0.03
    assert darkness(dark) > 0.5


def told(page: Path, name: str) -> str:
    """Text of a figure for a screen reader."""
    source = page.read_text(encoding="utf-8").split(f'<figure id="figure-{name}">')[1].split("</figure>")[0]
    tag = re.search(r"<svg[^>]*>", source)
    assert tag is not None
    assert 'role="img"' in tag[0]
    label = re.search(r'aria-label="([^"]*)"', tag[0])
    assert label is not None
    return html.unescape(label[1])


def test_the_text_of_the_accuracy_figure_has_every_change_of_the_file(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    text = told(path, "accuracy")
    for part in content["tasks"].values():
        for label, result in part["results"].items():
            of_label = text.split(f"{label}, {result['sentences']} sentences: ")[1].split(";")[0]
            for name, mask in result["masks"].items():
                low, high = map(written, mask["interval"])
                others, random = written(mask["others_delta"]), " to ".join(map(written, mask["random"]["interval"]))
                assert (
                    f"{name} mask {written(mask['delta'])} points, interval {low} to {high}, others {others}, "
                    f"random sets {random}"
                ) in of_label


def test_each_figure_of_a_page_says_what_it_shows_in_numbers(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    names = [name.removeprefix("figure-") for name in Page(path).ids if name.startswith("figure-")]
    assert {"accuracy", "layers", "overlap", "trace", "induction", "fluency"} <= set(names)
    texts = {name: told(path, name) for name in names}
    assert all(re.match(r"Figure \d+\. [A-Z].*\d.*\.$", text, re.S) for text in texts.values())
    neurons = NeuronSet.load(path.parent.parent / "neurons.json")
    labels, jaccard = neurons.overlap()
    highest = max(jaccard[i, j] for i in range(len(labels)) for j in range(i))
    assert f"the highest {highest:.2f} (" in texts["overlap"]
    results = {label: r for part in content["tasks"].values() for label, r in part["results"].items()}
    for label, result in results.items():
        assert f"{label}: {len(neurons[label])} selected, most at " in texts["layers"]
        assert f"{result['masked']} masked" in texts["layers"].split(f"{label}: ")[1].split(";")[0]
        drops = texts["trace"].split(f"{label}: ")[1].split(";")[0].rstrip(".").split(", ")
        assert [drop.removesuffix(" (used on test)") for drop in drops] == [
            f"round {number} {written(step['dev_drop'])}" for number, step in enumerate(result["trace"], start=1)
        ]


def test_the_loss_has_an_axis_to_the_last_dose_though_it_is_not_finite_there() -> None:
    result = make_induction({"tone": ["calm"]})
    curves = result.tasks["tone"]
    assert curves["calm"].loss_delta[-1] is None
    svg = figures.fluency_figure(curves, result.options.betas).svg
    ticks = ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert f"{result.options.betas[-1]:g}" in ticks


def test_texts_of_the_other_figures_are_their_numbers() -> None:
    points = [CurvePoint(4, Heights(-0.05, 0.01, None)), CurvePoint(8, Heights(-0.325, -0.02, 0.0))]
    assert figures_of_curves.curves_figure({"one": points}).told == (
        "Change of accuracy in points at each number of neurons set to zero. one: random neurons 0.0 at 8, other "
        "labels' sentences +1.0 at 4 −2.0 at 8, own sentences −5.0 at 4 −32.5 at 8."
    )
    neurons = (EstimatedNeuron("s", 0, True, 0.5, 0.25), EstimatedNeuron("s", 1, False, 0.5, 0.125))
    assert figures_of_curves.estimate_figure({"calm": LabelEstimate(9, neurons, -0.25, None, None)}).told == (
        "Effect of zeroing a neuron alone, and its attribution. calm: rank correlation −0.25, 1 selected neuron, mean "
        "effect 0.250, 1 random neuron, mean effect 0.125."
    )
    assert figures.ranked_figure({"calm": [0.25, 0.75, 1.0]}, None, "AUROC", (0, 1), 0.5).told == (
        "AUROC. calm: 3 neurons from 0.25 to 1.00, median 0.75, 2 above 0.5."
    )
    values = np.array([[-0.1, 0.02], [np.nan, 0.005]])
    framed = np.array([[True, False], [False, False]])
    drawing = figures.matrix_figure(
        ["a", "b"], ["x", "y"], values, subject="Change, in points", written=written, bound=0.5, bold=framed
    )
    assert drawing.told == (
        "Change, in points. Of 3 values the lowest is −10.0 (a with x), the highest +2.0 (a with y), the median +0.5. "
        "Framed: a with x −10.0."
    )
    cells = [text for node in ElementTree.fromstring(drawing.svg).iter(f"{SVG}text")
             if re.fullmatch(r"[−+]?\d+\.\d|–", text := "".join(node.itertext()))]  # fmt: skip
    assert cells == ["−10.0", "+2.0", "–", "+0.5"]
    effect = make_effect()
    drawing = figures.sweep_figure({"calm": [effect, None]}, ["all", "top"], "part")
    assert effect.random is not None
    low, high = map(written, effect.random.interval)
    assert drawing.told == (
        "Change of accuracy by part. calm: all −10.0 points, interval −20.0 to −5.0, others 0.0, random sets "
        f"{low} to {high}, top no neuron."
    )


def test_numbers_stand_out_from_every_colour_of_a_heat_map() -> None:
    shares = np.linspace(-1, 1, 81)
    names = [f"column {place}" for place in range(len(shares))]
    svg = figures.matrix_figure(
        ["row"], names, shares[None], subject="s", written=lambda share: decimal(share, 3), bound=1.0
    ).svg
    inks = []
    for node in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        if re.fullmatch(r"−?\d\.\d{3}", "".join(node.itertext())):
            ink = re.search(r"fill: (#\w{6})", node.get("style", ""))
            inks.append("#000000" if ink is None else ink[1])
    assert set(inks) == {"#000000", "#ffffff"}
    for ink, fill in zip(inks, fills(svg), strict=True):
        assert contrast(rgb(ink), rgb(fill)) >= 4.5, fill
