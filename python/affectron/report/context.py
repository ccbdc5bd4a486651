"""Values of the page's template, derived from the pieces of a run."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from affectron._internal.artifacts import ATTRIBUTION, CROSS_DATASET, NEURONS, STATS, VALIDATION
from affectron._internal.files import digest
from affectron._internal.options import Options, described
from affectron._internal.wording import count
from affectron.evaluation.verdicts import RULE, SPECIFIC
from affectron.neurons import NeuronSet
from affectron.options import Common, Evaluate, KeepStable, Select, SelectTask, Validate
from affectron.report import text as words
from affectron.report.cards import group_id, shown_neurons
from affectron.report.definitions import decisions, definitions
from affectron.report.pieces import Pieces
from affectron.report.summary import example_pair, generated_claims, induced_claim
from affectron.report.tested import without_texts
from affectron.scores import SCORES, Score, unscored
from affectron.selection import STEPS
from affectron.stats import ActivationStats


@dataclass(frozen=True)
class File:
    """A file of the run folder: its size in bytes, when it was changed (UTC), and its digest; None without the file."""

    name: str
    size: int | None = None
    changed: str | None = None
    digest: str | None = None

    @classmethod
    def of(cls, folder: Path, name: str) -> File:
        """Describe the file ``name`` of ``folder``."""
        path = folder / name
        if not path.is_file():
            return cls(name)
        status = path.stat()
        changed = datetime.datetime.fromtimestamp(int(status.st_mtime), datetime.timezone.utc)
        return cls(name, status.st_size, changed.strftime("%Y-%m-%d %H:%M:%S"), digest(path.read_bytes()))


def page_context(pieces: Pieces, folder: Path, overlaps: Sequence[str]) -> dict[str, Any]:
    """The template's values, but for figures, tables and chapters.

    Args:
        pieces: the run.
        folder: where its files are.
        overlaps: notices of tested sentences that were screened.
    """
    validation, neurons, stats = pieces.validation, pieces.neurons, pieces.stats
    results = validation.results if validation else {}
    provenances = pieces.provenances
    others = [file for file in pieces.results if file not in (VALIDATION, CROSS_DATASET)]
    last = [CROSS_DATASET] if pieces.cross_dataset else []
    sources = (STATS, *([ATTRIBUTION] if pieces.attributions else []), NEURONS)
    files = [File.of(folder, name) for name in (*sources, VALIDATION, *others, *last)]
    model = _first(provenances, "model")
    return {
        "version": metadata.version("affectron"),
        "title": "Label neurons" if model is None else f"Label neurons of {words.plain(model)}",
        "facts": _facts(pieces, files),
        "notices": [*overlaps, *_notices(pieces)],
        "random_sets": any(mask.random for result in results.values() for mask in result.masks.values()),
        "headline": words.headline(results) if results else None,
        "claims": words.claims(results),
        "validation": validation,
        "verdict_rule": RULE,
        "results": results,
        "neurons": None if neurons is None else _neurons(neurons),
        "stats": None if stats is None else _stats(stats),
        "selection": _selection(stats, neurons, shown_neurons(pieces)),
        "layer_axis": "" if neurons is None else words.layer_names(tuple(neurons.widths))[0],
        "methods": definitions(
            active=words.plain(_first(provenances, "active")),
            tokens=words.plain(_first(provenances, "tokens")),
            score=None if neurons is None else _selecting_score(_select_options(neurons)),
            validated=bool(results),
            induced=pieces.induction is not None,
        ),
        "ours": decisions(selected=neurons is not None, validated=bool(results)),
        "options": _options(pieces),
        "files": files,
        "provenance": [
            (name, [(key, words.plain(value)) for key, value in without_texts(provenance).items()])
            for name, provenance in provenances.items()
            if provenance
        ],
        "induced": None if pieces.induction is None else induced_claim(pieces.induction),
        "generated": {
            name: " ".join(generated_claims(task))
            for name, task in (pieces.generation.tasks if pieces.generation else {}).items()
        },
        "example": None if pieces.generation is None else example_pair(pieces.generation),
        "count": count,
        "percent": words.percent,
        "SPECIFIC": SPECIFIC,
    }


def contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, heading) of every section of the page, in order."""
    figures, validation = context["figures"], context["validation"]
    entries = [
        ("summary", "Summary", True),
        ("results", "Results by label", context["results"]),
        ("layers", "Where the neurons lie", "layers" in figures),
        ("overlap", "Overlap of the labels", "overlap" in figures),
        ("feedback", "The feedback loop on dev", "trace" in figures),
        *((chapter.id, chapter.heading, True) for chapter in context["chapters"]),
        ("neuron-cards", "Neuron cards", context["cards"]),
        ("baseline", "Accuracy without intervention", validation and validation.tasks),
        ("corpus", "Corpus and selection", context["selection"]),
        ("methods", "Methods and definitions", True),
        ("options", "Options", context["options"]),
        ("making", "How this was made", True),
    ]
    return [(id, heading) for id, heading, there in entries if there]


