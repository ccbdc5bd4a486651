"""Selection methods side by side, on one file of statistics: what each would select, how far they agree, and whose
neurons a label's answers hang on. Apart from the selection, which knows one method at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from affectron.evaluation.effects import SPECIFIC, Ranked, label_rng, measure
from affectron.evaluation.exam import Exam, fraction, whole_number
from affectron.experiments.findings import Findings
from affectron.neurons import NeuronSet
from affectron.selection import METHODS, select_by
from affectron.stats import ActivationStats


def compare_methods(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    *,
    methods: tuple[str, ...] = tuple(METHODS),
    top: float = 0.01,
    alpha: float = 1.0,
    task: str | None = None,
    random_sets: int = 20,
    bootstrap: int = 1000,
    progress: bool = False,
) -> Findings:
    """Select by each method and mask what it selects, by one and the same attenuation, on the test split.

    Args:
        neurons: names the tasks and labels, and is checked against the model; what is in it does not count.
        methods: of ``METHODS``.
        top: share of all neurons that a method selects for all labels of a task together.
        alpha: of the attenuation (dynamic) of all that a method selected for a label.

    Returns:
        for each task and label, each method's list size and effect (:func:`affectron.evaluation.effects.measure`);
        the Jaccard index of each two methods, averaged over the labels for which either selected any; and for each
        label the method of the largest specific drop (own less others) among those with the verdict ``specific``.

    Raises:
        InputError: an unknown method, a value out of its range, or as :meth:`Exam.require`.
    """
    fraction("top", top)
    fraction("alpha", alpha)
    whole_number("random_sets", random_sets, 0)
    whole_number("bootstrap", bootstrap, 1)
    tasks = exam.require(neurons, stats, task)
    chosen = {name: {method: select_by(stats, method, name, top) for method in methods} for name in tasks}
    found: dict[str, Any] = {}
    runs = sum(len(labels) for labels in tasks.values()) * len(methods) * (1 + random_sets)
    with exam.sitting("comparing", runs, progress) as step:
        for name, labels in tasks.items():
            asked = exam.questions(exam.test, name)
            results: dict[str, Any] = {}
            for label in labels:
                rng = label_rng(exam.seed, name, label)
                programs, controls, sizes = {}, {}, {}
                for method, lists in chosen[name].items():
                    one = Ranked.of(lists[label], exam.corpus.tasks[name], stats)
                    sizes[method] = len(one.neurons)
                    if one.neurons:
                        programs[method] = one.attenuated(one.neurons, alpha)
                        drawn = one.random_sets(one.neurons, random_sets, rng)
                        controls[method] = [one.attenuated(members, alpha) for members in drawn]
                effects = measure(asked, one.target, programs, controls, bootstrap, rng) if programs else {}
                step(len(methods) * (1 + random_sets))
                specific = {m: e["specific_delta"] for m, e in effects.items() if e["verdict"] == SPECIFIC}
                results[label] = {
                    "sentences": len(asked.own(one.target)),
                    "methods": {method: {"selected": sizes[method], **effects.get(method, {})} for method in methods},
                    "best": min(specific, key=lambda method: specific[method]) if specific else None,
                }
            found[name] = {"labels": results, "agreement": _agreement(chosen[name])}
    options = {
        **exam.options(tasks), "methods": list(methods), "top": top, "alpha": alpha, "random_sets": random_sets,
        "bootstrap": bootstrap,
    }  # fmt: skip
    return Findings("methods", {"provenance": exam.provenance(neurons), "options": options, "tasks": found})


def _agreement(chosen: Mapping[str, NeuronSet]) -> list[list[float | None]]:
    """Jaccard index of each two methods, the mean over labels; None where neither has a neuron of any label."""
    members = {
        method: {label: {(site, index) for site, index, _ in found} for label, found in lists.items()}
        for method, lists in chosen.items()
    }
    matrix: list[list[float | None]] = []
    for mine in members.values():
        row: list[float | None] = []
        for theirs in members.values():
            shares = [len(mine[k] & theirs[k]) / len(mine[k] | theirs[k]) for k in mine if mine[k] | theirs[k]]
            row.append(float(np.mean(shares)) if shares else None)
        matrix.append(row)
    return matrix
