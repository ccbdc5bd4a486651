"""Result of the check of the attributions' first-order estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.evaluation.verdicts import Count
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class EstimateOptions(Shown):
    """Options of :func:`affectron.experiments.estimate.check_estimate`."""

    exam: Annotated[ExamOptions, INLINE]
    neurons: Count


@dataclass(frozen=True)
class EstimatedNeuron(Shown):
    """One neuron of a label.

    Attributes:
        site, index: the neuron.
        selected: whether it was selected for the label; otherwise it was drawn at random.
        attribution: its mean attribution under the label, in units of the metric.
        effect: mean decrease of the metric when the neuron alone is set to zero, over the label's dev sentences.
    """

    site: str
    index: Count
    selected: bool
    attribution: float
    effect: float


@dataclass(frozen=True)
class LabelEstimate(Shown):
    """A label.

    Attributes:
        sentences: number of its dev sentences.
        neurons: the selected neurons, in the order of the selection, and then the random ones.
        correlation: Spearman's rank correlation of effect and attribution over all neurons; None for fewer than two,
            or where one of the two does not vary.
        selected_correlation: the same over the selected neurons.
        ratio: sum of the effects over sum of the attributions of the selected neurons; None where that sum is 0.
    """

    sentences: Count
    neurons: tuple[EstimatedNeuron, ...]
    correlation: float | None
    selected_correlation: float | None
    ratio: float | None


@dataclass(frozen=True)
class _Row:
    """A neuron of a label."""

    task: str
    label: str
    neuron: Annotated[EstimatedNeuron, INLINE]
    of_label: Annotated[LabelEstimate, INLINE]


@dataclass(frozen=True)
class Estimate(Findings):
    """Result of :func:`affectron.experiments.estimate.check_estimate`: task -> label -> its neurons."""

    kind: ClassVar[str] = "estimate"
    _row: ClassVar[type[Any]] = _Row

    options: EstimateOptions
    tasks: dict[str, dict[str, LabelEstimate]]

    def _rows(self) -> Iterator[_Row]:
        for task, labels in self.tasks.items():
            for label, of_label in labels.items():
                for neuron in of_label.neurons:
                    yield _Row(task, label, neuron, of_label)
