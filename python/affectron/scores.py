"""Scores of neurons for a label: numbers of ActivationStats in float64, each with its formula and source.

In the formulas, t is the label ("target"), r the rest of its task, P = active / count the activation frequency, A the
mean activation, n the number of observed tokens and s² = m2 / (n - 1) the sample variance.

A score is NaN where it is undefined, and such a neuron is never selected. No score is defined at a site where fewer
than two labels of the task have tokens (an expert, for example), nor for a neuron without a finite activation under a
label that has tokens. The tokens of a sentence are not independent. p values over all tokens are therefore far too
small to be read as error rates; they only rank neurons. Over sentences, attributions and pairs ``permutation_p``,
``attribution_p`` and ``paired_p`` are p values whatever the distribution; ``welch_p`` is one of normal values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import ArrayLike, NDArray

from affectron import formulas
from affectron._internal.arguments import checked_arguments
from affectron._internal.wording import count
from affectron.contrasts import Array, Contrast, contrast
from affectron.errors import InputError
from affectron.stats import ATTRIBUTION, ActivationStats, check_neurons


class Score(NamedTuple):
    """Definition of a score.

    Attributes:
        function: contrast of one site -> float64 [L, F], or [1, F] for one value a neuron.
        description: formula and source, one line.
        better: end of the scale at which a label's neurons are.
        reads: quantity that the score compares between labels, and therefore the feature of a single sentence:
            ``rate``, the share of the sentence's tokens at which the neuron is active, or ``mean``, the mean
            activation over its tokens.
        per_label: True where each label has its own values ([L, F]).
        signed: True where the score is positive if the label exceeds the rest, and negative if it is below.
        kind: the statistics that the score is defined for: of ``activation``, of ``attribution``, or of ``pair``s,
            whose observations are contrasts already and need no rest.
        error: the standard error of ``function``. The score is then the moderated t of Tusher, Tibshirani and Chu
            (2001), function / (error + s0), s0 the 0.9 quantile of the label's errors over all neurons that have any.
        shifted: True where ``function`` is multiplied by ``mean_difference`` of statistics of activations. With an
            ``error`` the product is divided by its standard error to first order, from the errors of both factors.
    """

    function: Callable[[Contrast], Array]
    description: str
    better: Literal["low", "high"]
    reads: Literal["rate", "mean"]
    per_label: bool = True
    signed: bool = False
    kind: Literal["activation", "attribution", "pair"] = "activation"
    error: Callable[[Contrast], Array] | None = None
    shifted: bool = False


SCORES: dict[str, Score] = {
    "entropy": Score(
        formulas.entropy,
        "H = -Σ p ln p, p = P/ΣP over the task's labels that have tokens; none where all P = 0: "
        "how often a neuron is active, not how strongly (LAPE, Tang et al. 2024; Lee et al. 2025)",
        "low",
        "rate",
        per_label=False,
    ),
    "raw_entropy": Score(
        formulas.raw_entropy,
        "H = -Σ P ln P over the task's labels that have tokens, not renormalised; none where all P = 0 "
        "(Zheng et al. 2026, as printed)",
        "low",
        "rate",
        per_label=False,
    ),
    "differential": Score(
        formulas.differential,
        "|A_t - A_r| / |A_all|, A_all over all tokens of the task (Zheng et al. 2026); a tenth of the root mean square "
        "over these tokens in place of |A_all| where that is larger",
        "high",
        "mean",
    ),
    "mean_difference": Score(formulas.mean_difference, "A_t - A_r", "high", "mean", signed=True),
    "cohens_d": Score(
        formulas.cohens_d,
        "(A_t - A_r) / sqrt((m2_t + m2_r) / (n_t + n_r - 2)) (Cohen 1988)",
        "high",
        "mean",
        signed=True,
    ),
    "hedges_g": Score(
        formulas.hedges_g,
        "d (1 - 3 / (4 (n_t + n_r - 2) - 1)), d as cohens_d (Hedges 1981)",
        "high",
        "mean",
        signed=True,
    ),
    "welch_t": Score(
        formulas.welch_t,
        "(A_t - A_r) / sqrt(s²_t/n_t + s²_r/n_r) (Welch 1947)",
        "high",
        "mean",
        signed=True,
    ),
    "welch_p": Score(
        formulas.welch_p,
        "two-sided p value of welch_t with the degrees of freedom of Welch and Satterthwaite; it ranks and does not "
        "test: skewed activations do not keep its level",
        "low",
        "mean",
    ),
    "permutation_p": Score(
        formulas.permutation_p,
        "2 exp(-(1 - π) S² / (2κQ)) or 1: upper bound of the two-sided p value of the permutations of the labels; "
        "S = n_t (A_t - A), Q the squared deviations of all n, π = P(K = n_t), K binomial (n, f), f = n_t/n, "
        "κ = (1 - 2f) / (2 ln((1 - f)/f)); of sentences a test, over tokens a rank",
        "low",
        "mean",
    ),
    "frequency_difference": Score(
        formulas.frequency_difference, "P_t - P_r (NPTI, Deng et al. 2024)", "high", "rate", signed=True
    ),
    "log_odds": Score(
        formulas.log_odds,
        "ln((a_t + 0.5) / (n_t - a_t + 0.5)) - ln((a_r + 0.5) / (n_r - a_r + 0.5)), a active of n tokens "
        "(Haldane 1956; Anscombe 1956)",
        "high",
        "rate",
        signed=True,
    ),
    "mutual_information": Score(
        formulas.mutual_information,
        "mutual information, in nats, of active or not with label or rest, exact from the counts",
        "high",
        "rate",
    ),
    "paired_difference": Score(
        formulas.target_mean, "D, the mean difference of the label's n pairs", "high", "mean", signed=True, kind="pair"
    ),
    "paired_d": Score(formulas.paired_d, "D / s, the d_z of Cohen 1988", "high", "mean", signed=True, kind="pair"),
    "paired_t": Score(formulas.paired_t, "D / (s / sqrt(n)) (Student 1908)", "high", "mean", signed=True, kind="pair"),
    "paired_p": Score(
        formulas.paired_p,
        "P(η >= z) / P(η >= √2) / 2 or 1, η normal, z = |ΣD| / sqrt(ΣD²) of the pairs' differences D: upper bound of "
        "the two-sided p value of their signs (Bentkus and Dzindzalieta 2015)",
        "low", "mean", kind="pair",
    ),
    "attribution": Score(
        formulas.target_mean, "a_t, the mean attribution over the label's sentences (attribution patching, Nanda 2023)",
        "high", "mean", signed=True, kind="attribution",
    ),
    "attribution_moderated": Score(
        formulas.mean_difference,
        "(a_t - a_r) / (e + s0), e the standard error in attribution_t, s0 the 0.9 quantile of e "
        "over all neurons: a moderated t (Tusher, Tibshirani and Chu 2001)",
        "high", "mean", signed=True, kind="attribution", error=formulas.welch_error,
    ),
    "attribution_contrast": Score(
        formulas.mean_difference, "a_t - a_r", "high", "mean", signed=True, kind="attribution"
    ),
    "text_attribution": Score(
        formulas.mean_difference,
        "(A_t - A_r) (g_t - g_r), A the mean activation, g the mean of the text's gradients: to "
        "first order what the shift from rest to label does for texts of the label and not for others",
        "high", "mean", signed=True, kind="attribution", shifted=True,
    ),
    "text_attribution_t": Score(
        formulas.mean_difference,
        "(A_t - A_r) (g_t - g_r) over its standard error, to first order from the standard errors of both factors "
        "(delta method; errors as in welch_t)",
        "high", "mean", signed=True, kind="attribution", error=formulas.welch_error, shifted=True,
    ),
    "attribution_g": Score(
        formulas.hedges_g, "Hedges g of a_t - a_r, as hedges_g", "high", "mean", signed=True, kind="attribution"
    ),
    "attribution_t": Score(
        formulas.welch_t, "Welch's t of a_t - a_r over sentences, as welch_t",
        "high", "mean", signed=True, kind="attribution",
    ),
    "attribution_p": Score(
        formulas.permutation_p, "p value of a_t - a_r over sentences, as permutation_p",
        "low", "mean", kind="attribution",
    ),
}  # fmt: skip
# Kind of statistics -> the score by which neurons are ranked unless another is asked for.
_USUAL = {"activation": "hedges_g", "attribution": "attribution_t", "pair": "paired_t"}


# Quantile of the standard errors that is added to each in a moderated t.
_OFFSET = 0.9


class Screens(NamedTuple):
    """Names of the scores that screen a difference by its sign, its size (``effect``) and its p value."""

    sign: str
    effect: str
    p: str


_SCREENS = {
    "activation": Screens("mean_difference", "hedges_g", "permutation_p"),
    "attribution": Screens("attribution_contrast", "attribution_g", "attribution_p"),
    "pair": Screens("paired_difference", "paired_d", "paired_p"),
}


def usual_score(stats: ActivationStats) -> str:
    """The score by which neurons of the statistics are ranked unless another is asked for."""
    # 100 of 46,080 neurons removed 0.99 to 1.01 of a model's agreement of the verb by their mean attribution within
    # pairs, and 0.74 to 0.83 by its t.
    if stats.of_pairs and stats.kind == ATTRIBUTION:
        return "paired_difference"
    return "text_attribution_t" if stats.provenance.get("metric") == "text" else _USUAL[kind_of(stats)]


def scores_for(stats: ActivationStats) -> tuple[str, ...]:
    """List the scores that are defined for the statistics."""
    of_texts = stats.provenance.get("metric") in (None, "text")
    return tuple(
        name for name, kind in SCORES.items() if kind.kind == kind_of(stats) and (of_texts or not kind.shifted)
    )


def kind_of(stats: ActivationStats) -> str:
    """The kind of score that is defined for the statistics: ``activation``, ``attribution`` or ``pair``.

    Raises:
        InputError: the statistics are of the outputs of layers.
    """
    check_neurons(stats)
    return "pair" if stats.of_pairs else stats.kind


def screens_for(stats: ActivationStats) -> Screens:
    """Choose the scores that screen neurons of the statistics."""
    return _SCREENS[kind_of(stats)]


def only_task(stats: ActivationStats, task: str | None) -> str:
    """Return ``task``, or the only task of the statistics when it is None.

    Raises:
        InputError: no such task, or None with several tasks to choose from.
    """
    if task is None:
        if len(stats.tasks) != 1:
            raise InputError(f"task is not given, expected one of {', '.join(stats.tasks)}")
        return next(iter(stats.tasks))
    stats.task_rows(task)
    return task


@checked_arguments
def score(
    stats: ActivationStats, name: str, task: str | None = None, activations: ActivationStats | None = None
) -> dict[str, Array]:
    """Compute a score of every neuron.

    Args:
        stats: statistics of a labelled corpus, or of contrastive pairs.
        name: one of ``SCORES``; its description gives the formula and the source.
        task: the task whose labels are contrasted; may be omitted when there is only one.
        activations: statistics of activations of the same model, for the scores of a text's attribution alone.

    Returns:
        site -> float64 [L, F], rows in the order of ``stats.tasks[task]``; [1, F] for the entropies. NaN where the
        score is undefined: no tokens on a side, no variance, a dead neuron, a site where fewer than two labels have
        tokens, or no finite activation under a label that has tokens.

    Raises:
        InputError: no such score or task, a score of pairs for the labels of a corpus or the reverse, or no site
            where two labels of the task have tokens (one, for pairs).
    """
    known = scores_for(stats)
    if name not in known:
        if name in SCORES and SCORES[name].kind == kind_of(stats):
            metric = stats.provenance["metric"]
            raise InputError(f"score is {name!r} and the metric of the attributions {metric!r}, expected 'text'")
        raise InputError(f"score is {name!r}, expected one of {', '.join(known)} for statistics of {kind_of(stats)}s")
    task, kind = only_task(stats, task), SCORES[name]
    if kind.shifted != (activations is not None):
        given = "not given" if activations is None else "given"
        wanted = ", ".join(shifted for shifted, of_name in SCORES.items() if of_name.shifted)
        raise InputError(
            f"score is {name!r} and activations are {given}, expected them for {wanted} alone (--activations)"
        )
    values = _each_site(stats, kind.function, task)
    if activations is not None:
        if (activations.tasks.get(task), activations.widths) != (stats.tasks[task], stats.widths):
            raise InputError(f"activations have other labels of task {task!r} or other sites than the attributions")
        shifts = score(activations, "mean_difference", task)
        if kind.error is None:
            return {site: values[site] * shifts[site] for site in values}
        errors, of_shifts = (_each_site(source, kind.error, task) for source in (stats, activations))
        return {
            site: _quotient(
                values[site] * shifts[site], np.hypot(shifts[site] * errors[site], values[site] * of_shifts[site])
            )
            for site in values
        }
    if kind.error is None:
        return values
    errors = _each_site(stats, kind.error, task)
    spread = [row[row > 0] for row in np.concatenate(list(errors.values()), axis=1)]
    # A label whose sentences all agree is ranked by the value itself.
    offset = np.array([[np.quantile(row, _OFFSET) if row.size else 1.0] for row in spread])
    return {site: values[site] / (errors[site] + offset) for site in values}


def _quotient(value: Array, error: Array) -> Array:
    """The value over its error; NaN where there is none."""
    return value / np.where(error > 0, error, np.nan)


def frequency(stats: ActivationStats, task: str | None = None) -> dict[str, Array]:
    """Compute P = active / count of every neuron.

    Returns:
        site -> float64 [L, F], rows in the order of ``stats.tasks[task]``; NaN in the row of a label without tokens,
        and where no score is defined (see :func:`score`).

    Raises:
        InputError: no such task, or no site where two of its labels have tokens (one, for pairs).
    """
    return _each_site(stats, formulas.frequency, only_task(stats, task))


def unscored(stats: ActivationStats, tasks: Sequence[str]) -> str | None:
    """Describe in one line the sites and neurons without a score, for lack of tokens or of finite activations.

    The line has their numbers and the first of each. None where every neuron has a score.
    """
    lines = []
    for task in tasks:
        covered = {site: _coverage(stats, task, site) for site in stats.sites}
        most = max(len(cover.labels) for cover in covered.values())
        bare = [site for site, cover in covered.items() if len(cover.labels) < _least(stats)]
        partial = [site for site, cover in covered.items() if _least(stats) <= len(cover.labels) < most]
        blind = {site: int((~cover.finite).sum()) for site, cover in covered.items() if not cover.finite.all()}
        if bare:
            few = "no label has tokens" if stats.of_pairs else "fewer than two labels have tokens"
            lines.append(
                f"task {task!r}: at {len(bare)} of {count(len(covered), 'site')}, the first {bare[0]}, {few}: "
                "no score for their neurons"
            )
        if partial:
            lines.append(
                f"task {task!r}: at {len(partial)} of {count(len(covered), 'site')}, the first {partial[0]}, labels "
                "without tokens are left out of the contrast"
            )
        if blind:
            lines.append(
                f"task {task!r}: {sum(blind.values())} of {count(sum(stats.widths.values()), 'neuron')}, the first at "
                f"{next(iter(blind))}, have no finite activation under a label: no score for them"
            )
    return "; ".join(lines) or None


class _Coverage(NamedTuple):
    """Data that one site has of a task.

    Attributes:
        labels: the labels that have tokens there.
        finite: bool [F], the neurons with a finite activation under each of these labels.
    """

    labels: tuple[str, ...]
    finite: NDArray[np.bool_]


def _coverage(stats: ActivationStats, task: str, site: str) -> _Coverage:
    count, nonfinite = stats.count[site], stats.nonfinite[site]
    rows = {label: stats.rows(label) for label in stats.tasks[task]}
    labels = tuple(label for label, of_label in rows.items() if count[of_label].any())
    finite = np.ones(stats.widths[site], dtype=np.bool_)
    for label in labels:
        finite &= (nonfinite[rows[label]] < count[rows[label], np.newaxis]).any(axis=0)
    return _Coverage(labels, finite)


def _least(stats: ActivationStats) -> int:
    """Least number of labels with tokens that a contrast needs: two, but one for pairs, which are contrasts."""
    return 1 if stats.of_pairs else 2


def _each_site(stats: ActivationStats, function: Callable[[Contrast], Array], task: str) -> dict[str, Array]:
    values = {}
    fullest: tuple[str, ...] = ()
    for site in stats.sites:
        cover = _coverage(stats, task, site)
        fullest = max(fullest, cover.labels, key=len)
        sides = contrast(stats, task, site)
        # An undefined score becomes NaN as 0/0.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            value = function(sides)
        values[site] = np.where(cover.finite & (len(cover.labels) >= _least(stats)), value, np.nan)
    if len(fullest) < _least(stats):
        covered = f"only {fullest[0]!r} has" if fullest else "none has"
        expected = "one" if stats.of_pairs else "two to contrast"
        raise InputError(f"task {task!r}: of its labels {covered} tokens, expected at least {expected}")
    return values


def directions(stats: ActivationStats, name: str, task: str | None = None) -> dict[str, Array]:
    """Compute the direction in which each neuron differs under a label, for a selection by the score ``name``.

    Returns:
        site -> float64 [L, F], rows in the order of ``stats.tasks[task]``: -1 where the quantity that the score reads
        (``SCORES[name].reads``) is lower under the label than under the rest, else 1. For an entropy all values are 1,
        since it assigns a neuron to a label of high P.

    Raises:
        InputError: as :func:`score`.
    """
    kind = SCORES[name]
    differences = score(stats, "frequency_difference" if kind.reads == "rate" else screens_for(stats).sign, task)
    return {site: np.where((value < 0) & kind.per_label, -1.0, 1.0) for site, value in differences.items()}


def fdr(p: ArrayLike) -> Array:
    """Adjust p values by the method of Benjamini and Hochberg (1995).

    Args:
        p: p values of one family of tests, of any shape. NaN marks an entry without a test; it does not count.

    Returns:
        float64 of the shape of ``p``, NaN where ``p`` is NaN. A test is significant at false discovery rate q where
        its value is at most q.

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
