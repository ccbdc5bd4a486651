"""The figures of the report: apart because this is the only file that draws.

Every function takes plain numbers and returns one drawing, as SVG and as PNG. Text stays text (so that it can be
searched and copied, and so that a label in any script is set by the reader's own fonts), the same input gives the same
bytes, and no global state of matplotlib is touched. Colours are those of Okabe and Ito (2008), which stay
apart for readers with any common form of colour blindness; marks differ in shape too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from affectron.experiments.results import MASKS, LabelResult, TaskResult
from affectron.report.text import clean, decimal, layer_names

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
INK, FAINT, BAND = "#333333", "#D9D9D9", "#DDDDDD"

MASK_STYLE = {"adaptive": (VERMILLION, "o"), "zero": (BLUE, "s"), "mean": (GREEN, "D")}

#: Inches; 648 points, which a browser shows as 864 px: the text column of the report.
WIDTH = 9.0
COLUMNS = 4

_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "affectron",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
}


def _short(text: str, limit: int = 22) -> str:
    text = " ".join(clean(text).split()) or "(empty)"
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Drawing(NamedTuple):
    """A figure as an SVG document and as a PNG image of twice the resolution of a screen."""

    svg: str
    png: bytes


def _drawn(figure: Figure) -> Drawing:
    """The figure in both forms, with neither date nor version in them."""
    svg, png = io.StringIO(), io.BytesIO()
    with warnings.catch_warnings():
        # A label may use a script that the measuring font lacks; the reader's font sets it.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing.*")
        FigureCanvasSVG(figure)
        figure.savefig(
            svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), facecolor="none"
        )
        figure.set_layout_engine("none")  # the layout stays as it is: to find it again takes half of the time
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=192, metadata={"Software": None}, facecolor="white")
    return Drawing(svg.getvalue(), png.getvalue())


def inline(svg: str, name: str, title: str) -> str:
    """The SVG element for an HTML page: no prolog, ids made unique by ``name``, ``title`` for screen readers.

    Ids are renamed in the parsed tree and not in the text, because a label could look like an id.
    """
    space = "{http://www.w3.org/2000/svg}"
    link = "{http://www.w3.org/1999/xlink}href"
    ElementTree.register_namespace("", space[1:-1])
    ElementTree.register_namespace("xlink", link[1 : -len("}href")])
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet that matplotlib adds would apply to the whole page; its two rules inherit instead.
            if child.tag in (f"{space}style", f"{space}metadata"):
                parent.remove(child)
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
        if element.attrib.get(link, "").startswith("#"):
            element.set(link, f"#{name}-{element.attrib[link][1:]}")
        for key, value in element.attrib.items():
            if "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    width = float(root.attrib.pop("width").removesuffix("pt")) * 4 / 3
    root.attrib.pop("height")
    # Below the least width the page scrolls the figure instead of shrinking its letters further.
    sizes = f"min-width:{min(width, 560):.0f}px;max-width:{width:.0f}px"
    root.set("style", f"{sizes};stroke-linejoin:round;stroke-linecap:butt")
    root.set("role", "img")
    root.set("aria-label", clean(title))
    return ElementTree.tostring(root, encoding="unicode")


def accuracy_figure(tasks: Sequence[TaskResult]) -> Drawing:
    """Accuracy change in points (x) by label (y): one panel a task, a mark with its interval for each mask, and
    the random sets' interval as a band with their mean as a line."""
    tasks = [task for task in tasks if task.results]
    rows = [len(task.results) for task in tasks]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.5 * sum(rows) + 0.35 * len(rows)), layout="constrained")
        panels = figure.subplots(
            len(tasks), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 0.5 for n in rows]}
        )[:, 0]
        for axes, task in zip(panels, tasks, strict=True):
            _accuracy_panel(axes, task)
        panels[-1].set_xlabel("change of accuracy on the label's own test sentences, in points")
        handles: list[Any] = [
            Line2D([], [], color=color, marker=marker, markersize=6, linewidth=1.6, label=f"{name} mask")
            for name, (color, marker) in MASK_STYLE.items()
            if any(name in result.masks for task in tasks for result in task.results)
        ]
        if any(result.random for task in tasks for result in task.results):
            handles.append(Patch(facecolor=BAND, label="random sets: 95 % interval"))
            handles.append(
                Line2D([], [], color="#777777", marker="|", markersize=11, linestyle="", label="random sets: mean")
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.4)
        return _drawn(figure)


