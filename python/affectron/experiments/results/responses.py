"""Result of the responses: what the answer does as one neuron is turned down or up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.evaluation.verdicts import Count, Interval
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class ResponsesOptions(Shown):
    """Options of the responses.

    Attributes:
        exam: the exam; its dev split is read.
        neurons: neurons of a label at most, best first.
        factors: what the neuron's activation is multiplied by, in ascending order.
    """

    exam: Annotated[ExamOptions, INLINE]
    neurons: Count
    factors: tuple[float, ...]


@dataclass(frozen=True)
class ResponsePoint(Shown):
    """Change of P(label) on the label's own sentences under one factor, a fraction, with its 95 % interval.

    Both are None where an answer of the model is no number.
    """

    delta: float | None
    interval: Interval | None


@dataclass(frozen=True)
class NeuronResponse(Shown):
    """One neuron: a point for each factor."""

    site: str
    index: Count
    points: tuple[ResponsePoint, ...]


@dataclass(frozen=True)
class LabelResponses(Shown):
    """A label: its number of sentences, the mean P(label) on them without a program, and its neurons, best first."""

    task: str
    sentences: Count
    baseline: float
    neurons: tuple[NeuronResponse, ...]


@dataclass(frozen=True)
class _Row:
    """A neuron of a label under one factor."""

    label: str
    factor: float
    neuron: Annotated[NeuronResponse, INLINE]
    point: Annotated[ResponsePoint, INLINE]
    of_label: Annotated[LabelResponses, INLINE]


@dataclass(frozen=True)
class Responses(Findings):
    """Result of :func:`affectron.experiments.responses.responses`, by label."""

    kind: ClassVar[str] = "responses"
    _row: ClassVar[type[Any]] = _Row

    options: ResponsesOptions
    labels: dict[str, LabelResponses]

    def _rows(self) -> Iterator[_Row]:
        for label, of_label in self.labels.items():
            for neuron in of_label.neurons:
                for factor, point in zip(self.options.factors, neuron.points, strict=True):
                    yield _Row(label, factor, neuron, point, of_label)
