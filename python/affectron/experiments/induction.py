"""Induction: sentences of other labels pushed towards a label by a shift of its neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.evaluation.effects import Ranked
from affectron.evaluation.exam import Exam
from affectron.evaluation.intervals import share_interval
from affectron.evaluation.resampling import label_rng
from affectron.experiments.results import ExamOptions, Induction, InductionOptions, LabelInduction
from affectron.interventions import induce
from affectron.neurons import NeuronSet
from affectron.options import Induce
from affectron.stats import ActivationStats


@checked_arguments
@documented(Induce)
def induction(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    betas: Sequence[float] = Induce.betas,
    *,
    task: str | None = None,
    random_sets: int = Induce.random_sets,
    progress: bool = False,
) -> Induction:
    """Measure, for each beta, how many sentences of other labels are answered with the target, and the model's fluency.

    Each of the label's neurons is shifted by beta times its mean activation under the label. ``share`` is that of the
    test sentences without the label that are answered with it, ``interval`` its exact 95 % interval,
    ``baseline`` the share without a shift. ``random`` is the mean share over random sets, as many neurons at each site
    and of similar activity, shifted by their own means under the label. ``loss_delta`` is the change of the loss of a
    token on these sentences as plain text, in nats.

    Args:
        {options}

    Raises:
        InputError: betas that are not finite numbers, or as :meth:`Exam.require`.
    """
    Induce(random_sets, tuple(betas))
    tasks = exam.require(neurons, stats, task)
    results: dict[str, dict[str, LabelInduction]] = {name: {} for name in tasks}
    runs = sum(len(neurons[label]) > 0 for labels in tasks.values() for label in labels) * len(betas)
    with exam.sitting("inducing", runs * (2 + random_sets), progress) as step:
        for ranked in Ranked.each(exam, neurons, stats, tasks):
            asked, text = exam.questions(exam.test, ranked.task), exam.text(exam.test, ranked.task)
            rows = asked.others(ranked.target)
            if not ranked.neurons or not len(rows):
                continue
            rng = label_rng(exam.seed, ranked.task, ranked.label)
            draws = ranked.draw(ranked.neurons, random_sets, rng)
            drawn = [draws[position] for position in range(len(draws))] if draws else []
            programs = [induce(ranked.neurons, ranked.measured, beta) for beta in betas]
            controls = [
                induce(members, ranked.measured, beta, label=ranked.label) for beta in betas for members in drawn
            ]
            hits = (asked.ask([*programs, *controls], rows) == ranked.target).astype(np.float64)
            step(len(programs) + len(controls))
            induced, random = hits[: len(betas)], hits[len(betas) :].mean(axis=1).reshape(len(betas), -1)
            low, high = share_interval(induced.sum(axis=1), len(rows))
            results[ranked.task][ranked.label] = LabelInduction(
                selected=len(ranked.neurons),
                sentences=len(rows),
                baseline=float((asked.unmasked[rows] == ranked.target).mean()),
                share=tuple(induced.mean(axis=1).tolist()),
                interval=tuple(zip(low.tolist(), high.tolist(), strict=True)),
                random=tuple(float(row.mean()) for row in random) if drawn else None,
                loss_delta=tuple(text.deltas(programs, rows)),
            )
            step(len(programs))
    options = InductionOptions(ExamOptions.of(exam.options(tasks)), tuple(map(float, betas)), random_sets)
    return Induction(exam.provenance(neurons), options, results)
