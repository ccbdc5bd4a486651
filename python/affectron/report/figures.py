"""Figures of the report: each function takes numbers and returns one drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from affectron.evaluation.verdicts import Effect
from affectron.experiments.results import MASKS, LabelInduction, LabelResult, TaskResult
from affectron.report import alternatives
from affectron.report.drawing import (
    BAND,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    SKY,
    STYLE,
    VERMILLION,
    WIDTH,
    Drawing,
    drawn,
    grid,
    ink_on,
    short,
)
from affectron.report.text import decimal, layer_names

#: Change of accuracy of the darkest colours of a heat map, a fraction.
MOST_CHANGE = 0.5
CHANGE_SCALE = f"The strongest colours stand for {100 * MOST_CHANGE:g} points and more."
MASK_STYLE = {"adaptive": (VERMILLION, "o"), "zero": (BLUE, "s"), "mean": (GREEN, "D")}


def accuracy_figure(tasks: Mapping[str, TaskResult]) -> Drawing:
    """Accuracy change in points (x) by label (y): one panel a task, a mark with its interval for each mask, and behind
    it the range of the mask's first random sets as a band with their mean as a line."""
    tasks = {name: task for name, task in tasks.items() if task.results}
    results = [result for task in tasks.values() for result in task.results.values()]
    rows = [len(task.results) for task in tasks.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.5 * sum(rows) + 0.35 * len(rows)), layout="constrained")
        panels = figure.subplots(
            len(tasks), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 0.5 for n in rows]}
        )[:, 0]
        for axes, (name, task) in zip(panels, tasks.items(), strict=True):
            _accuracy_panel(axes, name, task)
        panels[-1].set_xlabel("change of accuracy on the label's own test sentences, in points")
        handles: list[Any] = [
            Line2D([], [], color=color, marker=marker, markersize=6, linewidth=1.6, label=f"{name} mask")
            for name, (color, marker) in MASK_STYLE.items()
            if any(name in result.masks for result in results)
        ]
        if any(mask.random for result in results for mask in result.masks.values()):
            handles.append(Patch(facecolor=BAND, label="first random sets: range"))
            handles.append(Line2D([], [], color="#777777", marker="|", markersize=11, linestyle="", label="their mean"))
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.4)
        return drawn(figure, alternatives.accuracy(tasks))


def _accuracy_panel(axes: Axes, name: str, task: TaskResult) -> None:
    """The panel of the task ``name``."""
    axes.set_title(short(name, 60))
    axes.grid(axis="x")
    axes.axvline(0, color="#777777", linewidth=1.0, zorder=1)
    for row, (_, result) in enumerate(task.in_order()):
        for offset, mask_name in zip((-0.24, 0.0, 0.24), MASKS, strict=True):
            if mask_name not in result.masks:
                continue
            mask, height = result.masks[mask_name], row + offset
            if mask.random:
                low, high = (100 * value for value in mask.random.interval)
                axes.fill_between([low, high], height - 0.11, height + 0.11, color=BAND, linewidth=0, zorder=0.9)
                # One random set, or equal ones, make a band of no width: the mean's line still shows it.
                mean = 100 * mask.random.mean
                axes.plot([mean, mean], [height - 0.11, height + 0.11], color="#777777", linewidth=1.2, zorder=1.5)
            color, marker = MASK_STYLE[mask_name]
            axes.plot([100 * v for v in mask.interval], [height] * 2, color=color, linewidth=1.6, zorder=2)
            axes.plot(
                100 * mask.delta, height, marker=marker, color=color, markersize=6,
                markeredgecolor="white", markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
    axes.set_yticks(range(len(task.results)), [f"{short(label)}  (n = {r.sentences})" for label, r in task.in_order()])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(task.results) - 0.5, -0.5)