def _accuracy_panel(axes: Axes, task: TaskResult) -> None:
    axes.set_title(_short(task.name, 60))
    axes.grid(axis="x")
    axes.axvline(0, color="#777777", linewidth=1.0, zorder=1)
    for row, result in enumerate(task.results):
        if result.random:
            low, high = (100 * value for value in result.random.interval)
            axes.fill_between([low, high], row - 0.36, row + 0.36, color=BAND, linewidth=0, zorder=0.9)
            # One random set, or equal ones, make a band of no width: the mean's line still shows it.
            mean = 100 * result.random.mean
            axes.plot([mean, mean], [row - 0.36, row + 0.36], color="#777777", linewidth=1.2, zorder=1.5)
        for offset, name in zip((-0.22, 0.0, 0.22), MASKS, strict=True):
            if name not in result.masks:
                continue
            mask = result.masks[name]
            color, marker = MASK_STYLE[name]
            if mask.interval:
                axes.plot([100 * v for v in mask.interval], [row + offset] * 2, color=color, linewidth=1.6, zorder=2)
            axes.plot(
                100 * mask.delta, row + offset, marker=marker, color=color, markersize=6,
                markeredgecolor="white", markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
    axes.set_yticks(range(len(task.results)), [f"{_short(r.label)}  (n = {r.sentences})" for r in task.results])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(task.results) - 0.5, -0.5)


