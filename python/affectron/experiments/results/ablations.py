"""Result of the ablations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from affectron._internal.checks import number
from affectron._internal.display import Shown
from affectron._internal.records import INLINE
from affectron.evaluation.verdicts import Count, Effect
from affectron.experiments.results.findings import ExamOptions, Findings, effect_cells

#: Parts of the sites, in the order of the forward pass.
THIRDS = ("bottom", "middle", "top")


@dataclass(frozen=True)
class _NameOrNumber:
    """Bound of a setting: a name such as ``all``, or a number."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) or math.isfinite(number(value))

    def __str__(self) -> str:
        return "text or a finite number"


@dataclass(frozen=True)
class AblationsOptions(Shown):
    """Options of :func:`affectron.ablate`."""

    exam: Annotated[ExamOptions, INLINE]
    reference: str
    alpha: float
    alphas: tuple[float, ...]
    shares: tuple[float, ...]
    model_shares: tuple[float, ...]
    selection: dict[str, Any]
    random_sets: Count | None
    smallest_effect: float


@dataclass(frozen=True)
class Ablation(Shown):
    """One mask of one label.

    Attributes:
        task, label: whose neurons are masked.
        sweep, setting: which sweep the mask belongs to, and its value there: a part of the sites, a strength or a
            share.
        alpha: strength of the attenuation.
        masked: number of masked neurons.
        sentences: number of the label's own test sentences.
        effect: its fields stand in the same object of the file; None where no neuron was masked.
    """

    task: str
    label: str
    sweep: str
    setting: Annotated[Any, _NameOrNumber()]
    alpha: float
    masked: Count
    sentences: Count
    effect: Annotated[Effect | None, INLINE]


@dataclass(frozen=True)
class Ablations(Findings):
    """Result of :func:`affectron.ablate`: a row for each label and mask."""

    kind: ClassVar[str] = "ablations"
    _row: ClassVar[type[Any]] = Ablation

    options: AblationsOptions
    rows: tuple[Ablation, ...]

    def _rows(self) -> Iterator[Ablation]:
        return iter(self.rows)

    def _cells(self, row: Ablation) -> dict[str, object]:
        return {"label": row.label, "sweep": row.sweep, "setting": row.setting, **effect_cells(row.effect)}
