"""Neuron cards: all that a run folder knows of each selected neuron, as HTML and as text for a terminal."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from affectron._internal.artifacts import ATTRIBUTION, NEURONS, STATS, findings_file
from affectron._internal.display import Shown, Summary
from affectron._internal.wording import count, p_value
from affectron.errors import InputError
from affectron.experiments.results import CandidateNeuron, NeuronCard, ResponsePoint
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import card_parts, card_text
from affectron.report import text as words
from affectron.report.pieces import Pieces
from affectron.scores import SCORES, score, scores_for
from affectron.stats import ActivationStats

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

#: Style sheet of the cards, for any page that shows them.
CARD_STYLE = resources.files("affectron.report").joinpath("card.css").read_text(encoding="utf-8")

#: Cards of a label that the report shows open; the others are folded.
_OPEN = 5
#: Cards of a label in a report at most, where the folder has no texts for them.
_SHOWN = 50

#: File -> the part of a card that it has, and the command that makes it.
_PARTS = {
    STATS: ("scores of activations", "affectron screen"),
    ATTRIBUTION: ("scores of attributions", "affectron attribute"),
    findings_file("candidates"): ("AUROC", "affectron run"),
    findings_file("cards"): (
        "texts, distributions and tokens", "affectron neurons RUN --model MODEL --corpus CORPUS",
    ),
    findings_file("responses"): ("dose-response", "affectron run"),
}  # fmt: skip

#: Site and index.
Neuron = tuple[str, int]
#: ``activation`` or ``attribution`` -> score -> value; None where it is undefined.
Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Response(Shown):
    """Dose-response of a neuron for one label: a point for each factor, against ``baseline``, the mean P(label)."""

    sentences: int
    baseline: float
    factors: tuple[float, ...]
    points: tuple[ResponsePoint, ...]

    def told(self, label: str) -> str:
        """The quantity of the points."""
        return (
            f"Change of P({label}) in points, from {words.percent(self.baseline)} on "
            f"{count(self.sentences, 'sentence')}, by the factor of the activation, with the 95 % interval"
        )


@dataclass(frozen=True)
class LabelView(Shown):
    """A neuron as one of a label's neurons.

    Attributes:
        label, task: the label, and its task.
        rank, selected: the neuron's place in the label's list, from 1, and the length of the list.
        score: the value that it was selected by.
        scores: every score that the folder's statistics serve.
        candidate: AUROC, interval and q; None without.
        response: dose-response; None without.
    """

    label: str
    task: str
    rank: int
    selected: int
    score: float
    scores: Scores
    candidate: CandidateNeuron | None
    response: Response | None

    @property
    def told(self) -> str:
        """AUROC, interval and q of the candidate, after a semicolon; empty without."""
        found = self.candidate
        if found is None or found.auroc is None or found.interval is None:
            return ""
        low, high = (words.decimal(end, 2) for end in found.interval)
        q = "" if found.q is None else f", q {p_value(found.q)}"
        return f"; AUROC {words.decimal(found.auroc, 2)} [{low}, {high}] for {found.direction} values{q}"


@dataclass(frozen=True)
class CardView(Shown):
    """All that a run folder knows of one selected neuron. A notebook shows it as HTML, rich as text.

    Attributes:
        site, index: the neuron.
        layer: short name of the site: the number of its layer.
        name: the neuron for a reader: ``layer 7, neuron 117``.
        selected_by: the score that it was selected by; None where that is not recorded.
        labels: the neuron under each label that it was selected for, in the order of the labels.
        card: its texts, distributions and tokens; None without.
        absent: a line for each part that no card of the run has, and what makes it.
        missing: a line for each part that this card lacks and others have.
    """

    site: str
    index: int
    layer: str
    name: str
    selected_by: str | None
    labels: tuple[LabelView, ...]
    card: NeuronCard | None
    absent: tuple[str, ...]
    missing: tuple[str, ...]

    def _summary(self) -> Summary:
        return Summary([self.name, *(f"{of.label}: rank {of.rank} of {of.selected}" for of in self.labels)])

    @property
    def id(self) -> str:
        """Id of the card on a page: the same for the same neuron, whatever else the page has."""
        return _id(self.site, self.index)

    def text(self, width: int = 80) -> str:
        """The card as text without colour. The token of the most extreme activation stands «like this»."""
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=width, color_system=None, force_terminal=False).print(self)
        return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())

    def html(self) -> str:
        """The card as an HTML element ``article`` without inline styles and scripts, for a page with ``CARD_STYLE``.

        Raises:
            InputError: jinja2 is not installed.
        """
        return words.clean(_template().article(self, (*self.absent, *self.missing)))

    def _repr_html_(self) -> str:
        return f"<style>{CARD_STYLE}</style>{self.html()}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield card_text.line(f"{self.name} ({self.site})", "bold")
        for view in self.labels:
            yield card_text.line(f"{view.label}: {self.place(view)}")
        card, colour = self.card, console.color_system in ("256", "truecolor")  # 16 colours have no shades
        if card:
            largest = card_parts.largest(card)
            yield from card_text.excerpts("largest activations", card.top, largest, colour)
            yield from card_text.excerpts("smallest activations", card.bottom, largest, colour)
            yield from card_text.vocabulary("promotes", card.promoted)
            yield from card_text.vocabulary("suppresses", card.suppressed)
            yield card_text.line("by label", "bold")
            yield from card_text.distributions(card, [view.label for view in self.labels])
        for view in self.labels:
            if view.response:
                yield card_text.line("dose-response", "bold")
                yield card_text.line(view.response.told(view.label))
                yield card_text.response(view.response.points, view.response.factors)
            for kind, values in view.scores.items():
                yield card_text.line(f"scores of {kind}s for {view.label}", "bold")
                yield card_text.scores(values)
        for line in (*self.absent, *self.missing):
            yield card_text.line(line, "dim")

    def place(self, view: LabelView) -> str:
        """The neuron's place among a label's neurons, and how it does there by itself."""
        by = f" by {self.selected_by}" if self.selected_by else ""
        return f"rank {view.rank:,} of {view.selected:,}{by}, {card_parts.number(view.score)}{view.told}"


def read_cards(run: str | os.PathLike[str], label: str | None = None) -> dict[str, list[CardView]]:
    """Read the cards of a run folder's selected neurons.

    Args:
        run: a folder with ``neurons.json``. A card has what the other files of the folder know of its neuron, and says
            what is missing.
        label: the label whose neurons are wanted; None for all.

    Returns:
        label -> a card for each of its neurons, best first. A neuron of two labels has one card, with both.

    Raises:
        InputError: no such folder, no ``neurons.json`` in it, one of its files cannot be used, the files are not of
            one model, or no such label.
    """
    return card_views(Pieces.read(Path(run)), label)


def card_views(pieces: Pieces, label: str | None = None) -> dict[str, list[CardView]]:
    """The cards of a run's selected neurons, as :func:`read_cards` gives them.

    Raises:
        InputError: the run has no neurons, or no such label, or its files are not of one model.
    """
    neurons = neurons_of(pieces)
    wanted = list(neurons) if label is None else [neurons[label].label]
    if pieces.differences:
        raise InputError(f"the files of this run do not belong together: {'; '.join(pieces.differences)}")
    found = _Found.of(pieces, neurons)
    views = {neuron: found.view(neuron) for neuron in found.ranks}
    return {name: [views[site, index] for site, index, _ in neurons[name]] for name in wanted}


def neurons_of(pieces: Pieces) -> NeuronSet:
    """The selected neurons of a run.

    Raises:
        InputError: the run has none.
    """
    if pieces.neurons is None:
        raise InputError(f"the run has no {NEURONS}, whose neurons the cards are of")
    return pieces.neurons


def shown_neurons(pieces: Pieces) -> dict[str, NeuronList]:
    """Label -> those of its neurons that have a card in the report, of every label that has any."""
    most = pieces.cards.options.count if pieces.cards else _SHOWN
    return {label: of_label[:most] for label, of_label in (pieces.neurons or {}).items() if of_label[:most]}


def card_ids(pieces: Pieces) -> dict[Neuron, str]:
    """Neuron -> the id of its card, of each that has one in the report."""
    return {
        (site, index): _id(site, index) for of_label in shown_neurons(pieces).values() for site, index, _ in of_label
    }


def group_id(label: str) -> str:
    """Id of the heading of a label's cards."""
    return f"cards-{_quoted(label)}"


