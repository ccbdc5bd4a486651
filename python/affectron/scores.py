"""What a neuron's statistics say about a label: pure functions of ActivationStats, in float64.

Apart from the selection that uses them, so that every score can be read and checked beside its formula.

In the formulas t is the label ("target"), r the rest of its task, P = active / count the activation
frequency, A the mean activation, n the observed tokens, s² = m2 / (n - 1) the sample variance. A score is NaN
where it is undefined; such a neuron has no score and is never selected. No score is defined at a site where fewer
than two labels of the task have tokens (an expert, say), and none for a neuron without a finite activation under a
label that has tokens. Tokens of one sentence are not independent, so p values taken over all tokens are far too
small to be read as error rates; they rank neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy  # its parts are loaded where they are first used
from numpy.typing import ArrayLike, NDArray

from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.stats import ActivationStats, SiteStats

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group:
    """Statistics of L sets of tokens at one site, one row each.

    Attributes:
        count: float64 [L, 1], tokens.
        active: float64 [L, F], tokens at which the neuron is active.
        observed: float64 [L, F], tokens with a finite activation.
        mean: float64 [L, F], NaN where nothing is observed.
        m2: float64 [L, F].
    """

    count: Array
    active: Array
    observed: Array
    mean: Array
    m2: Array

    @staticmethod
    def of(sets: list[SiteStats]) -> Group:
        return Group(
            count=np.array([[float(one.count)] for one in sets]),
            active=np.stack([one.active for one in sets]).astype(np.float64),
            observed=np.stack([one.observed for one in sets]).astype(np.float64),
            mean=np.stack([one.mean for one in sets]),
            m2=np.stack([one.m2 for one in sets]),
        )

    @property
    def rate(self) -> Array:
        """P [L, F]; NaN in the rows of labels without tokens."""
        return self.active / self.count


@dataclass(frozen=True, eq=False)
class Contrast:
    """One task at one site: each label (``target``), the rest of its task (``rest``), [L, F] each, and the
    whole task (``total``), [1, F]."""

    target: Group
    rest: Group
    total: Group


def contrast(stats: ActivationStats, task: str, site: str) -> Contrast:
    """The statistics that the scores of ``task`` are made of, at one site; rows in the order of its labels.

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


def _entropy(c: Contrast) -> Array:
    rate = np.where(c.target.count > 0, c.target.rate, 0.0)
    total = rate.sum(axis=0, keepdims=True)
    return np.where(total > 0, scipy.special.entr(rate / total).sum(axis=0, keepdims=True), np.nan)


def _raw_entropy(c: Contrast) -> Array:
    rate = np.where(c.target.count > 0, c.target.rate, 0.0)
    alive = rate.any(axis=0, keepdims=True)
    return np.where(alive, scipy.special.entr(rate).sum(axis=0, keepdims=True), np.nan)


def _frequency(c: Contrast) -> Array:
    return c.target.rate


def _differential(c: Contrast) -> Array:
    whole = np.abs(c.total.mean)
    return np.abs(c.target.mean - c.rest.mean) / np.where(whole > 0, whole, np.nan)


def _mean_difference(c: Contrast) -> Array:
    return c.target.mean - c.rest.mean


def _cohens_d(c: Contrast) -> Array:
    pooled = (c.target.m2 + c.rest.m2) / (c.target.observed + c.rest.observed - 2)
    return _mean_difference(c) / np.sqrt(np.where(pooled > 0, pooled, np.nan))


def _hedges_g(c: Contrast) -> Array:
    freedom = c.target.observed + c.rest.observed - 2
    return _cohens_d(c) * (1 - 3 / (4 * freedom - 1))


def _squared_errors(c: Contrast) -> tuple[Array, Array]:
    """s²/n of target and rest; NaN where a side has fewer than two observed tokens."""
    sides = []
    for side in (c.target, c.rest):
        n = np.where(side.observed > 1, side.observed, np.nan)
        sides.append(side.m2 / (n - 1) / n)
    return sides[0], sides[1]


def _welch_t(c: Contrast) -> Array:
    target, rest = _squared_errors(c)
    both = target + rest
    return _mean_difference(c) / np.sqrt(np.where(both > 0, both, np.nan))


