"""Figures on masked neurons: effect over their number, and effect against attribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from affectron.experiments.results import CurvePoint, LabelEstimate
from affectron.report import alternatives
from affectron.report.drawing import BLUE, STYLE, VERMILLION, Drawing, drawn, grid, short

GREY = "#777777"
#: Field of a height -> its line: legend, colour, dashes and marker, from the back to the front.
_LINES: dict[str, tuple[str, str, Any, str]] = {
    "random": ("random neurons", GREY, "-", "s"),
    "others": ("other labels' sentences", BLUE, (0, (4, 2)), "D"),
    "own": ("own sentences", VERMILLION, "-", "o"),
}


def curves_figure(panels: Mapping[str, Sequence[CurvePoint]]) -> Drawing:
    """Change of accuracy in points (y) over the number of zeroed neurons (x, logarithmic), a panel each.

    Args:
        panels: title -> points, ascending in number.
    """
    ticks = sorted({point.masked for points in panels.values() for point in points})
    with matplotlib.rc_context(STYLE):
        figure, axes_of = grid(len(panels), 1.75, 0.75)
        for axes, (title, points) in zip(axes_of, panels.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(short(title))
            axes.axhline(0, color=GREY, linewidth=0.9, zorder=1)
            x = [point.masked for point in points]
            for order, (name, (_, color, style, marker)) in enumerate(_LINES.items()):
                heights = np.array([getattr(point.height, name) for point in points], dtype=np.float64)
                axes.plot(
                    x, 100 * heights, color=color, linestyle=style, linewidth=1.5, marker=marker,
                    markersize=4.5 if name == "own" else 3, zorder=2 + order,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
            own = x if len(x) <= 8 else [x[0], x[-1]]
            axes.xaxis.set_major_locator(FixedLocator(own))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel("neurons set to zero, the best of the ranking", fontsize=9)
        figure.supylabel("change of accuracy, points", fontsize=9)
        handles = [
            Line2D([], [], color=color, linestyle=style, marker=marker, markersize=4, linewidth=1.5, label=told)
            for told, color, style, marker in reversed(_LINES.values())
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return drawn(figure, alternatives.curves(panels, {field: told for field, (told, *_) in _LINES.items()}))


def estimate_figure(labels: Mapping[str, LabelEstimate]) -> Drawing:
    """Effect of zeroing each neuron alone (y) against its mean attribution (x), a panel a label with scales of its own;
    dotted, where the two are equal."""
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(labels), 1.75, 0.75, one_scale=False)
        for axes, (label, estimate) in zip(panels, labels.items(), strict=True):
            axes.grid()
            told = "" if estimate.correlation is None else f"  ρ {estimate.correlation:.2f}"
            axes.set_title(short(label) + told)
            axes.axline((0, 0), slope=1, color=GREY, linewidth=1.0, linestyle=":", zorder=1)
            for selected, color, marker in ((False, GREY, "s"), (True, VERMILLION, "o")):
                neurons = [neuron for neuron in estimate.neurons if neuron.selected is selected]
                axes.plot(
                    [neuron.attribution for neuron in neurons], [neuron.effect for neuron in neurons],
                    color=color, marker=marker, linestyle="", markersize=3.2, alpha=0.8, zorder=2 + selected,
                )  # fmt: skip
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        figure.supxlabel("mean attribution, in units of the metric", fontsize=9)
        figure.supylabel("effect of zeroing it alone", fontsize=9)
        handles = [
            Line2D([], [], color=VERMILLION, marker="o", linestyle="", markersize=4, label="selected neurons"),
            Line2D([], [], color=GREY, marker="s", linestyle="", markersize=4, label="random neurons"),
            Line2D([], [], color=GREY, linewidth=1.0, linestyle=":", label="effect = attribution"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return drawn(figure, alternatives.estimate(labels))
