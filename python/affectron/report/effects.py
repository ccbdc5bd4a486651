"""Sections of the report on what masks do: selection methods, the estimate of attributions, and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from affectron._internal.artifacts import findings_file
from affectron._internal.wording import count
from affectron.evaluation.verdicts import SPECIFIC, Effect
from affectron.experiments.results import THIRDS, Ablation, Ablations, Curve, Estimate, Methods
from affectron.options import METHODS
from affectron.report import curves, figures
from affectron.report import text as words
from affectron.report.averages import best_method
from affectron.report.section import BAND, EFFECT, Figure, Section, effect_cells
from affectron.report.tables import Column, Table

_AREA = (
    Column("label"), Column("method"), Column("to", "count"), Column("own", "points"), Column("others", "points"),
    Column("random", "points"),
)  # fmt: skip


def methods(result: Methods) -> Section:
    options = result.options
    names = options.methods
    section = Section("selection-methods", "Selection methods side by side")
    listed = "; ".join(f"{name}: {METHODS[name].description}" for name in names if name in METHODS)
    section.text.append(f"{listed}.")
    section.text.append(
        f"Each method selects about {100 * options.top:.4g} % of all neurons for all labels of a task; all that it "
        "selects for a label is set to zero. The specific change is that on the label's own sentences less that on the "
        "others'. Each method is judged by itself, its p values adjusted over the labels. The best method of a label "
        "is the one of the largest specific drop among those with the verdict “specific”; it is read off the test "
        "split and describes this run."
    )
    section.text.append(words.best_claim(result))
    section.text.append(
        f"A curve zeroes the best {words.listing([str(number) for number in sorted(options.counts)])} neurons of a "
        "method's ranking. It ends early where the method gives the label fewer. Its area is the mean height over the "
        "logarithm of the number; areas of curves that end at different numbers (column “to”) are not of the same "
        "range."
    )
    best = best_method(result)
    for task, compared in result.tasks.items():
        of_task = words.file_name(task)
        labels = list(compared.labels)
        effects = [[compared.labels[label].methods[name].effect for name in names] for label in labels]
        values = np.array([[_specific_change(effect) for effect in row] for row in effects])
        specific = np.array([[effect is not None and effect.verdict == SPECIFIC for effect in row] for row in effects])
        drawing = figures.matrix_figure(
            labels, names, values, subject="Change of accuracy on own less others' test sentences, in points",
            written=words.points, bound=figures.MOST_CHANGE, bold=specific,
        )  # fmt: skip
        caption = (
            f"{task}: change of accuracy on own less others' test sentences, in points, when each method's neurons are "
            f"zeroed; framed where the verdict is “specific”. {figures.CHANGE_SCALE}"
        )
        section.figures.append(Figure(f"methods-{of_task}", drawing, caption))
        panels = {
            label: of_label.methods[best].curve.points
            for label, of_label in compared.labels.items()
            if best is not None and of_label.methods[best].curve.points
        }
        if panels:
            caption = (
                f"{task}: change of accuracy on the test split over the number of zeroed neurons, by the method of the "
                f"lowest mean area on own less others' sentences, {best}. Random: the mean over the sets."
            )
            section.figures.append(Figure(f"curves-{of_task}", curves.curves_figure(panels), caption))
        agreement = np.array([[np.nan if share is None else share for share in row] for row in compared.agreement])
        drawing = figures.matrix_figure(
            names, names, agreement, subject="Mean Jaccard index of two methods", written=words.index, bound=1.0
        )
        caption = (
            f"{task}: Jaccard index of what two methods select for a label, the mean over labels. The strongest colour "
            "stands for 1."
        )
        section.figures.append(Figure(f"agreement-{of_task}", drawing, caption))
        found = [(label, name, of_label) for label, of_label in compared.labels.items() for name in names]
        rows: list[list[object]] = [
            [
                label, name, of_label.methods[name].selected, *effect_cells(of_label.methods[name].effect),
                "yes" if of_label.best == name else "",
            ]
            for label, name, of_label in found
        ]  # fmt: skip
        columns = (Column("label"), Column("method"), Column("neurons", "count"), *EFFECT, Column("best"))
        source = findings_file("methods")
        section.tables.append(Table(f"methods-{of_task}", f"Methods, {task}", columns, rows, source))
        rows = [[label, name, *_area_cells(of_label.methods[name].curve)] for label, name, of_label in found]
        caption = f"Areas of the curves, {task}: mean change of accuracy over the logarithm of the number of neurons"
        section.tables.append(Table(f"areas-{of_task}", caption, _AREA, rows, source))
    return section


def _area_cells(curve: Curve) -> list[object]:
    """The cells of ``_AREA`` after label and method."""
    if curve.area is None:
        return [None] * 4
    return [curve.points[-1].masked, curve.area.own, curve.area.others, curve.area.random]


def _specific_change(effect: Effect | None) -> float:
    """The specific change; NaN where it was not measured."""
    return float("nan") if effect is None or effect.specific_delta is None else effect.specific_delta


def estimate(result: Estimate) -> Section:
    section = Section("estimate", "Attribution and effect")
    section.text.append(
        "An attribution is a first-order estimate of what the metric of a sentence loses when one neuron is set to "
        f"zero. Here up to {count(result.options.neurons, 'selected neuron')} of each label, and as many random ones "
        "at each site, were zeroed one by one, and the loss of the metric was measured: the mean over the label's dev "
        "sentences. ρ is Spearman's rank correlation of effect and attribution; the ratio is the sum of the effects "
        "over the sum of the attributions of the selected neurons. Neurons that are zeroed together need not add up."
    )
    rows = []
    for task, labels in result.tasks.items():
        shown = {label: estimated for label, estimated in labels.items() if estimated.neurons}
        if shown:
            caption = (
                f"{task}: decrease of the metric when a neuron alone is set to zero, against its mean attribution. ρ "
                "is over all neurons of the panel."
            )
            name = f"estimate-{words.file_name(task)}"
            section.figures.append(Figure(name, curves.estimate_figure(shown), caption))
        for label, estimated in labels.items():
            effects = [
                [neuron.effect for neuron in estimated.neurons if neuron.selected is selected]
                for selected in (True, False)
            ]
            rows.append(
                [
                    label, estimated.sentences, *map(len, effects),
                    *(float(np.mean(part)) if part else None for part in effects),
                    estimated.correlation, estimated.selected_correlation, estimated.ratio,
                ]
            )  # fmt: skip
    columns = (
        Column("label"), Column("sentences", "count"), Column("selected", "count"), Column("random", "count"),
        Column("effect, selected", "number"), Column("effect, random", "number"), Column("ρ", "number"),
        Column("ρ, selected", "number"), Column("effect / attribution", "number"),
    )  # fmt: skip
    caption = "Effect of single neurons and their attribution; effects are means, in units of the metric"
    section.tables.append(Table("estimate", caption, columns, rows, findings_file("estimate")))
    return section


#: Sweep -> its axis, with the unit, and its meaning.
_SWEEPS = {
    "sites": ("part of the sites", "Where the neurons are masked: at all sites, or in one third of them."),
    "alpha": ("α", "All of the label's neurons, attenuated by α."),
    "share": ("share τ of the label's neurons, %", "The best of the label's neurons by differential score."),
    "model_share": ("share of all neurons that the selection takes, %", "As many neurons as a larger selection gives."),
}


def ablations(result: Ablations) -> Section:
    options = result.options
    section = Section("ablations", "Ablations")
    section.text.append(
        f"On the test split; α = {options.alpha:g} where it is not swept, relative to {options.reference}. The "
        "verdict follows the rule of the main table, each setting judged by itself."
    )
    for sweep, (axis, meaning) in _SWEEPS.items():
        rows = [row for row in result.rows if row.sweep == sweep]
        settings = list(dict.fromkeys(_setting(row) for row in rows))
        if not settings:
            continue
        by_label = {
            label: [row.effect for row in rows if row.label == label] for label in {row.label: 0 for row in rows}
        }
        ticks = [setting if isinstance(setting, str) else f"{setting:g}" for setting in settings]
        drawing = figures.sweep_figure(by_label, ticks, axis)
        section.figures.append(Figure(f"ablation-{sweep}", drawing, f"{meaning} {BAND}"))
        columns = (Column("label"), Column(axis), Column("masked", "count"), *EFFECT)
        cells = [[row.label, _setting(row), row.masked, *effect_cells(row.effect)] for row in rows]
        section.tables.append(
            Table(
                f"ablation-{sweep}",
                f"Ablation by {axis.removesuffix(', %')}",
                columns,
                cells,
                findings_file("ablations"),
            )
        )
    thirds = _third_means(result.rows)
    if thirds:
        least = min(thirds, key=lambda third: thirds[third])
        listed = ", ".join(f"{third} {words.points(mean)}" for third, mean in thirds.items())
        drop = f"The largest drop is in the {least} third" if thirds[least] < 0 else "None of them is a drop"
        section.text.append(
            f"Mean change over the labels, in points: {listed}. {drop}; masks of different thirds differ in size, "
            "which the random sets follow."
        )
    return section


def _setting(row: Ablation) -> Any:
    """The setting in the unit of its axis. A product of a hundred has digits that the share does not have."""
    return round(100 * row.setting, 10) if row.sweep.endswith("share") else row.setting


def _third_means(rows: Sequence[Ablation]) -> dict[str, float]:
    """Third of the sites -> mean change of accuracy over the labels that have neurons there."""
    deltas: dict[str, list[float]] = {}
    for row in rows:
        if row.sweep == "sites" and row.setting != "all" and row.effect is not None:
            deltas.setdefault(row.setting, []).append(row.effect.delta)
    return {third: float(np.mean(deltas[third])) for third in THIRDS if third in deltas}
