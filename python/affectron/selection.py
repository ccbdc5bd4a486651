"""Selection: the neurons of each label, by their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectron import scores
from affectron._internal import wording
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron._internal.warning import warn
from affectron.contrasts import contrast
from affectron.errors import InputError, Note
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import COUNT, METHODS, TOP, Select
from affectron.stats import ACTIVATION, ATTRIBUTION, ActivationStats

#: Values of ``tokens`` in the provenance of statistics of activations whose observations are sentences.
SENTENCES = ("mean", "last")

#: Steps of a selection, in the order in which they act, by the option that sets each -> the neurons that it removes.
STEPS = {
    "score": "without a score",
    "filter_rate": "below the activity filter",
    "top": "beyond the share asked for",
    "count": "beyond the number asked for",
    "assign": "not assigned to the label",
    "sign": "of the other sign",
    "min_effect": "of too small an effect",
    "fdr": "above the false discovery rate",
    "min_count": "active too seldom",
    "min_frequency": "selected again too seldom",
}

# A neuron is active under one label almost alone where its P under the label is this share of ΣP, and it is active at
# so many of the label's observations that this is no accident of one text.
_ALONE, _EVIDENCE = 0.9, 10


@checked_arguments
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

    For each label the ``top`` share by the label's own score; the share is of all neurons of the model, rounded to the
    nearest whole number and at least one. ``count`` in its place is the number of neurons of a label. With ``entropy``
    or ``raw_entropy`` (Tang et al. 2024, Lee et al. 2025), which have one value a neuron: the neurons that pass the
    activity filter, of these the ``top`` share of lowest entropy over all sites together (with ``count`` that many
    times the number of labels), each assigned to labels: by ``argmax`` to the label of highest P, the first of equal
    ones (Lee et al.), by ``bar`` to every label whose P exceeds the ``activation_bar_ratio`` quantile of all P (LAPE).
    Ties are broken by site in forward order, then index. A neuron without a score is never selected; one warning tells
    how many sites have tokens of fewer than two labels, and how many neurons have no finite activation under a label. A
    note tells how many neurons the activity filter removed that are active under one label almost alone.

    The screens ``sign``, ``min_effect``, ``fdr`` and ``min_count`` then each remove neurons from a label's list, in any
    combination; none adds any. ``fdr`` is Benjamini-Hochberg over all neurons of the model, for each label, on p values
    that hold whatever the distribution (``permutation_p``). The observations must be sentences (statistics with tokens
    "mean" or "last", and attributions) or pairs: tokens of a sentence are not independent. Nor are sentences of one
    text, and a warning tells of them. With a signed score, ``sign="negative"`` ranks from the lowest value.

    Attributions (:func:`affectron.attribute`) take a score of theirs, such as ``attribution_t``, and are
    screened by the contrast of label and rest, each sentence an observation. Statistics of contrastive pairs take a
    score of pairs, such as ``paired_t``, and are screened by the differences within the pairs: ``paired_d`` is the
    effect size, ``paired_p`` the p value, each pair an observation.

    Args:
        stats: statistics or attributions of a labelled corpus, or of pairs.
        task: the task to contrast the labels of; all tasks, one by one, when None.
        activations: statistics of activations of the same model, for ``text_attribution_t``, which is the usual score
            of attributions of the metric ``text``.
        {options}

    Returns:
        one list for each label, best first, with the provenance of the statistics and, under ``select``, these options
        and ``removed``: label -> step -> the number of neurons that the step removed, in the order of ``STEPS``. With
        the neurons of the label these are all neurons of the model.

    Raises:
        InputError: an option is out of its range or does not go with the score, an unknown task or score, ``fdr`` for
            statistics of tokens, a task of which fewer than two labels have tokens, or one of which no neuron has a
            score.
    """
    options = Select(top, count, score, filter_rate, assign, activation_bar_ratio, sign, min_effect, fdr, min_count)
    neurons = choose(stats, task, options, activations)
    left_out = scores.unscored(stats, list(neurons.tasks))
    if left_out is not None:
        warn(left_out)
    alone = sum(_filtered_alone(stats, name, neurons.provenance["select"]) for name in neurons.tasks)
    if alone:
        warn(
            f"the activity filter removed {wording.count(alone, 'neuron')} active under one label almost alone: "
            "filter_rate 0 keeps them; hedges_g finds such neurons, and those that are always active but stronger "
            "under a label",
            Note,
        )
    if fdr is not None:
        _tell_repeated(stats, list(neurons.tasks))
    return neurons