def layers_figure(
    selected: Mapping[str, Mapping[str, int]], masked: Mapping[str, Mapping[str, int]], sites: Sequence[str]
) -> Drawing:
    """Neurons by site, one panel a label: bars of the selected ones, in front those that the adaptive mask took.

    Args:
        selected: label -> site -> number of neurons.
        masked: the same for the masked neurons; empty where nothing was validated.
        sites: the sites in forward order, one bar position each.
    """
    axis, names = layer_names(sites)
    position = {site: number for number, site in enumerate(sites)}
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(selected), 1.55, 0.75)
        for axes, (label, counts) in zip(panels, selected.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(short(label))
            axes.bar([position[s] for s in counts], list(counts.values()), width=0.82, color=SKY, zorder=2)
            taken = masked.get(label, {})
            axes.bar([position[s] for s in taken], list(taken.values()), width=0.46, color=VERMILLION, zorder=3)
            axes.set_xlim(-0.6, len(sites) - 0.4)
            step = -(-len(sites) // 8)
            ticks = range(0, len(sites), step)
            axes.set_xticks(ticks, [short(names[tick], 12) for tick in ticks])
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel(axis, fontsize=9)
        figure.supylabel("neurons", fontsize=9)
        handles = [Patch(facecolor=SKY, label="selected")]
        if masked:
            handles.append(Patch(facecolor=VERMILLION, label="of these, in the final adaptive mask"))
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
        return drawn(figure, alternatives.layers(selected, masked, sites))


def overlap_figure(
    labels: Sequence[str], jaccard: NDArray[np.float64], sizes: Sequence[int], tasks: Sequence[str]
) -> Drawing:
    """Jaccard overlap of the labels' neurons as a heat map with its numbers, white at 0 and darkest at 1; the diagonal
    carries the set sizes.

    Args:
        labels, sizes, tasks: name, number of neurons and task of each row.
        jaccard: [L, L], intersection over union.
    """
    count = len(labels)
    off = ~np.eye(count, dtype=bool) & ~np.isnan(jaccard)
    cell = min(0.56, 6.6 / count)
    size = 8.5 * min(1.0, cell / 0.45)
    colors = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", SKY, BLUE, "#003A5C"])
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.6 + cell * count, 1.5 + cell * count), layout="constrained")
        axes = figure.subplots()
        for row in range(count):
            for column in range(count):
                if row == column:
                    fill, text = "#F0F0F0", f"n={sizes[row]}"
                elif off[row, column]:
                    fill, text = to_hex(colors(jaccard[row, column])), decimal(jaccard[row, column], 2)
                else:  # neither label has a neuron: no index
                    fill, text = "#FFFFFF", "–"
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="#DDDDDD", linewidth=0.6)
                )
                axes.text(
                    column, row, text, ha="center", va="center_baseline", color=ink_on(fill),
                    fontsize=0.88 * size if row == column else size,
                )  # fmt: skip
        for edge in (row for row in range(1, count) if tasks[row] != tasks[row - 1]):
            axes.axhline(edge - 0.5, color=INK, linewidth=1.4)
            axes.axvline(edge - 0.5, color=INK, linewidth=1.4)
        names = [short(label) for label in labels]
        axes.set_yticks(range(count), names)
        axes.set_xticks(range(count), names, rotation=45, ha="left", rotation_mode="anchor")
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_aspect("equal")
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        return drawn(figure, alternatives.overlap(labels, jaccard), heat=True)


