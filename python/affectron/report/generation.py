"""Section of the report on generated texts: success against fluency, and the texts themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from affectron._internal.artifacts import findings_file
from affectron._internal.wording import count
from affectron.experiments.results.generation import Generation, MethodGeneration, Setting, TaskGeneration
from affectron.report import alternatives
from affectron.report import text as words
from affectron.report.drawing import BLUE, GREEN, ORANGE, STYLE, VERMILLION, Drawing, drawn, grid, short
from affectron.report.section import Figure, Section
from affectron.report.tables import Column, Table

GREY = "#777777"
#: Beginning of a method's name -> the colours and marks of the methods that begin so, in their order.
_STYLES: dict[str, tuple[tuple[str, str], ...]] = {
    "neurons": ((VERMILLION, "o"), (ORANGE, "^"), ("#8C4A00", "v")),
    "residual": ((BLUE, "s"),),
    "prompt": ((GREEN, "D"),),
    "random": ((GREY, "x"), ("#AAAAAA", "+"), ("#CCCCCC", "1")),
}
#: Texts of a label that are shown.
_SHOWN = 10


def generation(result: Generation) -> Section:
    options = result.options
    section = Section("generation", "Generated texts")
    end = "" if options.stop is None else f", and ends before {options.stop!r}"
    section.text.append(
        f"The model continues {count(options.beginnings, 'beginning')} of the test split, "
        f"{count(options.texts, 'text')} each, by up to {count(options.max_new_tokens, 'token')} at temperature "
        f"{options.temperature:g}{end}. Success is the share of texts that the judge gives to the label; it reads the "
        "continuation alone. The rise is the unsteered model's loss on the texts less that on its own, in nats a "
        "token: what the texts lose in fluency. Distinct is the share of different ones among all pairs of words."
    )
    budgets = ", ".join(f"{budget:g}" for budget in options.budgets)
    section.text.append(
        "Neurons: the contrast of the neurons of the largest text attribution. Random: the same at random neurons of "
        "the same sites, of similar activity. Residual: the difference of means at a layer's output, "
        f"of {words.listing([str(site) for site in options.layers])}. Doses have a divergence from the unsteered "
        f"model, on neutral dev text, of at most {budgets} nats a token. Of the doses and layers whose dev texts rise "
        f"by at most {options.most_rise:g} nats, and repeat little, the most successful is reported, on test. Prompt: "
        f"“{' '.join(options.instruction.split())}”."
    )
    for name, task in result.tasks.items():
        _add_task(section, name, task)
    return section


def _add_task(section: Section, name: str, task: TaskGeneration) -> None:
    judge, second, of_task = task.judge, task.second, words.file_name(name)
    section.text.append(
        f"{name}: the judge of words gives {words.decimal(100 * judge.accuracy, 1)} % of {judge.sentences:,} test "
        f"sentences one of their labels, the second judge ({second.name} on the unsteered model) "
        f"{words.decimal(100 * second.accuracy, 1)} % of {second.sentences:,}. The unsteered model's loss on its own "
        f"texts is {words.decimal(task.loss, 3)} nats a token."
    )
    caption = (
        f"{name}: success over the rise of loss. Lines: the doses on dev, for the residual stream at the chosen layer; "
        "large marks: the chosen dose on test, with its 95 % interval; dotted: without steering."
    )
    section.figures.append(Figure(f"generation-{of_task}", _figure(task.labels), caption))
    source = findings_file("generation")
    rows = [
        [label, method, *_cells(found)] for label, methods in task.labels.items() for method, found in methods.items()
    ]
    section.tables.append(Table(f"generation-{of_task}", f"Generated texts, {name}", _COLUMNS, rows, source))
    versus = [
        [label, method, other, one.difference, one.interval, one.adjusted_p, one.p]
        for label, methods in task.labels.items()
        for method, found in methods.items()
        for other, one in found.versus.items()
    ]
    caption = f"Success of neurons less that of other methods, {name}; p adjusted over the labels"
    section.tables.append(Table(f"versus-{of_task}", caption, _VERSUS, versus, source))
    for label, methods in task.labels.items():
        columns = (Column("beginning", "passage"), *(Column(method, "passage") for method in methods))
        each = len(next(iter(methods.values())).texts) // len(task.beginnings)
        texts = [
            [beginning, *(_shown_text(found, label, place * each) for found in methods.values())]
            for place, beginning in enumerate(task.beginnings[:_SHOWN])
        ]
        caption = f"Texts for {label}; ● where the judge gives the text to the label"
        section.tables.append(Table(f"texts-{words.file_name(label)}", caption, columns, texts, source))


_COLUMNS = (
    Column("label"), Column("method"), Column("neurons", "count"), Column("layer"), Column("β", "number"),
    Column("success", "percent"), Column("interval", "percent interval", "under"), Column("rise, nats", "change"),
    Column("distinct", "percent"), Column("second judge", "percent"), Column("without its words", "percent"),
    Column("words"),
)  # fmt: skip
_VERSUS = (
    Column("label"), Column("method"), Column("less"), Column("difference", "points"),
    Column("interval", "points interval", "under"), Column("adjusted p", "p"), Column("p", "p", "under"),
)  # fmt: skip


def _cells(found: MethodGeneration) -> list[object]:
    """The cells of ``_COLUMNS`` after label and method."""
    setting, score = found.settings[found.chosen], found.score
    return [
        found.neurons, setting.layer, setting.beta, score.success, found.interval, score.rise, score.distinct,
        found.second, found.without_words, " ".join(found.words),
    ]  # fmt: skip


def _shown_text(found: MethodGeneration, label: str, place: int) -> str:
    written = found.texts[place]
    return f"{'● ' if written.judged == label else ''}{' '.join(written.text.split())}"


def _figure(labels: Mapping[str, Mapping[str, MethodGeneration]]) -> Drawing:
    """Success in per cent (y) over the rise of loss in nats a token (x), a panel a label."""
    styles = _method_styles([method for methods in labels.values() for method in methods])
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(labels), 1.9, 0.85)
        for axes, (label, methods) in zip(panels, labels.items(), strict=True):
            axes.grid()
            axes.set_title(short(label))
            for method, found in methods.items():
                if method not in styles:
                    axes.axhline(100 * found.score.success, color=GREY, linewidth=1.2, linestyle=":", zorder=1)
                    continue
                color, marker = styles[method]
                chosen = found.settings[found.chosen]
                line = sorted(
                    (setting.score.rise, 100 * setting.score.success) for setting in _same_place(found, chosen)
                )
                axes.plot(*zip(*line, strict=True), color=color, marker=marker, markersize=3, linewidth=1.1, zorder=2)
                low, high = found.interval
                axes.plot([found.score.rise] * 2, [100 * low, 100 * high], color=color, linewidth=1.4, zorder=3)
                axes.plot(
                    found.score.rise, 100 * found.score.success, color=color, marker=marker, markersize=7.5,
                    markeredgewidth=1.2, zorder=4,
                )  # fmt: skip
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        figure.supxlabel("rise of the unsteered model's loss on the texts, nats a token", fontsize=9)
        figure.supylabel("texts judged to have the label, %", fontsize=9)
        handles = [
            Line2D([], [], color=color, marker=marker, markersize=5, linewidth=1.2, label=method)
            for method, (color, marker) in styles.items()
        ]
        handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle=":", label="unsteered"))
        figure.legend(handles=handles, loc="outside upper left", ncols=4)
        return drawn(figure, alternatives.generation(labels))


def _same_place(found: MethodGeneration, chosen: Setting) -> list[Setting]:
    """The settings of the chosen layer; all of a method without layers."""
    return [setting for setting in found.settings if setting.layer == chosen.layer]


def _method_styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method -> its colour and mark."""
    styles: dict[str, tuple[str, str]] = {}
    for kind, of_kind in _STYLES.items():
        named = dict.fromkeys(method for method in methods if method.split()[0] == kind)
        styles |= {method: of_kind[place % len(of_kind)] for place, method in enumerate(named)}
    return styles
