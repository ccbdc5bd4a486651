"""Result of the responses: what the answer does as one neuron is turned down or up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from affectron._internal.records import INLINE
from affectron.evaluation.verdicts import Count, Interval
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class ResponsesOptions:
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
class ResponsePoint:
    """Change of P(label) on the label's own sentences under one factor, a fraction, with its 95 % interval."""

    delta: float
    interval: Interval


@dataclass(frozen=True)
class NeuronResponse:
    """One neuron: a point for each factor."""

    site: str
    index: Count
    points: tuple[ResponsePoint, ...]


@dataclass(frozen=True)
class LabelResponses:
    """A label: its number of sentences, the mean P(label) on them without a program, and its neurons, best first."""

    task: str
    sentences: Count
    baseline: float
    neurons: tuple[NeuronResponse, ...]


@dataclass(frozen=True)
class Responses(Findings):
    """Result of :func:`affectron.experiments.responses.responses`, by label."""

    kind: ClassVar[str] = "responses"

    options: ResponsesOptions
    labels: dict[str, LabelResponses]
