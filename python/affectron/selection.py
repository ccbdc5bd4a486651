"""Selection: the neurons of each label, by their scores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affectron import scores
from affectron._internal.options import documented
from affectron.contrasts import contrast
from affectron.errors import InputError
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import COUNT, METHODS, TOP, Select
from affectron.stats import ATTRIBUTION, ActivationStats


@documented(Select)
def select(
    stats: ActivationStats,
    task: str | None = None,
    *,
    top: float | None = Select.top,
    count: int | None = Select.count,
    score: str | None = Select.score,
    filter_rate: float | None = Select.filter_rate,
    assign: Literal["argmax", "bar"] = Select.assign,
    activation_bar_ratio: float = Select.activation_bar_ratio,
    sign: Literal["positive", "negative"] | None = Select.sign,
    min_effect: float | None = Select.min_effect,
    fdr: float | None = Select.fdr,
    min_count: int | None = Select.min_count,
    activations: ActivationStats | None = None,
) -> NeuronSet:
    """Find the neurons of every label of a task, or of every task.

    With ``entropy`` or ``raw_entropy`` (Tang et al. 2024, Lee et al. 2025): the neurons that pass the
    activity filter, of these the ``top`` share of lowest entropy over all sites together, each assigned to
    labels: by ``argmax`` to the label of highest P, the first of equal ones (Lee et al.), by ``bar`` to every label
    whose P exceeds the ``activation_bar_ratio`` quantile of all P (LAPE). With any other score: for each label the
    ``top`` share by that label's own score. The share is of all neurons of the model, rounded to the nearest whole
    number and at least one. ``count`` in its place is the number of neurons of a label; with an entropy as many times
    the number of labels are assigned. Ties are broken by site in forward order, then index. A neuron without a score is
    never selected; one warning tells how many sites have tokens of fewer than two labels, and how many neurons have no
    finite activation under a label.

    The screens ``sign``, ``min_effect``, ``fdr`` and ``min_count`` then each remove neurons from a label's list, in any
    combination; none adds any. ``fdr`` is Benjamini-Hochberg over all neurons of the model, for each label. With a
    signed score, ``sign="negative"`` ranks from the lowest value.

    Attributions (:func:`affectron.attribute`) take a score of theirs, such as ``attribution_t``, and are
    screened by the contrast of label and rest, each sentence an observation. Statistics of contrastive pairs take a
    score of pairs, such as ``paired_t``, and are screened by the differences within the pairs: ``paired_d`` is the
    effect size, ``paired_p`` the p value, each pair an observation.

    Args:
        stats: statistics or attributions of a labelled corpus, or of pairs.
        task: the task to contrast the labels of; all tasks, one by one, when None.
        activations: statistics of activations of the same model; with attributions of the metric ``text`` the score is
            then ``text_attribution``.
        {options}

    Returns:
        one list for each label, best first, with the provenance of the statistics and these options under
        ``select``.

    Raises:
        InputError: an option is out of its range or does not go with the score, an unknown task or score, a
            task of which fewer than two labels have tokens, or one of which no neuron has a score.
    """
    options = Select(top, count, score, filter_rate, assign, activation_bar_ratio, sign, min_effect, fdr, min_count)
    neurons = choose(stats, task, options, activations)
    left_out = scores.unscored(stats, list(neurons.tasks))
    if left_out is not None:
        warnings.warn(left_out, stacklevel=2)
    return neurons


def choose(
    stats: ActivationStats, task: str | None, options: Select, activations: ActivationStats | None = None
) -> NeuronSet:
    """:func:`select` without its warning, for selections by the hundred.

    Raises:
        InputError: as :func:`select`.
    """
    tasks = list(stats.tasks) if task is None else [task]
    options = resolved(options, stats, activations)
    lists = [neurons for name in tasks for neurons in _select_task(stats, name, options, activations)]
    recorded = {"task": task, **options.values(), "filter_rate": options.filter_rate or None}
    return NeuronSet(lists, stats.widths, {**stats.provenance, "select": recorded}, stats.screened)


def resolved(options: Select, stats: ActivationStats, activations: ActivationStats | None) -> Select:
    """The options with the score and the size that are the default for these statistics."""
    usual = scores.usual_score(stats) if activations is None else "text_attribution"
    options = replace(options, score=options.score or usual)
    if options.top is None and options.count is None:
        return replace(options, count=COUNT) if stats.kind == ATTRIBUTION else replace(options, top=TOP)
    return options


def _select_task(
    stats: ActivationStats, task: str, options: Select, activations: ActivationStats | None
) -> list[NeuronList]:
    """One list a label. Neurons of all sites lie side by side, [L, N], in forward order."""
    score = str(options.score)
    value = _flat(stats, scores.score(stats, score, task, activations))
    if np.isnan(value).all():
        raise InputError(
            f"task {task!r}: no neuron has a score by {score}: too few tokens under its labels, or no neuron "
            "is active or finite"
        )
    chosen = _chosen(stats, task, options, value)
    keep = _passing(stats, task, options)
    site_of = np.repeat(np.arange(len(stats.sites)), [stats.widths[site] for site in stats.sites])
    starts = np.concatenate([[0], np.cumsum([stats.widths[site] for site in stats.sites])])
    lists = []
    for row, label in enumerate(stats.tasks[task]):
        neurons = chosen[row][keep[row, chosen[row]]]
        values = value[row] if scores.SCORES[score].per_label else value[0]
        items = [(stats.sites[site_of[n]], int(n - starts[site_of[n]]), float(values[n])) for n in neurons]
        lists.append(NeuronList(label, task, items))
    return lists


def _flat(stats: ActivationStats, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([values[site] for site in stats.sites], axis=1)


def _scored(stats: ActivationStats, task: str, name: str) -> NDArray[np.float64]:
    return _flat(stats, scores.score(stats, name, task))


def _chosen(stats: ActivationStats, task: str, options: Select, value: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """For each label the positions of its neurons by rank, best first, before the screens."""
    score = scores.SCORES[str(options.score)]
    if options.count is not None:
        wanted = options.count * (1 if score.per_label else len(stats.tasks[task]))
    else:
        wanted = max(1, round(float(options.top or 0) * value.shape[1]))
    descending = score.better == "high" and not (score.signed and options.sign == "negative")
    if score.per_label:
        return [_best(row, ~np.isnan(row), wanted, descending) for row in value]
    rate = _flat(stats, scores.frequency(stats, task))
    known = rate[~np.isnan(rate)]
    rate = np.where(np.isnan(rate), -1.0, rate)  # a label without tokens exceeds nothing
    eligible = ~np.isnan(value[0])
    if options.filter_rate:
        eligible &= (rate > np.quantile(known, options.filter_rate)).any(axis=0)
    best = _best(value[0], eligible, wanted, descending)
    if options.assign == "argmax":
        of_label = np.arange(len(rate))[:, np.newaxis] == rate.argmax(axis=0)
    else:
        of_label = rate > np.quantile(known, options.activation_bar_ratio)
    return [best[row[best]] for row in of_label]


def _passing(stats: ActivationStats, task: str, options: Select) -> NDArray[np.bool_]:
    """bool [L, N]: the neurons that pass the screens of each label."""
    keep = np.ones((len(stats.tasks[task]), sum(stats.widths.values())), dtype=bool)
    screens = scores.screens_for(stats)
    if options.sign is not None:
        difference = _scored(stats, task, screens.sign)
        keep &= difference > 0 if options.sign == "positive" else difference < 0
    if options.min_effect is not None:
        keep &= np.abs(_scored(stats, task, screens.effect)) >= options.min_effect
    if options.fdr is not None:
        keep &= np.stack([scores.fdr(row) for row in _scored(stats, task, screens.p)]) <= options.fdr
    if options.min_count is not None:
        active = {site: contrast(stats, task, site).target.active for site in stats.sites}
        keep &= _flat(stats, active) >= options.min_count
    return keep


def _best(values: NDArray[np.float64], eligible: NDArray[np.bool_], wanted: int, descending: bool) -> NDArray[np.intp]:
    """Positions of the ``wanted`` best eligible values, best first; a stable sort keeps ties in order."""
    positions = np.flatnonzero(eligible)
    keys = -values[positions] if descending else values[positions]
    return positions[np.argsort(keys, kind="stable")[:wanted]]


def select_by(
    stats: Mapping[str, ActivationStats], method: str, task: str, *, top: float | None = None, count: int | None = None
) -> NeuronSet:
    """Select the neurons of a task by one of ``METHODS``; either ``top`` or ``count`` is given.

    Args:
        stats: kind of a score (``SCORES[name].kind``) -> the statistics that such a score reads.
        method: one of ``METHODS``.
        task: the task.
        top: share of all neurons for all labels together. A method with a score for each label takes its part of it
            for each, so that all methods select about as many.
        count: number of neurons of a label, as for :func:`affectron.select`.

    Raises:
        InputError: an unknown method, one whose statistics are not given, or as :func:`affectron.select`.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    options = METHODS[method].options
    score = scores.SCORES[str(options.score)]
    if score.kind not in stats:
        raise InputError(f"method {method!r} selects by statistics of {score.kind}s, which are not given")
    if top is not None and score.per_label:
        top /= len(stats[score.kind].tasks[task])
    return choose(stats[score.kind], task, replace(options, top=top, count=count))
