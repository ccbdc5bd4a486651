"""Result of the stability of a selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.evaluation.verdicts import Count
from affectron.experiments.results.findings import Findings


@dataclass(frozen=True)
class StabilityOptions(Shown):
    """Options of the stability; ``selection`` has those of :func:`affectron.select`."""

    folds: Count
    selection: dict[str, Any]
    resamples: Count
    splits: Count
    seed: int


@dataclass(frozen=True)
class LabelStability(Shown):
    """A label: its neurons and others, each as site, index and the share of resamples in which it is selected.

    Attributes:
        task: the label's task.
        selected: number of neurons selected from all folds.
        neurons: these neurons, in the order of the selection.
        others: neurons that some resample selects beside them, the most frequent first.
        split_half: mean Jaccard index of the neurons of two halves; None where no half has a neuron.
    """

    task: str
    selected: Count
    neurons: tuple[tuple[str, int, float], ...]
    others: tuple[tuple[str, int, float], ...]
    split_half: float | None


@dataclass(frozen=True)
class _Row:
    """A neuron of a label: the share of resamples that select it, and whether it is selected from all folds."""

    label: str
    site: str
    index: Count
    frequency: float
    chosen: bool
    of_label: Annotated[LabelStability, INLINE]


@dataclass(frozen=True)
class Stability(Findings):
    """Result of :func:`affectron.experiments.stability.stability`, by label."""

    kind: ClassVar[str] = "stability"
    _row: ClassVar[type[Any]] = _Row

    options: StabilityOptions
    labels: dict[str, LabelStability]

    def _rows(self) -> Iterator[_Row]:
        for label, of_label in self.labels.items():
            for chosen, neurons in ((True, of_label.neurons), (False, of_label.others)):
                for site, index, frequency in neurons:
                    yield _Row(label, site, index, frequency, chosen, of_label)
