"""``affectron neurons``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import affectron
from affectron._internal.artifacts import NEURONS, findings_file
from affectron._internal.records import to_plain
from affectron._internal.wording import count
from affectron.cli.inputs import load_model, read_corpus
from affectron.cli.options import JsonOption, SplitOption, TaskOption
from affectron.cli.output import console, print_json, print_table, save, say
from affectron.errors import InputError
from affectron.neurons import NeuronSet
from affectron.options import Columns, Load, Read
from affectron.report.card_parts import number, visible
from affectron.report.cards import CardView, LabelView, card_views, neurons_of
from affectron.report.pieces import Pieces
from affectron.report.text import clean, layer_names

#: Neurons that a message names at most.
_NAMED = 12


def neurons(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=f"Folder with {NEURONS} and what else a run makes.")],
    *,
    file: Annotated[
        Path | None, typer.Option("--neurons", help=f"Neurons saved by select; default: {NEURONS} in RUN.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="List the neurons of this label.")] = None,
    site: Annotated[
        str | None, typer.Option(help="Show one neuron: its site, by name or by the number of its layer.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Show one neuron: its index at the site.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to collect the cards with, which are saved in RUN.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpus to collect the cards from.")] = None,
    split: SplitOption = None,
    task: TaskOption = None,
    read: Read,
    columns: Columns,
    load: Load,
    as_json: JsonOption = False,
) -> None:
    """Show the selected neurons of a run: all labels, one label's neurons with their scores, or one neuron's card.

    With --model and --corpus, the texts of the cards are collected first. Cards of other neurons that RUN has are kept
    where they were collected alike.
    """
    pieces = Pieces.read(run)
    if file is not None:
        pieces = replace(pieces, neurons=NeuronSet.load(file))
    selected = neurons_of(pieces)
    chosen = _chosen(selected, label, site, index)
    if (model is None) != (corpus is None):
        raise InputError("--model and --corpus: one is given, expected both or neither")
    if corpus is None and (split or task):
        raise InputError("--split and --task are of the corpus, and --corpus is not given")
    if model is not None and corpus is not None:
        sentences = read_corpus(corpus, columns, task, split)
        given = {"attributions": pieces.attributions, **read.values()}
        cards = affectron.describe(*load_model(model, load), sentences, selected, **given, progress=True)
        if pieces.cards is not None:
            cards = cards.beside(pieces.cards)
        save(cards, run / findings_file("cards"))
        say(f"saved to {run / findings_file('cards')}")
        pieces = replace(pieces, cards=cards)
    views = card_views(pieces, label)
    if chosen is not None:
        view = next(view for of_label in views.values() for view in of_label if (view.site, view.index) == chosen)
        if as_json:
            print_json(to_plain(view))
        else:
            console().print(view)
    elif label is not None:
        if as_json:
            print_json({"label": label, "neurons": to_plain(views[label])})
        else:
            _print_label(label, views[label])
    elif as_json:
        print_json({"labels": {name: _summary(name, of_label) for name, of_label in views.items()}})
    else:
        _print_labels(selected, views)


def _chosen(selected: NeuronSet, label: str | None, site: str | None, index: int | None) -> tuple[str, int] | None:
    """The neuron that the options name; None where they name none.

    Raises:
        InputError: only one of site and index, no such label or site, or a neuron that was not selected.
    """
    lists = list(selected.values()) if label is None else [selected[label]]
    if site is None and index is None:
        return None
    if site is None or index is None:
        raise InputError(f"--{'site' if site is None else 'index'} is not given, expected --site and --index together")
    axis, layers = layer_names(tuple(selected.widths))
    names = {name: name for name in selected.widths} | dict(zip(layers, selected.widths, strict=True))
    if site not in names:
        raise InputError(f"site is {site!r}, expected one of {_some(list(selected.widths))}, or its {axis}, a number")
    at_site = sorted({other for of_label in lists for name, other, _ in of_label if name == names[site]})
    if index not in at_site:
        of_label = "" if label is None else f" for {label}"
        expected = f"one of {_some(at_site)}, which" if at_site else "another site: none there"
        were = "were" if len(at_site) != 1 else "was"
        raise InputError(f"index is {index}, expected {expected} {were} selected at {names[site]}{of_label}")
    return names[site], index


def _some(values: Sequence[Any]) -> str:
    """The values, or the first of many and their number."""
    named = ", ".join(map(str, values[:_NAMED]))
    return named if len(values) <= _NAMED else f"{named} and {len(values) - _NAMED:,} others"


def _summary(label: str, views: Sequence[CardView]) -> dict[str, Any]:
    """The neurons of a label by site, and the best."""
    sites: dict[str, int] = {}
    for view in views:
        sites[view.site] = sites.get(view.site, 0) + 1
    best = {"site": views[0].site, "index": views[0].index, "score": _of(label, views[0]).score} if views else None
    return {"neurons": len(views), "sites": sites, "best": best}


def _of(label: str, view: CardView) -> LabelView:
    """A neuron as one of the label's."""
    return next(of_label for of_label in view.labels if of_label.label == label)


