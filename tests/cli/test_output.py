"""Printed tables: a row for each effect, with its verdict and the numbers that it stands on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from affectron.cli import output
from affectron.evaluation.verdicts import NO_EFFECT, VERDICTS
from affectron.experiments.results import Effect
from tests.support.results import make_methods, make_neurons, make_validation

TASKS = {"tone": ["calm", "loud", "[soft]"], "mood": ["glum", "glad", "grey"]}


def rows(printed: str) -> list[list[str]]:
    """The cells of a printed table's rows; the lines of a cell are put together."""
    body = printed.split("┡")[1].split("\n")[1:]
    found: list[list[str]] = []
    for line in body:
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│\n").split("│")]
            if cells[0]:
                found.append(cells)
            else:
                found[-1] = [" ".join(filter(None, both)) for both in zip(found[-1], cells, strict=True)]
    return found


def told(effect: Effect) -> list[str]:
    """The cells of an effect, from Python's own formatting."""
    assert effect.random is not None
    assert effect.others_delta is not None
    assert effect.relative_change is not None
    low, high = effect.interval
    p = "< 0.001" if effect.adjusted_p < 0.001 else f"{effect.adjusted_p:.3g}"
    return [
        f"{100 * effect.delta:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", p,
        f"{effect.random.beyond} of {effect.random.sets}", f"{100 * effect.others_delta:+.1f}",
        f"{round(100 * effect.relative_change)}%", ": ".join(filter(None, (effect.verdict, effect.reason))),
    ]  # fmt: skip


@pytest.mark.parametrize("width", [160, 120])
def test_a_validation_has_a_row_for_each_label_and_mask(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width))
    validation = make_validation(TASKS, make_neurons(TASKS))
    output.print_validation(validation)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    expected = [
        [label, str(result.sentences), f"{100 * result.baseline:.1f}", name, *told(mask)]
        for label, result in validation.results.items()
        for name, mask in result.masks.items()
    ]
    assert rows(printed) == expected
    assert {row[-1].split(":")[0] for row in expected} == set(VERDICTS)


def test_a_label_without_neurons_has_a_row_of_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    validation = make_validation({"tone": ["calm"]}, make_neurons({"tone": ["calm"]}))
    task = validation.tasks["tone"]
    bare = replace(task.results["calm"], masks={}, sentences=90, baseline=0.5)
    output.print_validation(replace(validation, tasks={"tone": replace(task, results={"calm": bare})}))
    assert rows(capsys.readouterr().out) == [["calm", "90", "50.0", *["-"] * 7]]


def test_methods_have_a_table_each_with_a_row_for_each_label(capsys: pytest.CaptureFixture[str]) -> None:
    methods = make_methods(TASKS)
    reason = "a change of 5 points is excluded"
    task = methods.tasks["mood"]
    compared = task.labels["glad"].methods["paper"]
    assert compared.effect is not None
    excluded = replace(compared, effect=replace(compared.effect, verdict=NO_EFFECT, reason=reason))
    glad = replace(task.labels["glad"], methods={**task.labels["glad"].methods, "paper": excluded})
    methods = replace(methods, tasks={**methods.tasks, "mood": replace(task, labels={**task.labels, "glad": glad})})
    output.print_methods(methods)
    printed = capsys.readouterr().out
    _, paper, lee = printed.split("neurons by ")
    assert (paper.split(",")[0], lee.split(",")[0]) == ("paper", "lee")
    labels = {label: compared for of_task in methods.tasks.values() for label, compared in of_task.labels.items()}
    expected = []
    for label, compared in labels.items():
        effect = compared.methods["paper"].effect
        assert effect is not None
        expected.append([label, "9", "3", *told(effect)[:4], effect.verdict])
    assert rows(paper) == expected
    assert rows(lee) == [[label, "9", "0", *["-"] * 5] for label in labels]
    assert f"\n{NO_EFFECT} (glad): {reason}\n" in paper
