"""Parts of a neuron card that its HTML and its text have in common: shades, scales, words for tokens and numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from affectron.experiments.results import LEVELS, Excerpt, Moments, NeuronCard, ResponsePoint, Spread
from affectron.report import text as words

#: Steps of a token's shade, from none to that of the largest activation.
STEPS = 10

#: Marks of line ends, tabs and other control characters.
_MARKS = str.maketrans({code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)} | {"\n": "↵", "\r": "␍", "\t": "⇥"})
#: Stands for a character whose beginning is not in the excerpt.
_INCOMPLETE = "\ufffd"


class Piece(NamedTuple):
    """A token of an excerpt: its text, its shade (whole tenths, -10 to 10), its activation, and whether it is the
    extreme one."""

    text: str
    shade: int
    activation: float | None
    extreme: bool


class Box(NamedTuple):
    """A distribution as the five positions of a box plot, and the number of its observations."""

    low: float
    lower: float
    centre: float
    upper: float
    high: float
    sentences: int

    @classmethod
    def of(cls, distribution: Spread | Moments) -> Box:
        """The quantiles; of moments least, mean ± standard deviation (within the extremes) and largest."""
        if isinstance(distribution, Spread):
            return cls(*distribution.quantiles, distribution.sentences)
        mean, std = distribution.mean, distribution.std
        low, high = distribution.min, distribution.max
        return cls(low, max(low, mean - std), mean, min(high, mean + std), high, distribution.sentences)


class Row(NamedTuple):
    """The distributions under one label; ``own`` where the neuron was selected for it."""

    label: str
    own: bool
    activation: Box | None
    attribution: Box | None


class Boxes(NamedTuple):
    """Box plots one below the other as paths in the coordinates of an SVG, each the value of an attribute ``d``.

    Attributes:
        zero: where zero is.
        whiskers, boxes, centres: the lines from end to end, the boxes, and the marks of the centres.
        height: height of the drawing; it is ``ACROSS`` wide.
    """

    zero: str
    whiskers: str
    boxes: str
    centres: str
    height: int


#: Width of a drawing of box plots, and the height of each.
ACROSS, ROW = 200, 8


class Curve(NamedTuple):
    """Dose-response as paths in the coordinates of an SVG, each the value of an attribute ``d``.

    Attributes:
        line, band: the changes, and the band of their intervals.
        zero: height of no change.
        ticks: (x, factor) of each point.
        changes: (y, change) of the changes that the axis names.
    """

    line: str
    band: str
    zero: float
    ticks: list[tuple[float, float]]
    changes: list[tuple[float, float]]


#: Left, upper, right and lower edge of the curve in its drawing.
EDGES = (44, 8, 236, 72)
#: Least distance of two numbers on its axis.
_APART = 10


class Scale:
    """A linear scale from the least to the largest of the values to 0 to 1, which holds zero."""

    def __init__(self, values: Iterable[float]) -> None:
        values = (0.0, *values)
        self.low, self.high = min(values), max(values)

    def __call__(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def rows(card: NeuronCard, own: Collection[str]) -> list[Row]:
    """The distributions of a card by label, those of the labels ``own`` first."""
    found = [
        Row(
            label,
            label in own,
            Box.of(card.activation[label]) if label in card.activation else None,
            Box.of(card.attribution[label]) if card.attribution and label in card.attribution else None,
        )
        for label in dict.fromkeys((*card.activation, *(card.attribution or ())))
    ]
    return sorted(found, key=lambda row: not row.own)


def scale(boxes: Iterable[Box | None]) -> Scale:
    """The common scale of the boxes."""
    return Scale(value for box in boxes if box for value in box[:5])


def boxes(plots: Sequence[Box | None]) -> Boxes:
    """The drawing of box plots, an empty line for None."""
    common = scale(plots)
    drawn = [
        (ROW * place, *(round(ACROSS * common(value)) for value in plot[:5]))
        for place, plot in enumerate(plots)
        if plot
    ]
    height = ROW * len(plots)
    return Boxes(
        zero=f"M{round(ACROSS * common(0))} 0V{height}",
        whiskers="".join(f"M{low} {y + ROW // 2}H{high}" for y, low, _, _, _, high in drawn),
        boxes="".join(f"M{lower} {y + ROW // 2}H{upper}" for y, _, lower, _, upper, _ in drawn),
        centres="".join(f"M{centre} {y + 1}v{ROW - 2}" for y, _, _, centre, _, _ in drawn),
        height=height,
    )


def curve(points: Sequence[ResponsePoint], factors: Sequence[float]) -> Curve:
    """The drawing of a dose-response: its factors stand at equal distances, and a point without a value is left out."""
    left, upper, right, lower = EDGES
    x = [round(left + (right - left) * (place + 0.5) / len(factors), 1) for place in range(len(factors))]
    known = [
        (across, point.interval, point.delta)
        for across, point in zip(x, points, strict=True)
        if point.interval is not None and point.delta is not None
    ]
    height = Scale(end for _, interval, _ in known for end in interval)

    def y(change: float) -> float:
        return round(lower - (lower - upper) * height(change), 1)

    def path(places: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{across:g} {y(change):g}" for across, change in places)

    there = path((across, interval[1]) for across, interval, _ in known)
    back = path((across, interval[0]) for across, interval, _ in reversed(known))
    line = path((across, delta) for across, _, delta in known)
    ends = [change for change in (height.high, height.low) if abs(y(change) - y(0)) > _APART]
    return Curve(
        line=f"M{line}" if known else "",
        band=f"M{there}L{back}Z" if known else "",
        zero=y(0),
        ticks=list(zip(x, factors, strict=True)),
        changes=[(y(change), change) for change in (0.0, *ends)],
    )


def marks(tokens: str) -> str:
    """Words for the marks of a box plot, where ``tokens`` is the rule of the activations."""
    levels = ", ".join(f"{100 * level:g}" for level in LEVELS)
    return (
        f"of each sentence {words.quantity('mean', tokens)}, with the quantiles at {levels} %; of its attribution the "
        "least, the mean ± one standard deviation, and the largest"
    )


def told(point: ResponsePoint) -> tuple[str, str, str]:
    """A point for a reader: the change in points, and the ends of its interval; dashes where it has no value."""
    low, high = point.interval or (None, None)
    change, start, end = ("–" if value is None else words.points(value) for value in (point.delta, low, high))
    return change, start, end


def largest(card: NeuronCard) -> float:
    """The largest absolute activation in the card's texts, which the shades are relative to; 0 without any."""
    return max(
        (abs(value) for text in (*card.top, *card.bottom) for value in text.activations if value is not None),
        default=0.0,
    )


