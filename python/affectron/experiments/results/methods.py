"""Result of the comparison of selection methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count, Effect
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class MethodsOptions:
    """Options of :func:`affectron.compare_methods`."""

    exam: Annotated[ExamOptions, INLINE]
    methods: tuple[str, ...]
    top: float
    counts: tuple[Count, ...]
    random_sets: Count | None
    smallest_effect: float


@dataclass(frozen=True)
class Heights:
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
class CurvePoint:
    """The changes when the ``masked`` best neurons of a ranking are set to zero."""

    masked: Count
    height: Annotated[Heights, INLINE]


@dataclass(frozen=True)
class Curve:
    """Effect over the number of masked neurons.

    Attributes:
        points: ascending in number. The last has all neurons that the method ranks for the label where these are fewer
            than the largest number that was asked for.
        area: mean heights over the logarithm of the number (trapezoids); None without points.
    """

    points: tuple[CurvePoint, ...]
    area: Heights | None


@dataclass(frozen=True)
class MethodResult:
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
class LabelMethods:
    """A label: its test sentences, each method, and the best one: the method of the largest specific drop among those
    with the verdict ``specific``; None where there is none."""

    sentences: Count
    methods: dict[str, MethodResult]
    best: str | None


@dataclass(frozen=True)
class TaskMethods:
    """A task: its labels, and the Jaccard index of each two methods, the mean over labels (None where neither selects
    a neuron of any label)."""

    labels: dict[str, LabelMethods]
    agreement: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Methods(Findings):
    """Result of :func:`affectron.compare_methods`, by task."""

    kind: ClassVar[str] = "methods"

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
