"""Intervals of 95 % that cover as they say with few sentences and few changes, and tests of the same quantities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Level of every interval and test: intervals are of 1 - LEVEL, a claim needs an adjusted p of at most LEVEL.
LEVEL = 0.05
#: The normal quantile of the intervals.
Z = float(scipy.special.ndtri(1 - LEVEL / 2))
# Share of the way from a change to a bound at which the search for an interval's end begins.
_NEAR = 1e-9
# The p of a larger one is 0 in float64.
_LARGEST_Z = 38.0


@dataclass(frozen=True)
class Paired:
    """Right answers with and without a mask, on the same sentences.

    Attributes:
        lost: sentences answered right without the mask and wrong with it.
        gained: the reverse.
        sentences: their number, at least one.
    """

    lost: float
    gained: float
    sentences: float

    @classmethod
    def of(cls, change: Array) -> Paired:
        """Of the changes of each sentence: 1, 0 or -1."""
        return cls(int((change < 0).sum()), int((change > 0).sum()), len(change))

    @classmethod
    def of_groups(cls, change: Array) -> Paired:
        """Of changes [groups, m], of which those of a group may go together.

        The counts are divided by the design effect, the variance of the mean over that of independent changes, at least
        1 (Rao and Scott 1992).
        """
        groups, members = change.shape
        spread = float(change.var(ddof=1)) if change.size > 1 else 0.0
        between = float(change.mean(axis=1).var(ddof=1)) if groups > 1 else 0.0
        effect = max(1.0, members * between / spread) if spread > 0 else float(members)
        counts = (change < 0).sum(), (change > 0).sum(), change.size
        return cls(*(float(count) / effect for count in counts))

    @property
    def change(self) -> float:
        """Change of the share of right answers."""
        return (self.gained - self.lost) / self.sentences

    def interval(self, z: float = Z) -> tuple[float, float]:
        """Score interval of the change (Tango 1998): all differences d that a score test at ``z`` does not reject.

        The variance under d is that of the restricted maximum likelihood estimate. With no answer changed the interval
        is that of a share of 0 (Wilson) on both sides.
        """
        return self._end(-1.0, z), self._end(1.0, z)

    def _end(self, bound: float, z: float) -> float:
        """The end of the interval between the change and ``bound``."""

        def rejected(d: float) -> float:
            return abs(d - self.change) - z * self._deviation(d)

        # At the change itself nothing is rejected, and the deviation may be 0.
        inside = self.change + _NEAR * (bound - self.change)
        return float(scipy.optimize.brentq(rejected, inside, bound)) if rejected(inside) < 0 else self.change

    def _deviation(self, d: float) -> float:
        """Standard deviation of the change where its true value is ``d``."""
        n, lost, gained = self.sentences, self.lost, self.gained
        # q = P(lost) maximises the likelihood under P(gained) = q + d: the larger root of 2 n q² + b q + c.
        b = (2 * n - gained + lost) * d - lost - gained
        c = -lost * d * (1 - d)
        q = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        q = min(max(q, 0.0, -d), (1 - d) / 2)
        return float(np.sqrt(max(2 * q + d - d * d, 0.0) / n))

    def p(self) -> float:
        """Exact two-sided p of no change: McNemar's test (1947), binomial over the changed answers; 1 without any.

        Counts that are not whole are interpolated by the incomplete beta function.
        """
        fewer, more = sorted((self.lost, self.gained))
        return min(1.0, float(2 * scipy.special.betainc(more, fewer + 1, 0.5))) if more else 1.0


def contrast_interval(own: Paired, others: Paired, z: float = Z) -> tuple[float, float]:
    """Interval of the change on ``own`` less that on ``others``, two disjoint sets of sentences.

    The distances of the two intervals' ends from their changes are combined as the sides of a right triangle (Newcombe
    1998; Zou and Donner 2008).
    """
    contrast = own.change - others.change
    (own_low, own_high), (others_low, others_high) = own.interval(z), others.interval(z)
    below = np.hypot(own.change - own_low, others_high - others.change)
    above = np.hypot(own_high - own.change, others.change - others_low)
    return float(contrast - below), float(contrast + above)


def contrast_p(own: Paired, others: Paired) -> float:
    """Two-sided p of equal changes on ``own`` and ``others``: the level whose :func:`contrast_interval` ends at 0."""
    if own.change == others.change:
        return 1.0
    side = 1 if own.change < others.change else 0

    def end(z: float) -> float:
        return contrast_interval(own, others, z)[side]

    z = scipy.optimize.brentq(end, 0.0, _LARGEST_Z) if end(0.0) * end(_LARGEST_Z) < 0 else _LARGEST_Z
    return float(2 * scipy.special.ndtr(-z))


def share_interval(successes: ArrayLike, trials: ArrayLike) -> tuple[Array, Array]:
    """Exact interval of a share of ``successes`` in ``trials`` (Clopper and Pearson 1934): lower and upper end.

    Numbers that are not whole are interpolated by the beta distribution, as for a share whose variance is that of so
    many trials (Korn and Graubard 1998).
    """
    right, wrong = np.asarray(successes, dtype=np.float64), np.subtract(trials, successes)
    low, high = scipy.stats.beta.ppf(LEVEL / 2, right, wrong + 1), scipy.stats.beta.isf(LEVEL / 2, right + 1, wrong)
    return np.where(right > 0, low, 0.0), np.where(wrong > 0, high, 1.0)


def auroc_interval(values: Array, has: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Intervals of the AUROC of each column of ``values`` [n, K] for ``has`` [n]: lower ends [K] and upper ends [K].

    Each is the interval of a share in as many trials as give the share the variance of the AUROC (DeLong, DeLong and
    Clarke-Pearson 1988). With the weight of one sentence the variance is drawn to the largest that any two
    distributions give an AUROC of A, A (1 - A) / min(positives, negatives) (Birnbaum and Klose 1957): the interval of
    an AUROC of 1 does not shrink to a point.

    Args:
        values: finite values of sentences, of one neuron in each column.
        has: which sentences have the label; at least one has it and one has not.
    """
    ranks = scipy.stats.rankdata(values, axis=0)
    # The share of the other part that a sentence exceeds, ties counted half: its mean is the AUROC, or 1 less it.
    above = [(ranks[part] - scipy.stats.rankdata(values[part], axis=0)) / (~part).sum() for part in (has, ~has)]
    area = above[0].mean(axis=0)
    spread = area * (1 - area)
    variance = sum(share.var(axis=0) / max(len(share) - 1, 1) for share in above)
    few = min(map(len, above))
    trials = (spread + 1 / few) / (variance + 1 / few**2)
    return share_interval(area * trials, trials)


def mean_interval(values: Array) -> tuple[float, float]:
    """Interval of the mean that ``values`` [n] are drawn from, by Student's t (1908).

    It covers as it says for values that are about normal, and about so where n is large. Where one of ten values is not
    0, it covers 0.87 at n = 20 and n = 50. Of one value the interval is the whole line.
    """
    n, mean = len(values), float(values.mean())
    if n < 2:
        return -np.inf, np.inf
    half = float(scipy.stats.t.isf(LEVEL / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean - half, mean + half


def rank_p(beyond: int, drawn: int) -> float:
    """Monte Carlo p of ``drawn`` random sets of which ``beyond`` are at least as extreme: (1 + beyond)/(1 + drawn).

    It holds its level too where drawing ended at a fixed number of sets beyond, before all were drawn (Besag and
    Clifford 1991, whose beyond/drawn is smaller).
    """
    return (1 + beyond) / (1 + drawn)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values so that the chance of any false rejection among them is bounded (Holm 1979)."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]
