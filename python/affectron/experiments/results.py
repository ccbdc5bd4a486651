"""Reading ``validation.json`` into checked records: apart so that figures and template meet only values whose
presence and type are known, and so that a report needs neither torch nor the model that was tested."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from affectron._internal.files import read_json
from affectron.errors import InputError

Interval = tuple[float, float]

#: The masks, in the order in which they are shown.
MASKS = ("adaptive", "zero", "mean")


@dataclass(frozen=True)
class Step:
    """One round of the feedback loop on the dev split; accuracy and drop are fractions."""

    alpha: float
    share: float
    neurons: int
    dev_accuracy: float
    dev_drop: float


@dataclass(frozen=True)
class Mask:
    """What one mask did on the test split: fractions, differences against the unmasked model, loss in nats."""

    accuracy: float
    delta: float
    interval: Interval | None
    others_delta: float | None
    others_interval: Interval | None
    loss_delta: float | None


@dataclass(frozen=True)
class RandomSets:
    """The accuracy changes under random neuron sets of the same size at each site."""

    sets: int
    deltas: tuple[float, ...]
    mean: float
    interval: Interval


@dataclass(frozen=True)
class LabelResult:
    """Everything measured for one label; ``baseline`` is the test accuracy on the label's own sentences."""

    task: str
    label: str
    selected: int
    masked: int
    alpha: float
    share: float
    stopped: str
    trace: tuple[Step, ...]
    sites: dict[str, int]
    baseline: float
    sentences: int
    masks: dict[str, Mask]
    random: RandomSets | None
    beats_random: bool | None
    verdict: str | None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the unmasked model on one split, over all sentences and for each label's own."""

    accuracy: float
    per_label: dict[str, float]


@dataclass(frozen=True)
class TaskResult:
    """One task's labels, split sizes, unmasked accuracies by split, and results by label."""

    name: str
    labels: tuple[str, ...]
    dev_sentences: int
    test_sentences: int
    baseline: dict[str, Accuracy]
    results: tuple[LabelResult, ...]


@dataclass(frozen=True)
class ValidationResult:
    """The content of a ``validation.json``."""

    provenance: dict[str, Any]
    options: dict[str, Any]
    tasks: tuple[TaskResult, ...]

    def labels(self) -> Iterator[LabelResult]:
        """The results of every label, task by task."""
        for task in self.tasks:
            yield from task.results