def choose(
    stats: ActivationStats, task: str | None, options: Select, activations: ActivationStats | None = None
) -> NeuronSet:
    """:func:`select` without its warning, for selections by the hundred.

    Raises:
        InputError: as :func:`select`.
    """
    tasks = list(stats.tasks) if task is None else [task]
    options = resolved(options, stats)
    if options.fdr is not None and scores.kind_of(stats) == ACTIVATION:
        check_sentences(options.fdr, stats.provenance.get("tokens"))
    lists, removed = [], {}
    for name in tasks:
        for neurons, steps in _select_task(stats, name, options, activations):
            lists.append(neurons)
            removed[neurons.label] = steps
    recorded = {"task": task, **options.values(), "filter_rate": options.filter_rate or None, "removed": removed}
    return NeuronSet(lists, stats.widths, {**stats.provenance, "select": recorded}, stats.screened)


def check_sentences(fdr: float, tokens: Any) -> None:
    """Check that the observations of activations, by the rule ``tokens``, are sentences.

    Raises:
        InputError: they are tokens, or it is not known what they are.
    """
    if tokens not in SENTENCES:
        raise InputError(
            f"fdr is {fdr}, and tokens of the statistics is {tokens!r}, expected one of {', '.join(SENTENCES)}: tokens "
            "of a sentence are not independent, so there is no error rate over them; screen with tokens mean or last, "
            "take attributions or pairs, or read the p of candidates"
        )


def _tell_repeated(stats: ActivationStats, tasks: Sequence[str]) -> None:
    """Warn of tasks with more sentences than there are texts: there is no error rate over sentences that go together.

    A text may have a sentence in each of several tasks, so that fewer sentences than texts tell nothing.
    """
    if stats.screened is None or stats.of_pairs:
        return
    texts = len(stats.screened)
    for task in tasks:
        rows = list(stats.task_rows(task))
        sentences = max(int(count[rows].sum()) for count in stats.count.values())
        if sentences > texts:
            warn(
                f"task {task!r}: its {wording.count(sentences, 'sentence')} have {wording.count(texts, 'text')}; fdr "
                "counts each sentence as one of its own, and holds its rate where each text is there once"
            )


def resolved(options: Select, stats: ActivationStats) -> Select:
    """The options with the score and the size that are the default for these statistics."""
    options = replace(options, score=options.score or scores.usual_score(stats))
    if options.top is None and options.count is None:
        return replace(options, count=COUNT) if stats.kind == ATTRIBUTION else replace(options, top=TOP)
    return options


def _select_task(
    stats: ActivationStats, task: str, options: Select, activations: ActivationStats | None
) -> Iterator[tuple[NeuronList, dict[str, int]]]:
    """For each label its list, and step -> number of neurons removed. Neurons of all sites lie side by side, [L, N], in
    forward order."""
    score = str(options.score)
    value = _flat(stats, scores.score(stats, score, task, activations))
    if np.isnan(value).all():
        raise InputError(
            f"task {task!r}: no neuron has a score by {score}: too few tokens under its labels, or no neuron "
            "is active or finite"
        )
    ranked = _ranked(stats, task, options, value)
    screens = list(_screens(stats, task, options))
    site_of = np.repeat(np.arange(len(stats.sites)), [stats.widths[site] for site in stats.sites])
    starts = np.concatenate([[0], np.cumsum([stats.widths[site] for site in stats.sites])])
    for row, (label, (neurons, removed)) in enumerate(zip(stats.tasks[task], ranked, strict=True)):
        for step, passes in screens:
            kept = neurons[passes[row, neurons]]
            removed[step] = len(neurons) - len(kept)
            neurons = kept
        values = value[row] if scores.SCORES[score].per_label else value[0]
        items = [(stats.sites[site_of[n]], int(n - starts[site_of[n]]), float(values[n])) for n in neurons]
        yield NeuronList(label, task, items), removed


