"""Tables on the run as a whole, and the texts of the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from affectron._internal.artifacts import VALIDATION, findings_file
from affectron._internal.wording import count
from affectron.evaluation.verdicts import significant
from affectron.experiments.results import (
    MASKS,
    Generation,
    Induction,
    LabelInduction,
    MethodGeneration,
    TaskGeneration,
    Validation,
)
from affectron.options import Generate
from affectron.report import text as words
from affectron.report.pieces import Pieces
from affectron.report.section import EFFECT, effect_cells
from affectron.report.tables import Column, Table

#: Rise of the loss of a token up to which an induced shift counts as fluent, in nats: that of generated texts.
MOST_RISE = Generate.most_rise


def overview_tables(pieces: Pieces) -> dict[str, Table]:
    """Name -> table of what the run has numbers for; an experiment's own tables are in its section."""
    tables = []
    if pieces.validation and pieces.validation.results:
        tables.append(_verdicts(pieces.validation))
        caption = "Change of test accuracy under each mask"
        tables.append(results_table(pieces.validation, "results", caption, VALIDATION))
        if any(result.trace for result in pieces.validation.results.values()):
            tables.append(_trace(pieces.validation))
    if pieces.validation and pieces.validation.tasks:
        tables.append(_baseline(pieces.validation))
    if pieces.induction and any(pieces.induction.tasks.values()):
        tables.append(_induced(pieces.induction))
    if pieces.generation and any(_steered(pieces.generation)):
        tables.append(_generated(pieces.generation))
    return {table.name: table for table in tables}


def _verdicts(validation: Validation) -> Table:
    """The strongest claim about each label."""
    columns = (
        Column("task"), Column("label"), Column("sentences", "count", "under"), Column("verdict"),
        Column("mask", "text", "under"), Column("reason", "passage", "detail"), Column("Δ own", "points"),
        Column("interval", "points interval", "under"), Column("claim adjusted p", "p"),
        Column("claim p", "p", "under"), Column("Δ others", "points"),
        Column("others interval", "points interval", "under"), Column("random", "beyond"),
    )  # fmt: skip
    rows: list[list[object]] = []
    for task, of_task in validation.tasks.items():
        for label, result in of_task.in_order():
            if not result.masks:
                rows.append([task, label, result.sentences, "not tested", *[None] * 9])
                continue
            name = words.strongest(result.masks)
            mask = result.masks[name]
            p, adjusted = mask.claim_p
            rows.append(
                [
                    task, label, result.sentences, mask.verdict, name, mask.reason, mask.delta, mask.interval, adjusted,
                    p, mask.others_delta, mask.others_interval, mask.random and (mask.random.beyond, mask.random.sets),
                ]
            )  # fmt: skip
    return Table("verdicts", "The strongest claim about each label", columns, rows, VALIDATION, grouped=True)


def results_table(validation: Validation, name: str, caption: str, source: str) -> Table:
    """The main table of a validation, a row for each label and mask; a label without a mask has one row."""
    verdict, reason, *measured = EFFECT
    columns = (
        Column("task"), Column("label"), Column("baseline", "percent", "under"),
        Column("sentences", "count", "under"), Column("neurons", "count", "detail"), Column("mask"),
        Column("masked neurons", "count", "under"), verdict, replace(reason, place="under"), *measured,
        Column("loss Δ, nats", "change"),
    )  # fmt: skip
    rows: list[list[object]] = []
    for task, of_task in validation.tasks.items():
        for label, result in of_task.in_order():
            named = [task, label, result.baseline, result.sentences, result.selected]
            for mask in MASKS:
                if mask in result.masks:
                    effect = result.masks[mask]
                    rows.append([*named, mask, result.masked, *effect_cells(effect), effect.loss_delta])
            if not result.masks:
                rows.append([*named, None, result.masked, "not tested", *effect_cells(None)[1:], None])
    return Table(name, caption, columns, rows, source, grouped=True)


def _trace(validation: Validation) -> Table:
    columns = (
        Column("label"), Column("round", "count"), Column("relative to"), Column("α", "number"),
        Column("share of its neurons", "percent"), Column("neurons", "count"), Column("Δh", "percent"),
        Column("dev accuracy", "percent"), Column("drop", "points"), Column("stopped"),
    )  # fmt: skip
    rows = [
        [
            label, number, step.reference, step.alpha, step.share, step.neurons, step.relative_change,
            step.dev_accuracy, step.dev_drop, result.stopped if number == len(result.trace) else "",
        ]
        for label, result in validation.results.items()
        for number, step in enumerate(result.trace, start=1)
    ]  # fmt: skip
    return Table("trace", "All rounds of the feedback loop", columns, rows, VALIDATION)


def _baseline(validation: Validation) -> Table:
    splits = dict.fromkeys(split for task in validation.tasks.values() for split in task.baseline)
    rows: list[list[object]] = []
    for name, task in validation.tasks.items():
        found = [task.baseline.get(split) for split in splits]
        rows.append([name, "all sentences", *(entry and entry.accuracy for entry in found)])
        rows += [[name, label, *(entry and entry.per_label.get(label) for entry in found)] for label in task.labels]
    columns = (Column("task"), Column("accuracy on"), *(Column(split, "percent") for split in splits))
    return Table("baseline", "Accuracy without intervention", columns, rows, VALIDATION, grouped=True)


