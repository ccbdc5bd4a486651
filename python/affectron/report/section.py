"""Chapters of the report: their text, figures and tables, and the cells of an effect in a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from affectron.evaluation.verdicts import Effect
from affectron.experiments.results import Validation
from affectron.report.drawing import Drawing
from affectron.report.tables import Column, Table


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; ``name`` is part of the names of its files."""

    name: str
    drawing: Drawing
    caption: str


@dataclass
class Section:
    """One chapter: paragraphs, perhaps a validation for a table like the main one, then figures and tables."""

    id: str
    heading: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    validation: Validation | None = None


BAND = (
    "The mark is the change of accuracy on the label's own test sentences, its line the 95 % interval. The grey band "
    "spans the first random sets, from the lowest to the highest change, and the line in it is their mean."
)
#: Columns of an effect: those of its claim, and in a CSV all that was measured.
EFFECT = (
    Column("Δ own", "points"), Column("interval", "points interval"), Column("lost", "count", detail=True),
    Column("gained", "count", detail=True), Column("p", "p"), Column("adjusted p", "p"),
    Column("Δ others", "points"), Column("others interval", "points interval", detail=True),
    Column("specific Δ", "points", detail=True), Column("specific interval", "points interval", detail=True),
    Column("specific p", "p", detail=True), Column("Δ answers own", "points", detail=True),
    Column("Δ answers others", "points", detail=True), Column("answers p", "p", detail=True),
    Column("random", "beyond"), Column("random p", "p", detail=True),
    Column("random mean", "points", detail=True), Column("random range", "points interval", detail=True),
    Column("specific adjusted p", "p", detail=True), Column("Δh, %", "percent"), Column("verdict"),
    Column("reason", "passage", detail=True),
)  # fmt: skip


def effect_cells(effect: Effect | None) -> list[object]:
    """The cells of ``EFFECT``."""
    if effect is None:
        return [None] * len(EFFECT)
    random = effect.random
    return [
        effect.delta, effect.interval, effect.lost, effect.gained, effect.p, effect.adjusted_p,
        effect.others_delta, effect.others_interval, effect.specific_delta, effect.specific_interval,
        effect.specific_p, effect.answers_delta, effect.others_answers_delta, effect.answers_p,
        random and (random.beyond, random.sets), random and random.p, random and random.mean,
        random and random.interval, effect.specific_adjusted_p, effect.relative_change, effect.verdict, effect.reason,
    ]  # fmt: skip
