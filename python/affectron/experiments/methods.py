"""Selection methods side by side: what each selects, how far two of them agree, and the effect of zeroing what each
selects, over the number of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # loads its submodules on first use

from affectron import options
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.evaluation.effects import Ranked, Trial, measure_effects, most_sets
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

#: Random sets of each point of a curve.
CURVE_SETS = 4


@checked_arguments
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
    random_sets: int | None = options.Methods.random_sets,
    smallest_effect: float = options.Methods.smallest_effect,
    progress: bool = False,
) -> Methods:
    """Select by each method and set to zero what it selects, on the test split.

    Beside the effect of all that a method selects stands its curve: the effect of the best neurons of its ranking, for
    each number in ``counts``. The ranking is a selection of as many. Where a method gives a label fewer (an entropy as
    many as it assigns), the curve ends with these. Random sets are drawn from the neurons that no method selects for
    the label, as many at each site as are zeroed there, of similar activity; a point of a curve has four. Each method
    is judged by itself, its p values adjusted over all labels.

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
    asked = options.Methods(
        random_sets=random_sets, smallest_effect=smallest_effect, methods=None if methods is None else tuple(methods),
        top=top, counts=tuple(counts),
    )  # fmt: skip
    if attributions is not None:
        exam.require(neurons, attributions, task)
    tasks = exam.require(neurons, stats, task)
    measured = {ACTIVATION: stats} if attributions is None else {ACTIVATION: stats, ATTRIBUTION: attributions}
    named = asked.methods or tuple(
        name for name, method in METHODS.items() if SCORES[str(method.options.score)].kind in measured
    )
    chosen = {name: {method: select_by(measured, method, name, top=top) for method in named} for name in tasks}
    best = {name: {method: select_by(measured, method, name, count=max(counts)) for method in named} for name in tasks}
    curves: dict[str, dict[str, Curve]] = {}
    trials: dict[tuple[str, str], Trial] = {}
    labels = [label for of_task in tasks.values() for label in of_task]
    points = len(counts) * (1 + CURVE_SETS)
    runs = len(labels) * len(named) * (points + 1 + most_sets(random_sets, len(labels)))
    with exam.sitting("comparing", runs, progress) as step:
        for name, of_task in tasks.items():
            for label in of_task:
                rng = label_rng(exam.seed, name, label)
                selected = {method: lists[label] for method, lists in chosen[name].items()}
                ranked = _united(exam, stats, label, selected)
                for method, members in selected.items():
                    if members:
                        draws = ranked.draw(members, most_sets(random_sets, len(labels)), rng)
                        trials[method, label] = Trial(ranked, members, zero, draws)
                rankings = {method: _nested(lists[label], counts) for method, lists in best[name].items()}
                curves[label] = _curves(exam, ranked, rankings, rng)
                step(len(named) * points)
        effects = measure_effects(exam, trials, asked, step)
    results = {
        name: TaskMethods(
            {
                label: _compared(
                    exam, name, label, {method: lists[label] for method, lists in chosen[name].items()}, curves[label],
                    {method: effects.get((method, label)) for method in named},
                )
                for label in of_task
            },
            _agreement(chosen[name]),
        )
        for name, of_task in tasks.items()
    }  # fmt: skip
    recorded = MethodsOptions(
        ExamOptions.of(exam.options(tasks)), named, top, tuple(counts), random_sets, smallest_effect
    )
    return Methods(exam.provenance(neurons), recorded, results)


def _nested(ranking: NeuronList, counts: Sequence[int]) -> list[NeuronList]:
    """The best neurons of a ranking, for each of ``counts`` in ascending order; the last is all where it has fewer."""
    return [ranking[:count] for count in sorted({min(count, len(ranking)) for count in counts} - {0})]


def _members(neurons: NeuronList) -> _Members:
    return frozenset((site, index) for site, index, _ in neurons)


def _united(exam: Exam, stats: ActivationStats, label: str, selected: Mapping[str, NeuronList]) -> Ranked:
    """A label with the neurons that any method selects for it."""
    task = stats.task_of[label]
    every = {neuron[:2]: neuron for neurons in selected.values() for neuron in neurons}
    return Ranked(label, exam.corpus.tasks[task].index(label), NeuronList(label, task, every.values()), stats, exam)


def _curves(
    exam: Exam, ranked: Ranked, rankings: Mapping[str, Sequence[NeuronList]], rng: np.random.Generator
) -> dict[str, Curve]:
    """The curve of each method: the effect of zeroing each of its nested sets, and random sets in their place.

    A set that several methods have in common is zeroed once.
    """
    asked = exam.questions(exam.test, ranked.task)
    own, others = asked.own(ranked.target), asked.others(ranked.target)
    distinct = {_members(neurons): neurons for nested in rankings.values() for neurons in nested}
    sets = list(distinct.values())
    drawn = [ranked.draw(neurons, CURVE_SETS, rng) for neurons in sets]
    before = asked.right(asked.unmasked)
    after = asked.right(asked.ask([zero(neurons) for neurons in sets])) - before
    controls = [zero(draws[position]) for draws in drawn if draws for position in range(len(draws))]
    random = iter((asked.right(asked.ask(controls, own), own) - before[own]).mean(axis=1).tolist())
    points = (
        CurvePoint(
            len(neurons),
            Heights(
                float(change[own].mean()),
                float(change[others].mean()) if len(others) else None,
                float(np.mean([next(random) for _ in range(len(draws))])) if draws else None,
            ),
        )
        for neurons, draws, change in zip(sets, drawn, after, strict=True)
    )
    of_set = dict(zip(distinct, points, strict=True))
    return {
        method: _curve(tuple(of_set[_members(neurons)] for neurons in nested)) for method, nested in rankings.items()
    }


def _compared(
    exam: Exam,
    task: str,
    label: str,
    selected: Mapping[str, NeuronList],
    curves: Mapping[str, Curve],
    effects: Mapping[str, Effect | None],
) -> LabelMethods:
    """The result of a label."""
    specific = {
        method: effect.specific_delta
        for method, effect in effects.items()
        if effect is not None and effect.verdict == SPECIFIC and effect.specific_delta is not None
    }
    return LabelMethods(
        sentences=len(exam.questions(exam.test, task).own(exam.corpus.tasks[task].index(label))),
        methods={
            method: MethodResult(len(neurons), effects[method], curves[method]) for method, neurons in selected.items()
        },
        best=min(specific, key=lambda method: specific[method]) if specific else None,
    )


def _curve(points: tuple[CurvePoint, ...]) -> Curve:
    """The curve through points, ascending in number."""
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
