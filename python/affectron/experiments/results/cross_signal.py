"""Result of the cross-signal experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.errors import InputError
from affectron.evaluation.verdicts import Change, Count, RandomSets
from affectron.experiments.results.findings import ExamOptions, Findings


@dataclass(frozen=True)
class CrossSignalOptions(Shown):
    """Options of the cross-signal experiment; ``omegas`` by rising absolute value."""

    exam: Annotated[ExamOptions, INLINE]
    source: str
    target: str
    omegas: tuple[float, ...]
    random_sets: Count | None


@dataclass(frozen=True)
class Signal(Change):
    """Effect of one source label's signal at the neurons of a target label.

    Attributes:
        random: the same at random neurons.
        dev: change of dev accuracy for each omega.
        omega: the one that was chosen on dev.
        adjusted_p: the larger p of McNemar's test and of the rank among random sets, adjusted over all pairs of labels
            (Holm 1979); 1 where accuracy does not rise, None without random sets.
        helps: whether it is at most 0.05; None without random sets.
    """

    random: RandomSets | None
    dev: tuple[float, ...]
    omega: float
    adjusted_p: float | None
    helps: bool | None


@dataclass(frozen=True)
class LabelSignals(Shown):
    """A target label: its test sentences, its neurons, and the signal of each source label."""

    sentences: Count
    selected: Count
    devices: dict[str, Signal]


@dataclass(frozen=True)
class _Row:
    """The signal of a source label at the neurons of a target label."""

    label: str
    source: str
    signal: Annotated[Signal, INLINE]
    of_label: Annotated[LabelSignals, INLINE]


@dataclass(frozen=True)
class CrossSignal(Findings):
    """Result of :func:`affectron.experiments.cross_signal.cross_signal_matrix`, by target label."""

    kind: ClassVar[str] = "cross_signal"
    _row: ClassVar[type[Any]] = _Row

    options: CrossSignalOptions
    labels: dict[str, LabelSignals]

    def __post_init__(self) -> None:
        devices = {device for signals in self.labels.values() for device in signals.devices}
        for label, signals in self.labels.items():
            if signals.devices.keys() != devices:
                missing = min(devices - signals.devices.keys())
                raise InputError(f"labels.{label}.devices has no {missing!r}, expected every label of the source")

    def _rows(self) -> Iterator[_Row]:
        for label, of_label in self.labels.items():
            for source, signal in of_label.devices.items():
                yield _Row(label, source, signal, of_label)
