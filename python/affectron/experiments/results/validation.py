"""Result of the validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.checks import OneOf, check
from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count, Effect
from affectron.experiments.results.findings import Findings, effect_cells

#: The masks, in the order in which they are shown.
MASKS = ("adaptive", "zero", "mean")


@dataclass(frozen=True)
class Round(Shown):
    """One round of the feedback loop on the dev split.

    Attributes:
        reference: magnitude that the attenuation is relative to.
        alpha: strength of the attenuation.
        share: share of the label's neurons that was masked.
        neurons: their number.
        dev_accuracy: accuracy on the label's own dev sentences.
        dev_drop: by how much that is below the accuracy of the unmasked model.
        relative_change: relative change of a typical activation under the mask, the median over its neurons
            (:func:`affectron.interventions.relative_change`); None if none of them is ever active.
    """

    reference: str
    alpha: float
    share: float
    neurons: Count
    dev_accuracy: float
    dev_drop: float
    relative_change: float | None


@dataclass(frozen=True)
class Mask(Effect):
    """Effect of one mask on the test split, with its random sets and verdict.

    Attributes:
        loss_delta: change of the mean loss of a token, in nats; None without tokens or where it is not finite.
    """

    loss_delta: float | None


@dataclass(frozen=True)
class LabelResult(Shown):
    """Everything measured for one label.

    Attributes:
        selected: number of the label's neurons.
        trace: the rounds of the feedback loop; empty for a label without neurons.
        stopped: why the loop ended.
        reference: the settled magnitude that attenuation is relative to; None for a label without neurons.
        alpha, share: the settled strength and share of the label's neurons.
        masked: number of neurons in the settled mask.
        sites: site -> number of masked neurons there.
        baseline: accuracy of the unmasked model on the label's own test sentences.
        sentences: number of these sentences.
        masks: name (one of ``MASKS``) -> effect; empty for a label without neurons. All masks have the same random
            sets, each treated as the mask treats the label's neurons.
    """

    selected: Count
    trace: tuple[Round, ...]
    stopped: str
    reference: str | None
    alpha: float
    share: float
    masked: Count
    sites: dict[str, Count]
    baseline: float
    sentences: Count
    masks: dict[str, Mask]

    def __post_init__(self) -> None:
        for name in self.masks:
            check("masks", name, OneOf(MASKS))


@dataclass(frozen=True)
class Accuracy(Shown):
    """Accuracy of the unmasked model on one split: over all sentences, and over each label's own."""

    accuracy: float
    per_label: dict[str, float]


@dataclass(frozen=True)
class TaskResult(Shown):
    """One task: the labels to choose from, sizes of the splits, unmasked accuracies by split, results by label."""

    labels: tuple[str, ...]
    dev_sentences: Count
    baseline: dict[str, Accuracy]
    test_sentences: Count
    results: dict[str, LabelResult]

    def in_order(self) -> Iterator[tuple[str, LabelResult]]:
        """(label, result) of every label that has a result, in the order of ``labels``."""
        return ((label, self.results[label]) for label in self.labels if label in self.results)

    def __post_init__(self) -> None:
        for label in self.results:
            check("results", label, OneOf(self.labels))


@dataclass(frozen=True)
class _Row:
    """A label under one mask; a label without neurons has no mask."""

    task: str
    label: str
    mask: str | None
    effect: Annotated[Mask | None, INLINE]
    result: Annotated[LabelResult, INLINE]


@dataclass(frozen=True)
class Validation(Findings):
    """Result of :func:`affectron.validate`.

    Attributes:
        options: the options of the exam and of the feedback loop.
        tasks: task -> its labels, sentences, unmasked accuracies, and results by label.
    """

    kind: ClassVar[str] = "validation"
    _command: ClassVar[str] = "affectron validate"
    _row: ClassVar[type[Any]] = _Row

    options: dict[str, Any]
    tasks: dict[str, TaskResult]

    def __post_init__(self) -> None:
        labels = [label for task in self.tasks.values() for label in task.labels]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"tasks have label {label!r} twice, expected each label in one task")

    @property
    def results(self) -> dict[str, LabelResult]:
        """Label -> its result, task by task."""
        return {label: result for task in self.tasks.values() for label, result in task.in_order()}

    def _rows(self) -> Iterator[_Row]:
        for task, of_task in self.tasks.items():
            for label, result in of_task.in_order():
                masks: Mapping[str, Mask] = {name: result.masks[name] for name in MASKS if name in result.masks}
                for name, mask in masks.items() or [(None, None)]:
                    yield _Row(task, label, name, mask, result)

    def _cells(self, row: _Row) -> dict[str, object]:
        return {"label": row.label, "mask": row.mask, **effect_cells(row.effect)}
