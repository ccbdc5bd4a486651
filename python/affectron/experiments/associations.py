"""Associations of labels: overlap of their neurons against chance, correlation of their scores over all neurons, and
the sites where their neurons lie. No model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from affectron._internal.arguments import checked_arguments
from affectron.experiments.ablations import site_thirds
from affectron.experiments.results import AssociatedPair, Associations, AssociationsOptions, LabelLayers
from affectron.neurons import NeuronSet
from affectron.options import Associate
from affectron.scores import fdr, score
from affectron.stats import ActivationStats


def overlap_p(population: int, first: int, second: int, common: int) -> float:
    """Probability that two random sets of ``first`` and ``second`` neurons out of ``population`` have ``common`` or
    more in common: the upper tail of the hypergeometric distribution."""
    return float(distributions.hypergeom.sf(common - 1, population, first, second))


@checked_arguments
def associate(neurons: NeuronSet, stats: ActivationStats, score_name: str = Associate.score) -> Associations:
    """Compare every two labels: the neurons they have in common, and their scores over all neurons.

    ``overlap`` is the number of neurons in both lists, ``expected`` the number by chance; ``p`` is hypergeometric, and
    ``q`` adjusted by Benjamini and Hochberg over all pairs of labels of two tasks, or of one (labels of one task may be
    disjoint by the way neurons are assigned). ``correlation`` is Pearson's, of the labels' ``score_name`` over all
    neurons for which both have one. ``layers`` counts each label's neurons at each site, and in each third.

    Raises:
        InputError: an unknown score, or a task without two labels that have tokens.
    """
    population = sum(stats.widths.values())
    values: dict[str, NDArray[np.float64]] = {}
    for task in neurons.tasks:
        scored = score(stats, score_name, task)
        for row, label in enumerate(stats.tasks[task]):
            values[label] = np.concatenate([scored[site][row] for site in stats.sites])
    sets = {label: {(site, index) for site, index, _ in members} for label, members in neurons.items()}
    pairs: list[AssociatedPair] = []
    for first, second in combinations(neurons.labels, 2):
        common, either = len(sets[first] & sets[second]), len(sets[first] | sets[second])
        sizes = len(sets[first]), len(sets[second])
        pairs.append(
            AssociatedPair(
                first=first,
                second=second,
                same_task=neurons[first].task == neurons[second].task,
                overlap=common,
                expected=sizes[0] * sizes[1] / population,
                jaccard=common / either if either else None,
                p=overlap_p(population, *sizes, common) if all(sizes) else None,
                correlation=_correlation(values[first], values[second]),
                q=None,
            )
        )
    sites, counts = neurons.site_counts()
    thirds = site_thirds(sites) if len(sites) >= 3 else {}
    layers = {
        label: LabelLayers(
            sites=dict(zip(sites, map(int, row), strict=True)),
            thirds={name: sum(int(row[sites.index(site)]) for site in part) for name, part in thirds.items()},
        )
        for label, row in zip(neurons.labels, counts, strict=True)
    }
    return Associations(
        provenance={**stats.provenance, "neurons": neurons.provenance},
        options=AssociationsOptions(score_name),
        neurons=population,
        tasks=neurons.tasks,
        pairs=_adjusted(pairs),
        layers=layers,
    )


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Pearson correlation of two scores over the neurons that have both; None where one of them does not vary."""
    both = ~np.isnan(first) & ~np.isnan(second)
    first, second = first[both], second[both]
    varies = len(first) > 1 and bool(np.ptp(first)) and bool(np.ptp(second))
    return float(np.corrcoef(first, second)[0, 1]) if varies else None


def _adjusted(pairs: Sequence[AssociatedPair]) -> tuple[AssociatedPair, ...]:
    """The pairs with their q: p adjusted over the pairs of two tasks, and over those of one."""
    q: dict[int, float | None] = {}
    for same_task in (False, True):
        family = [position for position, pair in enumerate(pairs) if pair.same_task is same_task]
        adjusted = fdr([np.nan if (p := pairs[position].p) is None else p for position in family])
        q |= {
            position: None if np.isnan(value) else value
            for position, value in zip(family, adjusted.tolist(), strict=True)
        }
    return tuple(replace(pair, q=q[position]) for position, pair in enumerate(pairs))
