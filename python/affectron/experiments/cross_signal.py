"""Cross-signal matrix: the mean activation of one task's labels, added at the neurons of another task's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from affectron import options
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, Trial, measure, most_sets
from affectron.evaluation.exam import Exam
from affectron.evaluation.resampling import label_rng
from affectron.evaluation.verdicts import Measured, adjust, significant
from affectron.experiments.results import CrossSignal, CrossSignalOptions, ExamOptions, LabelSignals, Signal
from affectron.interventions import cross_signal
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats


@checked_arguments
@documented(options.CrossSignal)
def cross_signal_matrix(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    source: str,
    target: str,
    omegas: Sequence[float] = options.CrossSignal.omegas,
    *,
    random_sets: int | None = options.CrossSignal.random_sets,
    progress: bool = False,
) -> CrossSignal:
    """Measure the signal of each label of the ``source`` task (a rhetorical device) at the neurons of each label of the
    ``target`` task (an emotion).

    Each neuron is shifted by omega times its own mean over the source label's tokens. For each pair omega is the one
    with the highest accuracy on the target label's dev sentences, the smallest of equals; with it the test split is
    reported, beside random neurons that are shifted in the same way. ``helps`` says that test accuracy rises, and more
    than under random sets: the larger p of McNemar's test and of the rank among the sets, adjusted over all pairs of
    labels (Holm), is at most 0.05.

    Args:
        source: the task whose labels give the signals.
        target: the task at whose neurons they are added.
        {options}

    Raises:
        InputError: an unknown task, twice the same, omegas that are not finite numbers, or as :meth:`Exam.require`.
    """
    options.CrossSignal(random_sets=random_sets, omegas=tuple(omegas))
    if source == target:
        raise InputError(f"source and target are both {source!r}, expected two tasks")
    if source not in stats.tasks:
        raise InputError(f"source is {source!r}, expected one of {', '.join(stats.tasks)}")
    tasks = {target: exam.require(neurons, stats, target)[target]}
    devices = stats.tasks[source]
    omegas = sorted(omegas, key=abs)
    tested = [ranked for ranked in Ranked.each(exam, neurons, stats, tasks) if ranked.neurons]
    runs = len(tested) * len(devices) * (len(omegas) + 1 + most_sets(random_sets, len(tested) * len(devices)))
    with exam.sitting("crossing signals", runs, progress) as step:
        # Every omega is chosen on dev before the test split is read.
        chosen: dict[str, dict[str, tuple[list[float], float]]] = {}
        for ranked in tested:
            dev = exam.questions(exam.dev, target)
            rows = dev.own(ranked.target)
            programs = [cross_signal(ranked.neurons, stats, device, omega) for device in devices for omega in omegas]
            right = dev.right(dev.ask(programs, rows), rows).mean(axis=1)
            changes = right.reshape(len(devices), len(omegas)) - dev.right(dev.unmasked)[rows].mean()
            chosen[ranked.label] = {
                device: (row.tolist(), omegas[int(row.argmax())]) for device, row in zip(devices, changes, strict=True)
            }
            step(len(programs))
        most = most_sets(random_sets, len(tested) * len(devices))
        trials = {}
        for ranked in tested:
            draws = ranked.draw(ranked.neurons, most, label_rng(exam.seed, target, ranked.label))
            for device, (_, omega) in chosen[ranked.label].items():
                treat = partial(cross_signal, stats=stats, label=device, omega=omega)
                trials[ranked.label, device] = Trial(ranked, ranked.neurons, treat, draws)
        measured = measure(exam, trials, [list(trials)], random_sets, step, rises=True)
    helps = _helps(measured)
    labels = {
        ranked.label: LabelSignals(
            len(exam.questions(exam.test, target).own(ranked.target)),
            len(ranked.neurons),
            {
                device: Signal(
                    **measured[ranked.label, device].change.measures(), random=measured[ranked.label, device].random,
                    dev=tuple(dev), omega=omega, adjusted_p=helps[ranked.label, device],
                    helps=None if helps[ranked.label, device] is None else significant(helps[ranked.label, device]),
                )
                for device, (dev, omega) in chosen[ranked.label].items()
            },
        )
        for ranked in tested
    }  # fmt: skip
    recorded = CrossSignalOptions(
        ExamOptions.of(exam.options(tasks)), source, target, tuple(map(float, omegas)), random_sets
    )
    return CrossSignal(exam.provenance(neurons), recorded, labels)


def _helps(measured: Mapping[tuple[str, str], Measured]) -> dict[tuple[str, str], float | None]:
    """p of the claim that a pair helps, adjusted over all pairs: 1 where accuracy does not rise, None without random
    sets."""
    return adjust(
        {
            key: None if pair.random is None else max(pair.change.p, pair.random.p) if pair.change.delta > 0 else 1.0
            for key, pair in measured.items()
        }
    )
