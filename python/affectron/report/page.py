"""From a run folder to ``index.html``: reads the pieces, derives the page's content, writes everything at the end.

Apart from the figures and the sentences, which know nothing of files. Nothing is written before all of it has been
made, so a report is whole or not there.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from affectron._internal.files import atomic_write, digest
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.experiments.findings import KINDS, Findings
from affectron.experiments.results import LabelResult, ValidationResult, read_validation
from affectron.neurons import NeuronSet
from affectron.report import sections as experiments
from affectron.report import text as words
from affectron.report.tables import cell_text
from affectron.report.tested import overlap_notices, without_texts
from affectron.scores import SCORES, Score, unscored
from affectron.stats import PAIRS, ActivationStats

#: Findings of the screened sentences themselves, or of none.
_UNTESTED = ("associations", "stability")

STATS, NEURONS, VALIDATION, CROSS = "stats.safetensors", "neurons.json", "validation.json", "cross_dataset.json"

#: What the pieces of one run must agree on, and how the page names it.
_SAME = {"model_hash": "model configuration", "weights": "weights", "tokenizer": "tokenizer"}

_NOTES, _OURS = "published notes", "ours"
#: What each option means, and where it comes from, with the value named there.
_VALIDATION_OPTIONS = {
    "evaluator": ("how the model's answer is read", _OURS),
    "prompts": ("prompt of each task; {text} is the sentence", _OURS),
    "alpha": ("α in the first round", _OURS),
    "alpha_step": ("what each round adds to α", _OURS),
    "alpha_cap": ("largest α", _OURS),
    "share": ("share τ of the label's neurons in the first round", f"{_NOTES}: 0.1"),
    "share_step": ("what each round adds to the share", _OURS),
    "share_cap": ("largest share", _OURS),
    "min_drop": ("drop of dev accuracy (a fraction) at which the loop stops", _OURS),
    "random_sets": ("random neuron sets for comparison", _OURS),
    "bootstrap": ("resamples behind each interval", _OURS),
    "seed": ("of random sets and resamples", _OURS),
    "dev": ("split that the loop sees", _NOTES),
    "test": ("split that is reported", _NOTES),
    "limit": ("most sentences of a label in a split", _OURS),
    "neutral": ("text for the loss without any label", _OURS),
}
_SELECT_OPTIONS = {
    "task": ("contrasts within this task; none given: every task", _NOTES),
    "top": ("share of all neurons that is taken", f"{_NOTES}: 0.01"),
    "score": ("what neurons are ranked by", _NOTES),
    "filter_rate": ("activity filter: some P must exceed this quantile of all P", "LAPE (Tang et al. 2024): 0.95"),
    "assign": (
        "argmax: to the label of highest P; bar: to every label above the bar",
        "Lee et al. 2025: argmax; LAPE: bar",
    ),
    "activation_bar_ratio": ("quantile of all P that is the bar", "LAPE: 0.95"),
    "sign": ("keep one sign of the contrast only", _OURS),
    "min_effect": ("least absolute Hedges g; of pairs, Cohen's d", _OURS),
    "fdr": ("false discovery rate on Welch's t test; of pairs, on Student's", _OURS),
    "min_count": ("least active tokens of the label", _OURS),
    "min_frequency": ("least frequency of being selected under resampling", _OURS),
}


@dataclass(frozen=True)
class _Drawing:
    number: int
    svg: str
    file: str


@dataclass
class _Pieces:
    """What the run folder holds; None for what it does not."""

    stats: ActivationStats | None = None
    neurons: NeuronSet | None = None
    validation: ValidationResult | None = None
    findings: dict[str, Findings] = field(default_factory=dict)
    other: ValidationResult | None = None

    def sources(self) -> dict[str, ActivationStats | NeuronSet]:
        """Statistics and neurons, which were made of screened sentences."""
        found = {STATS: self.stats, NEURONS: self.neurons}
        return {name: piece for name, piece in found.items() if piece is not None}

    def tests(self) -> dict[str, dict[str, Any]]:
        """The provenance and the options of what was made of tested sentences."""
        found = {VALIDATION: self.validation, CROSS: self.other}
        return {
            name: {"provenance": piece.provenance, "options": piece.options}
            for name, piece in found.items()
            if piece is not None
        } | {f"{kind}.json": one.content for kind, one in self.findings.items() if kind not in _UNTESTED}

    def provenances(self) -> dict[str, dict[str, Any]]:
        found = {**self.sources(), VALIDATION: self.validation, CROSS: self.other}
        return {name: piece.provenance for name, piece in found.items() if piece is not None} | {
            f"{kind}.json": one["provenance"] for kind, one in self.findings.items()
        }


def build_report(
    run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, allow_overlap: bool = False
) -> Path:
    """Write the report of a run: one HTML page that needs no network, and its figures as SVG files beside it.

    Args:
        run: a folder with any of ``stats.safetensors``, ``neurons.json`` and ``validation.json``. What is absent
            is left out, and the page says so.
        out: the folder to write to, made if need be; ``<run>/report`` when None.
        allow_overlap: state that tested sentences were screened, in place of refusing it; what a file states itself
            is stated in any case.

    Returns:
        the path of ``index.html``. The same files give the same bytes.

    Raises:
        InputError: no such folder, none of the three files in it, one of them cannot be used, tested sentences were
            screened, the page cannot be written, or matplotlib or jinja2 is not installed.
    """
    folder = Path(run)
    target = folder / "report" if out is None else Path(out)
    if not folder.is_dir():
        raise InputError(f"run folder {folder} is not a folder, expected one with {STATS}, {NEURONS}, {VALIDATION}")
    if not any((folder / name).is_file() for name in (STATS, NEURONS, VALIDATION)):
        raise InputError(f"run folder {folder} has none of {STATS}, {NEURONS}, {VALIDATION}")
    try:
        import jinja2

        from affectron.report import figures
    except ImportError as error:
        raise InputError(
            f"a report needs {error.name or error}, which is not installed: pip install affectron[report]"
        ) from error

    pieces = _Pieces()
    if (folder / STATS).is_file():
        pieces.stats = ActivationStats.load(folder / STATS)
    if (folder / NEURONS).is_file():
        pieces.neurons = NeuronSet.load(folder / NEURONS)
    if (folder / VALIDATION).is_file():
        pieces.validation = read_validation(folder / VALIDATION)
    for kind in KINDS:
        if (folder / f"{kind}.json").is_file():
            pieces.findings[kind] = Findings.load(folder / f"{kind}.json", kind)
    if (folder / CROSS).is_file():
        pieces.other = read_validation(folder / CROSS)
    if pieces.validation and pieces.neurons:
        _check_sites(pieces.validation, pieces.neurons)
    overlaps = overlap_notices(pieces.tests(), pieces.sources(), allow_overlap)

    drawn = _draw(pieces, figures)
    chapters = experiments.sections(pieces.findings, pieces.other, figures)
    drawn |= {name: drawing for chapter in chapters for name, drawing, _ in chapter.figures}
    tables = [table for chapter in chapters for table in chapter.tables]
    if pieces.validation and any(pieces.validation.labels()):
        caption = "Change of test accuracy under each mask"
        tables.append(experiments.results_table(pieces.validation, "results", caption, VALIDATION))
    titles = {name: f"Figure {place}: {name}" for place, name in enumerate(drawn, start=1)}
    context = _context(pieces, folder, overlaps)
    context["figures"] = {
        name: _Drawing(place, figures.inline(drawing.svg, f"f{place}", titles[name]), f"figure-{name}")
        for place, (name, drawing) in enumerate(drawn.items(), start=1)
    }
    context["chapters"] = chapters
    context["contents"] = _contents(context)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(
        resources.files("affectron.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    page = words.clean(template.render(context))

    files = {f"figure-{name}.svg": drawing.svg.encode() for name, drawing in drawn.items()}
    files |= {f"figure-{name}.png": drawing.png for name, drawing in drawn.items()}
    files |= {f"table-{table.name}.csv": words.clean(table.csv()).encode() for table in tables}
    files |= {f"table-{table.name}.tex": words.clean(table.latex()).encode() for table in tables}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("figure-*.svg", "figure-*.png", "table-*.csv", "table-*.tex"):
            for file in target.glob(pattern):
                if file.name not in files:  # left by an earlier report of a run that had more
                    file.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror or error}") from error
    for name, content in files.items():
        _write(target / name, content)
    _write(target / "index.html", page.encode())
    return target / "index.html"


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _draw(pieces: _Pieces, figures: Any) -> dict[str, Any]:
    """Name -> drawing of every figure that there are numbers for, in order."""
    drawn = {}
    results = list(pieces.validation.labels()) if pieces.validation else []
    if pieces.validation and results:
        drawn["accuracy"] = figures.accuracy_figure(pieces.validation.tasks)
    if pieces.neurons and any(len(neurons) for neurons in pieces.neurons.values()):
        sites, counts = pieces.neurons.site_counts()
        selected = {
            label: dict(zip(sites, map(int, row), strict=True))
            for label, row in zip(pieces.neurons.labels, counts, strict=True)
        }
        drawn["layers"] = figures.layers_figure(selected, {result.label: result.sites for result in results}, sites)
        if len(pieces.neurons) > 1:
            labels, jaccard = pieces.neurons.overlap()
            drawn["overlap"] = figures.overlap_figure(
                labels,
                jaccard,
                [len(pieces.neurons[label]) for label in labels],
                [pieces.neurons[label].task for label in labels],
            )
    if pieces.validation and any(result.trace for result in results):
        min_drop = pieces.validation.options.get("min_drop")
        known = isinstance(min_drop, (int, float)) and math.isfinite(min_drop)
        drawn["trace"] = figures.trace_figure(results, min_drop if known else None)
    return drawn


def _check_sites(validation: ValidationResult, neurons: NeuronSet) -> None:
    for result in validation.labels():
        for site in result.sites:
            if site not in neurons.widths:
                raise InputError(f"{VALIDATION}: site {site!r} of label {result.label!r} is not in {NEURONS}")


def _context(pieces: _Pieces, folder: Path, overlaps: Sequence[str]) -> dict[str, Any]:
    validation, neurons, stats = pieces.validation, pieces.neurons, pieces.stats
    results = list(validation.labels()) if validation else []
    provenances = pieces.provenances()
    others = [f"{kind}.json" for kind in pieces.findings] + ([CROSS] if pieces.other else [])
    files = [_file(folder, name) for name in (STATS, NEURONS, VALIDATION, *others)]
    model = _first(provenances, "model")
    return {
        "version": metadata.version("affectron"),
        "title": "Label neurons" if model is None else f"Label neurons of {_shown(model)}",
        "facts": _facts(pieces, provenances, files),
        "notices": [*overlaps, *_notices(pieces, provenances)],
        "random_sets": any(result.random for result in results),
        "headline": words.headline(results),
        "validation": validation,
        "verdict_rule": experiments.RULE,
        "results": results,
        "neurons": None if neurons is None else _neurons(neurons),
        "stats": None if stats is None else _stats(stats),
        "selection": _selection(stats, neurons),
        "layer_axis": "" if neurons is None else words.layer_names(tuple(neurons.widths))[0],
        "table_text": _table_text(results),
        "beats_rule": BEATS_RULE,
        "methods": _methods(pieces, provenances),
        "ours": _ours(pieces),
        "options": _options(pieces),
        "files": files,
        "provenance": [
            (name, [(key, _shown(value)) for key, value in without_texts(provenance).items()])
            for name, provenance in provenances.items()
            if provenance
        ],
        "count": count,
        "decimal": words.decimal,
        "signed": words.signed,
        "percent": words.percent,
        "points": words.points,
        "pair": words.pair,
        "plain": _shown,
        "below_zero": words.below_zero,
        "label_sentence": words.label_sentence,
    }


#: The rule as the validation applies it.
BEATS_RULE = "yes where the adaptive mask's change lies below the whole interval of the random sets."


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    figures, validation = context["figures"], context["validation"]
    entries = [
        ("summary", "Summary", True),
        ("results", "Results by label", context["results"]),
        ("layers", "Where the neurons lie", "layers" in figures),
        ("overlap", "Overlap of the labels", "overlap" in figures),
        ("feedback", "The feedback loop on dev", "trace" in figures),
        *((chapter.id, chapter.heading, True) for chapter in context["chapters"]),
        ("baseline", "Accuracy without intervention", validation and validation.tasks),
        ("corpus", "Corpus and selection", context["selection"]),
        ("methods", "Methods and definitions", True),
        ("options", "Options", context["options"]),
        ("making", "How this was made", True),
    ]
    return [(id, heading) for id, heading, there in entries if there]


def _shown(value: Any) -> str:
    """A JSON value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return ", ".join(_shown(item) for item in value)
    return json.dumps(value, ensure_ascii=False, indent=1 if isinstance(value, dict) else None)