def trace_figure(results: Mapping[str, LabelResult], min_drop: float | None) -> Drawing:
    """The feedback loop on the dev split, one panel a label: drop of accuracy in points (y) against the rounds (x),
    whose ticks name the attenuation alpha and the masked share; the wanted drop as a dashed line."""
    results = {label: result for label, result in results.items() if result.trace}
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(results), 1.75, 0.75)
        for axes, (label, result) in zip(panels, results.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(short(label))
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            if min_drop is not None:
                axes.axhline(100 * min_drop, color=ORANGE, linewidth=1.6, linestyle=(0, (4, 2)), zorder=1.5)
            drops = [100 * step.dev_drop for step in result.trace]
            axes.plot(range(len(drops)), drops, color=BLUE, linewidth=1.5, marker="o", markersize=4, zorder=2)
            for position, step in enumerate(result.trace):
                if (step.reference, step.alpha, step.share) == (result.reference, result.alpha, result.share):
                    axes.plot(position, drops[position], color=VERMILLION, marker="o", markersize=7, zorder=3)
            # At most five ticks have room; the last round always has one.
            ticks = range(len(drops) - 1, -1, -max(1, -(-(len(drops) - 1) // 4)))
            steps = [result.trace[tick] for tick in ticks]
            axes.set_xticks(ticks, [f"{decimal(step.alpha, 2)}\n{decimal(100 * step.share, 0)} %" for step in steps])
            axes.set_xlim(-0.35, max(len(drops) - 1, 1) + 0.35)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel("round of the loop, named by its α and its share of the neurons", fontsize=9)
        figure.supylabel("drop on dev, in points", fontsize=9)
        handles = [
            Line2D([], [], color=BLUE, marker="o", markersize=4, linewidth=1.5, label="round"),
            Line2D([], [], color=VERMILLION, marker="o", markersize=7, linestyle="", label="setting used on test"),
        ]
        if min_drop is not None:
            handles.append(Line2D([], [], color=ORANGE, linewidth=1.6, linestyle=(0, (4, 2)), label="wanted drop"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return drawn(figure, alternatives.trace(results))


def induction_figure(curves: Mapping[str, LabelInduction], betas: Sequence[float]) -> Drawing:
    """Share of predictions that move to the label (y, in per cent) against beta (x), one panel a label, with its 95 %
    interval; dashed, the same shift at random neurons; dotted, the share without intervention."""
    order = np.argsort(betas, kind="stable")
    x = np.array(betas)[order]
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(curves), 1.65, 0.75)
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _curve_panel(axes, label, x)
            axes.axhline(100 * curve.baseline, color="#777777", linewidth=1.2, linestyle=":")
            low, high = 100 * np.array(curve.interval)[order].T
            axes.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0)
            axes.plot(x, 100 * np.array(curve.share)[order], color=BLUE, linewidth=1.5, marker="o", markersize=4.5)
            if curve.random:
                axes.plot(
                    x, 100 * np.array(curve.random)[order],
                    color=VERMILLION, linewidth=1.3, linestyle=(0, (4, 2)), marker="s", markersize=3.5,
                )  # fmt: skip
        panels[0].set_ylim(bottom=0)  # the panels share it; set once all curves are in
        figure.supxlabel("β", fontsize=9)
        figure.supylabel("predicted as the label, %", fontsize=9)
        handles = [
            Line2D([], [], color=BLUE, marker="o", markersize=4.5, linewidth=1.5, label="the label's neurons"),
            Line2D([], [], color="#777777", linewidth=1.2, linestyle=":", label="no shift"),
        ]
        if any(curve.random for curve in curves.values()):
            dashed = Line2D([], [], color=VERMILLION, linewidth=1.3, linestyle=(0, (4, 2)), marker="s", markersize=3.5)
            dashed.set_label("random neurons")
            handles.insert(1, dashed)
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return drawn(figure, alternatives.induction(curves, betas))


def fluency_figure(curves: Mapping[str, LabelInduction], betas: Sequence[float]) -> Drawing:
    """Change of the loss of a token under induction, in nats (y), against beta (x), one panel a label."""
    order = np.argsort(betas, kind="stable")
    x = np.array(betas)[order]
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(curves), 1.65, 0.45)
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _curve_panel(axes, label, x)
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            values = np.array([np.nan if loss is None else loss for loss in curve.loss_delta])
            axes.plot(x, values[order], color=GREEN, linewidth=1.5, marker="D", markersize=4)
        figure.supxlabel("β", fontsize=9)
        figure.supylabel("change of loss, nats a token", fontsize=9)
        return drawn(figure, alternatives.fluency(curves, betas))


def _curve_panel(axes: Axes, label: str, betas: NDArray[np.float64]) -> None:
    """Prepare a panel over all ``betas``, also those without a value."""
    axes.update_datalim([(betas[0], 0), (betas[-1], 0)])
    axes.grid(axis="y")
    axes.set_title(short(label))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]


def sweep_figure(rows: Mapping[str, Sequence[Effect | None]], settings: Sequence[str], axis: str) -> Drawing:
    """Change of accuracy in points (y) under each setting (x), one panel a label: a mark with its 95 % interval, and
    a grey band over the range of the first random sets.

    Args:
        rows: label -> the effect of each setting, None where no neuron was masked.
        settings: labels of the ticks.
        axis: label of the axis.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(rows), 1.6, 0.75)
        for axes, (label, effects) in zip(panels, rows.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(short(label))
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            for x, effect in enumerate(effects):
                if effect is None:
                    continue
                if effect.random:
                    low, high = (100 * value for value in effect.random.interval)
                    mean = 100 * effect.random.mean
                    axes.fill_between([x - 0.36, x + 0.36], low, high, color=BAND, linewidth=0, zorder=0.9)
                    axes.plot([x - 0.36, x + 0.36], [mean, mean], color="#777777", linewidth=1.1, zorder=1.5)
                axes.plot([x] * 2, [100 * v for v in effect.interval], color=VERMILLION, linewidth=1.6, zorder=2)
                axes.plot(
                    x, 100 * effect.delta, marker="o", color=VERMILLION, markersize=5.5,
                    markeredgecolor="white", markeredgewidth=0.7, zorder=3,
                )  # fmt: skip
            axes.set_xticks(range(len(settings)), settings, fontsize=8)
            axes.set_xlim(-0.6, len(settings) - 0.4)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel(axis, fontsize=9)
        figure.supylabel("change of accuracy, points", fontsize=9)
        handles = [
            Line2D([], [], color=VERMILLION, marker="o", markersize=5.5, linewidth=1.6, label="the label's neurons"),
            Patch(facecolor=BAND, label="first random sets: range and mean"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
        return drawn(figure, alternatives.sweep(rows, settings, axis))


def matrix_figure(
    rows: Sequence[str],
    columns: Sequence[str],
    values: NDArray[np.float64],
    *,
    subject: str,
    written: Callable[[float], str],
    bound: float,
    bold: NDArray[np.bool_] | None = None,
) -> Drawing:
    """A heat map with its numbers: white at zero, orange below and blue above, the darker the farther from zero, up to
    ``bound``. The scale does not follow the values, so that small ones look small.

    Args:
        values: [rows, columns]; NaN is shown as a dash.
        subject: name of the values, with their unit.
        written: a value as text.
        bound: absolute value of the darkest colours; larger values have them too.
        bold: cells to be framed.
    """
    colors = LinearSegmentedColormap.from_list(
        "orange to blue", ["#7A3300", VERMILLION, "#F3C6A5", "#FFFFFF", "#A9D3EE", BLUE, "#003A5C"]
    )
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.4 + 0.66 * len(columns), 1.4 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row in range(len(rows)):
            for column in range(len(columns)):
                value = float(values[row, column])
                missing = bool(np.isnan(value))
                fill = "#FFFFFF" if missing else to_hex(colors(0.5 + 0.5 * value / bound))
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="#DDDDDD", linewidth=0.6)
                )
                axes.text(
                    column, row, "–" if missing else written(value), ha="center", va="center_baseline",
                    color=ink_on(fill), fontsize=8.5,
                )  # fmt: skip
        for row, column in np.argwhere(bold) if bold is not None else ():
            frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.6)
            axes.add_patch(frame)
        axes.set_yticks(range(len(rows)), [short(name) for name in rows])
        axes.set_xticks(range(len(columns)), [short(name) for name in columns], rotation=45, ha="left",
                        rotation_mode="anchor")  # fmt: skip
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        return drawn(figure, alternatives.matrix(rows, columns, values, subject, written, bold), heat=True)


def ranked_figure(
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Sequence[float]]] | None,
    axis: str,
    limits: tuple[float, float],
    line: float,
) -> Drawing:
    """A value of each neuron (y), highest first (x), one panel a label.

    Args:
        values: label -> the neurons' values.
        intervals: label -> their intervals, as (low, high); None for none.
        axis: label of the y axis.
        limits: of the y axis.
        line: where a dotted line is drawn.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(values), 1.5, 0.45)
        for axes, (label, of_label) in zip(panels, values.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(short(label))
            axes.axhline(line, color="#777777", linewidth=1.0, linestyle=":", zorder=1)
            order = np.argsort(-np.array(of_label), kind="stable")
            if intervals is not None:
                for rank, neuron in enumerate(order, start=1):
                    axes.plot([rank] * 2, intervals[label][neuron], color=SKY, linewidth=1.2, zorder=1.5)
            ranks = range(1, len(order) + 1)
            axes.plot(ranks, np.array(of_label)[order], color=BLUE, linestyle="", marker="o", markersize=3, zorder=2)
            axes.set_ylim(*limits)
            axes.set_xlim(0.2, max(len(order), 1) + 0.8)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel("neurons of the label, highest first", fontsize=9)
        figure.supylabel(axis, fontsize=9)
        return drawn(figure, alternatives.ranked(values, axis, line))
