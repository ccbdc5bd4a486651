"""Frames hold the objects' own numbers, under stated names and types."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import polars
import pytest

import affectron
from affectron import ActivationStats, Corpus, NeuronList, NeuronSet, Program, stats
from affectron.experiments.results import MASKS, Findings, Induction, Methods, Validation
from tests.support.errors import message
from tests.support.results import SITES, WIDTH, make_neurons, make_results, make_stats, make_validation

TASKS = {"emotion": ["joy", "love", "anger"], "rhetoric": ["irony", "simile"]}
LABELS = [label for labels in TASKS.values() for label in labels]
RESULTS = make_results(TASKS)


def types(frame: Any) -> dict[str, str]:
    return {name: str(kind) for name, kind in frame.dtypes.items()}


def test_statistics_have_a_row_for_each_neuron_and_label() -> None:
    made = make_stats(TASKS)
    frame = made.to_pandas()
    assert types(frame) == {
        "label": "category", "task": "category", "site": "category", "index": "int64", "count": "int64",
        "active": "int64", "nonfinite": "int64", "rate": "float64", "mean": "float64", "std": "float64",
        "min": "float32", "max": "float32",
    }  # fmt: skip
    assert len(frame) == len(LABELS) * len(SITES) * WIDTH
    assert list(frame.site.cat.categories) == SITES, "in forward order"
    for label in LABELS:
        for site, part in made.label(label).items():
            rows = frame[(frame.label == label) & (frame.site == site)]
            assert set(rows.task) == {made.task_of[label]}
            assert rows["index"].tolist() == list(range(WIDTH))
            assert set(rows["count"]) == {part.count}
            for name, array in (("rate", part.rate), ("mean", part.mean), ("std", part.var**0.5), ("max", part.max)):
                np.testing.assert_array_equal(rows[name], array)
            pandas.testing.assert_frame_equal(
                rows[rows.columns[3:]].reset_index(drop=True), part.to_pandas(), check_index_type=False
            )


def test_labels_and_sites_of_statistics_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_stats(TASKS)
    whole = made.to_pandas()
    for labels, sites in (
        ("joy", SITES[1]),
        (["love", "joy", "love"], SITES[3:1:-1]),
        (None, SITES[0]),
        ("irony", None),
    ):
        part = made.to_pandas(labels, sites)
        asked = [labels] if isinstance(labels, str) else labels or list(made.labels)
        at = [sites] if isinstance(sites, str) else sites or SITES
        assert list(part.label.unique()) == list(dict.fromkeys(asked))
        assert list(part.site.unique()) == at
        expected = whole[whole.label.isin(asked) & whole.site.isin(at)]
        assert sorted(part["mean"]) == sorted(expected["mean"])
    for none in (made.to_pandas([]), made.to_pandas("joy", [])):
        assert len(none) == 0
        assert types(none) == types(whole)
    assert "label 'envy' is not in the statistics" in message(lambda: made.to_pandas("envy"))
    assert "site 'x' is not in the statistics" in message(lambda: made.to_pandas(sites="x"))
    monkeypatch.setattr(stats, "MOST_ROWS", 5 * WIDTH)
    assert len(made.to_pandas(sites=SITES[0])) == 5 * WIDTH
    assert message(lambda: made.to_pandas(sites=SITES[:2])) == (
        f"5 labels of 1,024 neurons make {10 * WIDTH:,} rows, expected at most {5 * WIDTH:,}; choose labels or sites"
    )


def test_what_is_not_observed_is_missing() -> None:
    arrays = {
        "count": [3, 0], "active": [[1], [0]], "nonfinite": [[3], [0]], "mean": [[0.0], [0.0]], "m2": [[0.0], [0.0]],
        "min": np.zeros((2, 1), np.float32), "max": np.zeros((2, 1), np.float32),
    }  # fmt: skip
    frame = ActivationStats({"t": ["a", "b"]}, [("a",), ("b",)], {"s": arrays}).to_pandas()
    assert frame["rate"].isna().tolist() == [False, True]
    assert frame["mean"].isna().all()
    assert frame["std"].isna().all()


def test_neurons_have_rank_and_score() -> None:
    neurons = NeuronSet(
        [NeuronList("joy", "t", [("b", 4, 0.5), ("a", 9, 0.25)]), NeuronList("none", "t", []),
         NeuronList("love", "u", [("a", 0, -1.0)])],
        {"a": 10, "b": 10},
    )  # fmt: skip
    frame = neurons.to_pandas()
    assert types(frame) == {
        "label": "category", "task": "category", "rank": "int64", "site": "category", "index": "int64",
        "score": "float64",
    }  # fmt: skip
    assert frame.to_numpy().tolist() == [
        ["joy", "t", 1, "b", 4, 0.5], ["joy", "t", 2, "a", 9, 0.25], ["love", "u", 1, "a", 0, -1.0],
    ]  # fmt: skip
    assert neurons["joy"].to_pandas().to_numpy().tolist() == frame.to_numpy().tolist()[:2]
    for made in (frame, neurons["joy"].to_pandas()):
        assert list(made.site.cat.categories) == ["a", "b"], "in forward order"
    empty = neurons["none"].to_pandas()
    assert types(empty) == types(frame)
    assert len(empty) == 0


def test_a_program_has_its_parameters() -> None:
    made = make_stats(TASKS)
    program = affectron.attenuate(make_neurons(TASKS)["joy"], made, 0.3)
    frame = program.to_pandas()
    assert types(frame) == {
        "site": "category", "index": "int64",
        **dict.fromkeys(("scale", "damping", "floor", "shift"), "float32"),
    }  # fmt: skip
    for site, part in program.sites.items():
        rows = frame[frame.site == site]
        for name in ("index", "scale", "damping", "floor", "shift"):
            np.testing.assert_array_equal(rows[name], getattr(part, name))
    assert len(frame) == len(program)
    assert types(Program({}, "empty").to_pandas()) == types(frame)


def test_a_validation_has_a_row_for_each_label_and_mask() -> None:
    validation = make_validation(TASKS, make_neurons(TASKS))
    frame = validation.to_pandas().set_index(["label", "mask"])
    assert len(frame) == len(LABELS) * len(MASKS)
    for label, result in validation.results.items():
        for name, mask in result.masks.items():
            row = frame.loc[label, name]
            assert mask.random is not None
            assert (row.delta, row.p, row.adjusted_p) == (mask.delta, mask.p, mask.adjusted_p)
            assert (row.interval_low, row.interval_high) == mask.interval
            assert (row.random_p, row.random_sets) == (mask.random.p, mask.random.sets)
            assert (row.verdict, row.reason, row.loss_delta) == (mask.verdict, mask.reason, mask.loss_delta)
            assert (row.selected, row.alpha, row.baseline) == (result.selected, result.alpha, result.baseline)
    assert {name: kind for name, kind in types(frame).items() if name in ("delta", "lost", "selected", "verdict")} == {
        "delta": "float64", "lost": "Int64", "verdict": "string", "selected": "int64",
    }  # fmt: skip


def test_a_label_without_neurons_keeps_its_row() -> None:
    validation = make_validation(TASKS, make_neurons(TASKS))
    task = validation.tasks["emotion"]
    without = dataclasses.replace(task.results["joy"], masks={}, selected=0)
    tasks = {"emotion": dataclasses.replace(task, results={**task.results, "joy": without})}
    frame = dataclasses.replace(validation, tasks=tasks).to_pandas()
    (row,) = frame[frame.label == "joy"].to_dict("records")
    assert row["selected"] == 0
    for name in ("mask", "delta", "lost", "verdict", "random_p", "interval_low"):
        assert pandas.isna(row[name])


def test_other_results_have_their_numbers() -> None:
    induction, methods = RESULTS["induction"], RESULTS["methods"]
    assert isinstance(induction, Induction)
    assert isinstance(methods, Methods)
    shifted = induction.to_pandas().set_index(["label", "beta"])
    of_joy = induction.tasks["emotion"]["joy"]
    for place, beta in enumerate(induction.options.betas):
        row = shifted.loc["joy", beta]
        assert (row.share, row.interval_low, row.interval_high) == (of_joy.share[place], *of_joy.interval[place])
        assert row.baseline == of_joy.baseline
    assert pandas.isna(shifted.loc["joy", 4.0].loss_delta), "a loss that is not finite"
    compared = methods.to_pandas().set_index(["label", "method"])
    for label, of_label in methods.tasks["emotion"].labels.items():
        for method, result in of_label.methods.items():
            row = compared.loc[label, method]
            assert row.selected == result.selected
            if result.effect is None or result.curve.area is None:
                assert row[["delta", "verdict", "curve_area_own"]].isna().all()
            else:
                assert (row.delta, row.verdict) == (result.effect.delta, result.effect.verdict)
                assert row.curve_area_own == result.curve.area.own


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_every_result_is_a_frame_that_polars_takes(result: Findings) -> None:
    frame = result.to_pandas()
    assert len(frame) > 0
    assert frame.columns.is_unique
    assert set(types(frame).values()) <= {"string", "int64", "Int64", "float64", "bool", "boolean"}
    taken = polars.from_pandas(frame)
    assert taken.columns == list(frame.columns)
    for name in frame.columns:
        assert taken[name].null_count() == frame[name].isna().sum()
        present = frame[name].notna().to_numpy()
        assert taken[name].to_numpy()[present].tolist() == frame[name][present].tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_stats(TASKS).to_pandas("joy"),
        lambda: make_neurons(TASKS).to_pandas(),
        lambda: affectron.zero(make_neurons(TASKS)["joy"]).to_pandas(),
    ],
)
def test_polars_takes_the_other_frames(make: Callable[[], Any]) -> None:
    frame = make()
    taken = polars.from_pandas(frame)
    assert [list(map(str, row)) for row in taken.rows()] == [list(map(str, row)) for row in frame.to_numpy().tolist()]


def test_without_results_the_columns_stay() -> None:
    empty = dataclasses.replace(RESULTS["validation"], tasks={})
    assert isinstance(empty, Validation)
    whole = RESULTS["validation"].to_pandas()
    assert types(empty.to_pandas()) == types(whole)
    assert repr(empty).startswith("Validation(0 rows; ")
    assert "<table>" not in empty._repr_html_()


def test_without_pandas_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.from_records([{"text": "a", "label": "x"}])
    monkeypatch.setitem(sys.modules, "pandas", None)
    for call in (
        make_stats(TASKS).to_pandas,
        make_neurons(TASKS).to_pandas,
        affectron.zero([("a", 1)]).to_pandas,
        RESULTS["validation"].to_pandas,
        corpus.to_pandas,
        lambda: Corpus.from_pandas(None),
    ):
        assert message(call) == "a data frame needs pandas (pip install 'affectron[data]')"
