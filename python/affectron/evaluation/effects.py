"""Measurement of what a program does to a label: a label's ranked neurons, its trials, and their effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from affectron.evaluation.exam import Exam, Questions
from affectron.evaluation.resampling import bootstrap_means, draw_matched, middle
from affectron.evaluation.verdicts import Effect, RandomSets, verdict
from affectron.interventions import Program, attenuate
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import score
from affectron.stats import FIELDS, ActivationStats

Neurons = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """A program, and its controls: programs that do the same to random neurons."""

    program: Program
    controls: Sequence[Program] = ()


@dataclass(frozen=True)
class Ranked:
    """A label's selected neurons, and the statistics that its programs are made from.

    Attributes:
        label: the label.
        target: its position among the answers.
        neurons: its neurons, best ``differential`` first; equals in the order of the selection.
        stats: statistics of all labels.
        measured: statistics of this label alone, merged once: each program would otherwise merge the segments of all
            sites again.
    """

    label: str
    target: int
    neurons: NeuronList
    stats: ActivationStats
    measured: ActivationStats

    @property
    def task(self) -> str:
        """The label's task."""
        return self.neurons.task

    @classmethod
    def of(cls, neurons: NeuronList, answers: Sequence[str], stats: ActivationStats) -> Ranked:
        """Rank the neurons of a label; ``answers`` are the labels to choose from."""
        label, task = neurons.label, neurons.task
        arrays = {
            site: {name: [of_site.count] if name == "count" else getattr(of_site, name)[np.newaxis] for name in FIELDS}
            for site, of_site in stats.label(label).items()
        }
        measured = ActivationStats({task: [label]}, [[label]], arrays)
        if neurons:
            differential = score(stats, "differential", task)
            row = stats.tasks[task].index(label)
            values = np.array([differential[site][row, index] for site, index, _ in neurons])
            # A neuron without a score comes last.
            order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
            neurons = NeuronList(label, task, [neurons[int(position)] for position in order])
        return cls(label, answers.index(label), neurons, stats, measured)

    @classmethod
    def each(
        cls, exam: Exam, neurons: NeuronSet, stats: ActivationStats, tasks: Mapping[str, Sequence[str]]
    ) -> Iterator[Ranked]:
        """Rank the neurons of every label of ``tasks``, task by task; the answers are those of the exam."""
        for task, labels in tasks.items():
            for label in labels:
                yield cls.of(neurons[label], exam.corpus.tasks[task], stats)

    def attenuated(self, neurons: Neurons, alpha: float) -> Program:
        """The program that attenuates ``neurons`` by ``alpha``, each token by its own activation."""
        return attenuate(neurons, self.measured, alpha, label=self.label)

    def trial(self, neurons: NeuronList, alpha: float, random_sets: int, rng: np.random.Generator) -> Trial:
        """The attenuation of ``neurons``, with that of ``random_sets`` random sets as its controls."""
        drawn = self.random_sets(neurons, random_sets, rng)
        return Trial(self.attenuated(neurons, alpha), [self.attenuated(members, alpha) for members in drawn])

    def random_sets(self, neurons: NeuronList, count: int, rng: np.random.Generator) -> list[list[tuple[str, int]]]:
        """Draw ``count`` random sets, each with as many neurons at each site as ``neurons`` has there.

        They are drawn from the neurons that were not selected for the label and have a finite activation under it. No
        set is drawn where a site has too few of these.
        """
        selected, matched = self.neurons.by_site(), neurons.by_site()
        pool = {
            site: np.setdiff1d(
                np.flatnonzero(of_site.observed > 0), np.union1d(selected.get(site, ()), matched.get(site, ()))
            )
            for site, of_site in self.measured.label(self.label).items()
        }
        drawn = [draw_matched(matched, pool, rng) for _ in range(count)]
        return [members for members in drawn if members is not None]


def measure_effects(
    asked: Questions, target: int, trials: Mapping[str, Trial], resamples: int, rng: np.random.Generator
) -> dict[str, Effect]:
    """Measure what each program does to the answers about a label. All programs are asked at once.

    Args:
        asked: the questions of a split and task.
        target: the label, by its position among the answers.
        trials: by name. Controls are asked about the label's own sentences only.
        resamples: of each bootstrap over the sentences.
        rng: what the resamples are drawn with.

    Returns:
        name -> effect.
    """
    own, others = asked.own(target), asked.others(target)
    before = asked.right(asked.unmasked)
    after = asked.right(asked.ask([trial.program for trial in trials.values()]))
    controls = [program for trial in trials.values() for program in trial.controls]
    control = iter(asked.right(asked.ask(controls, own), own).mean(axis=1) - before[own].mean() if controls else ())
    effects = {}
    for (name, trial), right in zip(trials.items(), after, strict=True):
        change = right - before
        own_means = bootstrap_means(change[own], resamples, rng)
        delta, interval = float(change[own].mean()), middle(own_means)
        others_delta = others_interval = specific_delta = specific_interval = None
        if len(others):
            others_means = bootstrap_means(change[others], resamples, rng)
            others_delta, others_interval = float(change[others].mean()), middle(others_means)
            specific_delta, specific_interval = delta - others_delta, middle(own_means - others_means)
        deltas = tuple(float(next(control)) for _ in trial.controls)
        random = RandomSets(len(deltas), deltas, float(np.mean(deltas)), middle(deltas)) if deltas else None
        beats_random = None if random is None else delta < random.interval[0]
        effects[name] = Effect(
            float(right[own].mean()), delta, interval, others_delta, others_interval, specific_delta,
            specific_interval, random, beats_random, verdict(interval, beats_random, specific_interval),
        )  # fmt: skip
    return effects
