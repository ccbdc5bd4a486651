"""Result of the associations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from affectron._internal.checks import OneOf, check
from affectron._internal.display import Shown
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count
from affectron.experiments.results.ablations import THIRDS
from affectron.experiments.results.findings import Findings


@dataclass(frozen=True)
class AssociationsOptions(Shown):
    """Options of :func:`affectron.associate`; ``score`` is the one that is correlated."""

    score: str


@dataclass(frozen=True)
class AssociatedPair(Shown):
    """Two labels.

    Attributes:
        first, second: the labels.
        same_task: whether they are of one task.
        overlap: number of neurons that both have.
        expected: that number for two random sets of the same sizes.
        jaccard: intersection over union; None where neither has a neuron.
        p: hypergeometric p value of the overlap; None where one of them has no neuron.
        correlation: Pearson's, of the labels' scores over all neurons; None where a score does not vary.
        q: ``p`` adjusted by Benjamini and Hochberg over the pairs of two tasks, or of one.
    """

    first: str
    second: str
    same_task: bool
    overlap: Count
    expected: float
    jaccard: float | None
    p: float | None
    correlation: float | None
    q: float | None


@dataclass(frozen=True)
class LabelLayers(Shown):
    """Number of a label's neurons at each site, and in each third of the sites (empty with fewer than three sites)."""

    sites: dict[str, Count]
    thirds: dict[str, Count]

    def __post_init__(self) -> None:
        if self.thirds and set(self.thirds) != set(THIRDS):
            raise InputError(f"thirds is {', '.join(self.thirds)}, expected {', '.join(THIRDS)}")


@dataclass(frozen=True)
class Associations(Findings):
    """Result of :func:`affectron.associate`.

    Attributes:
        neurons: number of neurons of the model.
        tasks: task -> its labels.
        pairs: every two labels.
        layers: label -> where its neurons lie.
    """

    kind: ClassVar[str] = "associations"
    _row: ClassVar[type[Any]] = AssociatedPair

    options: AssociationsOptions
    neurons: Count
    tasks: dict[str, tuple[str, ...]]
    pairs: tuple[AssociatedPair, ...]
    layers: dict[str, LabelLayers]

    def __post_init__(self) -> None:
        known = OneOf(tuple(label for labels in self.tasks.values() for label in labels))
        for position, pair in enumerate(self.pairs):
            check(f"pairs[{position}].first", pair.first, known)
            check(f"pairs[{position}].second", pair.second, known)

    def _rows(self) -> Iterator[AssociatedPair]:
        return iter(self.pairs)
