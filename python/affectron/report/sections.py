"""Sections of the report on the experiments of a run: from each result its tables, figures and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from affectron._internal.artifacts import CROSS_DATASET, findings_file
from affectron._internal.wording import count
from affectron.experiments.results import (
    THIRDS,
    Associations,
    CandidateNeuron,
    Candidates,
    CrossSignal,
    Induction,
    Stability,
    Validation,
)
from affectron.report import effects, figures, generation
from affectron.report import text as words
from affectron.report.cards import Neuron, card_ids
from affectron.report.pieces import Pieces, Result
from affectron.report.section import Figure, Section
from affectron.report.summary import results_table
from affectron.report.tables import Column, Table


def sections(pieces: Pieces) -> list[Section]:
    """The sections of all results that the run has beside its validation, in the order of the method."""
    return [
        *_made(effects.methods, pieces.methods),
        *_made(effects.estimate, pieces.estimate),
        *_made(_stability, pieces.stability),
        *_made(partial(_candidates, cards=card_ids(pieces)), pieces.candidates),
        *_made(effects.ablations, pieces.ablations),
        *_made(_induction, pieces.induction),
        *_made(generation.generation, pieces.generation),
        *_made(_cross_signal, pieces.cross_signal),
        *_made(_associations, pieces.associations),
        *_made(_cross_dataset, pieces.cross_dataset),
    ]


def _made(make: Callable[[Result], Section], result: Result | None) -> list[Section]:
    return [] if result is None else [make(result)]


def _stability(result: Stability) -> Section:
    options, labels = result.options, result.labels
    section = Section("stability", "Stability of the selection")
    section.text.append(
        f"The corpus was measured in {count(options.folds, 'fold')}. A neuron's frequency is the share of "
        f"{count(options.resamples, 'bootstrap resample')} of the folds in which it is selected for the label; "
        "split-half is the mean Jaccard index of the neurons of two halves, over "
        f"{count(options.splits, 'random split')}."
    )
    shares = {
        label: [frequency for _, _, frequency in stable.neurons] for label, stable in labels.items() if stable.neurons
    }
    if shares:
        frequencies = {label: [100 * share for share in of_label] for label, of_label in shares.items()}
        drawing = figures.ranked_figure(frequencies, None, "selection frequency, %", (-3, 103), 50)
        caption = "How often each selected neuron is selected again under resampling; dotted, one half."
        section.figures.append(Figure("stability", drawing, caption))
    rows = [
        [
            label, stable.task, stable.selected, float(np.median(shares[label])) if label in shares else None,
            sum(share >= 0.8 for share in shares.get(label, ())), stable.split_half,
        ]
        for label, stable in labels.items()
    ]  # fmt: skip
    columns = (
        Column("label"), Column("task"), Column("selected", "count"), Column("median frequency", "percent"),
        Column("at 80 % or more", "count"), Column("split-half Jaccard", "number"),
    )  # fmt: skip
    caption = "Stability of each label's neurons"
    section.tables.append(Table("stability", caption, columns, rows, findings_file("stability")))
    return section


#: Quantity of a sentence that a score compares between labels (``scores.SCORES[name].reads``).
_COMPARED = {"rate": "activation rate", "mean": "mean activation"}


def _candidates(result: Candidates, cards: Mapping[Neuron, str]) -> Section:
    options = result.options
    reads, split = options.reads, options.split
    taken = words.quantity(reads, options.tokens)
    section = Section("candidates", "The selected neurons one by one")
    section.text.append(
        f"Each neuron is judged by what selected it. The score “{options.score}” compares {_COMPARED[reads]}s; so "
        f"of each sentence of the {split} split is taken {taken}. “Selected for” says whether that is higher or lower "
        "under the label than under the rest of its task in the statistics that the neuron was selected from. AUROC "
        "compares every sentence with the label with every one without: it is the share of these pairs in which the "
        "difference has the direction that the neuron was selected for, ties counted half. Above 0.5 the neuron does "
        "here what it was selected for, below 0.5 the opposite. The interval is of 95 %; p is two-sided from "
        f"{count(options.permutations, 'permutation')}, q adjusted by Benjamini and Hochberg over all neurons of "
        "all labels. Redundancy is the largest absolute correlation, of the same quantity, with a neuron higher in the "
        "label's list."
    )
    known = {
        label: [
            (neuron, neuron.auroc, neuron.interval)
            for neuron in of_label.neurons
            if neuron.auroc is not None and neuron.interval is not None
        ]
        for label, of_label in result.labels.items()
    }
    known = {label: neurons for label, neurons in known.items() if neurons}
    if known:
        areas = {label: [auroc for _, auroc, _ in neurons] for label, neurons in known.items()}
        intervals = {label: [interval for _, _, interval in neurons] for label, neurons in known.items()}
        whole = [interval for of_label in intervals.values() for interval in of_label]
        above = sum(area > 0.5 for of_label in areas.values() for area in of_label)
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
        section.figures.append(Figure("candidates", drawing, caption))
    best = {label: sorted(neurons, key=lambda known: -known[1])[:3] for label, neurons in known.items()}
    neurons = {label: [neuron for neuron, _, _ in of_label] for label, of_label in best.items()}
    section.tables.append(_best_candidates(result, neurons, cards))
    return section


def _best_candidates(
    result: Candidates, best: Mapping[str, Sequence[CandidateNeuron]], cards: Mapping[Neuron, str]
) -> Table:
    """The table of the best neurons of each label, with links to their ``cards``."""
    rows: list[list[object]] = [
        [
            label, f"{neuron.site} {neuron.index}", f"{neuron.direction} {result.options.reads}", neuron.auroc,
            neuron.interval, neuron.p, neuron.q, neuron.redundancy,
        ]
        for label, neurons in best.items() for neuron in neurons
    ]  # fmt: skip
    columns = (
        Column("label"), Column("neuron"), Column("selected for"), Column("AUROC", "number"),
        Column("interval", "interval", "under"), Column("p", "p"), Column("q", "p"), Column("redundancy", "number"),
    )  # fmt: skip
    caption = "The neurons of highest AUROC, up to three of each label"
    links = {f"{site} {index}": card for (site, index), card in cards.items()}
    return Table("candidates", caption, columns, rows, findings_file("candidates"), links=links)


def _induction(result: Induction) -> Section:
    betas = result.options.betas
    section = Section("induction", "Induction")
    curves = {label: curve for labels in result.tasks.values() for label, curve in labels.items()}
    if not curves:
        section.text.append("No label has neurons to induce.")
        return section
    caption = (
        "Test sentences that do not carry the label: the share predicted as the label when β times its mean "
        "activation is added to its neurons, with the 95 % interval (Clopper and Pearson 1934); dashed, the same "
        "shift at random neurons, as many at each layer."
    )
    section.figures.append(Figure("induction", figures.induction_figure(curves, betas), caption))
    caption = (
        "What the same shift does to next-token loss on these sentences as plain text: above zero, the model "
        "predicts language worse."
    )
    section.figures.append(Figure("fluency", figures.fluency_figure(curves, betas), caption))
    columns = (
        Column("label"), Column("β"), Column("without", "percent"), Column("share", "percent"),
        Column("interval", "percent interval", "under"), Column("random", "percent"), Column("loss Δ, nats", "change"),
    )  # fmt: skip
    rows = [
        [
            label, beta, curve.baseline, curve.share[k], curve.interval[k],
            curve.random and curve.random[k], curve.loss_delta[k],
        ]
        for label, curve in curves.items()
        for k, beta in enumerate(betas)
    ]  # fmt: skip
    caption = "Share of other labels' sentences predicted as the label, by dose"
    section.tables.append(Table("induction", caption, columns, rows, findings_file("induction")))
    return section


def _cross_signal(result: CrossSignal) -> Section:
    options, labels = result.options, result.labels
    section = Section("cross-signal", "Cross-signal")
    omegas = ", ".join(f"{omega:g}" for omega in options.omegas)
    section.text.append(
        f"ω times the mean activation under a label of {options.source} is added at the neurons of a label of "
        f"{options.target}. ω is chosen on dev for each pair, out of {omegas}; shown is the test split. A pair "
        "helps where accuracy rises, and the larger p of McNemar's test and of the rank among random sets, adjusted "
        "over all pairs (Holm), is at most 0.05."
    )
    if not labels:
        section.text.append("No label has neurons.")
        return section
    names = list(labels)
    devices = list(labels[names[0]].devices)
    values = np.array([[labels[name].devices[device].delta for name in names] for device in devices])
    helps = np.array([[labels[name].devices[device].helps is True for name in names] for device in devices])
    drawing = figures.matrix_figure(
        devices, names, values, subject="Change of accuracy on test, in points", written=words.points,
        bound=figures.MOST_CHANGE, bold=helps,
    )  # fmt: skip
    caption = (
        f"Change of accuracy, in points, on the test sentences of each {options.target} (columns) under the "
        f"signal of each {options.source} (rows); framed where the pair helps. {figures.CHANGE_SCALE}"
    )
    section.figures.append(Figure("cross-signal", drawing, caption))
    columns = (
        Column(options.source), Column(options.target), Column("ω"), Column("dev Δ", "points"),
        Column("test Δ", "points"), Column("interval", "points interval", "under"), Column("adjusted p", "p"),
        Column("p", "p", "under"), Column("random", "beyond"), Column("helps"),
    )  # fmt: skip
    rows = []
    for name in names:
        for device in devices:
            signal = labels[name].devices[device]
            random = signal.random
            rows.append(
                [
                    device, name, signal.omega, max(signal.dev), signal.delta, signal.interval, signal.adjusted_p,
                    signal.p, random and (random.beyond, random.sets),
                    None if signal.helps is None else words.plain(signal.helps),
                ]
            )  # fmt: skip
    section.tables.append(Table("cross-signal", "Cross-signal", columns, rows, findings_file("cross_signal")))
    return section


def _associations(result: Associations) -> Section:
    section = Section("associations", "Associations")
    labels = [label for names in result.tasks.values() for label in names]
    score = result.options.score
    section.text.append(
        "Overlap is the number of neurons that two labels share, expected is what random sets of the same sizes "
        "would; p is the upper tail of the hypergeometric distribution, q adjusted by Benjamini and Hochberg over "
        "the pairs of two tasks, or of one. The correlation is Pearson's, of the two labels' "
        f"{score} over all neurons."
    )
    position = {label: row for row, label in enumerate(labels)}
    matrix = np.full((len(labels), len(labels)), np.nan)
    for pair in result.pairs:
        i, j = position[pair.first], position[pair.second]
        matrix[i, j] = matrix[j, i] = np.nan if pair.correlation is None else pair.correlation
    drawing = figures.matrix_figure(
        labels, labels, matrix, subject=f"Correlation of two labels' {score}", written=words.index, bound=1.0
    )
    caption = (
        f"Correlation of two labels' {score} over all {count(result.neurons, 'neuron')}. The strongest colours stand "
        "for −1 and 1."
    )
    section.figures.append(Figure("correlation", drawing, caption))
    rows = [
        [
            pair.first, pair.second, pair.overlap, pair.expected, pair.jaccard, pair.p, pair.q, pair.correlation,
        ]
        for pair in sorted(result.pairs, key=lambda pair: (pair.same_task, 2 if pair.p is None else pair.p))
    ]  # fmt: skip
    columns = (
        Column("first"), Column("second"), Column("overlap", "count"), Column("expected", "number"),
        Column("Jaccard", "number"), Column("p", "p"), Column("q", "p"), Column("correlation", "number"),
    )  # fmt: skip
    source = findings_file("associations")
    section.tables.append(Table("associations", "Pairs of labels, of two tasks first", columns, rows, source))
    thirds = [
        [label, *(layers.thirds[third] for third in THIRDS)] for label, layers in result.layers.items() if layers.thirds
    ]
    if thirds:
        counts = (Column("label"), *(Column(third, "count") for third in THIRDS))
        section.tables.append(Table("layers", "Neurons in each third of the sites", counts, thirds, source))
    return section


def _cross_dataset(other: Validation) -> Section:
    section = Section("cross-dataset", "On another corpus")
    corpus = other.provenance.get("corpus_name", "another corpus")
    section.text.append(
        f"The same neurons, found on this run's corpus, validated on {corpus}: the feedback loop runs on its dev "
        "split, and its test split is shown. Columns and verdict are those of the main table."
    )
    caption = f"Validation on {corpus}, with all that was measured in the CSV"
    section.tables.append(results_table(other, "cross-dataset", caption, CROSS_DATASET))
    return section
