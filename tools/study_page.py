"""The page of the studies, from their finished runs: ``python -m tools.study_page examples/studies/*.toml``."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from affectron._internal.wording import count, p_value
from affectron.evaluation.verdicts import VERDICTS, Effect
from affectron.experiments.associations import overlap_p
from affectron.experiments.results import MASKS, MethodGeneration
from affectron.neurons import NeuronSet
from affectron.options import COUNT, Select
from affectron.report.averages import mean_curve
from affectron.report.pieces import Pieces
from affectron.report.summary import generated_claims
from affectron.report.text import decimal, percent, points
from affectron.runs import load_config
from affectron.runs.cache import Cache
from affectron.selection import choose
from tools.claims import CLAIMS, EMOTION, FEWEST, Answer, chance

PAGE = Path(__file__).resolve().parents[1] / "docs" / "studies.md"
NONE = "–"


@dataclass(frozen=True)
class Study:
    """A finished run.

    Attributes:
        name: that of its configuration.
        pieces: its results.
        stages: stage -> its duration in seconds, and the most memory that the process held up to its end, in bytes.
    """

    name: str
    pieces: Pieces
    stages: Mapping[str, tuple[float, int]]

    @classmethod
    def read(cls, config: Path) -> Study:
        """Read the run of a configuration.

        Raises:
            InputError: the configuration or a file of the run cannot be used.
        """
        folder = load_config(config).output
        finished = Cache(folder).stages.items()
        stages = {name: (stage.seconds, stage.peak_bytes) for name, stage in finished}
        return cls(config.stem, Pieces.read(folder), stages)


def page(studies: Sequence[Study]) -> str:
    """The page of all studies, in Markdown."""
    return f"""# Studies

`make studies` runs the configurations of `examples/studies` with `affectron run` and writes this page from their
results. Tests, intervals and verdicts are those of [method.md](method.md). Changes of accuracy are in points, on the
label's own test sentences and on the task's others.

## The claims of the paper

The claims are those of Zheng et al. (2026), on other models than theirs. A claim **holds** if a two-sided sign test
over the labels shows every part of it, and **does not hold** if that test shows the opposite of a part. A claim about
every label also fails by one label whose fall is shown, with p adjusted over the labels (Holm). The test takes {FEWEST}
labels at least. Labels that the model answers no better than chance (one-sided binomial test) are left out: they cannot
fall. The last claim compares changes on different sentences (Newcombe 1998). p is not adjusted over the claims. Studies
without emotions are left out.

{_claims([study for study in studies if _emotional(study.pieces)])}
{"".join(map(_study, studies))}{_shared(studies)}"""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _emotional(pieces: Pieces) -> bool:
    return pieces.neurons is not None and EMOTION in pieces.neurons.tasks


def _claims(studies: Sequence[Study]) -> str:
    """A table of the verdicts, and below it the reason of each."""
    answers: dict[str, list[Answer]] = {
        claim.text: [claim.judged(study.pieces) for study in studies] for claim in CLAIMS
    }
    names = [study.name for study in studies]
    table = _table(["claim", *names], ([text, *(a.verdict for a in of_claim)] for text, of_claim in answers.items()))
    reasons = "".join(
        f"- {text}\n"
        + "".join(f"  - {name}: **{a.verdict}**: {a.reason}.\n" for name, a in zip(names, of_claim, strict=True))
        for text, of_claim in answers.items()
    )
    return f"{table}\n{reasons}"


def _study(study: Study) -> str:
    """The section of one study: what it measured, and a part for each result that it has."""
    parts = [f"## {study.name}\n", *_head(study)]
    for title, text, made in _PARTS:
        table = made(study.pieces)
        if table:
            parts += [f"### {title}\n", *([text + "\n"] if text else []), table]
    return "\n".join(parts) + "\n"


def _head(study: Study) -> Iterator[str]:
    validation, neurons = study.pieces.validation, study.pieces.neurons
    if validation is None or neurons is None:
        return
    made, options, widths = validation.provenance, validation.options, neurons.widths
    limit = options.get("limit")
    yield (
        f"{made['model']} ({sum(widths.values()):,} neurons at {count(len(widths), 'site')}) on {made['corpus_name']}; "
        f"neurons by `{neurons.provenance['select']['score']}`, answers by `{options['evaluator']}`, "
        f"{'all' if limit is None else f'at most {limit}'} sentences of a label in dev and in test.\n"
    )
    yield _table(
        ["task", "labels", "test sentences", "chance", "accuracy on dev", "on test"],
        (
            [
                name, len(task.labels), task.test_sentences,
                percent(chance(task)),
                *(percent(task.baseline[options[role]].accuracy) for role in ("dev", "test")),
            ]
            for name, task in validation.tasks.items()
        ),
    )  # fmt: skip
    rows = [[stage, _duration(seconds), _gibibytes(peak)] for stage, (seconds, peak) in study.stages.items()]
    if rows:
        seconds, peaks = zip(*study.stages.values(), strict=True)
        rows.append(["all", _duration(sum(seconds)), _gibibytes(max(peaks))])
        yield _table(["stage", "time", "memory held at most until then"], rows)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _gibibytes(peak: int) -> str:
    return f"{peak / 2**30:.1f} GiB"


def _sources(pieces: Pieces) -> str:
    """Train sentences of each label from each source; nothing without several sources."""
    known: Mapping[str, Mapping[str, int]] = pieces.stats.provenance.get("sources", {}) if pieces.stats else {}
    sources = sorted({source for of_label in known.values() for source in of_label})
    if len(sources) < 2:
        return ""
    rows = ([label, *(of_label.get(source, 0) for source in sources)] for label, of_label in known.items())
    return _table(["label", *sources], rows)


def _change(effect: Effect | None) -> str:
    """Change on own and others' sentences, and the verdict."""
    if effect is None:
        return NONE
    others = NONE if effect.others_delta is None else points(effect.others_delta)
    return f"{points(effect.delta)} / {others}, {effect.verdict}"