def _flat(stats: ActivationStats, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([values[site] for site in stats.sites], axis=1)


def _scored(stats: ActivationStats, task: str, name: str) -> NDArray[np.float64]:
    return _flat(stats, scores.score(stats, name, task))


class _Ranked(NamedTuple):
    """The positions of a label's neurons by rank, best first, and step -> number of neurons removed."""

    neurons: NDArray[np.intp]
    removed: dict[str, int]


def _ranked(stats: ActivationStats, task: str, options: Select, value: NDArray[np.float64]) -> list[_Ranked]:
    """The neurons of each label before the screens."""
    score = scores.SCORES[str(options.score)]
    if options.count is not None:
        size, wanted = "count", options.count * (1 if score.per_label else len(stats.tasks[task]))
    else:
        size, wanted = "top", max(1, round(float(options.top or 0) * value.shape[1]))
    descending = score.better == "high" and not (score.signed and options.sign == "negative")
    scored = ~np.isnan(value)
    unscored = (~scored).sum(axis=1).tolist()
    if score.per_label:
        found = []
        for row, has, without in zip(value, scored, unscored, strict=True):
            best = _best(row, has, wanted, descending)
            found.append(_Ranked(best, {"score": without, size: int(has.sum()) - len(best)}))
        return found
    rate = _rates(stats, task)
    eligible = scored[0] & _active_enough(rate, options.filter_rate)
    best = _best(value[0], eligible, wanted, descending)
    removed = {
        "score": unscored[0],
        "filter_rate": int(scored[0].sum() - eligible.sum()),
        size: int(eligible.sum()) - len(best),
    }
    if options.assign == "argmax":
        of_label = np.arange(len(rate))[:, np.newaxis] == rate.argmax(axis=0)
    else:
        of_label = rate > np.quantile(rate[rate >= 0], options.activation_bar_ratio)
    mine = [best[row[best]] for row in of_label]
    return [_Ranked(neurons, {**removed, "assign": len(best) - len(neurons)}) for neurons in mine]


def _rates(stats: ActivationStats, task: str) -> NDArray[np.float64]:
    """P of each label, [L, N]; -1 where it is not known, so that a label without tokens exceeds nothing."""
    rate = _flat(stats, scores.frequency(stats, task))
    return np.where(np.isnan(rate), -1.0, rate)


def _active_enough(rate: NDArray[np.float64], filter_rate: float | None) -> NDArray[np.bool_]:
    """bool [N]: the neurons that pass the activity filter on their rates [L, N]; all where there is none."""
    bar = float(np.quantile(rate[rate >= 0], filter_rate)) if filter_rate else -np.inf
    return np.asarray((rate > bar).any(axis=0))


def _filtered_alone(stats: ActivationStats, task: str, select: Mapping[str, Any]) -> int:
    """Number of neurons that the activity filter removed and that are active under one label almost alone."""
    if scores.SCORES[select["score"]].per_label or not select["filter_rate"]:
        return 0
    rate = _rates(stats, task)
    alone = (rate > _ALONE * np.maximum(rate, 0).sum(axis=0)) & (_active(stats, task) >= _EVIDENCE)
    return int((alone.any(axis=0) & ~_active_enough(rate, select["filter_rate"])).sum())


def _active(stats: ActivationStats, task: str) -> NDArray[np.float64]:
    """Number of the label's observations at which each neuron is active, [L, N]."""
    return _flat(stats, {site: contrast(stats, task, site).target.active for site in stats.sites})


def _screens(stats: ActivationStats, task: str, options: Select) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The screens that are asked for, in the order in which they act: option -> bool [L, N], the neurons that pass."""
    screens = scores.screens_for(stats)
    if options.sign is not None:
        difference = _scored(stats, task, screens.sign)
        yield "sign", difference > 0 if options.sign == "positive" else difference < 0
    if options.min_effect is not None:
        yield "min_effect", np.abs(_scored(stats, task, screens.effect)) >= options.min_effect
    if options.fdr is not None:
        yield "fdr", np.stack([scores.fdr(row) for row in _scored(stats, task, screens.p)]) <= options.fdr
    if options.min_count is not None:
        yield "min_count", _active(stats, task) >= options.min_count


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
