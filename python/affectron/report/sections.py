"""The report's sections on the experiments of a run: from each file its tables, its figures, and what they show.

Apart from build.py, which knows the page. A section is made of what a file holds and of nothing else; a field that is
missing or wrong there ends in one line that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.evaluation.effects import NO_EFFECT, SPECIFIC, UNSPECIFIC
from affectron.experiments.findings import Findings
from affectron.experiments.results import ValidationResult
from affectron.report import text as words
from affectron.report.tables import Column, Table
from affectron.selection import METHODS


@dataclass
class Section:
    """One chapter: paragraphs, perhaps a validation for a table like the main one, then figures (name, drawing,
    caption) and tables."""

    id: str
    heading: str
    text: list[str] = field(default_factory=list)
    figures: list[tuple[str, Any, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    validation: ValidationResult | None = None


RULE = (
    f"{NO_EFFECT}: the 95 % interval of the change on the label's own sentences reaches zero. {SPECIFIC}: it lies "
    "below zero, the change is below the whole 95 % interval of the random sets, and the interval of (own − others) "
    f"lies below zero. {UNSPECIFIC}: accuracy falls, but random neurons do as much or the other labels suffer as much."
)
_BAND = (
    "The mark is the change of accuracy on the label's own test sentences, its line the 95 % bootstrap interval; the "
    "grey band holds 95 % of the random sets matched in size at each layer, the line in it is their mean."
)
_EFFECT = (
    Column("Δ own", "points"), Column("interval", "points interval"), Column("Δ others", "points"),
    Column("random", "points"), Column("random interval", "points interval"), Column("verdict"),
)  # fmt: skip


def _effect(entry: Mapping[str, Any]) -> list[Any]:
    random = entry.get("random") or {}
    return [
        entry.get("delta"), entry.get("interval"), entry.get("others_delta"), random.get("mean"),
        random.get("interval"), entry.get("verdict"),
    ]  # fmt: skip


def sections(findings: Mapping[str, Findings], other: ValidationResult | None, figures: ModuleType) -> list[Section]:
    """The sections of all files that there are, in the order of the method.

    Args:
        findings: by kind.
        other: the validation on another corpus.
        figures: the module that draws.

    Raises:
        InputError: a file lacks a field or has one of another kind.
    """
    found = []
    for kind, make in _SECTIONS.items():
        if kind in findings:
            try:
                found.append(make(findings[kind], figures))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise InputError(f"{kind}.json: a field is missing or wrong: {error!r}") from error
    if other is not None:
        found.append(_cross_dataset(other))
    return found


def _stability(found: Findings, figures: ModuleType) -> Section:
    options, labels = found["options"], found["labels"]
    section = Section("stability", "Stability of the selection")
    section.text.append(
        f"The corpus was measured in {count(options['folds'], 'fold')}. A neuron's frequency is the share of "
        f"{count(options['resamples'], 'bootstrap resample')} of the folds in which it is selected for the label; "
        "split-half is the mean Jaccard index of the neurons of two halves, over "
        f"{count(options['splits'], 'random split')}."
    )
    shares = {label: [one[2] for one in entry["neurons"]] for label, entry in labels.items() if entry["neurons"]}
    if shares:
        drawing = figures.ranked_figure(shares, None, "selection frequency", (-0.03, 1.03), 0.5)
        section.figures.append(
            (
                "stability",
                drawing,
                "How often each selected neuron is selected again under resampling; dotted, one half.",
            )
        )
    rows = [
        [
            label, entry["task"], entry["selected"], float(np.median(shares[label])) if label in shares else None,
            sum(one >= 0.8 for one in shares.get(label, ())), entry["split_half"],
        ]
        for label, entry in labels.items()
    ]  # fmt: skip
    columns = (
        Column("label"), Column("task"), Column("selected", "count"), Column("median frequency", "number"),
        Column("at 0.8 or more", "count"), Column("split-half Jaccard", "number"),
    )  # fmt: skip
    section.tables.append(Table("stability", "Stability of each label's neurons", columns, rows, "stability.json"))
    return section


def _candidates(found: Findings, figures: ModuleType) -> Section:
    options = found["options"]
    reads, split = options["reads"], options["split"]
    taken = words.quantity(reads, options["tokens"])
    section = Section("candidates", "The selected neurons one by one")
    section.text.append(
        f"Each neuron is judged by what selected it. The score “{options['score']}” compares {_COMPARED[reads]}s; so "
        f"of each sentence of the {split} split is taken {taken}. “Selected for” says whether that is higher or lower "
        "under the label than under the rest of its task in the statistics that the neuron was selected from. AUROC "
        "compares every sentence with the label with every one without: it is the share of these pairs in which the "
        "difference has the direction that the neuron was selected for, ties counted half. Above 0.5 the neuron does "
        "here what it was selected for, below 0.5 the opposite. The 95 % interval is from "
        f"{count(options['bootstrap'], 'resample')}; p is two-sided from "
        f"{count(options['permutations'], 'permutation')}, q adjusted by Benjamini and Hochberg over all neurons of "
        "all labels. Redundancy is the largest absolute correlation, of the same quantity, with a neuron higher in the "
        "label's list."
    )
    known = {
        label: [one for one in entry["neurons"] if one["auroc"] is not None]
        for label, entry in found["labels"].items()
    }  # fmt: skip
    known = {label: entries for label, entries in known.items() if entries}
    if known:
        areas = {label: [one["auroc"] for one in entries] for label, entries in known.items()}
        intervals = {label: [one["interval"] for one in entries] for label, entries in known.items()}
        whole = [interval for entries in intervals.values() for interval in entries]
        above = sum(area > 0.5 for entries in areas.values() for area in entries)
        section.text.append(
            f"On the {split} split the AUROC of {above:,} of {count(len(whole), 'neuron')} is above 0.5. The whole "
            f"interval lies above 0.5 for {sum(low > 0.5 for low, _ in whole):,}, below 0.5 for "
            f"{sum(high < 0.5 for _, high in whole):,}."
        )
        caption = (
            f"AUROC of each selected neuron for its label, of {taken}, in the direction that the neuron was selected "
            "for, with 95 % intervals; dotted, chance."
        )
        drawing = figures.ranked_figure(areas, intervals, "AUROC", (-0.02, 1.02), 0.5)
        section.figures.append(("candidates", drawing, caption))
    rows, texts = [], []
    for label, entries in known.items():
        for one in sorted(entries, key=lambda one: -one["auroc"])[:3]:
            named = [label, f"{one['site']} {one['index']}", f"{one['direction']} {reads}"]
            rows.append([*named, one["auroc"], one["interval"], one["p"], one["q"], one["redundancy"]])
            texts += [
                [*named, example["text"], ", ".join(example["labels"]), example["rate"], example["mean"]]
                for example in one["examples"]
            ]
    names = (Column("label"), Column("neuron"), Column("selected for"))
    measured = (
        Column("AUROC", "number"), Column("interval", "interval"), Column("p", "p"), Column("q", "p"),
        Column("redundancy", "number"),
    )  # fmt: skip
    caption = "The neurons of highest AUROC, up to three of each label"
    section.tables.append(Table("candidates", caption, names + measured, rows, "candidates.json"))
    if texts:
        section.text.append(
            f"A neuron's examples are the task's sentences, of any label, of the highest {_COMPARED[reads]}, or of the "
            "lowest where the neuron was selected for that. Among equal ones those come first whose mean activation "
            "has the larger absolute value (the smaller, where the lowest are shown). “Rate” is "
            f"{words.quantity('rate', options['tokens'])}, “mean” {words.quantity('mean', options['tokens'])}."
        )
        read = (
            Column("sentence", "passage"),
            Column("its labels", "passage"),
            Column("rate", "number"),
            Column("mean", "number"),
        )
        caption = f"Sentences of the highest {_COMPARED[reads]} of the same neurons; of the lowest for “lower {reads}”"
        section.tables.append(Table("examples", caption, names + read, texts, "candidates.json"))
    return section


#: What a score compares between labels (``scores.SCORES[name].reads``).
_COMPARED = {"rate": "activation rate", "mean": "mean activation"}


def _methods(found: Findings, figures: ModuleType) -> Section:
    options = found["options"]
    section = Section("selection-methods", "Selection methods side by side")
    listed = "; ".join(f"{name}: {METHODS[name].description}" for name in options["methods"] if name in METHODS)
    section.text.append(f"{listed}.")
    section.text.append(
        f"Each method selects about {100 * options['top']:g} % of all neurons for all labels of a task; all that it "
        f"selects for a label is attenuated by α = {options['alpha']:g}. The specific change is that on the label's "
        "own sentences less that on the others'. The best method of a label is the one of the largest specific drop "
        "among those with the verdict “specific”; it is read off the test split and describes this run."
    )
    for task, part in found["tasks"].items():
        names, of_task = options["methods"], words.file_name(task)
        labels = list(part["labels"])
        entries = [[part["labels"][label]["methods"][name] for name in names] for label in labels]
        values = np.array([[_hundredfold(one.get("specific_delta")) for one in row] for row in entries])
        specific = np.array([[one.get("verdict") == SPECIFIC for one in row] for row in entries])
        section.figures.append(
            (
                f"methods-{of_task}", figures.matrix_figure(labels, names, values, places=1, bold=specific),
                f"{task}: change of accuracy on own less others' test sentences, in points, under each method's mask; "
                "framed where the verdict is “specific”.",
            )
        )  # fmt: skip
        agreement = np.array([[np.nan if one is None else one for one in row] for row in part["agreement"]])
        section.figures.append(
            (
                f"agreement-{of_task}", figures.matrix_figure(names, names, agreement, places=2),
                f"{task}: Jaccard index of what two methods select for a label, the mean over labels.",
            )
        )  # fmt: skip
        rows = [
            [label, name, one["selected"], *_effect(one), "yes" if part["labels"][label]["best"] == name else ""]
            for label, row in zip(labels, entries, strict=True)
            for name, one in zip(names, row, strict=True)
        ]
        columns = (Column("label"), Column("method"), Column("neurons", "count"), *_EFFECT, Column("best"))
        section.tables.append(Table(f"methods-{of_task}", f"Methods, {task}", columns, rows, "methods.json"))
    return section


_SWEEPS = {
    "sites": ("part of the sites", "Where the neurons are masked: at all sites, or in one third of them."),
    "alpha": ("α", "All of the label's neurons, attenuated by α."),
    "share": ("share τ of the label's neurons", "The best of the label's neurons by differential score."),
    "model_share": ("share of all neurons that the selection takes", "As many neurons as a larger selection gives."),
}


def _ablations(found: Findings, figures: ModuleType) -> Section:
    options, rows = found["options"], found["rows"]
    section = Section("ablations", "Ablations")
    section.text.append(
        f"On the test split; α = {options['alpha']:g} where it is not swept, "
        f"{count(options['random_sets'], 'random set')} for every mask. The verdict follows the rule of the main "
        f"table. {_BAND}"
    )
    for sweep, (axis, meaning) in _SWEEPS.items():
        mine = [row for row in rows if row["sweep"] == sweep]
        settings = list(dict.fromkeys(row["setting"] for row in mine))
        labels = list(dict.fromkeys(row["label"] for row in mine))
        if not settings:
            continue
        by_label = {label: [row for row in mine if row["label"] == label] for label in labels}
        ticks = [one if isinstance(one, str) else f"{one:g}" for one in settings]
        section.figures.append((f"ablation-{sweep}", figures.sweep_figure(by_label, ticks, axis), f"{meaning} {_BAND}"))
        columns = (Column("label"), Column(axis), Column("masked", "count"), *_EFFECT)
        table = [
            [row["label"], row["setting"], row["masked"], *_effect(row)] for row in mine
        ]  # fmt: skip
        section.tables.append(Table(f"ablation-{sweep}", f"Ablation by {axis}", columns, table, "ablations.json"))
    whole = [row for row in rows if row["sweep"] == "sites" and row["setting"] != "all" and "delta" in row]
    if whole:
        means = {
            third: np.mean([row["delta"] for row in whole if row["setting"] == third])
            for third in ("bottom", "middle", "top")
            if any(row["setting"] == third for row in whole)
        }
        least = min(means, key=lambda third: means[third])
        listed = ", ".join(f"{third} {words.points(float(value))}" for third, value in means.items())
        drop = f"The largest drop is in the {least} third" if means[least] < 0 else "None of them is a drop"
        section.text.append(
            f"Mean change over the labels, in points: {listed}. {drop}; masks of different thirds differ in size, "
            "which the random sets follow."
        )
    return section


def _induction(found: Findings, figures: ModuleType) -> Section:
    options = found["options"]
    betas = options["betas"]
    section = Section("induction", "Induction")
    curves = {label: curve for part in found["tasks"].values() for label, curve in part.items()}
    if not curves:
        section.text.append("No label has neurons to induce.")
        return section
    section.figures.append(
        (
            "induction", figures.induction_figure(curves, betas),
            "Test sentences that do not carry the label: the share predicted as the label when β times its mean "
            "activation is added to its neurons, with the 95 % bootstrap interval over sentences; dashed, the same "
            "shift at random neurons, as many at each layer.",
        )
    )  # fmt: skip
    section.figures.append(
        (
            "fluency", figures.fluency_figure(curves, betas),
            "What the same shift does to next-token loss on these sentences as plain text: above zero, the model "
            "predicts language worse.",
        )
    )  # fmt: skip
    columns = (
        Column("label"), Column("β"), Column("without, %", "percent"), Column("share, %", "percent"),
        Column("interval", "interval"), Column("random, %", "percent"), Column("loss Δ, nats", "number"),
    )  # fmt: skip
    rows = [
        [
            label, beta, curve["baseline"], curve["share"][k], curve["interval"][k],
            curve["random"][k] if curve["random"] else None, curve["loss_delta"][k],
        ]
        for label, curve in curves.items()
        for k, beta in enumerate(betas)
    ]  # fmt: skip
    section.tables.append(Table("induction", "Induction, predicted as the label", columns, rows, "induction.json"))
    return section


def _cross_signal(found: Findings, figures: ModuleType) -> Section:
    options, labels = found["options"], found["labels"]
    section = Section("cross-signal", "Cross-signal")
    omegas = ", ".join(f"{omega:g}" for omega in options["omegas"])
    section.text.append(
        f"ω times the mean activation under a label of {options['source']} is added at the neurons of a label of "
        f"{options['target']}. ω is chosen on dev for each pair, out of {omegas}; shown is the test split. A pair "
        "helps where the change lies above the interval of the random sets and its own interval above zero."
    )
    devices = list(dict.fromkeys(device for entry in labels.values() for device in entry["devices"]))
    names = list(labels)
    if not names:
        section.text.append("No label has neurons.")
        return section
    values = np.array([[100 * labels[name]["devices"][device]["delta"] for name in names] for device in devices])
    helps = np.array([[labels[name]["devices"][device]["helps"] is True for name in names] for device in devices])
    section.figures.append(
        (
            "cross-signal", figures.matrix_figure(devices, names, values, places=1, bold=helps),
            f"Change of accuracy, in points, on the test sentences of each {options['target']} (columns) under the "
            f"signal of each {options['source']} (rows); framed where the pair helps.",
        )
    )  # fmt: skip
    columns = (
        Column(options["source"]), Column(options["target"]), Column("ω"), Column("dev Δ", "points"),
        Column("test Δ", "points"), Column("interval", "points interval"), Column("random", "points"),
        Column("random interval", "points interval"), Column("helps"),
    )  # fmt: skip
    rows = []
    for name in names:
        for device in devices:
            pair = labels[name]["devices"][device]
            random = pair["random"] or {}
            shown = {True: "yes", False: "no", None: None}[pair["helps"]]
            rows.append([device, name, pair["omega"], max(pair["dev"]), pair["delta"], pair["interval"],
                         random.get("mean"), random.get("interval"), shown])  # fmt: skip
    section.tables.append(Table("cross-signal", "Cross-signal", columns, rows, "cross_signal.json"))
    return section


def _associations(found: Findings, figures: ModuleType) -> Section:
    section = Section("associations", "Associations")
    labels = [label for names in found["tasks"].values() for label in names]
    section.text.append(
        "Overlap is the number of neurons that two labels share, expected is what random sets of the same sizes "
        "would; p is the upper tail of the hypergeometric distribution, q adjusted by Benjamini and Hochberg over "
        "the pairs of two tasks, or of one. The correlation is Pearson's, of the two labels' "
        f"{found['options']['score']} over all neurons."
    )
    place = {label: row for row, label in enumerate(labels)}
    matrix = np.full((len(labels), len(labels)), np.nan)
    for pair in found["pairs"]:
        value = np.nan if pair["correlation"] is None else pair["correlation"]
        i, j = place[pair["first"]], place[pair["second"]]
        matrix[i, j] = matrix[j, i] = value
    section.figures.append(
        (
            "correlation", figures.matrix_figure(labels, labels, matrix, places=2),
            f"Correlation of two labels' {found['options']['score']} over all {count(found['neurons'], 'neuron')}.",
        )
    )  # fmt: skip
    rows = [
        [pair["first"], pair["second"], pair["overlap"], pair["expected"], pair["jaccard"], pair["p"], pair["q"],
         pair["correlation"]]
        for pair in sorted(found["pairs"], key=lambda pair: (pair["same_task"], 2 if pair["p"] is None else pair["p"]))
    ]  # fmt: skip
    columns = (
        Column("first"), Column("second"), Column("overlap", "count"), Column("expected", "number"),
        Column("Jaccard", "number"), Column("p", "p"), Column("q", "p"), Column("correlation", "number"),
    )  # fmt: skip
    section.tables.append(
        Table("associations", "Pairs of labels, of two tasks first", columns, rows, "associations.json")
    )
    thirds = [
        [label, *entry["thirds"].values()] for label, entry in found["layers"].items() if entry["thirds"]
    ]  # fmt: skip
    if thirds:
        caption = "Neurons in each third of the sites"
        counted = (Column("label"), *(Column(third, "count") for third in ("bottom", "middle", "top")))
        section.tables.append(Table("layers", caption, counted, thirds, "associations.json"))
    return section


def results_table(validation: ValidationResult, name: str, caption: str, source: str) -> Table:
    """The main table of a validation."""
    columns = (
        Column("task"), Column("label"), Column("neurons", "count"), Column("masked", "count"),
        Column("sentences", "count"), Column("baseline, %", "percent"), Column("Δ adaptive", "points"),
        Column("interval", "points interval"), Column("Δ zero", "points"), Column("Δ mean", "points"),
        Column("random", "points"), Column("random interval", "points interval"), Column("Δ others", "points"),
        Column("loss Δ", "number"), Column("verdict"),
    )  # fmt: skip
    rows = []
    for one in validation.labels():
        adaptive, zeroed, mean = (one.masks.get(mask) for mask in ("adaptive", "zero", "mean"))
        random = one.random
        rows.append(
            [
                one.task, one.label, one.selected, one.masked, one.sentences, one.baseline,
                adaptive and adaptive.delta, adaptive and adaptive.interval, zeroed and zeroed.delta,
                mean and mean.delta, random and random.mean, random and random.interval,
                adaptive and adaptive.others_delta, adaptive and adaptive.loss_delta, one.verdict,
            ]
        )  # fmt: skip
    return Table(name, caption, columns, rows, source)


def _cross_dataset(other: ValidationResult) -> Section:
    section = Section("cross-dataset", "On another corpus", validation=other)
    corpus = other.provenance.get("corpus_name", "another corpus")
    section.text.append(
        f"The same neurons, found on this run's corpus, validated on {corpus}: the feedback loop runs on its dev "
        "split, and its test split is shown. Columns and verdict are those of the main table."
    )
    caption = f"Validation on {corpus}, each interval in a column of its own"
    section.tables.append(results_table(other, "cross-dataset", caption, "cross_dataset.json"))
    return section


def _hundredfold(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


_SECTIONS: dict[str, Callable[[Findings, ModuleType], Section]] = {
    "stability": _stability,
    "candidates": _candidates,
    "methods": _methods,
    "ablations": _ablations,
    "induction": _induction,
    "cross_signal": _cross_signal,
    "associations": _associations,
}
