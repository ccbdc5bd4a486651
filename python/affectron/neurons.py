"""Neuron lists, one for each label: plain data that needs no model, with its overlap and its JSON file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron._internal import artifacts
from affectron._internal.arguments import NEURON_SET, NEURONS
from affectron._internal.checks import SHARE, Finite, Whole, check, shown
from affectron._internal.display import ROWS, Shown, Summary, few, origin
from affectron._internal.files import read_json, write_json
from affectron._internal.frames import Categories, frame
from affectron._internal.hub import Shareable
from affectron._internal.model_card import Description
from affectron._internal.overlap import check_texts, decode, encode
from affectron._internal.provenance import Origin, plain_json
from affectron._internal.wording import count
from affectron.errors import InputError

if TYPE_CHECKING:
    import pandas

FORMAT = "affectron.neurons"
VERSION = 1

Neuron = tuple[str, int, float]


class NeuronList(Shown, Sequence[Neuron]):
    """Neurons of one label, best first: a sequence of (site, index, score).

    Args:
        label: the label.
        task: the label's task.
        items: (site, index, score), each neuron once; their order is kept.
        origin: the model and the provenance of the set that the list is taken from.

    Raises:
        InputError: a site that is not text, an index that is not an integer >= 0, a score that is not a finite number,
            or a neuron that occurs twice; names the label and the position.
    """

    _argument: ClassVar[str] = NEURONS

    def __init__(
        self,
        label: str,
        task: str,
        items: Iterable[tuple[str, SupportsIndex, SupportsFloat]],
        origin: Origin | None = None,
    ) -> None:
        self.label = label
        self.task = task
        self.origin = origin
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
            return NeuronList(self.label, self.task, self.items[key], self.origin)
        return self.items[key]

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronList):
            return NotImplemented
        return (self.label, self.task, self.items) == (other.label, other.task, other.items)

    def __hash__(self) -> int:
        return hash((self.label, self.task, self.items))

    def _summary(self) -> Summary:
        sites = count(len({site for site, _, _ in self.items}), "site")
        rows = ((rank, *neuron) for rank, neuron in enumerate(self.items[:ROWS], 1))
        facts = [self.label, f"{count(len(self), 'neuron')} at {sites}"]
        return Summary(facts, ("rank", "site", "index", "score"), rows, len(self))

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each neuron, best first, with the columns of :meth:`NeuronSet.to_pandas`.

        Raises:
            InputError: pandas is not installed.
        """
        return _frame([self], self.origin.widths if self.origin else ())

    def by_site(self) -> dict[str, NDArray[np.int64]]:
        """Group the indices by site: site -> int64 [K], ascending; sites without a neuron are absent."""
        indices: dict[str, list[int]] = {}
        for site, index, _ in self.items:
            indices.setdefault(site, []).append(index)
        return {site: np.array(sorted(of_site), dtype=np.int64) for site, of_site in indices.items()}

    def top(self, share: float) -> NeuronList:
        """Take the best ``share`` of the list, rounded to the nearest whole number of neurons and at least one.

        Raises:
            InputError: ``share`` is outside (0, 1].
        """
        check("share", share, SHARE)
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