def _first(provenances: Mapping[str, Mapping[str, Any]], key: str) -> Any:
    """The first piece's value of a provenance field; None where no piece has it."""
    return next((entry[key] for entry in provenances.values() if entry.get(key) is not None), None)


def _file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {"name": name, "size": None}
    found = path.stat()
    changed = datetime.datetime.fromtimestamp(int(found.st_mtime), datetime.timezone.utc)
    return {
        "name": name,
        "size": found.st_size,
        "changed": changed.strftime("%Y-%m-%d %H:%M:%S"),
        "digest": digest(path.read_bytes()),
    }


def _facts(
    pieces: _Pieces, provenances: Mapping[str, Mapping[str, Any]], files: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    facts = []
    for key, name in (("model", "Model"), ("corpus_name", "Corpus"), ("split", "Split measured"), ("dtype", "Type")):
        value = _first(provenances, key)
        if value is not None:
            facts.append((name, _shown(value)))
    tasks: dict[str, tuple[str, ...]] = {}
    if pieces.validation:
        tasks = {task.name: task.labels for task in pieces.validation.tasks}
    for piece in (pieces.neurons, pieces.stats):
        tasks = {**(piece.tasks if piece else {}), **tasks}
    for task, labels in tasks.items():
        facts.append((f"Labels of {task}", ", ".join(labels)))
    dates = sorted(file["changed"] for file in files if file["size"] is not None)
    facts.append(("Files dated", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"))
    facts[-1] = (facts[-1][0], facts[-1][1] + " (UTC)")
    versions = _first(provenances, "versions")
    parts = [f"affectron {_shown(_first(provenances, 'affectron'))}"] if _first(provenances, "affectron") else []
    if isinstance(versions, dict):
        parts += [f"{name} {_shown(version)}" for name, version in versions.items()]
    if parts:
        facts.append(("Measured with", ", ".join(parts)))
    return facts


def _notices(pieces: _Pieces, provenances: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notices = []
    for key, name in _SAME.items():
        having = [(file, entry[key]) for file, entry in provenances.items() if entry.get(key) is not None]
        if any(value != having[0][1] for _, value in having):
            found = "; ".join(f"{file}: {_shown(value)}" for file, value in having)
            notices.append(f"The files of this run do not belong together: the {name} differ ({found}).")
    missing = {
        STATS: (pieces.stats, "token counts are left out"),
        NEURONS: (pieces.neurons, "neurons by layer and overlap of labels are left out"),
        VALIDATION: (pieces.validation, "nothing is said about what the neurons do"),
    }
    notices += [
        f"There is no {name} in the run folder: {consequence}."
        for name, (piece, consequence) in missing.items()
        if piece is None
    ]
    left_out = pieces.stats and unscored(pieces.stats, list(pieces.stats.tasks))
    if left_out:
        notices.append(f"Not every neuron could be selected. {left_out[0].upper()}{left_out[1:]}.")
    return notices + _own_sources(pieces.stats)


def _own_sources(stats: ActivationStats | None) -> list[str]:
    """A warning for each label whose sentences come from where no other label of its task has any."""
    sources = stats.provenance.get("sources") if stats else None
    if stats is None or not isinstance(sources, dict):
        return []
    notices = []
    for task, labels in stats.tasks.items():
        found = {label: set(sources[label]) for label in labels if isinstance(sources.get(label), dict)}
        for label, own in found.items():
            others = set().union(*(theirs for other, theirs in found.items() if other != label))
            if own and others and not own & others:
                notices.append(
                    f"All sentences of {label} come from {words.listing(sorted(own))}, where no other label of {task} "
                    "has any: what sets its neurons apart, and what a mask of them does, may be the source's and not "
                    "the label's."
                )
    return notices


def _neurons(neurons: NeuronSet) -> dict[str, Any]:
    options = _select_options(neurons)
    rule = ""
    if "score" in options and "top" in options:
        rule = f"Selected by {_shown(options['score'])}, top {100 * options['top']:g}\u00a0%"
        filter_rate = options.get("filter_rate")
        rule += f", activity filter at the {filter_rate:g} quantile." if filter_rate is not None else "."
    return {
        "rows": neurons.labels,
        "tasks": len(neurons.tasks),
        "rule": rule,
        "disjoint": options.get("assign") == "argmax",
    }


#: The options of a selection that only a score of one value a neuron, an entropy, makes use of.
_OF_ENTROPIES = ("filter_rate", "assign", "activation_bar_ratio")


def _select_options(neurons: NeuronSet) -> dict[str, Any]:
    """The options that the selection made use of."""
    options = neurons.provenance.get("select")
    if not isinstance(options, dict):
        return {}
    score = _score(options)
    if score is None or not score.per_label:
        return options
    return {name: value for name, value in options.items() if name not in _OF_ENTROPIES}


def _score(options: Mapping[str, Any]) -> Score | None:
    name = options.get("score")
    return SCORES.get(name) if isinstance(name, str) else None


def _stats(stats: ActivationStats) -> dict[str, Any]:
    return {
        "uneven": stats.uneven,
        "neurons": sum(stats.widths.values()),
        "sites": len(stats.sites),
        "counted": words.observations(_shown(stats.provenance.get("tokens"))),
        "nonfinite": int(sum(int(array.sum()) for array in stats.nonfinite.values())),
    }


def _selection(stats: ActivationStats | None, neurons: NeuronSet | None) -> list[dict[str, Any]]:
    """A row a label: tokens counted under it and neurons selected for it."""
    task_of: dict[str, str] = dict(stats.task_of) if stats else {}
    for label in neurons or ():
        task_of.setdefault(label, neurons[label].task)  # type: ignore[index]
    rows = []
    for label, task in task_of.items():
        tokens = None
        if stats and label in stats.task_of:
            tokens = stats.tokens(label)
        selected = len(neurons[label]) if neurons and label in neurons else None
        rows.append({"label": label, "task": task, "tokens": tokens, "neurons": selected})
    return rows


def _table_text(results: Sequence[LabelResult]) -> str:
    """The main table for spreadsheets: ASCII minus signs, intervals in columns of their own, nothing rounded twice."""
    masks = [f"{name}_{part}" for name in ("adaptive", "zero", "mean") for part in ("delta", "low", "high")]
    lines = [
        [
            "task", "label", "neurons", "masked", "sentences", "baseline", *masks, "random_sets", "random_mean",
            "random_low", "random_high", "others_delta", "others_low", "others_high", "loss_delta", "beats_random",
        ]
    ]  # fmt: skip

    def hundredfold(*values: float | None) -> list[str]:
        return ["" if value is None else f"{100 * value:.6g}" for value in values]

    nothing = (None, None)
    for result in results:
        line = [cell_text(" ".join(name.split())) for name in (result.task, result.label)]
        line += [str(result.selected), str(result.masked), str(result.sentences), *hundredfold(result.baseline)]
        for name in ("adaptive", "zero", "mean"):
            mask = result.masks.get(name)
            line += hundredfold(mask.delta, *(mask.interval or nothing)) if mask else [""] * 3
        drawn = result.random
        line += [str(drawn.sets), *hundredfold(drawn.mean, *drawn.interval)] if drawn else [""] * 4
        mask = result.masks.get("adaptive")
        line += hundredfold(mask.others_delta, *(mask.others_interval or nothing)) if mask else [""] * 3
        line.append("" if mask is None or mask.loss_delta is None else f"{mask.loss_delta:.6g}")
        line.append("" if result.beats_random is None else ("yes" if result.beats_random else "no"))
        lines.append(line)
    return "\n".join("\t".join(line) for line in lines)


def _methods(pieces: _Pieces, provenances: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    active, tokens = _shown(_first(provenances, "active")), _shown(_first(provenances, "tokens"))
    rules = {
        "gate": "the gate's activation is above 0, act(g) > 0; in a plain MLP, act(z) > 0 (rule “gate”)",
        "product": "its activation is above 0, h > 0 (rule “product”)",
    }
    sets = {
        "all": "Every token of a sentence is counted",
        "last": "Only a sentence's last token is counted",
        "mean": "A sentence is one observation, the mean over its tokens",
        PAIRS: "A pair is one observation, the difference of the means over the tokens of its two texts",
    }
    methods = [
        (
            "Neuron",
            "The i-th input of an MLP block's last linear layer. Its activation at a token is h = act(g)·u in a gated "
            "MLP, h = act(z) in a plain one. A site is one MLP block.",
        ),
        ("Active", f"A neuron is active at a token where {rules.get(active, 'the rule of the statistics says so')}."),
        ("Tokens", f"{sets.get(tokens, 'The rule is that of the statistics')}; padding and prompt templates are never "
         "counted. P = active / counted tokens, for each neuron and label."),
        ("Label and task", "A sentence carries one or more labels; a label belongs to one task, and labels are "
         "contrasted within their task only."),
    ]  # fmt: skip
    if pieces.neurons is not None:
        options = _select_options(pieces.neurons)
        score = _score(options)
        if score is not None:
            methods.append((f"Score “{options['score']}”", f"{score.description}."))
    if pieces.validation is not None and any(pieces.validation.labels()):
        methods += [
            ("Adaptive mask", "Of the label's neurons, the share τ with the largest |mean under the label − mean of "
             "the rest| / |mean of all| is attenuated by α. If the label's accuracy on dev has not dropped by the "
             "wanted amount, α and τ are raised, up to their caps; the last setting is used on test."),
            ("Attenuation", "Dynamic: h′ = h · max(1 − α·|h|/M, 1 − α), by each token's own activation. Static: "
             "h′ = h · (1 − α·A/M). A is the absolute mean, M the largest absolute activation under the label."),
            ("Zero and mean mask", "The same neurons set to 0, or to their mean over all tokens of the task."),
            ("Random sets", "As many neurons at each site, drawn at random, attenuated in the same way: what losing "
             "any neurons costs."),
            ("Others' Δ", "Change of accuracy on the sentences of the task's other labels: how specific the mask is."),
            ("Loss Δ", "Change of next-token loss on neutral text, in nats a token: what else the mask breaks."),
            ("Intervals", "Those of a mask: 95 % bootstrap over test sentences. That of the random sets: the middle "
             "95 % of the sets."),
        ]  # fmt: skip
    if "induction" in pieces.findings:
        methods.append(("Induction", "h′ = h + β · mean activation under the label, at the label's neurons."))
    return methods


def _ours(pieces: _Pieces) -> list[str]:
    """What the notes on the paper leave open and this run had to decide."""
    choices = [
        "The activity rule and the token rule, as stored with the statistics; both are options.",
    ]
    if pieces.neurons is not None:
        choices.append("The optional screens of the selection (sign, effect size, false discovery rate, least count).")
    if pieces.validation is not None and any(pieces.validation.labels()):
        choices += [
            "Whether attenuation is static or by each token: the notes leave it open.",
            "Where α starts, its step and cap, the step and cap of the share, and the drop at which the loop stops.",
            "The number of random sets and of bootstrap resamples, the prompts, and the neutral text.",
        ]
    return choices


def _options(pieces: _Pieces) -> list[tuple[str, list[dict[str, str]]]]:
    tables = []
    sources: list[tuple[str, Mapping[str, Any], Mapping[str, tuple[str, str]]]] = []
    if pieces.neurons is not None:
        sources.append(("Selection", _select_options(pieces.neurons), _SELECT_OPTIONS))
    if pieces.validation is not None:
        sources.append(("Validation", pieces.validation.options, _VALIDATION_OPTIONS))
    for heading, values, known in sources:
        rows = []
        for name, value in values.items():
            meaning, origin = known.get(name, ("", ""))
            rows.append({"name": name, "value": _shown(value), "meaning": meaning, "origin": origin})
        if rows:
            tables.append((heading, rows))
    return tables