def _verdicts(pieces: Pieces) -> str:
    if pieces.validation is None:
        return ""
    stable = pieces.stability.labels if pieces.stability else {}
    return _table(
        ["label", "own sentences", "accuracy", "masked of selected", *MASKS, "split-half Jaccard"],
        (
            [
                label, result.sentences, percent(result.baseline), f"{result.masked} of {result.selected}",
                *(_change(result.masks.get(mask)) for mask in MASKS),
                _number(stable[label].split_half if label in stable else None),
            ]
            for label, result in pieces.validation.results.items()
        ),
    )  # fmt: skip


def _number(value: float | None) -> str:
    return NONE if value is None else decimal(value, 2)


def _mean(values: Iterable[float | None], shown: Callable[[float], str] = points) -> str:
    """The mean of the values that were measured."""
    known = [value for value in values if value is not None]
    return shown(fmean(known)) if known else NONE


def _whole(value: float) -> str:
    return decimal(value, 0)


def _told(effects: Sequence[Effect]) -> str:
    """Number of labels with each verdict that occurs."""
    counts = Counter(effect.verdict for effect in effects)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]) or NONE


def _means(effects: Sequence[Effect]) -> list[str]:
    """Mean changes on own sentences, on the others', and on own under random neurons; and the verdicts."""
    return [
        _mean(effect.delta for effect in effects), _mean(effect.others_delta for effect in effects),
        _mean(effect.random.mean if effect.random else None for effect in effects), _told(effects),
    ]  # fmt: skip


_MEANS = ["Δ own", "Δ others", "Δ own, random neurons", "verdicts"]


def _methods(pieces: Pieces) -> str:
    result = pieces.methods
    if result is None:
        return ""
    labels = [of_label for task in result.tasks.values() for of_label in task.labels.values()]
    rows = []
    for method in result.options.methods:
        compared = [of_label.methods[method] for of_label in labels]
        curve = [
            f"{points(point.height.own)} / {NONE if point.height.others is None else points(point.height.others)}"
            for point in mean_curve(result, method)
        ]
        effects = [of_method.effect for of_method in compared if of_method.effect]
        rows.append([f"`{method}`", _mean((c.selected for c in compared), _whole), *_means(effects), *curve])
    return _table(["method", "neurons", *_MEANS, *(f"best {n}" for n in sorted({*result.options.counts}))], rows)


def _doses(pieces: Pieces) -> str:
    if pieces.ablations is None:
        return ""
    rows: defaultdict[tuple[str, Any], list[Any]] = defaultdict(list)
    for row in pieces.ablations.rows:
        rows[row.sweep, row.setting].append(row)
    return _table(
        ["sweep", "setting", "neurons", *_MEANS],
        (
            [
                sweep,
                setting,
                _mean((row.masked for row in of_one), _whole),
                *_means([row.effect for row in of_one if row.effect]),
            ]
            for (sweep, setting), of_one in rows.items()
        ),
    )


