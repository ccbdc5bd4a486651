"""Check of the attributions' first-order estimate: the effect of zeroing each neuron alone, beside its attribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # loads its submodules on first use
import torch

from affectron import options
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.errors import InputError
from affectron.evaluation.batched import Integers
from affectron.evaluation.exam import Exam, Questions
from affectron.evaluation.resampling import draw_matched, label_rng
from affectron.experiments.activity import Neuron
from affectron.experiments.results import Estimate, EstimatedNeuron, EstimateOptions, ExamOptions, LabelEstimate
from affectron.experiments.single_neurons import Array, scores_alone
from affectron.interventions import zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ATTRIBUTION, ActivationStats, SiteStats


@checked_arguments
@documented(options.Estimate)
def check_estimate(
    exam: Exam,
    selection: NeuronSet,
    attributions: ActivationStats,
    *,
    neurons: int = options.Estimate.neurons,
    task: str | None = None,
    progress: bool = False,
) -> Estimate:
    """Measure the effect of zeroing single neurons on the label's dev sentences, beside their mean attribution.

    An attribution is to first order what the metric of a sentence loses when the neuron is set to zero
    (:func:`affectron.attribute`). The metric is the evaluator's: log P of the sentence's label for
    ``label_likelihood``, the margin for ``linear_probe``. The random neurons are as many at each site as the tested
    ones, drawn from those that were not selected for the label.

    Args:
        selection: names the tasks and labels; each label's first neurons are tested.
        attributions: of the metric ``answer`` from the baseline ``zero``.
        {options}

    Raises:
        InputError: a value out of its range, an evaluator without a metric, attributions of another metric, baseline,
            evaluator, calibration, prompt or positions, or as :meth:`Exam.require`.
    """
    options.Estimate(neurons)
    _check(exam, attributions)
    tasks = exam.require(selection, attributions, task)
    results: dict[str, dict[str, LabelEstimate]] = {name: {} for name in tasks}
    runs = sum(2 * min(neurons, len(selection[label])) for labels in tasks.values() for label in labels)
    with exam.sitting("checking the estimate", runs, progress) as step:
        every = {name: exam.questions(exam.dev, name) for name in tasks}
        for name in tasks:
            _check_prompt(exam, attributions, name)
        for name, labels in tasks.items():
            asked = every[name]
            for label in labels:
                of_label = attributions.label(label)
                tested = _tested(selection[label], of_label, neurons, label_rng(exam.seed, name, label))
                rows = asked.own(exam.corpus.tasks[name].index(label))
                effects = _effects(exam, asked, rows, list(tested), attributions.sites)
                estimated = [
                    EstimatedNeuron(site, index, chosen, float(of_label[site].mean[index]), effects[site, index])
                    for (site, index), chosen in tested.items()
                ]
                results[name][label] = _estimated(len(rows), estimated)
                step(len(tested))
    recorded = EstimateOptions(ExamOptions.of(exam.options(tasks)), neurons)
    return Estimate(exam.provenance(selection), recorded, results)


def _check(exam: Exam, attributions: ActivationStats) -> None:
    """Raise InputError where the exam's metric of a masked sentence is not what was attributed."""
    name = exam.evaluator.name
    if not hasattr(exam.evaluator, "metric"):
        raise InputError(f"evaluator {name!r} has no metric of the scores of labels")
    if attributions.kind != ATTRIBUTION:
        raise InputError(f"attributions are statistics of {attributions.kind}s, expected of attributions")
    plain = {"calibrate": options.Ask.calibrate}  # what is not calibrated does not name it
    asked, recorded = plain | exam.evaluator.options, plain | attributions.provenance
    expectations = {
        "metric": "answer", "baseline": "zero", "evaluator": name, "calibrate": asked["calibrate"],
        "positions": exam.where,
    }  # fmt: skip
    for field, expected in expectations.items():
        if recorded.get(field) not in (None, expected):
            raise InputError(f"the attributions have {field} {recorded[field]!r}, expected {expected!r}")


def _check_prompt(exam: Exam, attributions: ActivationStats, task: str) -> None:
    """Raise InputError where the exam has asked about a task by another prompt than was attributed."""
    asked, recorded = (made.get("prompts", {}).get(task) for made in (exam.evaluator.options, attributions.provenance))
    if None not in (asked, recorded) and asked != recorded:
        raise InputError(f"the attributions have the prompt {recorded!r} of task {task!r}, expected {asked!r}")


def _tested(
    selected: NeuronList, attributions: Mapping[str, SiteStats], most: int, rng: np.random.Generator
) -> dict[Neuron, bool]:
    """Neuron -> whether it was selected: the first ``most`` selected ones, and as many others at each site."""
    first = selected[:most].by_site()
    every = selected.by_site()
    pool = {
        site: np.setdiff1d(np.flatnonzero(of_site.observed > 0), every.get(site, ()))
        for site, of_site in attributions.items()
    }
    fitting = {site: index[: len(pool[site])] for site, index in first.items()}
    draws = draw_matched(fitting, pool, None, 1, rng)
    drawn = draws[0] if draws else []
    return {(site, index): True for site, index, _ in selected[:most]} | dict.fromkeys(drawn, False)


def _effects(
    exam: Exam, asked: Questions, rows: Integers, neurons: Sequence[Neuron], sites: Sequence[str]
) -> dict[Neuron, float]:
    """Neuron -> mean decrease of the metric over the sentences at ``rows`` when it alone is set to zero."""
    evaluator: Any = exam.evaluator
    truth = torch.from_numpy(asked.truth[rows])

    def metric(scores: Array) -> Array:
        values: Array = evaluator.metric(torch.from_numpy(scores), truth).numpy()
        return values

    before, after = scores_alone(exam, asked, rows, neurons, lambda neuron: [zero([neuron])], sites)
    return {neuron: float((metric(before[None]) - metric(scores)).mean()) for neuron, scores in after.items()}


def _estimated(sentences: int, neurons: Sequence[EstimatedNeuron]) -> LabelEstimate:
    """The result of a label, with how far effects agree with attributions."""
    selected = [neuron for neuron in neurons if neuron.selected]
    attributed = sum(neuron.attribution for neuron in selected)
    return LabelEstimate(
        sentences=sentences,
        neurons=tuple(neurons),
        correlation=_correlation(neurons),
        selected_correlation=_correlation(selected),
        ratio=sum(neuron.effect for neuron in selected) / attributed if attributed else None,
    )


def _correlation(neurons: Sequence[EstimatedNeuron]) -> float | None:
    """Spearman's rank correlation of effect and attribution; None where one of them does not vary."""
    attributions, effects = [neuron.attribution for neuron in neurons], [neuron.effect for neuron in neurons]
    if len(set(attributions)) < 2 or len(set(effects)) < 2:
        return None
    return float(scipy.stats.spearmanr(attributions, effects).statistic)