def _welch_p(c: Contrast) -> Array:
    target, rest = _squared_errors(c)
    # Welch-Satterthwaite in shares of the squared error: no square of a tiny variance that underflows.
    share = target / (target + rest)
    freedom = 1 / (share**2 / (c.target.observed - 1) + (1 - share) ** 2 / (c.rest.observed - 1))
    return 2 * scipy.special.stdtr(freedom, -np.abs(_welch_t(c)))


def _frequency_difference(c: Contrast) -> Array:
    return c.target.rate - c.rest.rate


def _log_odds(c: Contrast) -> Array:
    sides = []
    for side in (c.target, c.rest):
        count = np.where(side.count > 0, side.count, np.nan)
        sides.append(np.log((side.active + 0.5) / (count - side.active + 0.5)))
    return sides[0] - sides[1]


def _mutual_information(c: Contrast) -> Array:
    count = c.target.count + c.rest.count
    on = (c.target.active + c.rest.active) / count
    off = (c.target.count - c.target.active + c.rest.count - c.rest.active) / count
    information = np.zeros_like(on)
    for side in (c.target, c.rest):
        share = np.where(side.count > 0, side.count, np.nan) / count
        information += scipy.special.rel_entr(side.active / count, share * on)
        information += scipy.special.rel_entr((side.count - side.active) / count, share * off)
    # Never negative; of independent counts, rounding can leave -1e-17.
    return np.maximum(information, 0.0)


def _paired_difference(c: Contrast) -> Array:
    return c.target.mean


def _paired_d(c: Contrast) -> Array:
    variance = c.target.m2 / (c.target.observed - 1)
    return c.target.mean / np.sqrt(np.where(variance > 0, variance, np.nan))


def _paired_t(c: Contrast) -> Array:
    return _paired_d(c) * np.sqrt(c.target.observed)


def _paired_p(c: Contrast) -> Array:
    return 2 * scipy.special.stdtr(c.target.observed - 1, -np.abs(_paired_t(c)))


class Score(NamedTuple):
    """How a score is computed and read.

    Attributes:
        function: contrast of one site -> float64 [L, F], or [1, F] for one value a neuron.
        description: formula and origin, one line.
        better: which end of the score a neuron of the label is at.
        reads: what the score compares between labels, and so what it reads of one sentence: ``rate``, the share of
            the sentence's tokens at which the neuron is active, or ``mean``, the mean activation over its tokens.
        per_label: whether each label has a value of its own ([L, F]).
        signed: whether the score is positive where the label exceeds the rest and negative where it is below.
        paired: whether it is of the differences within contrastive pairs, and not of label and rest.
    """

    function: Callable[[Contrast], Array]
    description: str
    better: Literal["low", "high"]
    reads: Literal["rate", "mean"]
    per_label: bool = True
    signed: bool = False
    paired: bool = False


SCORES: dict[str, Score] = {
    "entropy": Score(
        _entropy,
        "H = -Σ p ln p, p = P/ΣP over the task's labels that have tokens; none where all P = 0 "
        "(LAPE, Tang et al. 2024; Lee et al. 2025)",
        "low",
        "rate",
        per_label=False,
    ),
    "raw_entropy": Score(
        _raw_entropy,
        "H = -Σ P ln P over the task's labels that have tokens, not renormalised; none where all P = 0 "
        "(Zheng et al. 2026, as printed)",
        "low",
        "rate",
        per_label=False,
    ),
    "differential": Score(
        _differential,
        "|A_t - A_r| / |A_all|, A_all over all tokens of the task (Zheng et al. 2026)",
        "high",
        "mean",
    ),
    "mean_difference": Score(_mean_difference, "A_t - A_r", "high", "mean", signed=True),
    "cohens_d": Score(
        _cohens_d,
        "(A_t - A_r) / sqrt((m2_t + m2_r) / (n_t + n_r - 2)) (Cohen 1988)",
        "high",
        "mean",
        signed=True,
    ),
    "hedges_g": Score(
        _hedges_g,
        "d (1 - 3 / (4 (n_t + n_r - 2) - 1)), d as cohens_d (Hedges 1981)",
        "high",
        "mean",
        signed=True,
    ),
    "welch_t": Score(
        _welch_t,
        "(A_t - A_r) / sqrt(s²_t/n_t + s²_r/n_r) (Welch 1947)",
        "high",
        "mean",
        signed=True,
    ),
    "welch_p": Score(
        _welch_p,
        "two-sided p value of welch_t with the degrees of freedom of Welch and Satterthwaite",
        "low",
        "mean",
    ),
    "frequency_difference": Score(
        _frequency_difference, "P_t - P_r (NPTI, Deng et al. 2024)", "high", "rate", signed=True
    ),
    "log_odds": Score(
        _log_odds,
        "ln((a_t + 0.5) / (n_t - a_t + 0.5)) - ln((a_r + 0.5) / (n_r - a_r + 0.5)), a active of n tokens "
        "(Haldane 1956; Anscombe 1956)",
        "high",
        "rate",
        signed=True,
    ),
    "mutual_information": Score(
        _mutual_information,
        "mutual information, in nats, of active or not with label or rest, exact from the counts",
        "high",
        "rate",
    ),
    "paired_difference": Score(
        _paired_difference, "D, the mean difference of the label's n pairs", "high", "mean", signed=True, paired=True
    ),
    "paired_d": Score(_paired_d, "D / s, the d_z of Cohen 1988", "high", "mean", signed=True, paired=True),
    "paired_t": Score(_paired_t, "D / (s / sqrt(n)) (Student 1908)", "high", "mean", signed=True, paired=True),
    "paired_p": Score(
        _paired_p, "two-sided p value of paired_t with n - 1 degrees of freedom", "low", "mean", paired=True
    ),
}