def _best_dose(curve: LabelInduction) -> int | None:
    """Position of the dose of the largest share, of those whose loss rises by at most ``MOST_RISE``."""
    fluent = [n for n, loss in enumerate(curve.loss_delta) if loss is not None and loss <= MOST_RISE]
    return max(fluent, key=lambda n: curve.share[n], default=None)


def _induced(result: Induction) -> Table:
    columns = (
        Column("task"), Column("label"), Column("β"), Column("loss Δ, nats", "change", "under"),
        Column("predicted as the label", "percent"), Column("interval", "percent interval", "under"),
        Column("without", "percent"), Column("random", "percent"),
    )  # fmt: skip
    rows: list[list[object]] = []
    for task, labels in result.tasks.items():
        for label, curve in labels.items():
            best = _best_dose(curve)
            if best is None:
                rows.append([task, label, None, None, None, None, curve.baseline, None])
                continue
            random = None if curve.random is None else curve.random[best]
            rows.append(
                [
                    task, label, result.options.betas[best], curve.loss_delta[best], curve.share[best],
                    curve.interval[best], curve.baseline, random,
                ]
            )  # fmt: skip
    caption = "Induction: sentences of other labels that are predicted as the label, at the best fluent dose"
    return Table("induced", caption, columns, rows, findings_file("induction"), grouped=True)


def induced_claim(result: Induction) -> str:
    """A sentence on how far the shift moves answers to the labels."""
    best = [(curve, _best_dose(curve)) for labels in result.tasks.values() for curve in labels.values()]
    known = [(curve, dose) for curve, dose in best if dose is not None]
    above = sum(curve.interval[dose][0] > curve.baseline for curve, dose in known)
    drawn = [(curve.interval[dose][0], curve.random[dose]) for curve, dose in known if curve.random is not None]
    random = (
        f", above that of random neurons for {sum(low > share for low, share in drawn):,} of {len(drawn):,}"
        if drawn
        else ""
    )
    return (
        "Induction: when β times a label's mean activation is added to its neurons, the 95 % interval of the share of "
        f"other labels' sentences predicted as the label lies above the share without it for {above:,} of "
        f"{count(len(best), 'label')}{random}. Each label is shown at its dose of the largest share, out of those that "
        f"raise the loss of these sentences by at most {MOST_RISE:g} nats a token. Dose and share are of the same "
        "sentences: this describes the run and is no estimate for others."
    )


def _steered(result: Generation) -> Iterator[tuple[str, str, str, Mapping[str, MethodGeneration]]]:
    """(task, label, method, the label's methods) of each program of neurons that generated texts."""
    for task, of_task in result.tasks.items():
        for label, methods in of_task.labels.items():
            for method, found in methods.items():
                if found.versus:
                    yield task, label, method, methods


def _generated(result: Generation) -> Table:
    steered = list(_steered(result))
    kinds = dict.fromkeys(other.split()[0] for *_, method, methods in steered for other in methods[method].versus)
    compared = [
        column
        for kind in kinds
        for column in (Column(kind, "percent"), Column(f"adjusted p, {kind}", "p", "under"))
    ]  # fmt: skip
    columns = (
        Column("task"), Column("label"), Column("method", "text", "under"), Column("steered", "percent"),
        Column("interval", "percent interval", "under"), *compared,
    )  # fmt: skip
    rows: list[list[object]] = []
    for task, label, method, methods in steered:
        found = methods[method]
        others: dict[str, tuple[object, ...]] = {
            other.split()[0]: (methods[other].score.success, versus.adjusted_p)
            for other, versus in found.versus.items()
        }
        cells = [cell for kind in kinds for cell in others.get(kind, (None, None))]
        rows.append([task, label, method, found.score.success, found.interval, *cells])
    caption = "Generated texts that the judge gives to the label, and p of each difference from steered"
    return Table("generated", caption, columns, rows, findings_file("generation"), grouped=True)


def generated_claims(task: TaskGeneration) -> list[str]:
    """A sentence for each method of neurons and each other one: for how many labels either has more success."""
    compared = dict.fromkeys(
        (method, other) for methods in task.labels.values() for method, found in methods.items()
        for other in found.versus
    )  # fmt: skip
    sentences = []
    for method, other in compared:
        pairs = [methods[method].versus[other] for methods in task.labels.values() if other in methods[method].versus]
        clear = [one for one in pairs if significant(one.adjusted_p)]
        more, less = (sum(sign * one.difference > 0 for one in clear) for sign in (1, -1))
        sentences.append(
            f"Success of {method} is above that of {other} for {more} of {count(len(pairs), 'label')}, below it for "
            f"{less}, not told apart for {len(pairs) - len(clear)}."
        )
    return sentences


@dataclass(frozen=True)
class Pair:
    """A text without steering and one with it, of the same beginning; ``judged`` is the judge's label of each."""

    label: str
    method: str
    beginning: str
    before: str
    after: str
    judged: tuple[str | None, str | None]


def example_pair(result: Generation) -> Pair | None:
    """The first text of the first beginning, for the first label and its first program of neurons."""
    for task, label, method, methods in _steered(result):
        if "unsteered" in methods:
            before, after = methods["unsteered"].texts[0], methods[method].texts[0]
            beginning = result.tasks[task].beginnings[0]
            return Pair(label, method, beginning, before.text, after.text, (before.judged, after.judged))
    return None