class NeuronSet(Shown, Mapping[str, NeuronList], Shareable):
    """Neurons of every label: label -> :class:`NeuronList`.

    Args:
        lists: one list for each label, in label order.
        widths: site -> number of neurons of the measured model, sites in forward order.
        provenance: provenance of the statistics, and the options of the selection; must be JSON.
        screened: hashes of the texts on which the neurons were found; None if they are not known.

    Attributes:
        labels: the labels, in order.
        tasks: task -> its labels.
        widths, provenance, screened: as given.

    Raises:
        InputError: a label occurs twice, or a neuron is not in ``widths``.
    """

    _argument: ClassVar[str] = NEURON_SET
    hub_file = artifacts.NEURONS

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
        origin = Origin(self.widths, self.provenance)
        tasks: dict[str, list[str]] = {}
        for neurons in lists:
            if neurons.label in self._lists:
                raise InputError(f"label {neurons.label!r} is there twice")
            neurons.check(self.widths)
            self._lists[neurons.label] = own = copy.copy(neurons)
            own.origin = origin
            tasks.setdefault(neurons.task, []).append(neurons.label)
        self.labels: tuple[str, ...] = tuple(self._lists)
        self.tasks: dict[str, tuple[str, ...]] = {task: tuple(labels) for task, labels in tasks.items()}

    def __getitem__(self, label: str) -> NeuronList:
        """Return the neurons of a label.

        Raises:
            InputError: no such label; the message lists the known ones.
        """
        if label not in self._lists:
            raise InputError(f"label {label!r} is not in the neuron set, which has {', '.join(self.labels)}")
        return self._lists[label]

    # Mapping defines these two by a KeyError of __getitem__, which raises an InputError instead.
    def __contains__(self, label: object) -> bool:
        return label in self._lists

    def get(self, label: str, default: Any = None) -> Any:
        """Return the neurons of a label, or ``default`` if there is no such label."""
        return self._lists.get(label, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        fields, other_fields = (
            (neurons._lists, list(neurons.widths.items()), neurons.provenance) for neurons in (self, other)
        )
        # array_equal compares None too, although its annotation does not say so.
        return fields == other_fields and np.array_equal(self.screened, other.screened)  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    def _summary(self) -> Summary:
        lengths = [f"{label}: {len(neurons):,}" for label, neurons in self._lists.items()]
        total = count(sum(map(len, self._lists.values())), "neuron")
        facts = [f"{total} of {count(len(self), 'label')}", few(lengths), *origin(self.provenance)]
        rows = (
            (label, neurons.task, len(neurons), len({site for site, _, _ in neurons.items}))
            for label, neurons in self._lists.items()
        )
        return Summary(facts, ("label", "task", "neurons", "sites"), rows, len(self))

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each neuron of each label, best first.

        The columns are label, task and site (``category``, sites in forward order), rank (``int64``, from 1 in each
        label), index (``int64``) and score (``float64``).

        Raises:
            InputError: pandas is not installed.
        """
        return _frame(list(self._lists.values()), self.widths)

    def overlap(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Compute the Jaccard index |a ∩ b| / |a ∪ b| of the neurons of each pair of labels.

        Returns:
            the labels, and float64 [L, L], NaN where both labels have no neuron.
        """
        sets = [{(site, index) for site, index, _ in neurons} for neurons in self._lists.values()]
        matrix = np.full((len(sets), len(sets)), np.nan)
        for i, a in enumerate(sets):
            for j, b in enumerate(sets):
                if a or b:
                    matrix[i, j] = len(a & b) / len(a | b)
        return self.labels, matrix

    def site_counts(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Count the neurons of each label at each site.

        Returns:
            the sites in forward order, and int64 [L, sites].
        """
        indices = [neurons.by_site() for neurons in self._lists.values()]
        counts = [[len(of_label.get(site, ())) for site in self.widths] for of_label in indices]
        return tuple(self.widths), np.array(counts, dtype=np.int64).reshape(len(indices), len(self.widths))

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
        """Write JSON, atomically.

        The fields are format, version, provenance, tasks, sites (with their widths) and labels (for each its neurons
        as [site, index, score]). If the screened texts are known, ``screened`` is the base64 of their hashes.

        Raises:
            InputError: the file cannot be written; an older file is left unchanged.
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
            InputError: the file is missing, not JSON, or of another format or version, or a field is missing or has
                an invalid value; the message names the field.
        """
        value = read_json(path, FORMAT, VERSION)
        try:
            return cls._from_json(value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _described(self) -> Description:
        return Description(
            f"Neurons of {count(len(self), 'label')}, best first.",
            "neurons",
            "program = affectron.zero(neurons[neurons.labels[0]])",
            self.provenance,
            screened=0 if self.screened is None else len(self.screened),
            labels=self.labels,
            header=("label", "task", "neurons", "sites"),
            rows=[(label, own.task, len(own), len(own.by_site())) for label, own in self.items()],
        )

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> NeuronSet:
        for field in ("provenance", "tasks", "sites", "labels"):
            if not isinstance(value.get(field), dict):
                raise InputError(f"{field} is {shown(value.get(field))}, expected an object")
        tasks, widths, neurons = value["tasks"], value["sites"], value["labels"]
        for site, width in widths.items():
            if type(width) is not int or width < 1:
                raise InputError(f"sites: width of {site!r} is {shown(width)}, expected an integer >= 1")
        task_of: dict[str, str] = {}
        for task, labels in tasks.items():
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise InputError(f"tasks: {task!r} is {shown(labels)}, expected a list of labels")
            for label in labels:
                if label in task_of:
                    raise InputError(f"tasks: label {label!r} is there twice")
                task_of[label] = task
        if set(task_of) != set(neurons):
            odd = sorted(set(task_of).symmetric_difference(neurons))[0]
            raise InputError(f"labels: {odd!r} is {'in no task' if odd in neurons else 'missing'}")
        for label, items in neurons.items():
            if not isinstance(items, list):
                raise InputError(f"labels: {label!r} is {shown(items)}, expected a list of neurons")
        return cls(
            [NeuronList(label, task, neurons[label]) for label, task in task_of.items()],
            widths,
            value["provenance"],
            decode(value["screened"], "screened") if "screened" in value else None,
        )


def _frame(lists: Sequence[NeuronList], sites: Iterable[str]) -> pandas.DataFrame:
    """A row for each neuron of the lists; ``sites`` are those of the model in forward order, if they are known."""

    def categories(names: Iterable[str], order: Iterable[str] = ()) -> Categories:
        given = list(names)
        found = dict.fromkeys(given)
        places = {name: place for place, name in enumerate({name: None for name in order if name in found} | found)}
        return Categories(list(places), np.array([places[name] for name in given], dtype=np.int64))

    neurons = [neuron for of_label in lists for neuron in of_label]
    return frame(
        {
            "label": categories(of_label.label for of_label in lists for _ in of_label),
            "task": categories(of_label.task for of_label in lists for _ in of_label),
            "rank": ("int64", [rank for of_label in lists for rank in range(1, len(of_label) + 1)]),
            "site": categories((site for site, _, _ in neurons), sites),
            "index": ("int64", [index for _, index, _ in neurons]),
            "score": ("float64", [score for _, _, score in neurons]),
        }
    )


def _neuron(item: object, where: str) -> Neuron:
    if not isinstance(item, (tuple, list)) or len(item) != 3:
        raise InputError(f"{where}: {shown(item)}, expected [site, index, score]")
    site, index, score = item
    if not isinstance(site, str):
        raise InputError(f"{where}: site is {shown(site)}, expected text")
    check(f"{where}: index", index, Whole())
    check(f"{where}: score", score, Finite())
    return site, int(index), float(score)
