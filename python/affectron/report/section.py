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
    "The mark is the change of accuracy on the label's own test sentences, its line the 95 % bootstrap interval; the "
    "grey band holds 95 % of the random sets matched in size at each layer, the line in it is their mean."
)
EFFECT = (
    Column("Δ own", "points"), Column("interval", "points interval"), Column("Δ others", "points"),
    Column("random", "points"), Column("random interval", "points interval"), Column("verdict"),
)  # fmt: skip


def effect_cells(effect: Effect | None) -> list[object]:
    """The cells of ``EFFECT``."""
    if effect is None:
        return [None] * len(EFFECT)
    random = effect.random
    return [
        effect.delta, effect.interval, effect.others_delta, random and random.mean, random and random.interval,
        effect.verdict,
    ]  # fmt: skip
