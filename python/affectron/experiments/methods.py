"""Selection methods side by side, on one file of statistics: what each selects, how far two of them agree, and the
effect of masking what each selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from affectron import options
from affectron.evaluation.effects import Ranked, measure_effects
from affectron.evaluation.exam import Exam
from affectron.evaluation.resampling import label_rng
from affectron.evaluation.verdicts import SPECIFIC
from affectron.experiments.results import ExamOptions, LabelMethods, MethodResult, Methods, MethodsOptions, TaskMethods
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import documented
from affectron.selection import select_by
from affectron.stats import ActivationStats


@documented(options.Methods)
def compare_methods(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    *,
    methods: tuple[str, ...] = options.Methods.methods,
    top: float = options.Methods.top,
    alpha: float = options.Methods.alpha,
    task: str | None = None,
    random_sets: int = options.Methods.random_sets,
    bootstrap: int = options.Methods.bootstrap,
    progress: bool = False,
) -> Methods:
    """Select by each method and mask what it selects, by one and the same attenuation, on the test split.

    Args:
        neurons: names the tasks and labels, and is checked against the model; its neurons are not used.
        {options}
            (A method with a score for each label takes its part of ``top`` for each; the attenuation is dynamic.)

    Raises:
        InputError: an unknown method, a value out of its range, or as :meth:`Exam.require`.
    """
    options.Methods(
        random_sets=random_sets, bootstrap=bootstrap, methods=tuple(methods), top=top, alpha=alpha
    )  # fmt: skip
    tasks = exam.require(neurons, stats, task)
    chosen = {name: {method: select_by(stats, method, name, top) for method in methods} for name in tasks}
    results: dict[str, TaskMethods] = {}
    runs = sum(len(labels) for labels in tasks.values()) * len(methods) * (1 + random_sets)
    with exam.sitting("comparing", runs, progress) as step:
        for name, labels in tasks.items():
            by_label = {}
            for label in labels:
                lists = {method: selected[label] for method, selected in chosen[name].items()}
                by_label[label] = _compare(exam, stats, name, label, lists, alpha, random_sets, bootstrap)
                step(len(methods) * (1 + random_sets))
            results[name] = TaskMethods(by_label, _agreement(chosen[name]))
    recorded = MethodsOptions(ExamOptions.of(exam.options(tasks)), tuple(methods), top, alpha, random_sets, bootstrap)
    return Methods(exam.provenance(neurons), recorded, results)


def _compare(
    exam: Exam,
    stats: ActivationStats,
    task: str,
    label: str,
    lists: Mapping[str, NeuronList],
    alpha: float,
    random_sets: int,
    bootstrap: int,
) -> LabelMethods:
    """The effect of masking each method's neurons of one label; ``lists`` has them by method."""
    asked = exam.questions(exam.test, task)
    rng = label_rng(exam.seed, task, label)
    target = exam.corpus.tasks[task].index(label)
    trials = {}
    for method, neurons in lists.items():
        if neurons:
            ranked = Ranked.of(neurons, exam.corpus.tasks[task], stats)
            trials[method] = ranked.trial(ranked.neurons, alpha, random_sets, rng)
    effects = measure_effects(asked, target, trials, bootstrap, rng)
    specific = {
        method: effect.specific_delta
        for method, effect in effects.items()
        if effect.verdict == SPECIFIC and effect.specific_delta is not None
    }
    return LabelMethods(
        sentences=len(asked.own(target)),
        methods={method: MethodResult(len(neurons), effects.get(method)) for method, neurons in lists.items()},
        best=min(specific, key=lambda method: specific[method]) if specific else None,
    )


def _agreement(chosen: Mapping[str, NeuronSet]) -> tuple[tuple[float | None, ...], ...]:
    """Jaccard index of each two methods, the mean over labels; None where neither has a neuron of any label."""
    members = [
        {label: {(site, index) for site, index, _ in neurons} for label, neurons in lists.items()}
        for lists in chosen.values()
    ]

    def mean_jaccard(first: Mapping[str, set[Any]], second: Mapping[str, set[Any]]) -> float | None:
        shares = [
            len(first[label] & second[label]) / len(first[label] | second[label])
            for label in first
            if first[label] | second[label]
        ]
        return float(np.mean(shares)) if shares else None

    return tuple(tuple(mean_jaccard(first, second) for second in members) for first in members)