def _grid(count: int, panel_height: float, extra: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` small panels in reading order, with one vertical scale."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    width = WIDTH if columns >= 3 else 6.2  # less has no room for the legend
    figure = Figure(figsize=(width, extra + panel_height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(h_pad=0.07)
    flat = list(panels.flat)
    for axes in flat[count:]:
        axes.set_visible(False)
    return figure, flat[:count]


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
    position = {site: place for place, site in enumerate(sites)}
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(selected), 1.55, 0.75)
        for axes, (label, counts) in zip(panels, selected.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(_short(label))
            axes.bar([position[s] for s in counts], list(counts.values()), width=0.82, color=SKY, zorder=2)
            taken = masked.get(label, {})
            axes.bar([position[s] for s in taken], list(taken.values()), width=0.46, color=VERMILLION, zorder=3)
            axes.set_xlim(-0.6, len(sites) - 0.4)
            step = -(-len(sites) // 8)
            ticks = range(0, len(sites), step)
            axes.set_xticks(ticks, [_short(names[tick], 12) for tick in ticks])
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel(axis, fontsize=9)
        figure.supylabel("neurons", fontsize=9)
        handles = [Patch(facecolor=SKY, label="selected")]
        if masked:
            handles.append(Patch(facecolor=VERMILLION, label="of these, in the final adaptive mask"))
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
        return _drawn(figure)


def _ink_on(fill: str) -> str:
    """White or dark, whichever stands out more on the colour (relative luminance, WCAG 2)."""
    channels = np.array(to_rgb(fill))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#FFFFFF" if luminance < 0.26 else INK


def overlap_figure(
    labels: Sequence[str], jaccard: NDArray[np.float64], sizes: Sequence[int], tasks: Sequence[str]
) -> Drawing:
    """Jaccard overlap of the labels' neurons as a heat map with its numbers; the diagonal carries the set sizes.

    Args:
        labels, sizes, tasks: name, number of neurons and task of each row.
        jaccard: [L, L], intersection over union.
    """
    count = len(labels)
    off = ~np.eye(count, dtype=bool) & ~np.isnan(jaccard)
    scale = float(jaccard[off].max(initial=0.0)) or 1.0
    cell = min(0.56, 6.6 / count)
    size = 8.5 * min(1.0, cell / 0.45)
    colors = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", SKY, BLUE, "#003A5C"])
    with matplotlib.rc_context({**_RC, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.6 + cell * count, 1.5 + cell * count), layout="constrained")
        axes = figure.subplots()
        for row in range(count):
            for column in range(count):
                if row == column:
                    fill, text = "#F0F0F0", f"n={sizes[row]}"
                elif off[row, column]:
                    fill, text = to_hex(colors(jaccard[row, column] / scale)), decimal(jaccard[row, column], 2)
                else:  # neither label has a neuron: no index
                    fill, text = "#FFFFFF", "–"
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="#DDDDDD", linewidth=0.6)
                )
                axes.text(
                    column, row, text, ha="center", va="center_baseline", color=_ink_on(fill),
                    fontsize=0.88 * size if row == column else size,
                )  # fmt: skip
        for edge in (place for place in range(1, count) if tasks[place] != tasks[place - 1]):
            axes.axhline(edge - 0.5, color=INK, linewidth=1.4)
            axes.axvline(edge - 0.5, color=INK, linewidth=1.4)
        names = [_short(label) for label in labels]
        axes.set_yticks(range(count), names)
        axes.set_xticks(range(count), names, rotation=45, ha="left", rotation_mode="anchor")
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_aspect("equal")
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        return _drawn(figure)


def trace_figure(results: Sequence[LabelResult], min_drop: float | None) -> Drawing:
    """The feedback loop on the dev split, one panel a label: drop of accuracy in points (y) against the rounds (x),
    whose ticks name the attenuation alpha and the masked share; the wanted drop as a dashed line."""
    results = [result for result in results if result.trace]
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(results), 1.75, 0.75)
        for axes, result in zip(panels, results, strict=True):
            axes.grid(axis="y")
            axes.set_title(_short(result.label))
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            if min_drop is not None:
                axes.axhline(100 * min_drop, color=ORANGE, linewidth=1.6, linestyle=(0, (4, 2)), zorder=1.5)
            drops = [100 * step.dev_drop for step in result.trace]
            axes.plot(range(len(drops)), drops, color=BLUE, linewidth=1.5, marker="o", markersize=4, zorder=2)
            for place, step in enumerate(result.trace):
                if (step.alpha, step.share) == (result.alpha, result.share):
                    axes.plot(place, drops[place], color=VERMILLION, marker="o", markersize=7, zorder=3)
            # At most five ticks have room; the last round always has one.
            places = range(len(drops) - 1, -1, -max(1, -(-(len(drops) - 1) // 4)))
            steps = [result.trace[place] for place in places]
            axes.set_xticks(places, [f"{decimal(step.alpha, 2)}\n{decimal(100 * step.share, 0)} %" for step in steps])
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
        return _drawn(figure)


Curve = Mapping[str, Any]
"""What induction.json holds for a label."""


def induction_figure(curves: Mapping[str, Curve], betas: Sequence[float]) -> Drawing:
    """Share of predictions that move to the label (y, in per cent) against beta (x), one panel a label, with its 95 %
    interval; dashed, the same shift at random neurons; dotted, the share without intervention."""
    order = np.argsort(betas, kind="stable")
    x = np.array(betas)[order]
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(curves), 1.65, 0.75)
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _curve_panel(axes, label)
            axes.axhline(100 * curve["baseline"], color="#777777", linewidth=1.2, linestyle=":")
            low, high = 100 * np.array(curve["interval"])[order].T
            axes.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0)
            axes.plot(x, 100 * np.array(curve["share"])[order], color=BLUE, linewidth=1.5, marker="o", markersize=4.5)
            if curve["random"]:
                axes.plot(
                    x, 100 * np.array(curve["random"])[order],
                    color=VERMILLION, linewidth=1.3, linestyle=(0, (4, 2)), marker="s", markersize=3.5,
                )  # fmt: skip
        panels[0].set_ylim(bottom=0)  # the panels share it; set once all curves are in
        figure.supxlabel("β", fontsize=9)
        figure.supylabel("predicted as the label, %", fontsize=9)
        handles = [
            Line2D([], [], color=BLUE, marker="o", markersize=4.5, linewidth=1.5, label="the label's neurons"),
            Line2D([], [], color="#777777", linewidth=1.2, linestyle=":", label="no shift"),
        ]
        if any(curve["random"] for curve in curves.values()):
            dashed = Line2D([], [], color=VERMILLION, linewidth=1.3, linestyle=(0, (4, 2)), marker="s", markersize=3.5)
            dashed.set_label("random neurons")
            handles.insert(1, dashed)
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return _drawn(figure)


def fluency_figure(curves: Mapping[str, Curve], betas: Sequence[float]) -> Drawing:
    """Change of the loss of a token under induction, in nats (y), against beta (x), one panel a label."""
    order = np.argsort(betas, kind="stable")
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(curves), 1.65, 0.45)
        for axes, (label, curve) in zip(panels, curves.items(), strict=True):
            _curve_panel(axes, label)
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            values = np.array([np.nan if loss is None else loss for loss in curve["loss_delta"]])
            axes.plot(np.array(betas)[order], values[order], color=GREEN, linewidth=1.5, marker="D", markersize=4)
        figure.supxlabel("β", fontsize=9)
        figure.supylabel("change of loss, nats a token", fontsize=9)
        return _drawn(figure)


def _curve_panel(axes: Axes, label: str) -> None:
    axes.grid(axis="y")
    axes.set_title(_short(label))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]


def sweep_figure(rows: Mapping[str, Sequence[Mapping[str, Any]]], settings: Sequence[str], axis: str) -> Drawing:
    """Change of accuracy in points (y) under each setting (x), one panel a label: a mark with its 95 % interval, and
    as a grey band what holds 95 % of the random sets.

    Args:
        rows: label -> for each setting the measured effect, without ``delta`` where nothing was masked.
        settings: what the ticks say.
        axis: what they are.
    """
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(rows), 1.6, 0.75)
        for axes, (label, effects) in zip(panels, rows.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(_short(label))
            axes.axhline(0, color="#777777", linewidth=0.9, zorder=1)
            for place, effect in enumerate(effects):
                if "delta" not in effect:
                    continue
                if effect["random"]:
                    low, high = (100 * value for value in effect["random"]["interval"])
                    mean = 100 * effect["random"]["mean"]
                    axes.fill_between([place - 0.36, place + 0.36], low, high, color=BAND, linewidth=0, zorder=0.9)
                    axes.plot([place - 0.36, place + 0.36], [mean, mean], color="#777777", linewidth=1.1, zorder=1.5)
                axes.plot([place] * 2, [100 * v for v in effect["interval"]], color=VERMILLION, linewidth=1.6, zorder=2)
                axes.plot(
                    place, 100 * effect["delta"], marker="o", color=VERMILLION, markersize=5.5,
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
            Patch(facecolor=BAND, label="random sets: 95 % interval, and mean"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
        return _drawn(figure)


def matrix_figure(
    rows: Sequence[str],
    columns: Sequence[str],
    values: NDArray[np.float64],
    *,
    places: int,
    bold: NDArray[np.bool_] | None = None,
) -> Drawing:
    """A heat map with its numbers: white at zero, orange below and blue above, as dark as they are far from it.

    Args:
        values: [rows, columns]; NaN is shown as a dash.
        places: decimals.
        bold: cells to be framed.
    """
    scale = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    colors = LinearSegmentedColormap.from_list(
        "orange to blue", ["#7A3300", VERMILLION, "#F3C6A5", "#FFFFFF", "#A9D3EE", BLUE, "#003A5C"]
    )
    wide = max(0.62, 0.095 * (places + 5))
    with matplotlib.rc_context({**_RC, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.4 + wide * len(columns), 1.4 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row in range(len(rows)):
            for column in range(len(columns)):
                value = float(values[row, column])
                missing = bool(np.isnan(value))
                fill = "#FFFFFF" if missing else to_hex(colors(0.5 + 0.5 * value / scale))
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="#DDDDDD", linewidth=0.6)
                )
                axes.text(
                    column, row, "–" if missing else decimal(value, places), ha="center", va="center_baseline",
                    color=_ink_on(fill), fontsize=8.5,
                )  # fmt: skip
        for row, column in np.argwhere(bold) if bold is not None else ():
            frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.6)
            axes.add_patch(frame)
        axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
        axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=45, ha="left",
                        rotation_mode="anchor")  # fmt: skip
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        return _drawn(figure)


def ranked_figure(
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Sequence[float]]] | None,
    axis: str,
    limits: tuple[float, float],
    line: float,
) -> Drawing:
    """A value of each neuron (y), highest first (x), one panel a label; with its interval where there are any."""
    with matplotlib.rc_context(_RC):
        figure, panels = _grid(len(values), 1.5, 0.45)
        for axes, (label, found) in zip(panels, values.items(), strict=True):
            axes.grid(axis="y")
            axes.set_title(_short(label))
            axes.axhline(line, color="#777777", linewidth=1.0, linestyle=":", zorder=1)
            order = np.argsort(-np.array(found), kind="stable")
            if intervals is not None:
                for place, neuron in enumerate(order, start=1):
                    axes.plot([place] * 2, intervals[label][neuron], color=SKY, linewidth=1.2, zorder=1.5)
            ranks = range(1, len(order) + 1)
            axes.plot(ranks, np.array(found)[order], color=BLUE, linestyle="", marker="o", markersize=3, zorder=2)
            axes.set_ylim(*limits)
            axes.set_xlim(0.2, max(len(order), 1) + 0.8)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel("neurons of the label, highest first", fontsize=9)
        figure.supylabel(axis, fontsize=9)
        return _drawn(figure)
