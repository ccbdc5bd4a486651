"""Result of the stability of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from affectron.evaluation.verdicts import Count
from affectron.experiments.results.findings import Findings


@dataclass(frozen=True)
class StabilityOptions:
    """Options of the stability; ``selection`` has those of :func:`affectron.select`."""

    folds: Count
    selection: dict[str, Any]
    resamples: Count
    splits: Count
    seed: int


@dataclass(frozen=True)
class LabelStability:
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
class Stability(Findings):
    """Result of :func:`affectron.experiments.stability.stability`, by label."""

    kind: ClassVar[str] = "stability"

    options: StabilityOptions
    labels: dict[str, LabelStability]
