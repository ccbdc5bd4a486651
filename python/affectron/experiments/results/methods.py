"""Result of the comparison of selection methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count, Effect
from affectron.experiments.results.findings import ExamOptions, Findings, effect_cells


@dataclass(frozen=True)
class MethodsOptions(Shown):
    """Options of :func:`affectron.compare_methods`."""

    exam: Annotated[ExamOptions, INLINE]
    methods: tuple[str, ...]
    top: float
    counts: tuple[Count, ...]
    random_sets: Count | None
    smallest_effect: float


@dataclass(frozen=True)
class Heights(Shown):
    """Changes of accuracy when neurons are set to zero, as fractions.

    Attributes:
        own: on the label's own sentences.
        others: on the task's other sentences; None where there are none.
        random: on the label's own, the mean over sets of random neurons, as many at each site; None without sets.
    """

    own: float
    others: float | None
    random: float | None


@dataclass(frozen=True)
class CurvePoint(Shown):
    """The changes when the ``masked`` best neurons of a ranking are set to zero."""

    masked: Count
    height: Annotated[Heights, INLINE]


@dataclass(frozen=True)
class Curve(Shown):
    """Effect over the number of masked neurons.

    Attributes:
        points: ascending in number. The last has all neurons that the method ranks for the label where these are fewer
            than the largest number that was asked for.
        area: mean heights over the logarithm of the number (trapezoids); None without points.
    """

    points: tuple[CurvePoint, ...]
    area: Heights | None


@dataclass(frozen=True)
class MethodResult(Shown):
    """A method's neurons of one label.

    Attributes:
        selected: their number.
        effect: the effect of setting them to zero; its fields stand in the same object of the file. None where the
            method selects no neuron.
        curve: the effect over the number of neurons.
    """

    selected: Count
    effect: Annotated[Effect | None, INLINE]
    curve: Curve


@dataclass(frozen=True)
class LabelMethods(Shown):
    """A label: its test sentences, each method, and the best one: the method of the largest specific drop among those
    with the verdict ``specific``; None where there is none."""

    sentences: Count
    methods: dict[str, MethodResult]
    best: str | None


@dataclass(frozen=True)
class TaskMethods(Shown):
    """A task: its labels, and the Jaccard index of each two methods, the mean over labels (None where neither selects
    a neuron of any label)."""

    labels: dict[str, LabelMethods]
    agreement: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class _Row:
    """The neurons of a label by one method."""

    task: str
    label: str
    method: str
    result: Annotated[MethodResult, INLINE]
    of_label: Annotated[LabelMethods, INLINE]


@dataclass(frozen=True)
class Methods(Findings):
    """Result of :func:`affectron.compare_methods`, by task."""

    kind: ClassVar[str] = "methods"
    _row: ClassVar[type[Any]] = _Row

    options: MethodsOptions
    tasks: dict[str, TaskMethods]

    def __post_init__(self) -> None:
        methods = self.options.methods
        for name, task in self.tasks.items():
            for label, compared in task.labels.items():
                if set(compared.methods) != set(methods):
                    field = f"tasks.{name}.labels.{label}.methods"
                    raise InputError(f"{field} is {', '.join(compared.methods)}, expected {', '.join(methods)}")
            if {len(task.agreement), *map(len, task.agreement)} != {len(methods)}:
                raise InputError(
                    f"tasks.{name}.agreement: expected a row and a column for each of {len(methods)} methods"
                )

    def _rows(self) -> Iterator[_Row]:
        for task, of_task in self.tasks.items():
            for label, compared in of_task.labels.items():
                for method, result in compared.methods.items():
                    yield _Row(task, label, method, result, compared)

    def _cells(self, row: _Row) -> dict[str, object]:
        return {
            "label": row.label,
            "method": row.method,
            "neurons": row.result.selected,
            **effect_cells(row.result.effect),
        }