class Screens(NamedTuple):
    """The scores by which neurons are screened for the sign, the size and the certainty of a difference."""

    sign: str
    effect: str
    p: str


def scores_for(stats: ActivationStats) -> tuple[str, ...]:
    """The names of the scores that statistics have: of the labels of a corpus, or of contrastive pairs."""
    return tuple(name for name, kind in SCORES.items() if kind.paired == stats.of_pairs)


def screens_for(stats: ActivationStats) -> Screens:
    """The scores that statistics are screened by."""
    if stats.of_pairs:
        return Screens("paired_difference", "paired_d", "paired_p")
    return Screens("mean_difference", "hedges_g", "welch_p")


def only_task(stats: ActivationStats, task: str | None) -> str:
    """``task``, or the only task there is when it is None.

    Raises:
        InputError: no such task, or None with several tasks to choose from.
    """
    if task is None:
        if len(stats.tasks) != 1:
            raise InputError(f"task is not given, expected one of {', '.join(stats.tasks)}")
        return next(iter(stats.tasks))
    stats.task_rows(task)
    return task


def score(stats: ActivationStats, name: str, task: str | None = None) -> dict[str, Array]:
    """A score of every neuron.

    Args:
        stats: statistics of a labelled corpus.
        name: one of ``SCORES``.
        task: the task whose labels are contrasted; may be left out when there is only one.

    Returns:
        site -> float64 [L, F], rows in the order of ``stats.tasks[task]``; [1, F] for the entropies. NaN
        where the score is undefined: no tokens on a side, no variance, a dead neuron, a site where fewer than two
        labels have tokens, no finite activation under a label that has tokens.

    Raises:
        InputError: no such score or task, a score of pairs for the labels of a corpus or the other way round, or fewer
            than two labels of the task have tokens at any site.
    """
    known = scores_for(stats)
    if name not in known:
        of_pairs = " for statistics of pairs" if stats.of_pairs else ""
        raise InputError(f"score is {name!r}, expected one of {', '.join(known)}{of_pairs}")
    return _each_site(stats, SCORES[name].function, only_task(stats, task))


def frequency(stats: ActivationStats, task: str | None = None) -> dict[str, Array]:
    """P = active / count of every neuron: site -> float64 [L, F], rows in the order of ``stats.tasks[task]``; NaN
    in the row of a label without tokens, and where no score is defined (see :func:`score`).

    Raises:
        InputError: no such task, or fewer than two of its labels have tokens at any site.
    """
    return _each_site(stats, _frequency, only_task(stats, task))


