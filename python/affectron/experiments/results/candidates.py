"""Result of the candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.checks import OneOf
from affectron._internal.display import Shown
from affectron._internal.names import TOKEN_RULES
from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count, Interval
from affectron.experiments.results.findings import Findings

HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class CandidatesOptions(Shown):
    """Options of the candidates.

    Attributes:
        split: the split whose sentences were read.
        score: the score that selected the neurons.
        reads: what that score reads of a sentence, ``rate`` or ``mean``.
        tokens, active: the rules of the activations, as those of the screening.
        permutations: number of permutations.
        seed: of permutations.
    """

    split: str | None
    score: str
    reads: Annotated[str, OneOf(("rate", "mean"))]
    tokens: Annotated[str, OneOf(TOKEN_RULES)]
    active: str
    permutations: Count
    seed: int


@dataclass(frozen=True)
class CandidateNeuron(Shown):
    """One neuron of a label; None where it has a value that is not finite.

    Attributes:
        site, index: the neuron.
        direction: whether it was selected for a higher or a lower value under its label.
        auroc: share of the pairs of a sentence with the label and one without whose difference has that direction.
        interval: of 95 %, of ``auroc``.
        p: two-sided permutation p value.
        redundancy: largest absolute correlation with a neuron that stands before it in the label's list.
        q: ``p`` adjusted by Benjamini and Hochberg over all neurons of all labels.
    """

    site: str
    index: Count
    direction: Annotated[str, OneOf((HIGHER, LOWER))]
    auroc: float | None
    interval: Interval | None
    p: float | None
    redundancy: float | None
    q: float | None

    def __post_init__(self) -> None:
        if (self.auroc is None) != (self.interval is None):
            raise InputError(f"interval is {self.interval}, expected one beside an auroc and none without")


@dataclass(frozen=True)
class LabelCandidates(Shown):
    """A label's neurons, with the numbers of its sentences and of the task's others."""

    task: str
    sentences: Count
    rest: Count
    neurons: tuple[CandidateNeuron, ...]


@dataclass(frozen=True)
class _Row:
    """A neuron of a label."""

    label: str
    neuron: Annotated[CandidateNeuron, INLINE]
    of_label: Annotated[LabelCandidates, INLINE]


@dataclass(frozen=True)
class Candidates(Findings):
    """Result of :func:`affectron.experiments.candidates.examine`, by label."""

    kind: ClassVar[str] = "candidates"
    _row: ClassVar[type[Any]] = _Row

    options: CandidatesOptions
    labels: dict[str, LabelCandidates]

    def _rows(self) -> Iterator[_Row]:
        for label, of_label in self.labels.items():
            for neuron in of_label.neurons:
                yield _Row(label, neuron, of_label)
