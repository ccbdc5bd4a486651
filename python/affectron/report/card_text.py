"""Text of a neuron card for a terminal: each part as what rich prints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.columns import Columns
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from affectron.experiments.results import Excerpt, NeuronCard, ResponsePoint, VocabularyToken
from affectron.report import card_parts as parts
from affectron.report import text as words

#: Colours of no shade and of the strongest ones, for black letters. A grey stands back on black and on white alike.
_GREY, _WARM, _COLD = 150, (255, 140, 60), (70, 170, 255)
#: Characters of a box plot.
_WIDTH = 19


def line(text: str, style: str = "") -> Text:
    """A line of text, as it stands: a label may hold [brackets]."""
    return Text(words.clean(text), style=style)


def excerpts(name: str, texts: Sequence[Excerpt], largest: float, colour: bool) -> Iterator[RenderableType]:
    """Texts, each with the activation at its extreme token before it and its labels behind it."""
    if not texts:
        return
    yield line(name, "bold")
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", width=7, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(max_width=16, overflow="fold")
    for text in texts:
        shown = Text("… " if text.cut[0] else "")
        for piece in parts.pieces(text, largest):
            shown.append_text(_token(piece, colour))
        shown.append(" …" if text.cut[1] else "")
        grid.add_row(parts.number(text.activations[text.extreme]), shown, line(", ".join(text.labels), "dim"))
    yield grid


def _token(piece: parts.Piece, colour: bool) -> Text:
    """A token, shaded where there is colour. Where there is none, the extreme one stands between marks."""
    if not colour:
        inner = piece.text.lstrip(" ") or piece.text
        return line(f"{piece.text.removesuffix(inner)}«{inner}»" if piece.extreme else piece.text)
    styles = ["bold underline"] if piece.extreme else []
    if piece.shade:
        share = abs(piece.shade) / parts.STEPS
        strongest = _WARM if piece.shade > 0 else _COLD
        red, green, blue = (round(_GREY + (channel - _GREY) * share) for channel in strongest)
        styles.append(f"#000000 on rgb({red},{green},{blue})")
    return line(piece.text, " ".join(styles))


def vocabulary(name: str, tokens: Sequence[VocabularyToken] | None) -> Iterator[RenderableType]:
    """Tokens, each with what is added to its logit."""
    if tokens:
        listed = ", ".join(f"{parts.visible(token.token)} {parts.number(token.logit)}" for token in tokens)
        yield Text.assemble((name, "bold"), " ", line(listed))


def distributions(card: NeuronCard, own: Collection[str]) -> Iterator[RenderableType]:
    """The distributions under each label as box plots."""
    rows = parts.rows(card, own)
    activation, attribution = (
        parts.scale(boxes) for boxes in zip(*((row.activation, row.attribution) for row in rows), strict=True)
    )
    grid = Table.grid(padding=(0, 1))
    grid.show_header = True
    grid.add_column(max_width=18, overflow="fold")
    for name, centre in (("activation", "median"), *([("attribution", "mean")] if card.attribution else [])):
        grid.add_column(line(name, "dim"))
        grid.add_column(line(centre, "dim"), justify="right")
    for row in rows:
        cells = [*_box(row.activation, activation), *(_box(row.attribution, attribution) if card.attribution else [])]
        grid.add_row(line(row.label, "bold" if row.own else ""), *cells)
    yield grid


def _box(box: parts.Box | None, scale: parts.Scale) -> tuple[str, str]:
    """A box plot, and its centre: ``··──━━┃━──··``."""
    if box is None:
        return "", "–"
    low, lower, centre, upper, high = (round((_WIDTH - 1) * scale(value)) for value in box[:5])
    cells = [" "] * _WIDTH
    cells[low : high + 1] = "─" * (high + 1 - low)
    cells[lower : upper + 1] = "█" * (upper + 1 - lower)
    cells[centre] = "┃"
    return "".join(cells), parts.number(box.centre)


def response(points: Sequence[ResponsePoint], factors: Sequence[float]) -> Table:
    """A table of a dose-response, a column for each factor."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    for _ in factors:
        grid.add_column(justify="right")
    rows = zip(*(parts.told(point) for point in points), strict=True)
    grid.add_row("factor", *(f"{factor:g}" for factor in factors))
    for name, row in zip(("change", "from", "to"), rows, strict=True):
        grid.add_row(name, *row)
    return grid


def scores(values: Mapping[str, float | None]) -> Columns:
    """Scores side by side, as many as the width has room for."""
    width = max(map(len, values))
    return Columns(
        [Text(f"{name:<{width}} {parts.number(value):>9}") for name, value in values.items()], padding=(0, 3)
    )