def unscored(stats: ActivationStats, tasks: Sequence[str]) -> str | None:
    """One line about what the scores of the tasks leave out for want of tokens or of finite activations: how many
    sites or neurons, and the first. None where nothing is left out."""
    found = []
    for task in tasks:
        covered = {site: _coverage(stats, task, site) for site in stats.sites}
        most = max(len(cover.labels) for cover in covered.values())
        bare = [site for site, cover in covered.items() if len(cover.labels) < _least(stats)]
        partial = [site for site, cover in covered.items() if _least(stats) <= len(cover.labels) < most]
        blind = {site: int((~cover.finite).sum()) for site, cover in covered.items() if not cover.finite.all()}
        if bare:
            few = "no label has tokens" if stats.of_pairs else "fewer than two labels have tokens"
            found.append(
                f"task {task!r}: at {len(bare)} of {count(len(covered), 'site')}, the first {bare[0]}, {few}: "
                "no score for their neurons"
            )
        if partial:
            found.append(
                f"task {task!r}: at {len(partial)} of {count(len(covered), 'site')}, the first {partial[0]}, labels "
                "without tokens are left out of the contrast"
            )
        if blind:
            found.append(
                f"task {task!r}: {sum(blind.values())} of {count(sum(stats.widths.values()), 'neuron')}, the first at "
                f"{next(iter(blind))}, have no finite activation under a label: no score for them"
            )
    return "; ".join(found) or None


class _Coverage(NamedTuple):
    """The labels of a task that have tokens at a site, and bool [F]: the neurons with a finite activation under each
    of them."""

    labels: tuple[str, ...]
    finite: NDArray[np.bool_]


def _coverage(stats: ActivationStats, task: str, site: str) -> _Coverage:
    count, nonfinite = stats.count[site], stats.nonfinite[site]
    rows = {label: stats.rows(label) for label in stats.tasks[task]}
    labels = tuple(label for label, own in rows.items() if count[own].any())
    finite = np.ones(stats.widths[site], dtype=np.bool_)
    for label in labels:
        finite &= (nonfinite[rows[label]] < count[rows[label], np.newaxis]).any(axis=0)
    return _Coverage(labels, finite)


def _least(stats: ActivationStats) -> int:
    """How many labels must have tokens for a contrast: pairs hold the contrast in themselves."""
    return 1 if stats.of_pairs else 2


def _each_site(stats: ActivationStats, function: Callable[[Contrast], Array], task: str) -> dict[str, Array]:
    values = {}
    fullest: tuple[str, ...] = ()
    for site in stats.sites:
        cover = _coverage(stats, task, site)
        fullest = max(fullest, cover.labels, key=len)
        sides = contrast(stats, task, site)
        # 0/0 is how an undefined score becomes NaN.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            value = function(sides)
        values[site] = np.where(cover.finite & (len(cover.labels) >= _least(stats)), value, np.nan)
    if len(fullest) < _least(stats):
        found = f"only {fullest[0]!r} has" if fullest else "none has"
        expected = "one" if stats.of_pairs else "two to contrast"
        raise InputError(f"task {task!r}: of its labels {found} tokens, expected at least {expected}")
    return values


def directions(stats: ActivationStats, name: str, task: str | None = None) -> dict[str, Array]:
    """Which way a label's neurons, selected by the score ``name``, differ in what the score reads.

    Returns:
        site -> float64 [L, F], rows in the order of ``stats.tasks[task]``: 1 where what the score reads
        (``SCORES[name].reads``) is higher under the label, -1 where it is lower than under the rest. An entropy gives a
        neuron to a label because its P is high there: all 1.

    Raises:
        InputError: as :func:`score`.
    """
    kind = SCORES[name]
    differences = score(stats, "frequency_difference" if kind.reads == "rate" else screens_for(stats).sign, task)
    return {site: np.where((value < 0) & kind.per_label, -1.0, 1.0) for site, value in differences.items()}


def fdr(p: ArrayLike) -> Array:
    """Benjamini-Hochberg adjusted p values of one family: all entries of ``p``, whatever its shape.

    A neuron is found at false discovery rate q where the result is at most q. NaN entries are no tests: they
    stay NaN and do not count.

    Raises:
        InputError: a p value outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    tests = ~np.isnan(values)
    given = values[tests]
    if ((given < 0) | (given > 1)).any():
        raise InputError("p has values outside [0, 1]")
    adjusted = np.full(values.shape, np.nan)
    if given.size:
        adjusted[tests] = scipy.stats.false_discovery_control(given)
    return adjusted
