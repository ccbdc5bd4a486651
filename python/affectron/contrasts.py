"""Contrasts: the statistics of each label of a task beside those of the rest, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affectron._internal.display import Shown
from affectron.stats import ActivationStats, SiteStats

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group(Shown):
    """Statistics of L sets of tokens at one site, one row each.

    Attributes:
        count: float64 [L, 1], number of tokens.
        active: float64 [L, F], number of tokens at which the neuron is active.
        observed: float64 [L, F], number of tokens with a finite activation.
        mean: float64 [L, F], mean activation, NaN where nothing is observed.
        m2: float64 [L, F], sum of the squared deviations from the mean.
    """

    count: Array
    active: Array
    observed: Array
    mean: Array
    m2: Array

    @staticmethod
    def of(sets: list[SiteStats]) -> Group:
        """Stack the statistics of L sets of tokens."""
        return Group(
            count=np.array([[float(tokens.count)] for tokens in sets]),
            active=np.stack([tokens.active for tokens in sets]).astype(np.float64),
            observed=np.stack([tokens.observed for tokens in sets]).astype(np.float64),
            mean=np.stack([tokens.mean for tokens in sets]),
            m2=np.stack([tokens.m2 for tokens in sets]),
        )

    @property
    def rate(self) -> Array:
        """Activation frequency P: float64 [L, F], NaN in the rows of labels without tokens."""
        return self.active / self.count


@dataclass(frozen=True, eq=False)
class Contrast(Shown):
    """Statistics of one task of L labels at one site of F neurons.

    Attributes:
        target: each label, [L, F].
        rest: for each label, the rest of its task, [L, F].
        total: the whole task, [1, F].
    """

    target: Group
    rest: Group
    total: Group


def contrast(stats: ActivationStats, task: str, site: str) -> Contrast:
    """Collect the statistics from which the scores of ``task`` are computed at one site; rows in label order.

    Raises:
        InputError: no such task.
    """
    whole = stats.task_rows(task)
    labels = stats.tasks[task]
    return Contrast(
        target=Group.of([stats.pool(site, stats.rows(label)) for label in labels]),
        rest=Group.of([stats.pool(site, stats.rest_rows(label)) for label in labels]),
        total=Group.of([stats.pool(site, whole)]),
    )
