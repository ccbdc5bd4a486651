"""Text alternatives of the figures: each says in numbers what its figure shows. Labels stand in the figure's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from affectron._internal.wording import count
from affectron.evaluation.verdicts import Effect
from affectron.experiments.results import (
    MASKS,
    CurvePoint,
    LabelEstimate,
    LabelInduction,
    LabelResult,
    MethodGeneration,
    TaskResult,
)
from affectron.report.text import decimal, index, layer_names, percent, points, signed, span


def _told(subject: str, parts: Mapping[str, Iterable[str]]) -> str:
    """The subject, then for each name its parts: ``Accuracy. anger: zero mask −27.0 points; fear: …``."""
    listed = "; ".join(f"{name}: {', '.join(of_name)}" for name, of_name in parts.items())
    return f"{subject}. {listed}."


def _effect(effect: Effect) -> str:
    others = "" if effect.others_delta is None else f", others {points(effect.others_delta)}"
    random = "" if effect.random is None else f", random sets {span(effect.random.interval)}"
    return f"{points(effect.delta)} points, interval {span(effect.interval)}{others}{random}"


def accuracy(tasks: Mapping[str, TaskResult]) -> str:
    results = {label: result for task in tasks.values() for label, result in task.in_order()}
    parts = {
        f"{label}, {count(result.sentences, 'sentence')}": [
            f"{mask} mask {_effect(result.masks[mask])}" for mask in MASKS if mask in result.masks
        ] or ["not tested"]
        for label, result in results.items()
    }  # fmt: skip
    return _told("Change of accuracy on each label's own test sentences", parts)


def layers(
    selected: Mapping[str, Mapping[str, int]], masked: Mapping[str, Mapping[str, int]], sites: Sequence[str]
) -> str:
    axis, short = layer_names(sites)
    names = dict(zip(sites, short, strict=True))
    parts = {}
    for label, counts in selected.items():
        parts[label] = [f"{sum(counts.values()):,} selected"]
        if any(counts.values()):
            most = max(counts, key=lambda site: counts[site])
            parts[label].append(f"most at {names[most]} ({counts[most]:,})")
        if label in masked:
            parts[label].append(f"{sum(masked[label].values()):,} masked")
    return _told(f"Neurons by {axis}", parts)


def overlap(labels: Sequence[str], jaccard: NDArray[np.float64]) -> str:
    return f"Jaccard index of the neurons of two labels. {_extremes(labels, labels, jaccard, index, True)}."


def matrix(
    rows: Sequence[str], columns: Sequence[str], values: NDArray[np.float64], subject: str,
    written: Callable[[float], str], framed: NDArray[np.bool_] | None,
) -> str:  # fmt: skip
    marked = [] if framed is None else [
        f"{rows[row]} with {columns[column]} {written(float(values[row, column]))}"
        for row, column in np.argwhere(framed)
    ]  # fmt: skip
    frames = "" if framed is None else f" Framed: {'; '.join(marked) or 'none'}."
    same = list(rows) == list(columns)
    # Of a table of pairs each value stands twice.
    return f"{subject}. {_extremes(rows, columns, values, written, same)}.{frames}"


def _extremes(
    rows: Sequence[str],
    columns: Sequence[str],
    values: NDArray[np.float64],
    written: Callable[[float], str],
    pairs: bool,
) -> str:
    """The lowest and the highest value with their places; of pairs those above the diagonal."""
    known = [
        (float(values[row, column]), f"{rows[row]} with {columns[column]}")
        for row in range(len(rows))
        for column in range(row + 1 if pairs else 0, len(columns))
        if not np.isnan(values[row, column])
    ]
    if not known:
        return "No values"
    low, high = min(known, key=lambda one: one[0]), max(known, key=lambda one: one[0])
    middle = float(np.median([value for value, _ in known]))
    return (
        f"Of {count(len(known), 'value')} the lowest is {written(low[0])} ({low[1]}), the highest {written(high[0])} "
        f"({high[1]}), the median {written(middle)}"
    )


def trace(results: Mapping[str, LabelResult]) -> str:
    parts = {
        label: [
            f"round {number} {points(step.dev_drop)}" + (
                " (used on test)"
                if (step.reference, step.alpha, step.share) == (result.reference, result.alpha, result.share)
                else ""
            )
            for number, step in enumerate(result.trace, start=1)
        ]
        for label, result in results.items()
    }  # fmt: skip
    return _told("Drop of accuracy on dev in each round, in points", parts)


def induction(curves: Mapping[str, LabelInduction], betas: Sequence[float]) -> str:
    parts = {}
    for label, curve in curves.items():
        parts[label] = [f"without shift {percent(curve.baseline)}"]
        for place in np.argsort(betas, kind="stable"):
            random = "" if curve.random is None else f" (random {percent(curve.random[place])})"
            parts[label].append(f"β {betas[place]:g} {percent(curve.share[place])}{random}")
    return _told("Share of other labels' sentences predicted as the label", parts)


def fluency(curves: Mapping[str, LabelInduction], betas: Sequence[float]) -> str:
    order = np.argsort(betas, kind="stable")
    parts = {
        label: [
            f"β {betas[place]:g} " + ("not finite" if (loss := curve.loss_delta[place]) is None else signed(loss, 2))
            for place in order
        ]
        for label, curve in curves.items()
    }
    return _told("Change of the loss of a token, in nats", parts)


def sweep(rows: Mapping[str, Sequence[Effect | None]], settings: Sequence[str], axis: str) -> str:
    parts = {
        label: [
            f"{setting} {'no neuron' if effect is None else _effect(effect)}"
            for setting, effect in zip(settings, effects, strict=True)
        ]
        for label, effects in rows.items()
    }
    return _told(f"Change of accuracy by {axis}", parts)


def ranked(values: Mapping[str, Sequence[float]], axis: str, line: float) -> str:
    parts = {
        label: [
            f"{count(len(found), 'neuron')} from {decimal(min(found), 2)} to {decimal(max(found), 2)}",
            f"median {decimal(float(np.median(found)), 2)}",
            f"{sum(value > line for value in found):,} above {line:g}",
        ]
        for label, found in values.items()
    }
    return _told(axis[:1].upper() + axis[1:], parts)


def curves(panels: Mapping[str, Sequence[CurvePoint]], lines: Mapping[str, str]) -> str:
    """``lines``: field of a height -> its name."""
    parts = {}
    for title, found in panels.items():
        parts[title] = [
            " ".join([name, *(f"{points(height)} at {number:,}" for number, height in known)])
            for field, name in lines.items()
            if (known := [(p.masked, height) for p in found if (height := getattr(p.height, field)) is not None])
        ]
    return _told("Change of accuracy in points at each number of neurons set to zero", parts)


def estimate(labels: Mapping[str, LabelEstimate]) -> str:
    parts = {}
    for label, found in labels.items():
        parts[label] = [] if found.correlation is None else [f"rank correlation {decimal(found.correlation, 2)}"]
        for selected, name in ((True, "selected"), (False, "random")):
            effects = [neuron.effect for neuron in found.neurons if neuron.selected is selected]
            mean = f", mean effect {decimal(float(np.mean(effects)), 3)}" if effects else ""
            parts[label].append(f"{count(len(effects), f'{name} neuron')}{mean}")
    return _told("Effect of zeroing a neuron alone, and its attribution", parts)


def generation(labels: Mapping[str, Mapping[str, MethodGeneration]]) -> str:
    parts = {
        label: [
            f"{method} {percent(found.score.success)} at a rise of {decimal(found.score.rise, 2)} nats"
            for method, found in methods.items()
        ]
        for label, methods in labels.items()
    }
    return _told("Share of texts that the judge gives to the label", parts)
