"""Result of the induction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count, Interval
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class InductionOptions(Shown):
    """Options of the induction."""

    exam: Annotated[ExamOptions, INLINE]
    betas: tuple[float, ...]
    random_sets: Count


@dataclass(frozen=True)
class LabelInduction(Shown):
    """Sentences of other labels under the shift towards one label; each tuple has a value for each beta.

    Attributes:
        selected: number of the label's neurons.
        sentences: number of test sentences without the label.
        baseline: share of them that the model answers with the label without a shift.
        share, interval: that share under the shift, and its 95 % interval (Clopper and Pearson 1934).
        random: mean share under the same shift of random sets; None without random sets.
        loss_delta: change of the mean loss of a token of these sentences, in nats; None where it is not finite.
    """

    selected: Count
    sentences: Count
    baseline: float
    share: tuple[float, ...]
    interval: tuple[Interval, ...]
    random: tuple[float, ...] | None
    loss_delta: tuple[float | None, ...]


@dataclass(frozen=True)
class _Row:
    """A label under one beta."""

    task: str
    label: str
    beta: float
    share: float
    interval: Interval
    random: float | None
    loss_delta: float | None
    of_label: Annotated[LabelInduction, INLINE]


@dataclass(frozen=True)
class Induction(Findings):
    """Result of :func:`affectron.experiments.induction.induction`: task -> label -> shares. A label without neurons
    is left out."""

    kind: ClassVar[str] = "induction"
    _row: ClassVar[type[Any]] = _Row

    options: InductionOptions
    tasks: dict[str, dict[str, LabelInduction]]

    def __post_init__(self) -> None:
        betas = len(self.options.betas)
        for task, labels in self.tasks.items():
            for label, shifted in labels.items():
                for name in ("share", "interval", "random", "loss_delta"):
                    values = getattr(shifted, name)
                    if values is not None and len(values) != betas:
                        field = f"tasks.{task}.{label}.{name}"
                        raise InputError(f"{field} has {len(values)} values, expected one for each of {betas} betas")

    def _rows(self) -> Iterator[_Row]:
        for task, labels in self.tasks.items():
            for label, of_label in labels.items():
                random = of_label.random or (None,) * len(self.options.betas)
                columns = (self.options.betas, of_label.share, of_label.interval, random, of_label.loss_delta)
                for beta, share, interval, of_random, loss in zip(*columns, strict=True):
                    yield _Row(task, label, beta, share, interval, of_random, loss, of_label)