def _estimate(pieces: Pieces) -> str:
    if pieces.estimate is None:
        return ""
    return _table(
        ["task", "rank correlation", "among selected neurons", "effect over attribution"],
        (
            [
                task,
                *(_mean((getattr(of_label, field) for of_label in labels.values()), _number) for field in _CORRELATED),
            ]
            for task, labels in pieces.estimate.tasks.items()
        ),
    )


_CORRELATED = ("correlation", "selected_correlation", "ratio")


def _induction(pieces: Pieces) -> str:
    result = pieces.induction
    if result is None:
        return ""
    rows = []
    blank = [None] * len(result.options.betas)
    for task, labels in result.tasks.items():
        for label, shifted in labels.items():
            cells = [
                f"{percent(share)} ({NONE if random is None else percent(random)}), {_number(loss)}"
                for share, random, loss in zip(shifted.share, shifted.random or blank, shifted.loss_delta, strict=True)
            ]
            rows.append([task, label, percent(shifted.baseline), *cells])
    return _table(["task", "label", "no shift", *(f"β {beta:g}" for beta in result.options.betas)], rows)


def _texts(pieces: Pieces) -> str:
    """Success and rise of each method on test; beside neurons, what they have more than the residual stream."""
    result = pieces.generation
    if result is None:
        return ""
    parts = []
    for name, task in result.tasks.items():
        methods = list(next(iter(task.labels.values())))
        rows = [[label, *(_success(of_label[method]) for method in methods)] for label, of_label in task.labels.items()]
        for told, (value, shown) in _READINGS.items():
            rows.append([told, *(_mean((value(m[method]) for m in task.labels.values()), shown) for method in methods)])
        parts.append(
            f"{name}: {len(task.beginnings)} beginnings, {count(result.options.texts, 'text')} each. The judge of "
            f"words is right on {percent(task.judge.accuracy)} of {task.judge.sentences:,} test sentences, the second "
            "judge "
            f"({task.second.name}) on {percent(task.second.accuracy)} of {task.second.sentences:,}. The unsteered "
            f"model's loss on its texts is {_number(task.loss)} nats a token.\n\n{_table(['label', *methods], rows)}"
        )
    return "\n".join(parts)


def _success(found: MethodGeneration) -> str:
    return f"{percent(found.score.success)}, {_signed(found.score.rise)}"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{decimal(abs(value), 2)}"


#: Row of means -> what it is the mean of, over the labels, and how that is shown.
_READINGS: dict[str, tuple[Callable[[MethodGeneration], float | None], Callable[[float], str]]] = {
    "mean success": (lambda found: found.score.success, percent),
    "mean rise": (lambda found: found.score.rise, _signed),
    "mean distinct pairs": (lambda found: found.score.distinct, _number),
    "mean success, second judge": (lambda found: found.second, percent),
    "mean success, without its words": (lambda found: found.without_words, percent),
}


def _against(pieces: Pieces) -> str:
    """Success of neurons less that of each other method, with interval and adjusted p, and what the tests show."""
    result = pieces.generation
    if result is None:
        return ""
    rows = [
        [
            label, method, other, points(one.difference), f"{points(one.interval[0])} to {points(one.interval[1])}",
            p_value(one.adjusted_p),
        ]
        for task in result.tasks.values()
        for label, methods in task.labels.items()
        for method, found in methods.items()
        for other, one in found.versus.items()
        if other != "unsteered"
    ]  # fmt: skip
    told = "".join(f"- {sentence}\n" for task in result.tasks.values() for sentence in generated_claims(task))
    return f"{told}\n{_table(['label', 'method', 'less', 'difference', '95 % interval', 'adjusted p'], rows)}"


def _examples(pieces: Pieces) -> str:
    """The first texts of each label, as they came."""
    result = pieces.generation
    if result is None:
        return ""
    parts = []
    for task in result.tasks.values():
        for label, methods in task.labels.items():
            shown = [name for name in methods if not name.startswith("random")]
            rows = [
                [beginning, *(_plain(methods[name].texts[place * result.options.texts].text) for name in shown)]
                for place, beginning in enumerate(task.beginnings[:_TEXTS])
            ]
            parts.append(f"{label}:\n\n{_table(['beginning', *shown], rows)}")
    return "\n".join(parts)


#: Texts of each label that the page shows.
_TEXTS = 2


