"""Result of the generation: texts under each method, as judges see them."""

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
class GenerationOptions(Shown):
    """Options of the generation.

    Attributes:
        exam: the exam's; its evaluator is the second judge.
        shares: shares of all neurons that a label's program takes.
        budgets: doses: rises of the loss of neutral text, in nats a token.
        most_rise: rise of the unsteered model's loss on the texts that a chosen dose may have, in nats a token.
        layers: sites of the residual stream.
        instruction: what the method ``prompt`` puts before a beginning.
        tried: beginnings in the dev split at most.
        beginnings: beginnings in the test split at most.
        texts: texts of each beginning in the test split.
        max_new_tokens: tokens of a text at most.
        stop: a text ends before this; None if it does not.
        temperature: of the samples.
    """

    exam: Annotated[ExamOptions, INLINE]
    shares: tuple[float, ...]
    budgets: tuple[float, ...]
    most_rise: float
    layers: tuple[str, ...]
    instruction: str
    tried: Count
    beginnings: Count
    texts: Count
    max_new_tokens: Count
    stop: str | None
    temperature: float


@dataclass(frozen=True)
class Score(Shown):
    """Texts of one method, as measured.

    Attributes:
        success: share of the texts that the judge gives to the label.
        rise: the unsteered model's loss on the texts less that on its own texts, in nats a token.
        distinct: share of different ones among all pairs of words; None where no text has two words.
    """

    success: float
    rise: float
    distinct: float | None


@dataclass(frozen=True)
class Setting(Shown):
    """A dose of a method, on dev.

    Attributes:
        budget: rise of the loss of neutral text that the dose was chosen for; None for a method without a dose.
        beta: the strength.
        layer: the site of the residual stream; None for other methods.
        score: the texts.
    """

    budget: float | None
    beta: float | None
    layer: str | None
    score: Annotated[Score, INLINE]


@dataclass(frozen=True)
class Versus(Shown):
    """The success of a method less that of another, on the same beginnings with the same random numbers.

    Attributes:
        difference: of the two shares.
        interval: of 95 % (Tango 1998, counts divided by the design effect of a beginning's texts).
        p: of no difference (McNemar 1947, with the same counts).
        adjusted_p: p adjusted over the labels (Holm 1979).
    """

    difference: float
    interval: Interval
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class WrittenText(Shown):
    """A text, and the label that the judge gives it; None where it knows no word."""

    text: str
    judged: str | None


@dataclass(frozen=True)
class MethodGeneration(Shown):
    """Texts of one label by one method.

    Attributes:
        neurons: number of neurons that are shifted; None for a method that shifts none.
        settings: the doses on dev.
        chosen: position of the one that was reported.
        score: of the test texts; its fields stand in the same object of the file.
        interval: of the success, of 95 % (Clopper and Pearson 1934, with the design effect of a beginning's texts).
        second: share that the second judge gives to the label.
        words: the words that are in more of the texts than of the unsteered ones, the largest difference first.
        without_words: success where these words are taken out of the texts.
        versus: other method -> this one's success less the other's.
        texts: the test texts, those of a beginning next to one another.
    """

    neurons: Count | None
    settings: tuple[Setting, ...]
    chosen: Count
    score: Annotated[Score, INLINE]
    interval: Interval
    second: float
    words: tuple[str, ...]
    without_words: float
    versus: dict[str, Versus]
    texts: tuple[WrittenText, ...]


@dataclass(frozen=True)
class Judge(Shown):
    """A judge of texts, on sentences of the test split: the share that it gives one of their labels, and their
    number."""

    name: str
    accuracy: float
    sentences: Count


@dataclass(frozen=True)
class TaskGeneration(Shown):
    """A task.

    Attributes:
        judge, second: the judges.
        loss: the unsteered model's loss on its own test texts, in nats a token.
        beginnings: of the test texts.
        labels: label -> method -> texts.
    """

    judge: Judge
    second: Judge
    loss: float
    beginnings: tuple[str, ...]
    labels: dict[str, dict[str, MethodGeneration]]


@dataclass(frozen=True)
class _Row:
    """The texts of a label by one method."""

    task: str
    label: str
    method: str
    result: Annotated[MethodGeneration, INLINE]


@dataclass(frozen=True)
class Generation(Findings):
    """Result of :func:`affectron.experiments.generation.compare_texts`, by task."""

    kind: ClassVar[str] = "generation"
    _row: ClassVar[type[Any]] = _Row

    options: GenerationOptions
    tasks: dict[str, TaskGeneration]

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            wanted = len(task.beginnings) * self.options.texts
            for label, methods in task.labels.items():
                for method, result in methods.items():
                    field = f"tasks.{name}.labels.{label}.{method}"
                    if len(result.texts) != wanted:
                        raise InputError(f"{field}.texts has {len(result.texts)} texts, expected {wanted}")
                    if result.chosen >= len(result.settings):
                        raise InputError(
                            f"{field}.chosen is {result.chosen}, expected less than {len(result.settings)}"
                        )

    def _rows(self) -> Iterator[_Row]:
        for task, of_task in self.tasks.items():
            for label, methods in of_task.labels.items():
                for method, result in methods.items():
                    yield _Row(task, label, method, result)
