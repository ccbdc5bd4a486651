"""Objects print as one short line, and in a notebook as a small table that any content leaves whole."""

from __future__ import annotations

import dataclasses
import inspect
import timeit
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import affectron
from affectron import ActivationStats, Corpus, InputError, NeuronList, NeuronSet, Program
from affectron._internal.display import LENGTH, ROWS, Shown, cut
from affectron.experiments.results import RESULTS, Findings
from affectron.interventions import SiteProgram
from tests.report.reading import Page, written, written_p, written_pair
from tests.support.results import SITES, make_neurons, make_results, make_stats, make_validation
from tests.support.tiny import build

TASKS = {"emotion": ["joy", "love", "anger"], "rhetoric": ["irony", "simile"]}
#: Labels that would break a line, a table or the direction of what is after them.
HOSTILE = (
    '<script>alert("x")</script>', "</td></table>", "a & b", 'say "no"', "it's", "שלום", "مرحبا", "\u202egnp.exe",
    "two\nlines", "tab\tbed", "x" * 500, "👩\u200d🚀", "<!--", "a\u2028b", "-0", "&lt;",
)  # fmt: skip
MANY = {"topic": [f"label {number}" for number in range(10_000)]}


def one_site(tasks: Mapping[str, Any]) -> ActivationStats:
    """Statistics of two neurons, a segment for each label."""
    segments = [(label,) for labels in tasks.values() for label in labels]
    shape = (len(segments), 2)
    arrays = {
        "count": np.arange(1, len(segments) + 1), "active": np.ones(shape, np.int64),
        "nonfinite": np.zeros(shape, np.int64), "mean": np.ones(shape), "m2": np.ones(shape),
        "min": np.zeros(shape, np.float32), "max": np.ones(shape, np.float32),
    }  # fmt: skip
    return ActivationStats(tasks, segments, {"a": arrays}, {"model": "<b>model</b>"})


def of_labels(tasks: Mapping[str, Any]) -> list[Shown]:
    """Objects with every label of the tasks."""
    lists = [
        NeuronList(label, task, [("a", 0, 0.5), ("a", 1, 0.25)]) for task, labels in tasks.items() for label in labels
    ]
    rows = [{"text": f"of {label}", "label": [label], "task": task} for task, names in tasks.items() for label in names]
    programs = [affectron.zero(neurons) for neurons in lists[:30]]
    return [
        one_site(tasks), NeuronSet(lists, {"a": 2}, {"model": "m" * 400}), *lists[:20], *programs,
        *(affectron.schedule(program, half_life=9) for program in programs[:20]),
        Corpus.from_records(rows, label_separator="\0"), *Corpus.from_records(rows[:20], label_separator="\0"),
    ]  # fmt: skip


def parts_of(value: Any) -> list[Shown]:
    """A value and all that is shown inside it."""
    found = [value] if isinstance(value, Shown) else []
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return found + [part for item in inner for part in parts_of(item)]


def read(value: Shown, folder: Path) -> Page:
    file = folder / "cell.html"
    file.write_text(value._repr_html_(), encoding="utf-8")
    return Page(file)