def _print_labels(selected: NeuronSet, views: dict[str, list[CardView]]) -> None:
    """Print a row for each label: its neurons, the layers with most of them, and the best."""
    rows = []
    for label, of_label in views.items():
        summary = _summary(label, of_label)
        layer = {view.site: view.layer for view in of_label}
        most = sorted(summary["sites"].items(), key=lambda item: -item[1])[:2]
        layers = ", ".join(f"{layer[site]} ({size})" for site, size in most)
        best = "-" if not of_label else f"{of_label[0].name}: {number(_of(label, of_label[0]).score)}"
        rows.append((selected[label].task, label, len(of_label), layers, best))
    print_table("selected neurons", ("task", "label", "neurons", "most in layers", "best"), rows)
    print("--label LABEL lists a label's neurons; --site SITE --index INDEX shows one neuron's card")


class _Column(NamedTuple):
    """A column of the table of a label's neurons; ``score`` where it is one that may be left out."""

    name: str
    cells: list[Any]
    score: bool = True

    @property
    def width(self) -> int:
        """Characters that the column takes, with its frame."""
        return 3 + max(len(text) for cell in (*self.name.split("\n"), *self.cells) for text in (str(cell),))


def _print_label(label: str, views: Sequence[CardView]) -> None:
    """Print a row for each neuron of a label. Scores that the width has no room for are named below."""
    by = (views[0].selected_by if views else None) or "score"
    columns = list(_columns(label, views, by))
    shown = [column for column in columns if not column.score]
    room = console().width - 1 - sum(column.width for column in shown)
    left_out = []
    for column in columns:
        if column.score and column.width <= room:
            shown.append(column)
            room -= column.width
        elif column.score:
            left_out.append(column.name.replace("\n", ""))
    rows = list(zip(*(column.cells for column in shown), strict=True))
    print_table(f"{label}: {count(len(views), 'neuron')} by {by}, best first", [column.name for column in shown], rows)
    if left_out:
        print(f"no room for {', '.join(left_out)}: in a wider terminal, or by --json")
    for line in views[0].absent if views else ():
        print(line)


def _columns(label: str, views: Sequence[CardView], by: str) -> Iterator[_Column]:
    """The columns of a label's neurons, the most informative first; those without any value are left out."""
    labels = [_of(label, view) for view in views]
    yield _Column("rank", [of_label.rank for of_label in labels], score=False)
    yield _Column("layer", [int(view.layer) for view in views], score=False)
    yield _Column("index", [view.index for view in views], score=False)
    yield _Column(_folded(by), [_rounded(of_label.score) for of_label in labels], score=False)
    if any(of_label.candidate for of_label in labels):
        tested = [(found.auroc, found.q) if (found := of_label.candidate) else (None, None) for of_label in labels]
        yield _Column("AUROC", [_rounded(auroc) for auroc, _ in tested], score=False)
        yield _Column("q", [_rounded(q) for _, q in tested], score=False)
    if any(view.card and view.card.promoted for view in views):
        promoted = [(view.card and view.card.promoted) or () for view in views]
        tokens = [clean(" ".join(visible(token.token) for token in of_card[:3])) for of_card in promoted]
        yield _Column("promotes", tokens, score=False)
    scores = labels[0].scores.items() if labels else ()
    for kind, served in sorted(scores, key=lambda of_kind: by not in of_kind[1]):  # those like the selecting one first
        for name in served:
            if name != by:
                yield _Column(_folded(name), [_rounded(of_label.scores[kind][name]) for of_label in labels])


def _rounded(value: float | None) -> float | str:
    """Three significant digits; "-" for None."""
    return "-" if value is None else float(f"{value:.3g}")


def _folded(name: str) -> str:
    """The name of a score on lines that are as narrow as its values."""
    return name.replace("_", "_\n") if len(name) > _NAMED else name
