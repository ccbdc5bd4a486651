"""Regulation: sentences pushed towards a label, and one label's signal at another's neurons.

Apart from the validation, which takes signals away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, bootstrap_interval, label_rng, measure, middle
from affectron.evaluation.exam import Exam, finite_numbers, whole_number
from affectron.experiments.findings import Findings
from affectron.interventions import cross_signal as cross_program
from affectron.interventions import induce
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats


def induction(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    betas: Sequence[float] = (1.0, 2.0, 4.0),
    *,
    task: str | None = None,
    random_sets: int = 5,
    bootstrap: int = 1000,
    progress: bool = False,
) -> Findings:
    """Directed induction: how many sentences of other labels are answered with the target, for each beta, and what
    becomes of the model's fluency.

    Each of the label's neurons is shifted by beta times its mean activation under the label. ``share`` is that of the
    test sentences without the label that are answered with it, ``interval`` its 95 % bootstrap interval, ``baseline``
    the share without a shift. ``random`` is the mean share over random sets matched in size at each site and shifted
    by their own means under the label, ``random_interval`` what holds 95 % of the sets. ``loss_delta`` is the change
    of the loss of a token on these sentences as plain text, in nats.

    Raises:
        InputError: betas that are not finite numbers, or as :meth:`Exam.require`.
    """
    finite_numbers("betas", betas)
    whole_number("random_sets", random_sets, 0)
    whole_number("bootstrap", bootstrap, 1)
    tasks = exam.require(neurons, stats, task)
    found: dict[str, Any] = {}
    runs = sum(len(neurons[label]) > 0 for labels in tasks.values() for label in labels) * len(betas)
    with exam.sitting("inducing", runs * (2 + random_sets), progress) as step:
        for name, labels in tasks.items():
            asked, text = exam.questions(exam.test, name), exam.text(exam.test, name)
            results: dict[str, Any] = {}
            for label in labels:
                one = Ranked.of(neurons[label], exam.corpus.tasks[name], stats)
                rows = asked.others(one.target)
                if not one.neurons or not len(rows):
                    continue
                rng = label_rng(exam.seed, name, label)
                drawn = one.random_sets(one.neurons, random_sets, rng)
                programs = [induce(one.neurons, one.measured, beta) for beta in betas]
                controls = [induce(members, one.measured, beta, label=label) for beta in betas for members in drawn]
                hits = (asked.ask([*programs, *controls], rows) == one.target).astype(np.float64)
                step(len(programs) + len(controls))
                own, random = hits[: len(betas)], hits[len(betas) :].mean(axis=1).reshape(len(betas), -1)
                results[label] = {
                    "selected": len(one.neurons),
                    "sentences": len(rows),
                    "baseline": float((asked.unmasked[rows] == one.target).mean()),
                    "share": own.mean(axis=1).tolist(),
                    "interval": [bootstrap_interval(row, bootstrap, rng) for row in own],
                    "random": [float(row.mean()) for row in random] if drawn else None,
                    "random_interval": [middle(row) for row in random] if drawn else None,
                    "loss_delta": text.deltas(programs, rows),
                }
                step(len(programs))
            found[name] = results
    options = {
        **exam.options(tasks), "betas": [float(beta) for beta in betas], "random_sets": random_sets,
        "bootstrap": bootstrap,
    }  # fmt: skip
    return Findings("induction", {"provenance": exam.provenance(neurons), "options": options, "tasks": found})


def cross_signal(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    source: str,
    target: str,
    omegas: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    random_sets: int = 20,
    bootstrap: int = 1000,
    progress: bool = False,
) -> Findings:
    """The cross-signal matrix: what the mean activation of each label of the ``source`` task (a rhetorical device)
    does at the neurons of each label of the ``target`` task (an emotion).

    Each neuron is shifted by omega times its own mean over the source label's tokens. For each pair omega is the one
    with the highest accuracy on the target label's dev sentences, the smallest of equals; with it the test split is
    reported, beside random neurons that are shifted in the same way. ``helps`` says that the change of test accuracy
    lies above the interval of the random sets and its own interval above zero.

    Raises:
        InputError: an unknown task, twice the same, omegas that are not finite numbers, or as :meth:`Exam.require`.
    """
    finite_numbers("omegas", omegas)
    whole_number("random_sets", random_sets, 0)
    whole_number("bootstrap", bootstrap, 1)
    if not omegas:
        raise InputError("omegas is empty, expected at least one number")
    if source == target:
        raise InputError(f"source and target are both {source!r}, expected two tasks")
    if source not in stats.tasks:
        raise InputError(f"source is {source!r}, expected one of {', '.join(stats.tasks)}")
    labels = exam.require(neurons, stats, target)[target]
    devices = stats.tasks[source]
    omegas = sorted(omegas, key=abs)
    found: dict[str, Any] = {}
    runs = sum(len(neurons[label]) > 0 for label in labels) * len(devices) * (len(omegas) + 1 + random_sets)
    with exam.sitting("crossing signals", runs, progress) as step:
        # All of dev before any of test.
        chosen: dict[str, dict[str, Any]] = {}
        for label in labels:
            one = Ranked.of(neurons[label], exam.corpus.tasks[target], stats)
            if one.neurons:
                dev = exam.questions(exam.dev, target)
                rows = dev.own(one.target)
                programs = [cross_program(one.neurons, stats, device, omega) for device in devices for omega in omegas]
                right = dev.right(dev.ask(programs, rows), rows).mean(axis=1)
                right = right.reshape(len(devices), len(omegas)) - dev.right(dev.unmasked)[rows].mean()
                chosen[label] = {
                    device: {"dev": row.tolist(), "omega": omegas[int(row.argmax())]}
                    for device, row in zip(devices, right, strict=True)
                }
                step(len(programs))
        for label, pairs in chosen.items():
            one = Ranked.of(neurons[label], exam.corpus.tasks[target], stats)
            rng = label_rng(exam.seed, target, label)
            drawn = one.random_sets(one.neurons, random_sets, rng)
            asked = exam.questions(exam.test, target)
            programs_of = {
                device: cross_program(one.neurons, stats, device, pair["omega"]) for device, pair in pairs.items()
            }
            controls = {
                device: [cross_program(members, stats, device, pair["omega"]) for members in drawn]
                for device, pair in pairs.items()
            }
            measured = measure(asked, one.target, programs_of, controls, bootstrap, rng)
            for device, effect in measured.items():
                random = effect["random"]
                above = None if random is None else effect["delta"] > random["interval"][1]
                effect["helps"] = None if above is None else above and effect["interval"][0] > 0
                for key in ("beats_random", "verdict"):  # those of a fall
                    del effect[key]
                pairs[device] |= effect
            step(len(devices) * (1 + random_sets))
            found[label] = {"sentences": len(asked.own(one.target)), "selected": len(one.neurons), "devices": pairs}
    options = {
        **exam.options([target]), "source": source, "target": target, "omegas": [float(omega) for omega in omegas],
        "random_sets": random_sets, "bootstrap": bootstrap,
    }  # fmt: skip
    return Findings("cross_signal", {"provenance": exam.provenance(neurons), "options": options, "labels": found})
