"""What an intervention does to a label, and by which rule that is judged: changes of accuracy with their intervals,
random neurons as a control, and the verdict.

Apart from the experiments, all of which measure in this one way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal.files import digest
from affectron.evaluation.batched import Integers
from affectron.evaluation.exam import Questions
from affectron.interventions import Program, attenuate
from affectron.neurons import NeuronList
from affectron.scores import score
from affectron.stats import FIELDS, ActivationStats

SPECIFIC, UNSPECIFIC, NO_EFFECT = "specific", "unspecific", "no effect"

Neurons = Sequence[tuple[Any, ...]]


def verdict(
    interval: Sequence[float],
    beats_random: bool | None,
    specific_interval: Sequence[float] | None,
) -> str | None:
    """The rule by which a mask is judged; None where there is no control to judge by.

    ``no effect``: the 95 % interval of the change of accuracy on the label's own sentences reaches zero. Otherwise
    accuracy has fallen, and the fall is ``specific`` if it lies below the whole 95 % interval of the random sets and
    the interval of (own - others) lies below zero; ``unspecific`` if random neurons do as much, or the other labels
    suffer as much.

    Args:
        interval: of the change on the label's own sentences.
        beats_random: whether that change is below the interval of the random sets; None without random sets.
        specific_interval: of the change on own minus the change on others' sentences; None without others.
    """
    if interval[1] >= 0:
        return NO_EFFECT
    if beats_random is None:
        return None
    below_others = specific_interval is None or specific_interval[1] < 0
    return SPECIFIC if beats_random and below_others else UNSPECIFIC


def bootstrap_means(differences: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64 [resamples]: the means of that many samples of n with replacement from ``differences`` [n]."""
    n = len(differences)
    # In parts, so that 10,000 resamples of 100,000 sentences need no 8 GB.
    part = max(1, (1 << 22) // n)
    return np.concatenate(
        [
            differences[rng.integers(0, n, (min(part, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, part)
        ]
    )


def middle(values: NDArray[np.float64] | Sequence[float]) -> list[float]:
    """[low, high]: the 2.5 and 97.5 % quantiles, linearly interpolated."""
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]


def bootstrap_interval(differences: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> list[float]:
    """95 % percentile bootstrap interval of the mean of paired ``differences`` [n] (Efron 1979)."""
    return middle(bootstrap_means(differences, resamples, rng))


def draw_matched(
    by_site: Mapping[str, Integers], pool: Mapping[str, Integers], rng: np.random.Generator
) -> list[tuple[str, int]] | None:
    """Random neurons (site, index), as many at each site as ``by_site`` has there, drawn without replacement from
    those of ``pool``; None where a site's pool is too small."""
    if any(len(pool[site]) < len(index) for site, index in by_site.items()):
        return None
    return [
        (site, int(one))
        for site, index in by_site.items()
        for one in np.sort(rng.choice(pool[site], len(index), replace=False))
    ]


def _random(deltas: list[float]) -> dict[str, Any]:
    return {"sets": len(deltas), "deltas": deltas, "mean": float(np.mean(deltas)), "interval": middle(deltas)}


def label_rng(seed: int, task: str, label: str) -> np.random.Generator:
    """A generator of the label's own, so that its numbers do not depend on which others are tested."""
    return np.random.default_rng([seed, int(digest(task.encode(), label.encode())[:12], 16)])


@dataclass(frozen=True)
class Ranked:
    """A label's selected neurons, best ``differential`` first, and what its programs are made from.

    ``measured`` are the label's own statistics alone, merged once: each of many programs would merge the segments of
    all sites.
    """

    label: str
    target: int
    neurons: NeuronList
    stats: ActivationStats
    measured: ActivationStats

    @classmethod
    def of(cls, neurons: NeuronList, answers: Sequence[str], stats: ActivationStats) -> Ranked:
        """Rank the neurons of a label; ``answers`` are the labels to choose from."""
        label, task = neurons.label, neurons.task
        arrays = {
            site: {name: [found.count] if name == "count" else getattr(found, name)[np.newaxis] for name in FIELDS}
            for site, found in stats.label(label).items()
        }
        measured = ActivationStats({task: [label]}, [[label]], arrays)
        if neurons:
            differential = score(stats, "differential", task)
            row = stats.tasks[task].index(label)
            values = np.array([differential[site][row, index] for site, index, _ in neurons])
            # Without a score last, and equals in the order of the selection.
            order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
            neurons = NeuronList(label, task, [neurons[int(place)] for place in order])
        return cls(label, answers.index(label), neurons, stats, measured)

    def attenuated(self, neurons: Neurons, alpha: float) -> Program:
        return attenuate(neurons, self.measured, alpha, label=self.label)

    def random_sets(self, neurons: NeuronList, count: int, rng: np.random.Generator) -> list[list[tuple[str, int]]]:
        """``count`` sets of as many neurons at each site as ``neurons`` has there, from those that were not selected
        for the label and are finite under it; none where a site has too few."""
        selected = self.neurons.by_site()
        mine = neurons.by_site()
        pool = {
            site: np.setdiff1d(
                np.flatnonzero(found.observed > 0), np.union1d(selected.get(site, ()), mine.get(site, ()))
            )
            for site, found in self.measured.label(self.label).items()
        }
        drawn = [draw_matched(mine, pool, rng) for _ in range(count)]
        return [one for one in drawn if one is not None]


def measure(
    asked: Questions,
    target: int,
    programs: Mapping[str, Program],
    controls: Mapping[str, Sequence[Program]],
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """What each program does to the answers about a label, all of them asked at once.

    Args:
        asked: the questions of a split and task.
        target: the label, by its position among the answers.
        programs: by name.
        controls: for some of the names, the same done to random neurons; asked about the label's own sentences only.
        resamples: of each bootstrap.
        rng: what they are drawn with.

    Returns:
        for each name ``accuracy`` on the label's own sentences, ``delta`` (its change), ``others_delta`` (that on the
        task's others) and ``specific_delta`` (the first less the second), each with its 95 % percentile ``interval``
        over resamples of the sentences, None without such sentences; ``random`` (``sets``, ``deltas``, ``mean``, and
        the ``interval`` that holds the middle 95 % of them; None without), ``beats_random`` (whether delta is below
        that interval) and the ``verdict``.
    """
    own, others = asked.own(target), asked.others(target)
    before = asked.right(asked.unmasked)
    after = asked.right(asked.ask(list(programs.values())))
    flat = [program for name in programs for program in controls.get(name, ())]
    control = iter(asked.right(asked.ask(flat, own), own).mean(axis=1) - before[own].mean() if flat else ())
    found = {}
    for name, right in zip(programs, after, strict=True):
        change = right - before
        mine = bootstrap_means(change[own], resamples, rng)
        theirs = bootstrap_means(change[others], resamples, rng) if len(others) else None
        delta = float(change[own].mean())
        deltas = [float(next(control)) for _ in controls.get(name, ())]
        random = _random(deltas) if deltas else None
        one: dict[str, Any] = {"accuracy": float(right[own].mean()), "delta": delta, "interval": middle(mine)}
        one["others_delta"] = None if theirs is None else float(change[others].mean())
        one["others_interval"] = None if theirs is None else middle(theirs)
        one["specific_delta"] = None if theirs is None else delta - one["others_delta"]
        one["specific_interval"] = None if theirs is None else middle(mine - theirs)
        one["random"] = random
        one["beats_random"] = None if random is None else delta < middle(deltas)[0]
        one["verdict"] = verdict(one["interval"], one["beats_random"], one["specific_interval"])
        found[name] = one
    return found