def _plain(text: str) -> str:
    """A text as a cell of a table: on one line, no character read as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _cross_signal(pieces: Pieces) -> str:
    result = pieces.cross_signal
    if result is None:
        return ""
    devices = list(next(iter(result.labels.values())).devices) if result.labels else []
    rows = []
    for label, signals in result.labels.items():
        cells = []
        for device in devices:
            signal = signals.devices[device]
            others = NONE if signal.others_delta is None else points(signal.others_delta)
            told = f"{points(signal.delta)} / {others} ({points(signal.random.mean) if signal.random else NONE})"
            cells.append(f"**{told}**" if signal.helps else told)
        rows.append([label, *cells])
    return _table([result.options.target, *devices], rows)


#: The parts of a study: title, what the table shows, and the function that makes it, which gives nothing where the run
#: has no such result.
_PARTS: tuple[tuple[str, str, Callable[[Pieces], str]], ...] = (
    (
        "Sources",
        "Train sentences of each label by source. Neurons of a label whose sentences come from one source may be\n"
        "those of that source.",
        _sources,
    ),
    (
        "Verdicts",
        "Change on the label's own sentences / on the others', and the verdict, under each mask of the same neurons.",
        _verdicts,
    ),
    (
        "Ways to select",
        "Means over all labels when the neurons are set to zero, and the number of labels with each verdict. On the\n"
        "right, own / others with the best so many neurons of a label's ranking.",
        _methods,
    ),
    ("Dose", "Means over all labels when parts of their neurons are attenuated.", _doses),
    ("Estimate", "Attributions against the effect of zeroing each neuron alone, means over labels.", _estimate),
    (
        "Induction",
        "Share of other labels' sentences that are answered with the label (at random neurons), and the change of\n"
        "their loss in nats a token, over the shift β.",
        _induction,
    ),
    (
        "Generated texts",
        "Share of test texts that the judge gives to the label, and the rise of the unsteered model's loss on them in\n"
        "nats a token, at the dose (and layer) that was chosen on dev.",
        _texts,
    ),
    (
        "Neurons beside other ways to steer",
        "Success of neurons less that of the other method, text by text, p adjusted over the labels.",
        _against,
    ),
    ("Texts", "The first texts of each label, as they came.", _examples),
    (
        "Cross-signal",
        "Change on each label's sentences / on the others' under each signal (on its own, at random neurons); bold\n"
        "where it is shown to help.",
        _cross_signal,
    ),
)


def _shared(studies: Sequence[Study]) -> str:
    """A table of the neurons that two studies of the same weights select for the same label; nothing without any."""
    rows = [
        [label, name, first.name, second.name, *_overlap(one, other, label)]
        for first, second in combinations(studies, 2)
        for name, one, other in _selections(first.pieces, second.pieces)
        for label in one
        if label in other and len(one[label]) and len(other[label])
    ]
    if not rows:
        return ""
    head = ["label", "selected by", "study", "other study", "neurons", "in both", "by chance", "Jaccard", "p"]
    return f"""## The same label in two studies

Neurons that two studies of one model select for a label: those of the run, and as a contrast those of the largest
`{ACTIVITY.score}`, a score of activity. p is hypergeometric. Neurons by attribution may write the answer whatever the
text is: they are then found again under permuted labels too.

{_table(head, rows)}"""


#: A selection by activity, of as many neurons of a label as one by attribution has.
ACTIVITY = Select(score="hedges_g", count=COUNT, sign="positive")


def _selections(first: Pieces, second: Pieces) -> Iterator[tuple[str, NeuronSet, NeuronSet]]:
    """Score, and the neurons of each of two studies of one model that it selects."""
    if first.neurons is None or second.neurons is None or not _same_model(first.neurons, second.neurons):
        return
    yield "as in the run", first.neurons, second.neurons
    if first.stats is not None and second.stats is not None:
        yield f"`{ACTIVITY.score}`", choose(first.stats, None, ACTIVITY), choose(second.stats, None, ACTIVITY)


def _same_model(one: NeuronSet, other: NeuronSet) -> bool:
    return one.provenance.get("weights") == other.provenance.get("weights") and one.widths == other.widths


def _overlap(one: NeuronSet, other: NeuronSet, label: str) -> list[str]:
    first, second = ({neuron[:2] for neuron in neurons[label]} for neurons in (one, other))
    population, common = sum(one.widths.values()), len(first & second)
    return [
        f"{len(first)}, {len(second)}", str(common), decimal(len(first) * len(second) / population, 1),
        decimal(common / len(first | second), 2), p_value(overlap_p(population, len(first), len(second), common)),
    ]  # fmt: skip


def main(configs: Sequence[str]) -> None:
    """Write the page of the runs of these configurations."""
    PAGE.write_text(page([Study.read(Path(config)) for config in configs]), encoding="utf-8")
    print(f"docs/{PAGE.name} is written")


if __name__ == "__main__":
    main(sys.argv[1:])
