"""Selection methods side by side: what each selects, how far two of them agree, and the effect of zeroing what each
selects, over the number of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # loads its submodules on first use

from affectron import options
from affectron._internal.options import documented
from affectron.evaluation.effects import Ranked, Trial, measure_effects
from affectron.evaluation.exam import Exam
from affectron.evaluation.resampling import label_rng
from affectron.evaluation.verdicts import SPECIFIC, Effect
from affectron.experiments.results import (
    Curve,
    CurvePoint,
    ExamOptions,
    Heights,
    LabelMethods,
    MethodResult,
    Methods,
    MethodsOptions,
    TaskMethods,
)
from affectron.interventions import zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import METHODS
from affectron.scores import SCORES
from affectron.selection import select_by
from affectron.stats import ACTIVATION, ATTRIBUTION, ActivationStats

#: A mask, by its neurons.
_Members = frozenset[tuple[str, int]]


@documented(options.Methods)
def compare_methods(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    attributions: ActivationStats | None = None,
    *,
    methods: Sequence[str] | None = options.Methods.methods,
    top: float = options.Methods.top,
    counts: Sequence[int] = options.Methods.counts,
    task: str | None = None,
    random_sets: int = options.Methods.random_sets,
    bootstrap: int = options.Methods.bootstrap,
    progress: bool = False,
) -> Methods:
    """Select by each method and set to zero what it selects, on the test split.

    Beside the effect of all that a method selects stands its curve: the effect of the best neurons of its ranking, for
    each number in ``counts``. The ranking is a selection of as many. Where a method gives a label fewer (an entropy as
    many as it assigns), the curve ends with these. Random sets are drawn from the neurons that no method selects for
    the label, as many at each site as are zeroed there; a point of a curve has a fifth of them.

    Args:
        neurons: names the tasks and labels, and is checked against the model; its neurons are not used.
        stats: statistics of activations.
        attributions: read by the methods whose score is of attributions.
        {options}
            (A method with a score for each label takes its part of ``top`` for each.)

    Raises:
        InputError: an unknown method, one of attributions without these, a value out of its range, or as
            :meth:`Exam.require`.
    """
    named = None if methods is None else tuple(methods)
    options.Methods(random_sets=random_sets, bootstrap=bootstrap, methods=named, top=top, counts=tuple(counts))
    if attributions is not None:
        exam.require(neurons, attributions, task)
    tasks = exam.require(neurons, stats, task)
    measured = {ACTIVATION: stats} if attributions is None else {ACTIVATION: stats, ATTRIBUTION: attributions}
    if named is None:
        named = tuple(name for name, method in METHODS.items() if SCORES[str(method.options.score)].kind in measured)
    chosen = {name: {method: select_by(measured, method, name, top=top) for method in named} for name in tasks}
    best = {name: {method: select_by(measured, method, name, count=max(counts)) for method in named} for name in tasks}
    each = len(named) * (1 + random_sets + len(counts) * (1 + curve_sets(random_sets)))
    results: dict[str, TaskMethods] = {}
    runs = sum(map(len, tasks.values())) * each
    with exam.sitting("comparing", runs, progress) as step:
        for name, labels in tasks.items():
            by_label = {}
            for label in labels:
                selected = {method: lists[label] for method, lists in chosen[name].items()}
                curves = {method: _nested(lists[label], counts) for method, lists in best[name].items()}
                effects = _effects(exam, stats, label, selected, curves, random_sets, bootstrap)
                by_label[label] = _compared(exam, name, label, selected, curves, effects)
                step(each)
            results[name] = TaskMethods(by_label, _agreement(chosen[name]))
    recorded = MethodsOptions(ExamOptions.of(exam.options(tasks)), named, top, tuple(counts), random_sets, bootstrap)
    return Methods(exam.provenance(neurons), recorded, results)


def curve_sets(random_sets: int) -> int:
    """The random sets of each point of a curve: a fifth of those of a selection, rounded up."""
    return -(-random_sets // 5)


def _nested(ranking: NeuronList, counts: Sequence[int]) -> list[NeuronList]:
    """The best neurons of a ranking, for each of ``counts`` in ascending order; the last is all where it has fewer."""
    return [ranking[:count] for count in sorted({min(count, len(ranking)) for count in counts} - {0})]


def _members(neurons: NeuronList) -> _Members:
    return frozenset((site, index) for site, index, _ in neurons)


def _effects(
    exam: Exam,
    stats: ActivationStats,
    label: str,
    selected: Mapping[str, NeuronList],
    curves: Mapping[str, Sequence[NeuronList]],
    random_sets: int,
    bootstrap: int,
) -> dict[_Members, Effect]:
    """The effect of zeroing each method's selected neurons of a label, and those of each point of its curve. A set that
    several of these have in common is zeroed once."""
    task = stats.task_of[label]
    target = exam.corpus.tasks[task].index(label)
    rng = label_rng(exam.seed, task, label)
    every = {neuron[:2]: neuron for neurons in selected.values() for neuron in neurons}
    ranked = Ranked(label, target, NeuronList(label, task, every.values()), stats, exam)
    few = curve_sets(random_sets)
    masks = {_members(neurons): (neurons, few) for points in curves.values() for neurons in points}
    masks |= {_members(neurons): (neurons, random_sets) for neurons in selected.values() if neurons}
    trials = {
        members: Trial.of(zero, neurons, ranked.random_sets(neurons, sets, rng))
        for members, (neurons, sets) in masks.items()
    }
    return measure_effects(exam.questions(exam.test, task), target, trials, bootstrap, rng)


def _compared(
    exam: Exam,
    task: str,
    label: str,
    selected: Mapping[str, NeuronList],
    curves: Mapping[str, Sequence[NeuronList]],
    effects: Mapping[_Members, Effect],
) -> LabelMethods:
    """The result of a label, from the effects of all masks."""
    found = {method: effects.get(_members(neurons)) for method, neurons in selected.items()}
    specific = {
        method: effect.specific_delta
        for method, effect in found.items()
        if effect is not None and effect.verdict == SPECIFIC and effect.specific_delta is not None
    }
    return LabelMethods(
        sentences=len(exam.questions(exam.test, task).own(exam.corpus.tasks[task].index(label))),
        methods={
            method: MethodResult(
                len(neurons),
                found[method],
                _curve([(len(points), effects[_members(points)]) for points in curves[method]]),
            )
            for method, neurons in selected.items()
        },
        best=min(specific, key=lambda method: specific[method]) if specific else None,
    )


def _curve(effects: Sequence[tuple[int, Effect]]) -> Curve:
    """The curve of (number of neurons, effect of zeroing them), ascending in number."""
    points = tuple(
        CurvePoint(
            count, Heights(effect.delta, effect.others_delta, None if effect.random is None else effect.random.mean)
        )
        for count, effect in effects
    )
    if not points:
        return Curve(points, None)
    # None becomes NaN.
    heights = np.array([(p.height.own, p.height.others, p.height.random) for p in points], dtype=np.float64)
    x = np.log([point.masked for point in points])
    area = heights[0] if len(points) == 1 else scipy.integrate.trapezoid(heights, x, axis=0) / (x[-1] - x[0])
    own, *rest = area.tolist()
    others, random = (None if np.isnan(value) else value for value in rest)
    return Curve(points, Heights(own, others, random))


def _agreement(chosen: Mapping[str, NeuronSet]) -> tuple[tuple[float | None, ...], ...]:
    """Jaccard index of each two methods, the mean over labels; None where neither has a neuron of any label."""
    members = [{label: _members(neurons) for label, neurons in lists.items()} for lists in chosen.values()]

    def mean_jaccard(first: Mapping[str, _Members], second: Mapping[str, _Members]) -> float | None:
        shares = [
            len(first[label] & second[label]) / len(first[label] | second[label])
            for label in first
            if first[label] | second[label]
        ]
        return float(np.mean(shares)) if shares else None

    return tuple(tuple(mean_jaccard(first, second) for second in members) for first in members)