def pieces(excerpt: Excerpt, largest: float) -> list[Piece]:
    """The tokens of an excerpt, shaded by their activation relative to ``largest``.

    The tokens of one character (as of an emoji) are one piece, with the activation of the extreme one among them or
    else the largest absolute one.
    """
    parts: list[list[int]] = []
    for position, token in enumerate(excerpt.tokens):
        if token or not parts:
            parts.append([position])
        else:
            parts[-1].append(position)
    return [_piece(excerpt, part, largest) for part in parts]


def _piece(excerpt: Excerpt, positions: Sequence[int], largest: float) -> Piece:
    """The tokens at ``positions`` as one piece."""
    extreme = excerpt.extreme in positions
    known = (excerpt.activations[position] for position in ([excerpt.extreme] if extreme else positions))
    activation = max((value for value in known if value is not None), key=abs, default=None)
    return Piece(
        excerpt.tokens[positions[0]].translate(_MARKS) or (_INCOMPLETE if extreme else ""),
        int(STEPS * activation / largest) if activation and largest else 0,
        activation,
        extreme,
    )


def visible(token: str) -> str:
    """A token by itself, with marks for its white space."""
    return token.translate(_MARKS).replace(" ", "␣")


def number(value: float | None) -> str:
    """Three significant digits with a true minus sign; a dash for None."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")