def _first(provenances: Mapping[str, Mapping[str, Any]], key: str) -> Any:
    """The first piece's value of a provenance field; None where no piece has it."""
    return next((entry[key] for entry in provenances.values() if entry.get(key) is not None), None)


def _facts(pieces: Pieces, files: Sequence[File]) -> list[tuple[str, str]]:
    """The lines at the head of the page."""
    provenances = pieces.provenances
    facts = []
    for key, name in (("model", "Model"), ("corpus_name", "Corpus"), ("split", "Split measured"), ("dtype", "Type")):
        value = _first(provenances, key)
        if value is not None:
            facts.append((name, words.plain(value)))
    tasks: dict[str, tuple[str, ...]] = {}
    if pieces.validation:
        tasks = {name: task.labels for name, task in pieces.validation.tasks.items()}
    for piece in (pieces.neurons, pieces.stats):
        tasks = {**(piece.tasks if piece else {}), **tasks}
    for task, labels in tasks.items():
        facts.append((f"Labels of {task}", ", ".join(labels)))
    dates = sorted(file.changed for file in files if file.changed is not None)
    dated = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    facts.append(("Files dated", f"{dated} (UTC)"))
    made_with = _first(provenances, "affectron")
    parts = [] if made_with is None else [f"affectron {words.plain(made_with)}"]
    versions = _first(provenances, "versions")
    if isinstance(versions, dict):
        parts += [f"{name} {words.plain(version)}" for name, version in versions.items()]
    if parts:
        facts.append(("Measured with", ", ".join(parts)))
    return facts


def _notices(pieces: Pieces) -> list[str]:
    """Warnings at the head of the page: files that do not belong together or are missing, labels and neurons whose
    numbers mislead."""
    notices = [f"The files of this run do not belong together: {line}." for line in pieces.differences]
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
    """A warning for each label whose sentences come from sources that no other label of its task has."""
    sources = stats.provenance.get("sources") if stats else None
    if stats is None or not isinstance(sources, dict):
        return []
    notices = []
    for task, labels in stats.tasks.items():
        by_label = {label: set(sources[label]) for label in labels if isinstance(sources.get(label), dict)}
        for label, own in by_label.items():
            others = set().union(*(of_other for other, of_other in by_label.items() if other != label))
            if own and others and not own & others:
                notices.append(
                    f"All sentences of {label} come from {words.listing(sorted(own))}, where no other label of {task} "
                    "has any: what sets its neurons apart, and what a mask of them does, may be the source's and not "
                    "the label's."
                )
    return notices


