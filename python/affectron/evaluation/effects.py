"""Measurement of what a program does to a label: a label's ranked neurons, its trials, and their effects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectron._internal.names import Q99
from affectron.evaluation.exam import Exam, Questions, Steps
from affectron.evaluation.intervals import LEVEL, Paired, contrast_interval, contrast_p, rank_p
from affectron.evaluation.resampling import Draws, draw_matched
from affectron.evaluation.verdicts import Change, Effect, Measured, RandomSets, adjust, judge, significant
from affectron.interventions import Program, attenuate, mean, relative_change
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import DEFAULT_SETS, Controls
from affectron.scores import SCORES, score
from affectron.screening.quantiles import magnitude_quantiles
from affectron.stats import ACTIVATION, FIELDS, ActivationStats, SiteStats

Neurons = Sequence[tuple[Any, ...]]
Mask = TypeVar("Mask", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)

#: Random sets that every mask is compared with, on all of the label's own sentences. Further sets decide whether the
#: claim "specific" may be made; they are drawn where everything else about it holds.
FIRST_SETS = 10
#: Own sentences that sets are ranked on at most: those whose answers are nearest to a change.
_RANKED = 40
#: Sets that are asked together.
_TOGETHER = 40
# Sentences beyond those that decide about a set that changes no answer: most sets change one or two.
_SPARE = 2


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

    def draw(self, neurons: Neurons, sets: int, rng: np.random.Generator) -> Draws | None:
        """Draw random sets, each with as many neurons at each site as ``neurons``, of similar activity under the label.

        They are drawn from the neurons that were not selected for the label and have a finite activation under it. The
        activity is the root mean square. None where a site has too few of these.
        """
        matched = NeuronList(self.label, self.task, neurons).by_site()
        selected, measured = self.neurons.by_site(), self.measured.label(self.label)
        pool, activity = {}, {}
        for site, index in matched.items():
            of_site = measured[site]
            pool[site] = np.setdiff1d(np.flatnonzero(of_site.observed > 0), np.union1d(selected.get(site, ()), index))
            activity[site] = np.sqrt(of_site.var + of_site.mean**2)
        return draw_matched(matched, pool, activity, sets, rng)


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


@dataclass(frozen=True)
class Trial:
    """A treatment of a label's neurons, and random neurons to treat alike; None where none can be drawn."""

    ranked: Ranked
    neurons: Neurons
    treat: Callable[[Neurons], Program]
    draws: Draws | None

    @cached_property
    def program(self) -> Program:
        """The treatment of the label's neurons."""
        return self.treat(self.neurons)


def usual_sets(random_sets: int | None) -> int:
    """About as many sets as a mask is compared with, counted in questions about all own sentences."""
    return 3 * FIRST_SETS if random_sets is None else min(random_sets, 3 * FIRST_SETS)


def most_sets(random_sets: int | None, labels: int) -> int:
    """The most random sets of a mask: as asked for, or as many as p adjusted over the labels needs to reach the level,
    and no fewer than ``DEFAULT_SETS``."""
    return max(DEFAULT_SETS, round(labels / LEVEL) - 1) if random_sets is None else random_sets


def measure_effects(
    exam: Exam, trials: Mapping[tuple[Mask, str], Trial], controls: Controls, step: Steps
) -> dict[tuple[Mask, str], Effect]:
    """Measure what each mask does to the answers about each label on the test split, and judge it.

    A mask is judged by itself, on all of its labels together.

    Args:
        exam: gives the questions.
        trials: (mask, label) -> trial.
        controls: number of random sets, and the effect that matters.
        step: as for :func:`measure`.

    Returns:
        (mask, label) -> effect.
    """
    masks = defaultdict(list)
    for mask, label in trials:
        masks[mask].append((mask, label))
    measured = measure(exam, trials, list(masks.values()), controls.random_sets, step)
    return {
        key: effect
        for keys in masks.values()
        for key, effect in judge({key: measured[key] for key in keys}, controls.smallest_effect).items()
    }


def measure(
    exam: Exam,
    trials: Mapping[Key, Trial],
    families: Sequence[Sequence[Key]],
    random_sets: int | None,
    step: Steps,
    rises: bool = False,
) -> dict[Key, Measured]:
    """Measure trials on the test split, each beside random sets.

    All trials of a label are asked at once. Random sets beyond the first are drawn while a claim depends on them: the
    label's own sentences fall, and more than the others', with p adjusted over the family; and few sets so far fall as
    much.

    Args:
        exam: gives the questions.
        trials: any keys -> trial.
        families: the keys whose p values are adjusted together; each key is in one family.
        random_sets: as for :func:`most_sets`.
        step: is told of one program for each trial, and of ``most_sets``.
        rises: the claim is that accuracy rises; the others' sentences do not matter.
    """
    labels = defaultdict(list)
    for key, trial in trials.items():
        labels[trial.ranked.label].append(key)
    measured: dict[Key, Measured] = {}
    for keys in labels.values():
        measured |= zip(keys, _changes(exam, [trials[key] for key in keys]), strict=True)
        step(len(keys))
    sign = 1 if rises else -1
    for family in families:
        most = most_sets(random_sets, len(family))
        partial = adjust({key: measured[key].change.p if rises else measured[key].partial_p for key in family})
        for key in family:
            claimed = significant(partial[key]) and sign * measured[key].change.delta > 0
            measured[key] = _compared(exam, trials[key], measured[key], most, claimed, sign)
            step(most)
    return measured


