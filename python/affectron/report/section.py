"""Chapters of the report: their text, figures and tables, and the cells of an effect in a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from affectron.evaluation.verdicts import Effect
from affectron.report.tables import Column, Table

if TYPE_CHECKING:
    from affectron.report.drawing import Drawing


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; ``name`` is part of the names of its files."""

    name: str
    drawing: Drawing
    caption: str


@dataclass
class Section:
    """One chapter: paragraphs, figures and tables, the first of which is shown unfolded."""

    id: str
    heading: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


BAND = (
    "The mark is the change of accuracy on the label's own test sentences, its line the 95 % interval. The grey band "
    "spans the first random sets, from the lowest to the highest change, and the line in it is their mean."
)
#: Columns of an effect: those of its claim, and in a CSV all that was measured.
EFFECT = (
    Column("verdict"), Column("reason", "passage", "detail"),
    Column("Δ own", "points"), Column("interval", "points interval", "under"), Column("lost", "count", "detail"),
    Column("gained", "count", "detail"), Column("adjusted p", "p"), Column("p", "p", "under"),
    Column("random", "beyond"), Column("random p", "p", "detail"), Column("random mean", "points", "detail"),
    Column("random range", "points interval", "detail"),
    Column("Δ others", "points"), Column("others interval", "points interval", "under"),
    Column("specific Δ", "points", "detail"), Column("specific interval", "points interval", "detail"),
    Column("specific p", "p", "detail"), Column("Δ answers own", "points", "detail"),
    Column("Δ answers others", "points", "detail"), Column("answers p", "p", "detail"),
    Column("specific adjusted p", "p", "detail"), Column("Δh", "percent"),
)  # fmt: skip


def effect_cells(effect: Effect | None) -> list[object]:
    """The cells of ``EFFECT``."""
    if effect is None:
        return [None] * len(EFFECT)
    random = effect.random
    return [
        effect.verdict, effect.reason, effect.delta, effect.interval, effect.lost, effect.gained, effect.adjusted_p,
        effect.p, random and (random.beyond, random.sets), random and random.p, random and random.mean,
        random and random.interval, effect.others_delta, effect.others_interval, effect.specific_delta,
        effect.specific_interval, effect.specific_p, effect.answers_delta, effect.others_answers_delta,
        effect.answers_p, effect.specific_adjusted_p, effect.relative_change,
    ]  # fmt: skip