def _neurons(neurons: NeuronSet) -> dict[str, Any]:
    """Values of the selection: labels, number of tasks, the rule in words, whether labels of a task are disjoint."""
    options = _select_options(neurons)
    rule = ""
    if options.get("count") is not None:
        size = f"{options['count']:,} a label"
    else:
        size = f"top {100 * options['top']:.4g}\u00a0%" if "top" in options else ""
    if "score" in options and size:
        rule = f"Selected by {words.plain(options['score'])}, {size}"
        filter_rate = options.get("filter_rate")
        rule += f", activity filter at the {filter_rate:g} quantile." if filter_rate is not None else "."
    return {
        "rows": neurons.labels,
        "tasks": len(neurons.tasks),
        "rule": rule,
        "disjoint": options.get("assign") == "argmax",
    }


#: Options of a selection that act only on a score with one value a neuron, an entropy.
_OF_ENTROPIES = ("filter_rate", "assign", "activation_bar_ratio")


def _select_options(neurons: NeuronSet) -> dict[str, Any]:
    """The options that the selection made use of."""
    recorded = neurons.provenance.get("select")
    if not isinstance(recorded, dict):
        return {}
    options = {name: value for name, value in recorded.items() if name != "removed"}
    score = _selecting_score(options)
    if score is None or not score[1].per_label:
        return options
    return {name: value for name, value in options.items() if name not in _OF_ENTROPIES}


def _selecting_score(options: Mapping[str, Any]) -> tuple[str, Score] | None:
    """Name and description of the score that selected; None where it is not known."""
    name = options.get("score")
    return (name, SCORES[name]) if isinstance(name, str) and name in SCORES else None


def _stats(stats: ActivationStats) -> dict[str, Any]:
    """Values of the statistics: sizes, the unit that is counted, and activations that are not finite."""
    return {
        "uneven": stats.uneven,
        "neurons": sum(stats.widths.values()),
        "sites": len(stats.sites),
        "counted": words.observations(words.plain(stats.provenance.get("tokens"))),
        "nonfinite": int(sum(int(array.sum()) for array in stats.nonfinite.values())),
    }


def _selection(
    stats: ActivationStats | None, neurons: NeuronSet | None, shown: Collection[str]
) -> list[dict[str, Any]]:
    """A row for each label: tokens counted under it, neurons selected for it, the id of their cards, which the labels
    ``shown`` have, and why the others were not selected."""
    task_of = dict(stats.task_of) if stats else {}
    if neurons:
        for label, selected in neurons.items():
            task_of.setdefault(label, selected.task)
    return [
        {
            "label": label,
            "task": task,
            "tokens": stats.tokens(label) if stats and label in stats.task_of else None,
            "neurons": len(neurons[label]) if neurons and label in neurons else None,
            "cards": group_id(label) if label in shown else "",
            "left_out": "" if neurons is None else _left_out(neurons, label),
        }
        for label, task in task_of.items()
    ]


def _left_out(neurons: NeuronSet, label: str) -> str:
    """The neurons that each step of the selection removed: ``3,020 beyond the number asked for``."""
    recorded = neurons.provenance.get("select")
    removed = recorded.get("removed") if isinstance(recorded, dict) else None
    steps = removed.get(label) if isinstance(removed, dict) else None
    if not isinstance(steps, dict):
        return ""
    return ", ".join(
        f"{number:,} {STEPS.get(step, step)}" for step, number in steps.items() if isinstance(number, int) and number
    )


def _options(pieces: Pieces) -> list[tuple[str, list[dict[str, str]]]]:
    """Heading and rows of each table of options."""
    groups: list[tuple[str, Mapping[str, Any], tuple[type[Options], ...]]] = []
    if pieces.neurons is not None:
        groups.append(("Selection", _select_options(pieces.neurons), (SelectTask, Select, KeepStable)))
    if pieces.validation is not None:
        groups.append(("Validation", pieces.validation.options, (Evaluate, Validate, Common)))
    tables = []
    for heading, values, kinds in groups:
        known = {name: about for kind in kinds for name, about in described(kind).items()}
        rows = []
        for name, value in values.items():
            meaning, origin = (known[name].help, known[name].origin) if name in known else ("", "")
            rows.append({"name": name, "value": words.plain(value), "meaning": meaning, "origin": origin})
        if rows:
            tables.append((heading, rows))
    return tables