def _changes(exam: Exam, trials: Sequence[Trial]) -> list[Measured]:
    """Measure the masks of a label, without random sets."""
    ranked = trials[0].ranked
    asked = exam.questions(exam.test, ranked.task)
    own, others = asked.own(ranked.target), asked.others(ranked.target)
    before, named = asked.right(asked.unmasked), asked.unmasked == ranked.target
    found = []
    for trial, answers in zip(trials, asked.ask([trial.program for trial in trials]), strict=True):
        right = asked.right(answers)
        change, answered = right - before, (answers == ranked.target).astype(np.float64) - named
        on_own, on_others = Paired.of(change[own]), Paired.of(change[others]) if len(others) else None
        measured = Change(
            accuracy=float(right[own].mean()),
            delta=on_own.change,
            interval=on_own.interval(),
            lost=int(on_own.lost),
            gained=int(on_own.gained),
            p=on_own.p(),
            others_delta=on_others.change if on_others else None,
            others_interval=on_others.interval() if on_others else None,
            specific_delta=on_own.change - on_others.change if on_others else None,
            specific_interval=contrast_interval(on_own, on_others) if on_others else None,
            specific_p=contrast_p(on_own, on_others) if on_others else None,
            answers_delta=float(answered[own].mean()),
            others_answers_delta=float(answered[others].mean()) if len(others) else None,
            answers_p=contrast_p(Paired.of(answered[own]), Paired.of(answered[others])) if len(others) else None,
            relative_change=ranked.relative_change(trial.program),
        )
        found.append(Measured(measured, change[own], int(before[own].sum()), float(asked.truth.mean())))
    return found


def _compared(exam: Exam, trial: Trial, measured: Measured, most: int, claimed: bool, sign: int) -> Measured:
    """Add random sets to what was measured: the first ones, and all that the claim needs."""
    draws = trial.draws
    most = min(most, len(draws)) if draws else 0
    if not draws:
        return measured
    asked = exam.questions(exam.test, trial.ranked.task)
    own = asked.own(trial.ranked.target)
    ranked = asked.nearest(own, _RANKED)
    place = np.searchsorted(own, ranked)
    before = asked.right(asked.unmasked)
    programs = [trial.treat(draws[position]) for position in range(min(FIRST_SETS, most))]
    changes = asked.right(asked.ask(programs, own), own) - before[own]
    need = round(sign * float(measured.changes[place].sum()))
    beyond = [bool(sign * change[place].sum() >= need) for change in changes]
    # With as many sets beyond, no number of further ones leads to a p of LEVEL.
    futile = max(1, int(LEVEL * (1 + most)))
    while claimed and len(beyond) < most and sum(beyond) < futile:
        programs = [trial.treat(draws[position]) for position in range(len(beyond), min(len(beyond) + _TOGETHER, most))]
        beyond += _beyond(asked, ranked, need, programs, sign).tolist()
    ends = np.flatnonzero(np.cumsum(beyond) >= futile)
    drawn = int(ends[0]) + 1 if claimed and len(ends) else len(beyond)
    deltas = tuple(changes.mean(axis=1).tolist())
    number = sum(beyond[:drawn])
    random = RandomSets(
        sets=drawn, beyond=number, p=rank_p(number, drawn), ranked=len(ranked), deltas=deltas,
        mean=float(np.mean(deltas)), interval=(min(deltas), max(deltas)), activity=draws.activity,
    )  # fmt: skip
    return replace(measured, random=random)


def _beyond(
    asked: Questions, rows: NDArray[np.int64], need: int, programs: Sequence[Program], sign: int
) -> NDArray[np.bool_]:
    """bool [P]: which programs change at least ``need`` more answers in the direction ``sign`` than in the other.

    Answers that cannot move in that direction are asked last. A program is asked no further once those that are left
    cannot make up for what is missing.
    """
    right = asked.right(asked.unmasked)[rows]
    able = right == (sign < 0)
    order = np.argsort(~able, kind="stable")
    rows, right, left = rows[order], right[order], int(able.sum())
    first = min(len(rows), max(left - need, 0) + 1 + _SPARE)

    def moved(part: slice, asking: Sequence[Program]) -> NDArray[np.float64]:
        changes = asked.right(asked.ask(asking, rows[part]), rows[part]) - right[part]
        total: NDArray[np.float64] = sign * changes.sum(axis=1)
        return total

    total = moved(slice(first), programs)
    undecided = np.flatnonzero(total + max(left - first, 0) >= need)
    if first < len(rows) and len(undecided):
        total[undecided] += moved(slice(first, None), [programs[position] for position in undecided.tolist()])
    reached: NDArray[np.bool_] = total >= need
    return reached
