"""Associations: which labels share neurons, by more than chance; which go together over all
neurons; and where they lie. Apart because it needs the statistics and the neurons, and no model."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from affectron.experiments.ablations import THIRDS, site_thirds
from affectron.experiments.findings import Findings
from affectron.neurons import NeuronSet
from affectron.scores import fdr, score
from affectron.stats import ActivationStats


def overlap_p(population: int, first: int, second: int, common: int) -> float:
    """The chance that two random sets of ``first`` and ``second`` neurons out of ``population`` have ``common`` or
    more in common: the upper tail of the hypergeometric distribution."""
    return float(distributions.hypergeom.sf(common - 1, population, first, second))


def associate(neurons: NeuronSet, stats: ActivationStats, score_name: str = "hedges_g") -> Findings:
    """Every two labels: the neurons they have in common, and the correlation of their scores over all neurons.

    ``overlap`` neurons of the two lists are the same, ``expected`` would be by chance; ``p`` is hypergeometric, and
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
    sets = {label: {(site, index) for site, index, _ in found} for label, found in neurons.items()}
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(neurons.labels, 2):
        mine, theirs = sets[first], sets[second]
        both = ~np.isnan(values[first]) & ~np.isnan(values[second])
        one, two = values[first][both], values[second][both]
        varies = len(one) > 1 and bool(np.ptp(one)) and bool(np.ptp(two))
        pairs.append(
            {
                "first": first,
                "second": second,
                "same_task": neurons[first].task == neurons[second].task,
                "overlap": len(mine & theirs),
                "expected": len(mine) * len(theirs) / population,
                "jaccard": len(mine & theirs) / len(mine | theirs) if mine | theirs else None,
                "p": overlap_p(population, len(mine), len(theirs), len(mine & theirs)) if mine and theirs else None,
                "correlation": float(np.corrcoef(one, two)[0, 1]) if varies else None,
            }
        )
    for same in (False, True):
        family = [pair for pair in pairs if pair["same_task"] is same]
        adjusted = fdr([np.nan if pair["p"] is None else pair["p"] for pair in family])
        for pair, q in zip(family, adjusted.tolist(), strict=True):
            pair["q"] = None if np.isnan(q) else q
    sites, counts = neurons.site_counts()
    thirds = site_thirds(sites) if len(sites) >= 3 else {}
    layers = {
        label: {
            "sites": dict(zip(sites, map(int, row), strict=True)),
            "thirds": {name: int(sum(row[sites.index(site)] for site in thirds[name])) for name in THIRDS if thirds},
        }
        for label, row in zip(neurons.labels, counts, strict=True)
    }
    content = {
        "provenance": {**stats.provenance, "neurons": neurons.provenance},
        "options": {"score": score_name},
        "neurons": population,
        "tasks": {task: list(labels) for task, labels in neurons.tasks.items()},
        "pairs": pairs,
        "layers": layers,
    }
    return Findings("associations", content)
