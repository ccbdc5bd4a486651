"""Figures on the run as a whole: effect over the number of masked neurons, accuracy under each mask, neurons by site,
overlap of labels, the feedback loop."""

from __future__ import annotations

import math

from affectron.neurons import NeuronSet
from affectron.report import figures
from affectron.report.averages import mean_curve
from affectron.report.curves import curves_figure
from affectron.report.drawing import Drawing
from affectron.report.pieces import Pieces


def overview_figures(pieces: Pieces) -> dict[str, Drawing]:
    """Name -> drawing of every figure that the run has numbers for, in order."""
    drawings = {}
    methods = pieces.methods
    if methods and methods.tasks:
        drawings["curves"] = curves_figure({method: mean_curve(methods, method) for method in methods.options.methods})
    results = pieces.validation.results if pieces.validation else {}
    if pieces.validation and results:
        drawings["accuracy"] = figures.accuracy_figure(pieces.validation.tasks)
    if pieces.neurons and any(len(neurons) for neurons in pieces.neurons.values()):
        masked = {label: result.sites for label, result in results.items()}
        drawings |= _neuron_figures(pieces.neurons, masked)
    if pieces.validation and any(result.trace for result in results.values()):
        min_drop = pieces.validation.options.get("min_drop")
        known = isinstance(min_drop, (int, float)) and math.isfinite(min_drop)
        drawings["trace"] = figures.trace_figure(results, min_drop if known else None)
    return drawings


def _neuron_figures(neurons: NeuronSet, masked: dict[str, dict[str, int]]) -> dict[str, Drawing]:
    sites, counts = neurons.site_counts()
    selected = {
        label: dict(zip(sites, map(int, row), strict=True)) for label, row in zip(neurons.labels, counts, strict=True)
    }
    drawings = {"layers": figures.layers_figure(selected, masked, sites)}
    if len(neurons) > 1:
        labels, jaccard = neurons.overlap()
        sizes, tasks = [len(neurons[label]) for label in labels], [neurons[label].task for label in labels]
        drawings["overlap"] = figures.overlap_figure(labels, jaccard, sizes, tasks)
    return drawings