def check(value: Shown, folder: Path) -> Page:
    """Check what every object keeps to: a line within bounds, and a table that is read strictly."""
    line = repr(value)
    assert len(line) <= LENGTH
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{type(value).__name__}(")
    assert line.endswith(")")
    page = read(value, folder)
    assert page.tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    for tag, attributes in page.elements:
        assert attributes.keys() <= {"dir", "scope"}, "neither colours nor styles nor scripts"
        assert tag not in ("td", "th") or attributes["dir"] == "auto"
    for table in page.tables.values():
        assert len(table) <= ROWS + 1
        assert len({len(row) for row in table}) == 1
    return page


@pytest.mark.parametrize("tasks", [TASKS, {HOSTILE[0]: HOSTILE[:8], HOSTILE[1]: HOSTILE[8:]}], ids=["plain", "hostile"])
def test_results_and_all_their_parts_are_short(tasks: Mapping[str, Any], tmp_path: Path) -> None:
    for result in make_results(tasks).values():
        one_of_each = {type(part): part for part in parts_of(result)}
        assert len(one_of_each) > 1
        for part in one_of_each.values():
            check(part, tmp_path)


@pytest.mark.parametrize("tasks", [{"t": HOSTILE[:8], "<i>u</i>": HOSTILE[8:]}, MANY], ids=["hostile", "many"])
def test_any_labels_leave_line_and_table_whole(tasks: Mapping[str, Any], tmp_path: Path) -> None:
    labels = [label for names in tasks.values() for label in names]
    for value in of_labels(tasks):
        page = check(value, tmp_path)
        if isinstance(value, (ActivationStats, NeuronSet, Corpus)):
            assert f"{len(labels):,} labels" in repr(value)
            (table,) = page.tables.values()
            shown = [" ".join(cell) for cell, *_ in table[1:]]
            assert shown == [" ".join(cut(label, 160).split()) for label in value.labels[:ROWS]]
            if len(labels) > ROWS:
                assert f"… and {len(labels) - ROWS:,} more rows" in page.words


def test_a_validation_tells_verdict_change_and_p(tmp_path: Path) -> None:
    validation = make_validation(TASKS, make_neurons(TASKS))
    (table,) = check(validation, tmp_path).tables.values()
    head, *rows = [[" ".join(cell) for cell in row] for row in table]
    assert head == ["label", "mask", "verdict", "Δ own, points", "adjusted p"]
    effects = [
        (label, mask, result.masks[mask])
        for label, result in validation.results.items()
        for mask in ("adaptive", "zero", "mean")
    ]
    assert rows == [
        [label, mask, effect.verdict, f"{written(effect.delta)} {written_pair(list(effect.interval))}",
         written_p(effect.adjusted_p)]
        for label, mask, effect in effects
    ]  # fmt: skip
    line = repr(validation)
    assert all(part in line for part in ("2 tasks", "5 labels", "model emorhet-3m", "split test"))


def test_programs_and_statistics_tell_their_sizes() -> None:
    stats, neurons = make_stats(TASKS), make_neurons(TASKS)
    total = sum(map(len, neurons.values()))
    assert repr(stats).startswith("ActivationStats(activation of 3,072 neurons at 6 sites; 5 labels: ")
    assert repr(stats.label("joy")[SITES[0]]).startswith("SiteStats(512 neurons; ")
    assert repr(neurons).startswith(f"NeuronSet({total} neurons of 5 labels; joy: {len(neurons['joy'])}, ")
    program = affectron.zero(neurons["joy"])
    sites = len(program.sites)
    assert repr(program) == f"Program(zero joy; {len(neurons['joy'])} neurons at {sites} sites)"
    assert repr(neurons["joy"]) == f"NeuronList(joy; {len(neurons['joy'])} neurons at {sites} sites)"
    index = np.arange(100_000)
    wide = SiteProgram(index, *(np.ones(len(index), np.float32) for _ in range(4)))
    assert "int64 [100000]" in repr(wide)
    assert repr(Program({"a": wide}, "wide")) == "Program(wide; 100,000 neurons at 1 site)"
    assert repr(affectron.StatsBuffers(3, 7)) == "StatsBuffers(3 segments of 7 neurons; active by gate; cpu)"
    assert repr(affectron.SegmentPlan(torch.tensor([0, 1, -1]), 2)) == "SegmentPlan(3 rows; 2 segments)"


def test_what_holds_a_model_does_not_print_it(tmp_path: Path) -> None:
    model = build("llama")
    site, *_ = affectron.find_sites(model)
    program = affectron.zero([(site.name, 1)])
    with affectron.intervene(model, [program, None]) as steering:
        (table,) = check(steering, tmp_path).tables.values()
        assert repr(steering) == "Steering(2 requests: zero neurons, none; 1 site touched)"
        assert table[1:] == [[["0"], ["zero neurons"]], [["1"], ["none"]]]
    check(site, tmp_path)
    corpus = Corpus.from_records([{"text": "a", "label": "joy"}])
    exam = affectron.Exam(model, None, corpus)
    check(exam, tmp_path)
    assert repr(exam) == "Exam(model LlamaForCausalLM; corpus records; evaluator label_likelihood)"


def test_every_class_that_is_public_prints_short() -> None:
    written_out = {}
    for home in map(import_module, ("affectron", "affectron.models", "affectron.experiments.results")):
        for name in home.__all__:
            value = getattr(home, name)
            if inspect.isclass(value) and not issubclass(value, (BaseException, tuple, Shown)):
                written_out[name] = value
    # A protocol has no objects of its own, and a reader is one of a model that prints as torch prints it.
    assert sorted(written_out) == ["Given", "Kernel", "Reader"]
    assert all(issubclass(kind, Findings) for kind in RESULTS.values())


def test_large_objects_print_at_once() -> None:
    """Within 10 ms: a repr, and the table of a notebook, of statistics and neurons of a large model."""
    labels = [f"label {number}" for number in range(60)]
    index = np.arange(100_000)
    zeros = np.zeros((60, len(index)))
    arrays = {
        "count": np.ones(60, np.int64), "mean": zeros, "m2": zeros,
        **{name: zeros.astype(np.int64) for name in ("active", "nonfinite")},
        **{name: zeros.astype(np.float32) for name in ("min", "max")},
    }  # fmt: skip
    stats = ActivationStats({"t": labels}, [(label,) for label in labels], {"a": arrays})
    neurons = NeuronSet(
        [NeuronList(label, "t", [("a", at, 0.5) for at in index[:2000].tolist()]) for label in labels],
        {"a": len(index)},
    )
    for value in (stats, stats.label(labels[0])["a"], neurons, neurons[labels[0]], affectron.zero(neurons[labels[0]])):
        assert min(timeit.repeat(value._repr_html_, number=1, repeat=5)) < 0.01
        assert min(timeit.repeat(value.__repr__, number=1, repeat=5)) < 0.01
    assert "label 0: 2,000, " in repr(neurons)


def test_what_is_cut_ends_in_one_ellipsis() -> None:
    assert cut("joy, love, … and more", 12) == "joy, love, …"


def test_an_object_of_a_later_release_is_no_longer_than_others() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(Shown):
        values: tuple[float, ...]
        name: str
        array: Any

    later = Later(tuple(range(10_000)), "n" * 10_000, np.zeros((3, 4)))
    assert repr(later) == f"Later(values=[10,000 items], name='{'n' * 31}…', array=float64 [3, 4])"
    with pytest.raises(InputError, match="label"):
        make_neurons(TASKS)["none"]