def _id(site: str, index: int) -> str:
    return f"neuron-{_quoted(site)}-{index}"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogatepass")


def chapter(pieces: Pieces) -> str:
    """The report's chapter of the cards, as HTML; empty where no neuron is selected."""
    neurons, shown = pieces.neurons, shown_neurons(pieces)
    if neurons is None or not shown:
        return ""
    found = _Found.of(pieces, neurons)
    first: dict[Neuron, str] = {}  # the label under which a neuron has its card
    groups = {
        label: [
            (found.view((site, index)), first.setdefault((site, index), label) == label) for site, index, _ in of_label
        ]
        for label, of_label in shown.items()
    }
    served = {name for scores in found.scores.values() for of_kind in scores.values() for name in of_kind}
    html = _template().chapter(
        groups,
        opened=_OPEN if pieces.cards else 0,
        tokens=pieces.cards.options.tokens if pieces.cards else "",
        ids={label: group_id(label) for label in shown},
        further={label: len(neurons[label]) - len(of_label) for label, of_label in shown.items()},
        absent=found.absent,
        descriptions={name: of_name.description for name, of_name in SCORES.items() if name in served},
    )
    return str(html)


@dataclass(frozen=True)
class _Found:
    """The contents of a run's files, by neuron.

    Attributes:
        neurons: the selected neurons.
        ranks: neuron -> label -> its place in the label's list, from 1.
        scores, candidates, responses: label and neuron -> what is known of the two.
        cards: neuron -> its texts, distributions and tokens.
        absent: a line for each part that no card of the run has.
    """

    neurons: NeuronSet
    ranks: dict[Neuron, dict[str, int]]
    scores: dict[tuple[str, Neuron], Scores]
    candidates: dict[tuple[str, Neuron], CandidateNeuron]
    responses: dict[tuple[str, Neuron], Response]
    cards: dict[Neuron, NeuronCard]
    absent: tuple[str, ...]

    @classmethod
    def of(cls, pieces: Pieces, neurons: NeuronSet) -> _Found:
        """Look up all neurons in the files of a run."""
        ranks: dict[Neuron, dict[str, int]] = {}
        for label, of_label in neurons.items():
            for rank, (site, index, _) in enumerate(of_label, start=1):
                ranks.setdefault((site, index), {})[label] = rank
        there = pieces.sources | pieces.results
        absent = [
            f"No {part}: there is no {file}, which {command} makes."
            for file, (part, command) in _PARTS.items()
            if file not in there
        ]
        scores: dict[tuple[str, Neuron], Scores] = {}
        for kind, source in (("activation", pieces.stats), ("attribution", pieces.attributions)):
            if source is not None:
                absent += _add_scores(scores, kind, source, pieces.stats, neurons)
        return cls(
            neurons=neurons,
            ranks=ranks,
            scores=scores,
            candidates={
                (label, (neuron.site, neuron.index)): neuron
                for label, of_label in (pieces.candidates.labels if pieces.candidates else {}).items()
                for neuron in of_label.neurons
            },
            responses=_responses(pieces),
            cards={(card.site, card.index): card for card in (pieces.cards.neurons if pieces.cards else ())},
            absent=tuple(absent),
        )

    def view(self, neuron: Neuron) -> CardView:
        """The card of a neuron."""
        site, index = neuron
        axis, layers = self._layers
        selection = self.neurons.provenance.get("select")
        card = self.cards.get(neuron)
        labels = tuple(self._of_label(label, rank, neuron) for label, rank in self.ranks[neuron].items())
        return CardView(
            site=site,
            index=index,
            layer=layers[site],
            name=f"{axis} {layers[site]}, neuron {index}",
            selected_by=selection.get("score") if isinstance(selection, dict) else None,
            labels=labels,
            card=card,
            absent=self.absent,
            missing=tuple(self._lacks(card, labels)),
        )

    @cached_property
    def _layers(self) -> tuple[str, dict[str, str]]:
        """The noun for a site, and site -> its short name."""
        axis, layers = words.layer_names(tuple(self.neurons.widths))
        return axis.partition(",")[0], dict(zip(self.neurons.widths, layers, strict=True))

    def _of_label(self, label: str, rank: int, neuron: Neuron) -> LabelView:
        of_label = self.neurons[label]
        return LabelView(
            label=label,
            task=of_label.task,
            rank=rank,
            selected=len(of_label),
            score=of_label[rank - 1][2],
            scores=self.scores.get((label, neuron), {}),
            candidate=self.candidates.get((label, neuron)),
            response=self.responses.get((label, neuron)),
        )

    def _lacks(self, card: NeuronCard | None, labels: tuple[LabelView, ...]) -> list[str]:
        """A line for each part that this card lacks and others of the run have."""
        lacking = [("cards", "")] if self.cards and not card else []
        for view in labels:
            lacking += [("candidates", f" for {view.label}")] if self.candidates and not view.candidate else []
            lacking += [("responses", f" for {view.label}")] if self.responses and not view.response else []
        lines = [
            f"No {_PARTS[findings_file(kind)][0]}{of_label}: {findings_file(kind)} does not have this neuron."
            for kind, of_label in lacking
        ]
        if card and card.attribution is None:
            lines.append(f"No distribution of attributions: the cards were made without {ATTRIBUTION}.")
        if card and card.promoted is None:
            lines.append("No promoted tokens: the model does not have the parts that turn its output into logits.")
        return lines