class _Node:
    """A JSON object that knows where it lies in the file, so that a wrong value can be named in one line."""

    def __init__(self, value: dict[str, Any], file: str, place: str = "") -> None:
        self.value, self.file, self.place = value, file, place

    def where(self, key: str) -> str:
        return f"{self.file}: {self.place}.{key}" if self.place else f"{self.file}: {key}"

    def fail(self, key: str, expected: str) -> InputError:
        if key not in self.value:
            return InputError(f"{self.where(key)} is missing, expected {expected}")
        return InputError(f"{self.where(key)} is {self.value[key]!r:.80}, expected {expected}")

    def absent(self, key: str) -> bool:
        return self.value.get(key) is None

    def object(self, key: str) -> _Node:
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return _Node(value, self.file, f"{self.place}.{key}" if self.place else key)

    def objects(self, key: str) -> Iterator[_Node]:
        for position, value in enumerate(self.list(key)):
            place = f"{self.place}.{key}[{position}]"
            if not isinstance(value, dict):
                raise InputError(f"{self.file}: {place} is {value!r:.80}, expected an object")
            yield _Node(value, self.file, place)

    def children(self) -> Iterator[tuple[str, _Node]]:
        for key in self.value:
            yield key, self.object(key)

    def list(self, key: str) -> list[Any]:
        value = self.value.get(key)
        if not isinstance(value, list):
            raise self.fail(key, "a list")
        return value

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str):
            raise self.fail(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.list(key)
        if not all(isinstance(item, str) for item in value):
            raise self.fail(key, "a list of texts")
        return tuple(value)

    def number(self, key: str) -> float:
        value = self.value.get(key)
        if not _is_number(value):
            raise self.fail(key, "a finite number")
        return float(value)  # type: ignore[arg-type]

    def integer(self, key: str) -> int:
        value = self.value.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(key, "a count")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.list(key)
        if not all(_is_number(item) for item in value):
            raise self.fail(key, "a list of finite numbers")
        return tuple(float(item) for item in value)

    def interval(self, key: str) -> Interval:
        value = self.numbers(key)
        if len(value) != 2 or value[0] > value[1]:
            raise self.fail(key, "two numbers [low, high]")
        return value[0], value[1]

    def number_map(self, key: str) -> dict[str, float]:
        node = self.object(key)
        return {name: node.number(name) for name in node.value}

    def flag(self, key: str) -> bool:
        value = self.value.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _mask(node: _Node) -> Mask:
    return Mask(
        accuracy=node.number("accuracy"),
        delta=node.number("delta"),
        interval=None if node.absent("interval") else node.interval("interval"),
        others_delta=None if node.absent("others_delta") else node.number("others_delta"),
        others_interval=None if node.absent("others_interval") else node.interval("others_interval"),
        loss_delta=None if node.absent("loss_delta") else node.number("loss_delta"),
    )


def _label(task: str, label: str, node: _Node) -> LabelResult:
    masks = node.object("masks")
    unknown = sorted(set(masks.value) - set(MASKS))
    if unknown:
        raise InputError(f"{masks.where(unknown[0])} is not a known mask, expected one of {', '.join(MASKS)}")
    random = None
    if not node.absent("random"):
        drawn = node.object("random")
        random = RandomSets(
            drawn.integer("sets"), drawn.numbers("deltas"), drawn.number("mean"), drawn.interval("interval")
        )
    sites = node.object("sites")
    return LabelResult(
        task=task,
        label=label,
        selected=node.integer("selected"),
        masked=node.integer("masked"),
        alpha=node.number("alpha"),
        share=node.number("share"),
        stopped=node.text("stopped"),
        trace=tuple(
            Step(
                step.number("alpha"),
                step.number("share"),
                step.integer("neurons"),
                step.number("dev_accuracy"),
                step.number("dev_drop"),
            )
            for step in node.objects("trace")
        ),
        sites={site: sites.integer(site) for site in sites.value},
        baseline=node.number("baseline"),
        sentences=node.integer("sentences"),
        masks={name: _mask(masks.object(name)) for name in MASKS if not masks.absent(name)},
        random=random,
        beats_random=None if node.absent("beats_random") else node.flag("beats_random"),
        verdict=None if node.absent("verdict") else node.text("verdict"),
    )


def _task(name: str, node: _Node) -> TaskResult:
    labels = node.texts("labels")
    results = node.object("results")
    unknown = sorted(set(results.value) - set(labels))
    if unknown:
        raise InputError(f"{results.where(unknown[0])} is not among the task's {len(labels)} labels")
    return TaskResult(
        name=name,
        labels=labels,
        dev_sentences=node.integer("dev_sentences"),
        test_sentences=node.integer("test_sentences"),
        baseline={
            split: Accuracy(entry.number("accuracy"), entry.number_map("per_label"))
            for split, entry in node.object("baseline").children()
        },
        results=tuple(_label(name, label, results.object(label)) for label in labels if label in results.value),
    )


def read_validation(path: str | os.PathLike[str]) -> ValidationResult:
    """Read and check a ``validation.json`` (format ``affectron.validation``, version 1).

    Raises:
        InputError: the file cannot be read, is of another format or version, or a field is missing or wrong.
    """
    root = _Node(read_json(path, format="affectron.validation", version=1), os.fspath(path))
    return ValidationResult(
        provenance=root.object("provenance").value,
        options=root.object("options").value,
        tasks=tuple(_task(name, node) for name, node in root.object("tasks").children()),
    )
