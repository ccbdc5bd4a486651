"""Selection: which neurons belong to a label, by their scores; and the published ways to select."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectron import scores
from affectron._internal.checks import SHARE, UNIT, Positive, Whole, check
from affectron.errors import InputError
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ActivationStats


def select(
    stats: ActivationStats,
    task: str | None = None,
    *,
    top: float = 0.01,
    score: str = "entropy",
    filter_rate: float | None = 0.95,
    assign: Literal["argmax", "bar"] = "argmax",
    activation_bar_ratio: float = 0.95,
    sign: Literal["positive", "negative"] | None = None,
    min_effect: float | None = None,
    fdr: float | None = None,
    min_count: int | None = None,
) -> NeuronSet:
    """Find the neurons of every label of a task, or of every task.

    With ``entropy`` or ``raw_entropy`` (Tang et al. 2024, Lee et al. 2025): the neurons that pass the
    activity filter, of these the ``top`` share of lowest entropy over all sites together, each assigned to
    labels. With any other score: for each label the ``top`` share by that label's own score. The share is of
    all neurons of the model, rounded to the nearest whole number and at least one. Ties are broken by site in
    forward order, then index. A neuron without a score is never selected; one warning tells how many sites have
    tokens of fewer than two labels, and how many neurons have no finite activation under a label.

    The screens ``sign``, ``min_effect``, ``fdr`` and ``min_count`` then each remove neurons from a label's
    list, in any combination; none adds any.

    Statistics of contrastive pairs take a score of pairs, such as ``paired_t``, and are screened by the differences
    within the pairs: ``paired_d`` is the effect size, ``paired_p`` the p value, each pair an observation.

    Args:
        stats: statistics of a labelled corpus, or of pairs.
        task: the task to contrast the labels of; all tasks, one by one, when None.
        top: share of all neurons, in (0, 1].
        score: one of ``affectron.scores.SCORES``.
        filter_rate: entropy scores only. A neuron stays when its P of some label exceeds this quantile of all
            P of the task. None keeps all (Lee et al.).
        assign: entropy scores only. ``argmax``: to the label of highest P, the first of equal ones (Lee et
            al.). ``bar``: to every label whose P exceeds the ``activation_bar_ratio`` quantile of all P
            (LAPE).
        activation_bar_ratio: see ``assign``.
        sign: keep neurons whose mean activation under the label is above (``positive``) or below
            (``negative``) that of the rest. With a signed score, ``negative`` ranks from the lowest value.
        min_effect: keep neurons with an absolute ``hedges_g`` of at least this.
        fdr: keep neurons found at this false discovery rate: Benjamini-Hochberg over all neurons of the
            model, for each label, on the p values of Welch's t test.
        min_count: keep neurons that are active at this many or more of the label's tokens.

    Returns:
        one list for each label, best first, with the provenance of the statistics and these options under
        ``select``.

    Raises:
        InputError: an option is out of its range or does not go with the score, an unknown task or score, a
            task of which fewer than two labels have tokens, or one of which no neuron has a score.
    """
    options = selection_options(
        task=task, top=top, score=score, filter_rate=filter_rate, assign=assign,
        activation_bar_ratio=activation_bar_ratio, sign=sign, min_effect=min_effect, fdr=fdr, min_count=min_count,
    )  # fmt: skip
    chosen = choose(stats, options)
    left_out = scores.unscored(stats, list(chosen.tasks))
    if left_out is not None:
        warnings.warn(left_out, stacklevel=2)
    return chosen


def choose(stats: ActivationStats, options: Mapping[str, Any]) -> NeuronSet:
    """:func:`select` with the options of :func:`selection_options` and without its warning, for selections by the
    hundred.

    Raises:
        InputError: as :func:`select`.
    """
    tasks = list(stats.tasks) if options["task"] is None else [options["task"]]
    lists = [neurons for task in tasks for neurons in _select_task(stats, task, options)]
    return NeuronSet(lists, stats.widths, {**stats.provenance, "select": dict(options)}, stats.screened)


def selection_options(
    *,
    task: str | None = None,
    top: float = 0.01,
    score: str = "entropy",
    filter_rate: float | None = 0.95,
    assign: str = "argmax",
    activation_bar_ratio: float = 0.95,
    sign: str | None = None,
    min_effect: float | None = None,
    fdr: float | None = None,
    min_count: int | None = None,
) -> dict[str, Any]:
    """The options of :func:`select`, checked, defaults filled in, as JSON.

    Raises:
        InputError: an option is out of its range or does not go with the score.
    """
    if score not in scores.SCORES:
        raise InputError(f"score is {score!r}, expected one of {', '.join(scores.SCORES)}")
    if sign not in (None, "positive", "negative"):
        raise InputError(f"sign is {sign!r}, expected 'positive' or 'negative'")
    if assign not in ("argmax", "bar"):
        raise InputError(f"assign is {assign!r}, expected 'argmax' or 'bar'")
    if scores.SCORES[score].per_label:
        if assign != "argmax":
            raise InputError(f"assign is {assign!r}, which goes with an entropy and not with {score!r}")
        if filter_rate not in (None, 0.95):
            raise InputError(f"filter_rate is {filter_rate!r}, which goes with an entropy and not with {score!r}")
    check("top", top, SHARE)
    check("activation_bar_ratio", activation_bar_ratio, UNIT)
    for name, value, bound in (
        ("filter_rate", filter_rate, UNIT), ("min_effect", min_effect, Positive(zero_too=True)), ("fdr", fdr, SHARE),
        ("min_count", min_count, Whole()),
    ):  # fmt: skip
        if value is not None:
            check(name, value, bound)
    return {
        "task": task,
        "top": float(top),
        "score": score,
        "filter_rate": None if filter_rate is None else float(filter_rate),
        "assign": assign,
        "activation_bar_ratio": float(activation_bar_ratio),
        "sign": sign,
        "min_effect": None if min_effect is None else float(min_effect),
        "fdr": None if fdr is None else float(fdr),
        "min_count": None if min_count is None else int(min_count),
    }


def _select_task(stats: ActivationStats, task: str, options: Mapping[str, Any]) -> list[NeuronList]:
    """One list a label. Neurons of all sites lie side by side, [L, N], in forward order."""

    def flat(values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate([values[site] for site in stats.sites], axis=1)

    def scored(name: str) -> NDArray[np.float64]:
        return flat(scores.score(stats, name, task))

    name = options["score"]
    kind = scores.SCORES[name]
    value = scored(name)
    if np.isnan(value).all():
        raise InputError(
            f"task {task!r}: no neuron has a score by {name}: too few tokens under its labels, or no neuron is active "
            "or finite"
        )
    total = value.shape[1]
    wanted = max(1, round(options["top"] * total))
    descending = kind.better == "high" and not (kind.signed and options["sign"] == "negative")
    labels = stats.tasks[task]

    if kind.per_label:
        chosen = [_best(row, ~np.isnan(row), wanted, descending) for row in value]
    else:
        rate = flat(scores.frequency(stats, task))
        known = rate[~np.isnan(rate)]
        rate = np.where(np.isnan(rate), -1.0, rate)  # a label without tokens exceeds nothing
        eligible = ~np.isnan(value[0])
        if options["filter_rate"] is not None:
            eligible &= (rate > np.quantile(known, options["filter_rate"])).any(axis=0)
        best = _best(value[0], eligible, wanted, descending)
        if options["assign"] == "argmax":
            of_label = np.arange(len(labels))[:, np.newaxis] == rate.argmax(axis=0)
        else:
            of_label = rate > np.quantile(known, options["activation_bar_ratio"])
        chosen = [best[of_label[row, best]] for row in range(len(labels))]
        value = np.repeat(value, len(labels), axis=0)

    keep = np.ones((len(labels), total), dtype=bool)
    screens = scores.screens_for(stats)
    if options["sign"] is not None:
        difference = scored(screens.sign)
        keep &= difference > 0 if options["sign"] == "positive" else difference < 0
    if options["min_effect"] is not None:
        keep &= np.abs(scored(screens.effect)) >= options["min_effect"]
    if options["fdr"] is not None:
        keep &= np.stack([scores.fdr(row) for row in scored(screens.p)]) <= options["fdr"]
    if options["min_count"] is not None:
        active = {site: scores.contrast(stats, task, site).target.active for site in stats.sites}
        keep &= flat(active) >= options["min_count"]

    site_of = np.repeat(np.arange(len(stats.sites)), [stats.widths[site] for site in stats.sites])
    starts = np.concatenate([[0], np.cumsum([stats.widths[site] for site in stats.sites])])
    lists = []
    for row, label in enumerate(labels):
        neurons = chosen[row][keep[row, chosen[row]]]
        items = [(stats.sites[site_of[n]], int(n - starts[site_of[n]]), float(value[row, n])) for n in neurons]
        lists.append(NeuronList(label, task, items))
    return lists


def _best(values: NDArray[np.float64], eligible: NDArray[np.bool_], wanted: int, descending: bool) -> NDArray[np.intp]:
    """Positions of the ``wanted`` best eligible values, best first; a stable sort keeps ties in order."""
    positions = np.flatnonzero(eligible)
    keys = -values[positions] if descending else values[positions]
    return positions[np.argsort(keys, kind="stable")[:wanted]]


class Method(NamedTuple):
    """A published or standard way to select, as options of :func:`affectron.select`."""

    description: str
    options: dict[str, Any]


METHODS: dict[str, Method] = {
    "paper": Method(
        "entropy of P, activity filter at 0.95, to the label of highest P (Zheng et al. 2026)", {"score": "entropy"}
    ),
    "paper_raw": Method("the same with the entropy as printed, not renormalised", {"score": "raw_entropy"}),
    "lee": Method(
        "entropy of P, no filter, to the label of highest P (Lee et al. 2025)",
        {"score": "entropy", "filter_rate": None},
    ),
    "lape": Method(
        "entropy of P, activity filter at 0.95, to every label above the bar (LAPE, Tang et al. 2024)",
        {"score": "entropy", "assign": "bar"},
    ),
    "npti": Method("largest P_t - P_r (NPTI, Deng et al. 2024)", {"score": "frequency_difference", "sign": "positive"}),
    "effect_size": Method(
        "largest Hedges g at a false discovery rate of 0.05", {"score": "hedges_g", "sign": "positive", "fdr": 0.05}
    ),
    "mutual_information": Method(
        "largest mutual information of active with label, mean above the rest's",
        {"score": "mutual_information", "sign": "positive"},
    ),
}


def select_by(stats: ActivationStats, method: str, task: str, top: float) -> NeuronSet:
    """The neurons of a task by one of ``METHODS``. ``top`` is the share of all neurons for all labels together: a
    method with a score for each label takes its part of it for each, so that all methods select about as many.

    Raises:
        InputError: an unknown method, or as :func:`affectron.select`.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    options = METHODS[method].options
    each = top if options["score"] in ("entropy", "raw_entropy") else top / len(stats.tasks[task])
    return choose(stats, selection_options(task=task, top=each, **options))
