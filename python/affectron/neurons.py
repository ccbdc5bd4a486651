"""Which neurons belong to a label: the selection, the lists it gives, their overlap and their file.

Apart from the scores, which say how much, because here it is decided which; and from the model, because a
list of neurons is plain data that must be readable without one.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, SupportsFloat, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron import scores
from affectron._internal.files import read_json, write_json
from affectron._internal.overlap import check_texts, decode, encode
from affectron.errors import InputError
from affectron.stats import ActivationStats, plain_json

FORMAT = "affectron.neurons"
VERSION = 1

Neuron = tuple[str, int, float]


class NeuronList(Sequence[Neuron]):
    """The neurons of one label, best first: a sequence of (site, index, score).

    Args:
        label: the label they belong to.
        task: the label's task.
        items: (site, index, score), each neuron once; their order is kept.

    Raises:
        InputError: a site that is not text, an index that is not an integer >= 0, a score that is not a
            finite number, or a neuron that is there twice; names the label and the position.
    """

    def __init__(self, label: str, task: str, items: Iterable[tuple[str, SupportsIndex, SupportsFloat]]) -> None:
        self.label = label
        self.task = task
        self.items: tuple[Neuron, ...] = tuple(
            _neuron(item, f"label {label!r}, neuron {position}") for position, item in enumerate(items)
        )
        seen = set()
        for site, index, _ in self.items:
            if (site, index) in seen:
                raise InputError(f"label {label!r}: neuron {index} of {site} is there twice")
            seen.add((site, index))

    @overload
    def __getitem__(self, key: int) -> Neuron: ...
    @overload
    def __getitem__(self, key: slice) -> NeuronList: ...
    def __getitem__(self, key: int | slice) -> Neuron | NeuronList:
        if isinstance(key, slice):
            return NeuronList(self.label, self.task, self.items[key])
        return self.items[key]

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronList):
            return NotImplemented
        return (self.label, self.task, self.items) == (other.label, other.task, other.items)

    def __hash__(self) -> int:
        return hash((self.label, self.task, self.items))

    def __repr__(self) -> str:
        return f"NeuronList({self.label!r}, {len(self)} neurons at {len(self.by_site())} sites)"

    def by_site(self) -> dict[str, NDArray[np.int64]]:
        """site -> int64 [K], the indices there in ascending order; only sites that have any."""
        indices: dict[str, list[int]] = {}
        for site, index, _ in self.items:
            indices.setdefault(site, []).append(index)
        return {site: np.array(sorted(found), dtype=np.int64) for site, found in indices.items()}

    def top(self, share: float) -> NeuronList:
        """The best ``share`` of the list, rounded to the nearest whole number of neurons and at least one.

        Raises:
            InputError: ``share`` is outside (0, 1].
        """
        share = _share("share", share)
        return self[: max(1, round(share * len(self)))]

    def check(self, widths: Mapping[str, int]) -> None:
        """Check that a model has every neuron of the list.

        Args:
            widths: site -> number of neurons, of the model.

        Raises:
            InputError: a site that the model does not have, or a neuron index beyond the model.
        """
        for site, index, _ in self.items:
            if site not in widths:
                raise InputError(f"label {self.label!r}: site {site!r} is not in the model")
            if index >= widths[site]:
                raise InputError(
                    f"label {self.label!r}: neuron index beyond the model: index {index} of {site}, "
                    f"which has {widths[site]} neurons"
                )


class NeuronSet(Mapping[str, NeuronList]):
    """The neurons of every label: label -> :class:`NeuronList`.

    Args:
        lists: one list a label, in label order.
        widths: site -> number of neurons, of the model that was measured, sites in forward order.
        provenance: what the statistics were made from and how the neurons were selected; must be JSON.
        screened: the texts that the neurons were found on, by their hashes; None where it is
            not known.

    Attributes:
        labels: the labels, in order.
        tasks: task -> its labels.
        widths, provenance, screened: as given.

    Raises:
        InputError: a label twice, or a neuron that ``widths`` does not have.
    """

    def __init__(
        self,
        lists: Iterable[NeuronList],
        widths: Mapping[str, int],
        provenance: Mapping[str, Any] | None = None,
        screened: ArrayLike | None = None,
    ) -> None:
        self.screened = None if screened is None else check_texts(screened)
        self._lists: dict[str, NeuronList] = {}
        self.widths = dict(widths)
        self.provenance = plain_json(provenance or {})
        tasks: dict[str, list[str]] = {}
        for neurons in lists:
            if neurons.label in self._lists:
                raise InputError(f"label {neurons.label!r} is there twice")
            neurons.check(self.widths)
            self._lists[neurons.label] = neurons
            tasks.setdefault(neurons.task, []).append(neurons.label)
        self.labels: tuple[str, ...] = tuple(self._lists)
        self.tasks: dict[str, tuple[str, ...]] = {task: tuple(labels) for task, labels in tasks.items()}

    def __getitem__(self, label: str) -> NeuronList:
        """The neurons of a label.

        Raises:
            InputError: no such label; the message lists the known ones.
        """
        if label not in self._lists:
            raise InputError(f"label {label!r} is not in the neuron set, which has {', '.join(self.labels)}")
        return self._lists[label]

    # Mapping's own two expect a KeyError of __getitem__.
    def __contains__(self, label: object) -> bool:
        return label in self._lists

    def get(self, label: str, default: Any = None) -> Any:
        return self._lists.get(label, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        mine = (self._lists, list(self.widths.items()), self.provenance)
        same = mine == (other._lists, list(other.widths.items()), other.provenance)
        return same and np.array_equal(self.screened, other.screened)  # type: ignore[arg-type] # of None too

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        found = ", ".join(f"{label}: {len(neurons)}" for label, neurons in self._lists.items())
        return f"NeuronSet({found})"

    def overlap(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """The labels, and float64 [L, L]: Jaccard index |a ∩ b| / |a ∪ b| of each two labels' neurons, NaN
        where both have none."""
        sets = [{(site, index) for site, index, _ in neurons} for neurons in self._lists.values()]
        matrix = np.full((len(sets), len(sets)), np.nan)
        for i, a in enumerate(sets):
            for j, b in enumerate(sets):
                if a or b:
                    matrix[i, j] = len(a & b) / len(a | b)
        return self.labels, matrix

    def site_counts(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """The sites in forward order, and int64 [L, sites]: how many neurons each label has at each site."""
        found = [neurons.by_site() for neurons in self._lists.values()]
        counts = [[len(one.get(site, ())) for site in self.widths] for one in found]
        return tuple(self.widths), np.array(counts, dtype=np.int64).reshape(len(found), len(self.widths))

    def check(self, widths: Mapping[str, int]) -> None:
        """Check that a model has every neuron of every label.

        Args:
            widths: site -> number of neurons, of the model.

        Raises:
            InputError: a site that the model does not have, or a neuron index beyond the model.
        """
        for neurons in self._lists.values():
            neurons.check(widths)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, atomically: format, version, provenance, tasks, sites with their widths, and for each
        label its neurons as [site, index, score]; and, where they are known, the texts that were screened, as
        base64 of their hashes.

        Raises:
            InputError: the file cannot be written; what was there before is unchanged.
        """
        write_json(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "provenance": self.provenance,
                "tasks": self.tasks,
                "sites": self.widths,
                "labels": {label: list(neurons) for label, neurons in self._lists.items()},
                **({} if self.screened is None else {"screened": encode(self.screened)}),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronSet:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: the file is missing, not JSON, of another format or version, or a field of it is not
                what it should be; the message names the field.
        """
        value = read_json(path, FORMAT, VERSION)
        try:
            return cls._from_json(value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> NeuronSet:
        for field in ("provenance", "tasks", "sites", "labels"):
            if not isinstance(value.get(field), dict):
                raise InputError(f"{field} is {_shown(value.get(field))}, expected an object")
        tasks, widths, found = value["tasks"], value["sites"], value["labels"]
        for site, width in widths.items():
            if type(width) is not int or width < 1:
                raise InputError(f"sites: width of {site!r} is {_shown(width)}, expected an integer >= 1")
        task_of: dict[str, str] = {}
        for task, labels in tasks.items():
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise InputError(f"tasks: {task!r} is {_shown(labels)}, expected a list of labels")
            for label in labels:
                if label in task_of:
                    raise InputError(f"tasks: label {label!r} is there twice")
                task_of[label] = task
        if set(task_of) != set(found):
            odd = sorted(set(task_of).symmetric_difference(found))[0]
            raise InputError(f"labels: {odd!r} is {'in no task' if odd in found else 'missing'}")
        for label, items in found.items():
            if not isinstance(items, list):
                raise InputError(f"labels: {label!r} is {_shown(items)}, expected a list of neurons")
        return cls(
            [NeuronList(label, task, found[label]) for label, task in task_of.items()],
            widths,
            value["provenance"],
            decode(value["screened"], "screened") if "screened" in value else None,
        )


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
    return {
        "task": task,
        "top": _share("top", top),
        "score": score,
        "filter_rate": None if filter_rate is None else _quantile("filter_rate", filter_rate),
        "assign": assign,
        "activation_bar_ratio": _quantile("activation_bar_ratio", activation_bar_ratio),
        "sign": sign,
        "min_effect": None if min_effect is None else _at_least_zero("min_effect", min_effect),
        "fdr": None if fdr is None else _share("fdr", fdr),
        "min_count": None if min_count is None else _whole("min_count", min_count),
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


def _neuron(item: object, where: str) -> Neuron:
    if not isinstance(item, (tuple, list)) or len(item) != 3:
        raise InputError(f"{where}: {_shown(item)}, expected [site, index, score]")
    site, index, score = item
    if not isinstance(site, str):
        raise InputError(f"{where}: site is {_shown(site)}, expected text")
    whole = _whole(f"{where}: index", index)
    number = _number(score)
    if not math.isfinite(number):
        raise InputError(f"{where}: score is {_shown(score)}, expected a finite number")
    return site, whole, number


def _number(value: object) -> float:
    """``value`` as a float; NaN when it is no real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _share(name: str, value: object) -> float:
    number = _number(value)
    if not 0 < number <= 1:
        raise InputError(f"{name} is {_shown(value)}, expected a share in (0, 1]")
    return number


def _quantile(name: str, value: object) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} is {_shown(value)}, expected a quantile in [0, 1]")
    return number


def _whole(name: str, value: object) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise InputError(f"{name} is {_shown(value)}, expected an integer >= 0")


def _at_least_zero(name: str, value: object) -> float:
    number = _number(value)
    if not 0 <= number < math.inf:
        raise InputError(f"{name} is {_shown(value)}, expected a number >= 0")
    return number


def _shown(value: object) -> str:
    """repr on one line of bounded length, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
