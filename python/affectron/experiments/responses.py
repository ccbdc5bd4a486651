"""Responses: P of a label on its own sentences, as one neuron's activation is multiplied by several factors."""

from __future__ import annotations

import math

from scipy import special

from affectron import options
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.evaluation.exam import Exam, Questions
from affectron.evaluation.intervals import mean_interval
from affectron.experiments.activity import Neuron
from affectron.experiments.results import (
    ExamOptions,
    LabelResponses,
    NeuronResponse,
    ResponsePoint,
    Responses,
    ResponsesOptions,
)
from affectron.experiments.single_neurons import Array, scores_alone
from affectron.interventions import Program, amplify, zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ActivationStats


@checked_arguments
@documented(options.Responses)
def responses(
    exam: Exam,
    selection: NeuronSet,
    stats: ActivationStats,
    *,
    neurons: int = options.Responses.neurons,
    factors: tuple[float, ...] = options.Responses.factors,
    task: str | None = None,
    progress: bool = False,
) -> Responses:
    """Measure how P of a label on its dev sentences changes as one of its first neurons is turned down or up.

    Under a factor f the neuron's activation is f h at every position of the exam, and all other neurons are left alone.
    P of the label is the softmax of the scores of the task's labels, calibrated where the exam is. A point is the mean
    change of P over the label's own dev sentences, with its 95 % interval over sentences
    (:func:`affectron.evaluation.intervals.mean_interval`). A factor of 1 changes nothing and is not run.

    Args:
        exam: with an evaluator that gives scores of labels.
        selection: names the tasks and labels; each label's first neurons are changed.
        stats: statistics of the model.
        {options}
        task: its labels alone.
        progress: show a bar on stderr.

    Raises:
        InputError: a value out of its range, an evaluator without scores, or as :meth:`Exam.require`.
    """
    options.Responses(neurons, factors)
    ascending = tuple(sorted(set(map(float, factors))))
    tasks = exam.require(selection, stats, task)
    chosen = {label: selection[label][:neurons] for labels in tasks.values() for label in labels}
    results: dict[str, LabelResponses] = {}
    runs = sum(len(members) for members in chosen.values()) * len(ascending)
    with exam.sitting("measuring responses", runs, progress) as step:
        for name, labels in tasks.items():
            asked = exam.questions(exam.dev, name)
            for label in labels:
                results[label] = _of_label(exam, asked, chosen[label], ascending, list(selection.widths))
                step(len(chosen[label]) * len(ascending))
    recorded = ResponsesOptions(ExamOptions.of(exam.options(tasks)), neurons, ascending)
    return Responses(exam.provenance(selection), recorded, results)


def _of_label(
    exam: Exam, asked: Questions, members: NeuronList, factors: tuple[float, ...], sites: list[str]
) -> LabelResponses:
    target = asked.labels.index(members.label)
    rows = asked.own(target)
    changed = [factor for factor in factors if factor != 1]

    def programs(neuron: Neuron) -> list[Program]:
        return [_multiplied(neuron, factor) for factor in changed]

    ordered = [(site, index) for site, index, _ in members]
    before, after = scores_alone(exam, asked, rows, ordered, programs, sites)
    baseline = special.softmax(before, axis=-1)[:, target]

    def response(neuron: Neuron) -> NeuronResponse:
        changes = special.softmax(after[neuron], axis=-1)[..., target] - baseline
        points = {factor: _point(change, baseline) for factor, change in zip(changed, changes, strict=True)}
        return NeuronResponse(*neuron, tuple(points.get(factor, _UNCHANGED) for factor in factors))

    return LabelResponses(members.task, len(rows), float(baseline.mean()), tuple(map(response, ordered)))


def _multiplied(neuron: Neuron, factor: float) -> Program:
    """The program that multiplies a neuron's activation by a factor."""
    return amplify([neuron], factor) if factor >= 1 else zero([neuron]).scaled(1 - factor)


_UNCHANGED = ResponsePoint(0.0, (0.0, 0.0))


def _point(changes: Array, baseline: Array) -> ResponsePoint:
    """The mean change and its interval, within what P can change; None where an answer of the model is no number."""
    mean, before = float(changes.mean()), float(baseline.mean())
    if not math.isfinite(mean):
        return ResponsePoint(None, None)
    low, high = mean_interval(changes)
    return ResponsePoint(mean, (max(low, -before), min(high, 1 - before)))
