"""Measurement of what a program does to a label: a label's ranked neurons, its trials, and their effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectron._internal.names import Q99
from affectron.evaluation.exam import Exam, Questions
from affectron.evaluation.resampling import bootstrap_means, draw_matched, middle
from affectron.evaluation.verdicts import Effect, RandomSets, verdict
from affectron.interventions import Program, attenuate, mean, relative_change
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, score
from affectron.screening.quantiles import magnitude_quantiles
from affectron.stats import ACTIVATION, FIELDS, ActivationStats, SiteStats

Neurons = Sequence[tuple[Any, ...]]
Name = TypeVar("Name")


@dataclass(frozen=True)
class Trial:
    """A program, and its controls: programs that do the same to random neurons."""

    program: Program
    controls: Sequence[Program] = ()

    @classmethod
    def of(cls, treat: Callable[[Neurons], Program], neurons: Neurons, drawn: Sequence[Neurons]) -> Trial:
        """The trial that treats ``neurons``, and each of the ``drawn`` sets, in one way."""
        return cls(treat(neurons), [treat(members) for members in drawn])


@dataclass(frozen=True)
class Ranked:
    """A label's selected neurons, and the statistics that its programs are made from.

    Attributes:
        label: the label.
        target: its position among the answers.
        neurons: its neurons, best first.
        stats: statistics of all labels.
        exam: asks about the label.
    """

    label: str
    target: int
    neurons: NeuronList
    stats: ActivationStats
    exam: Exam

    @property
    def task(self) -> str:
        """The label's task."""
        return self.neurons.task

    # Merged once: each program would otherwise merge the segments of all sites again.
    @cached_property
    def measured(self) -> ActivationStats:
        """Statistics of this label alone."""
        return self._merged(self.stats.label(self.label))

    @cached_property
    def _total(self) -> ActivationStats:
        """Statistics of the whole task, as those of this label."""
        return self._merged(self.stats.task_total(self.task))

    def _merged(self, sites: Mapping[str, SiteStats]) -> ActivationStats:
        arrays = {
            site: {name: [of_site.count] if name == "count" else getattr(of_site, name)[np.newaxis] for name in FIELDS}
            for site, of_site in sites.items()
        }
        return ActivationStats({self.task: [self.label]}, [[self.label]], arrays)

    @classmethod
    def each(
        cls, exam: Exam, neurons: NeuronSet, stats: ActivationStats, tasks: Mapping[str, Sequence[str]]
    ) -> Iterator[Ranked]:
        """Rank the neurons of every label of ``tasks``, task by task; the answers are those of the exam.

        Neurons that were selected by a score of activations, or by one that is not known, are ranked by
        ``differential``, equals in the order of the selection. All others keep the order of the selection.
        """
        keep = selected_from(neurons) != ACTIVATION
        for task, labels in tasks.items():
            for label in labels:
                ranked = neurons[label] if keep or not neurons[label] else _by_differential(neurons[label], stats)
                yield cls(label, exam.corpus.tasks[task].index(label), ranked, stats, exam)

    def attenuated(self, neurons: Neurons, alpha: float, reference: str) -> Program:
        """The program that attenuates ``neurons`` by ``alpha``, each token by its own activation.

        Args:
            neurons: the neurons.
            alpha: strength.
            reference: one of ``REFERENCES``, the magnitude that attenuation is relative to.
        """
        magnitude = self.quantiles if reference == Q99 else reference
        return attenuate(neurons, self.measured, alpha, label=self.label, reference=magnitude)

    def relative_change(self, program: Program) -> float | None:
        """:func:`affectron.interventions.relative_change` under the label."""
        return relative_change(program, self.measured.label(self.label))

    # A pass over the label's sentences, made when it is first needed.
    @cached_property
    def quantiles(self) -> dict[str, NDArray[np.float32]]:
        """The 0.99 quantile of the absolute activations in the label's own dev sentences, of every neuron.

        The sentences are read as those of the statistics were.
        """
        exam, made = self.exam, self.stats.provenance
        corpus = exam.corpus.where(split=exam.dev, task=self.task)
        own = [sentence for sentence in exam.sentences(exam.dev, self.task) if self.label in sentence.labels]
        read = {name: made[name] for name in ("template", "count_special") if name in made}
        return magnitude_quantiles(exam.model, exam.tokenizer, corpus, sentences=own, **read)

    def averaged(self, neurons: Neurons) -> Program:
        """The program that sets ``neurons`` to their mean over all tokens of the task."""
        return mean(neurons, self._total, self.task)

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


def selected_from(neurons: NeuronSet) -> str:
    """The kind of statistics that neurons were selected from; activations where their provenance does not tell."""
    selection = neurons.provenance.get("select")
    name = selection.get("score") if isinstance(selection, dict) else None
    return SCORES[name].kind if isinstance(name, str) and name in SCORES else ACTIVATION


def _by_differential(neurons: NeuronList, stats: ActivationStats) -> NeuronList:
    """The neurons, best ``differential`` first; one without a score comes last."""
    differential = score(stats, "differential", neurons.task)
    row = stats.tasks[neurons.task].index(neurons.label)
    values = np.array([differential[site][row, index] for site, index, _ in neurons])
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    return NeuronList(neurons.label, neurons.task, [neurons[int(position)] for position in order])


def measure_effects(
    asked: Questions, target: int, trials: Mapping[Name, Trial], resamples: int, rng: np.random.Generator
) -> dict[Name, Effect]:
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