def _responses(pieces: Pieces) -> dict[tuple[str, Neuron], Response]:
    """Label and neuron -> dose-response."""
    if pieces.responses is None:
        return {}
    factors = pieces.responses.options.factors
    return {
        (label, (neuron.site, neuron.index)): Response(of_label.sentences, of_label.baseline, factors, neuron.points)
        for label, of_label in pieces.responses.labels.items()
        for neuron in of_label.neurons
    }


def _add_scores(
    scores: dict[tuple[str, Neuron], Scores],
    kind: str,
    source: ActivationStats,
    activations: ActivationStats | None,
    neurons: NeuronSet,
) -> list[str]:
    """Add every score that the statistics ``source`` serve, each computed once a task.

    Returns:
        a line for each reason for which some are not computed.
    """
    refused: dict[str, dict[str, None]] = {}
    for task, labels in neurons.tasks.items():
        if source.widths != neurons.widths or not set(labels) <= set(source.tasks.get(task, ())):
            refused[f"they have other sites, or not all labels of task {task!r}"] = {f"scores of {kind}s": None}
            continue
        for name in scores_for(source):
            try:
                values = score(source, name, task, activations if SCORES[name].shifted else None)
            except InputError as error:
                refused.setdefault(str(error), {})[name] = None
                continue
            for label in labels:
                row = source.tasks[task].index(label) if SCORES[name].per_label else 0
                for site, index, _ in neurons[label]:
                    value = float(values[site][row, index])
                    of_kind = scores.setdefault((label, (site, index)), {}).setdefault(kind, {})
                    of_kind[name] = value if math.isfinite(value) else None
    return [f"No {words.listing(list(names))}: {reason}." for reason, names in refused.items()]


@cache
def _template() -> Any:
    """The macros of ``card.html.j2``.

    Raises:
        InputError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise InputError(
            "a card in HTML needs jinja2, which is not installed: pip install affectron[report]"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"parts": card_parts, "words": words, "count": count}
    source = resources.files("affectron.report").joinpath("card.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).module
