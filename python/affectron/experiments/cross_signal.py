"""Cross-signal matrix: the mean activation of one task's labels, added at the neurons of another task's labels."""

from __future__ import annotations

from collections.abc import Sequence

from affectron import options
from affectron._internal.options import documented
from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, Trial, measure_effects
from affectron.evaluation.exam import Exam
from affectron.evaluation.resampling import label_rng
from affectron.evaluation.verdicts import Effect
from affectron.experiments.results import CrossSignal, CrossSignalOptions, ExamOptions, LabelSignals, Signal
from affectron.interventions import cross_signal
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats


@documented(options.CrossSignal)
def cross_signal_matrix(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    source: str,
    target: str,
    omegas: Sequence[float] = options.CrossSignal.omegas,
    *,
    random_sets: int = options.CrossSignal.random_sets,
    bootstrap: int = options.CrossSignal.bootstrap,
    progress: bool = False,
) -> CrossSignal:
    """Measure the signal of each label of the ``source`` task (a rhetorical device) at the neurons of each label of the
    ``target`` task (an emotion).

    Each neuron is shifted by omega times its own mean over the source label's tokens. For each pair omega is the one
    with the highest accuracy on the target label's dev sentences, the smallest of equals; with it the test split is
    reported, beside random neurons that are shifted in the same way. ``helps`` says that the change of test accuracy
    lies above the interval of the random sets and its own interval above zero.

    Args:
        source: the task whose labels give the signals.
        target: the task at whose neurons they are added.
        {options}

    Raises:
        InputError: an unknown task, twice the same, omegas that are not finite numbers, or as :meth:`Exam.require`.
    """
    options.CrossSignal(random_sets=random_sets, bootstrap=bootstrap, omegas=tuple(omegas))
    if source == target:
        raise InputError(f"source and target are both {source!r}, expected two tasks")
    if source not in stats.tasks:
        raise InputError(f"source is {source!r}, expected one of {', '.join(stats.tasks)}")
    tasks = {target: exam.require(neurons, stats, target)[target]}
    devices = stats.tasks[source]
    omegas = sorted(omegas, key=abs)
    tested = [ranked for ranked in Ranked.each(exam, neurons, stats, tasks) if ranked.neurons]
    labels: dict[str, LabelSignals] = {}
    runs = len(tested) * len(devices) * (len(omegas) + 1 + random_sets)
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
        for ranked in tested:
            rng = label_rng(exam.seed, target, ranked.label)
            drawn = ranked.random_sets(ranked.neurons, random_sets, rng)
            asked = exam.questions(exam.test, target)
            trials = {
                device: Trial(
                    cross_signal(ranked.neurons, stats, device, omega),
                    [cross_signal(members, stats, device, omega) for members in drawn],
                )
                for device, (_, omega) in chosen[ranked.label].items()
            }
            effects = measure_effects(asked, ranked.target, trials, bootstrap, rng)
            step(len(devices) * (1 + random_sets))
            signals = {device: _signal(effects[device], *choice) for device, choice in chosen[ranked.label].items()}
            labels[ranked.label] = LabelSignals(len(asked.own(ranked.target)), len(ranked.neurons), signals)
    recorded = CrossSignalOptions(
        ExamOptions.of(exam.options(tasks)), source, target, tuple(map(float, omegas)), random_sets, bootstrap
    )
    return CrossSignal(exam.provenance(neurons), recorded, labels)


def _signal(effect: Effect, dev: Sequence[float], omega: float) -> Signal:
    """The effect with the choice of omega; it helps where it is above the random sets and above zero."""
    helps = None
    if effect.random is not None:
        helps = effect.delta > effect.random.interval[1] and effect.interval[0] > 0
    return Signal(**effect.measures(), random=effect.random, dev=tuple(dev), omega=omega, helps=helps)
