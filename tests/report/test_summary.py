"""The summary: doses, texts and sentences follow from the results by the rules that the page states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from affectron.experiments.results import Generation, Induction, LabelInduction, WrittenText
from affectron.report import build_report, summary
from tests.report.reading import Page, read_csv
from tests.support.results import make_generation, make_induction, make_run

TASKS = {"tone": ["calm", "loud"], "mood": ["glum", "glad"]}


def induced(
    *curves: tuple[tuple[float, ...], tuple[float | None, ...]], random: tuple[float, ...] | None = (0.1, 0.1, 0.1, 0.1)
) -> Induction:
    """An induction at β of 0, 1, 2 and 4: the shares of each label and the losses, intervals 5 points to each side."""
    made = {
        f"label {place}": LabelInduction(
            9, 100, 0.1, share, tuple((one - 0.05, one + 0.05) for one in share), random, loss
        )
        for place, (share, loss) in enumerate(curves)
    }
    result = make_induction(TASKS)
    return replace(result, options=replace(result.options, betas=(0.0, 1.0, 2.0, 4.0)), tasks={"tone": made})


def table(path: Path, name: str) -> list[dict[str, str]]:
    header, *rows = read_csv((path.parent / f"table-{name}.csv").read_text(encoding="utf-8"))
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_dose_shown_is_that_of_the_largest_share_within_fluency(tmp_path: Path) -> None:
    result = induced(
        ((0.1, 0.3, 0.5, 0.9), (0.0, 0.1, 0.5, 0.51)),  # the last dose is above the limit
        ((0.1, 0.4, 0.2, 0.1), (0.0, 0.1, 0.2, 0.3)),  # more is not better
        ((0.1, 0.12, 0.9, 0.9), (0.0, 0.1, None, 2.0)),  # a loss that is not finite is not fluent
    )
    make_run(tmp_path, TASKS)
    result.save(tmp_path / "induction.json")
    path = build_report(tmp_path)
    rows = table(path, "induced")
    assert [(row["label"], row["β"], row["predicted as the label, %"], row["loss Δ, nats"]) for row in rows] == [
        ("label 0", "2.0", "50.0", "0.5"), ("label 1", "1.0", "40.0", "0.1"), ("label 2", "1.0", "12.0", "0.1"),
    ]  # fmt: skip
    assert [row["interval low, %"] for row in rows] == ["45.0", "35.0", "7.0"]
    assert {(row["without, %"], row["random, %"]) for row in rows} == {("10.0", "10.0")}
    text = Page(path).words
    assert "lies above the share without it for 2 of 3 labels, above that of random neurons for 2 of 3." in text
    assert "raise the loss of these sentences by at most 0.5 nats a token" in text
    assert "is no estimate for others" in text


def test_labels_without_a_fluent_dose_or_random_sets_are_told_as_such() -> None:
    result = induced(((0.3, 0.4, 0.5, 0.6), (None, 0.6, 0.7, None)), ((0.1, 0.4, 0.2, 0.1), (0.0,) * 4), random=None)
    claim = summary.induced_claim(result)
    assert "without it for 1 of 2 labels. Each label" in claim
    assert "random" not in claim


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Generation]:
    folder = tmp_path_factory.mktemp("generated")
    make_run(folder, TASKS)
    result = make_generation(TASKS)
    methods = {
        name: replace(found, texts=(WrittenText(f"{name} <i>first</i>\nline", None), *found.texts[1:]))
        for name, found in result.tasks["tone"].labels["calm"].items()
    }
    tone = replace(result.tasks["tone"], labels={**result.tasks["tone"].labels, "calm": methods})
    result = replace(result, tasks={**result.tasks, "tone": tone})
    result.save(folder / "generation.json")
    return build_report(folder), result


def test_generated_texts_are_compared_with_every_other_method(generated: tuple[Path, Generation]) -> None:
    path, result = generated
    rows = {(row["task"], row["label"]): row for row in table(path, "generated")}
    assert set(rows) == {(task, label) for task, labels in TASKS.items() for label in labels}
    for (task, label), row in rows.items():
        methods = result.tasks[task].labels[label]
        found = methods["neurons 5 %"]
        assert (row["method"], float(row["steered, %"])) == ("neurons 5 %", 100 * found.score.success)
        assert [float(row[f"interval {end}, %"]) for end in ("low", "high")] == [100 * end for end in found.interval]
        for name, other in (("unsteered",) * 2, ("random", "random 5 %"), ("residual",) * 2, ("prompt",) * 2):
            assert float(row[f"{name}, %"]) == pytest.approx(100 * methods[other].score.success)
            assert float(row[f"adjusted p, {name}"]) == found.versus[other].adjusted_p
    source = path.read_text(encoding="utf-8")
    summarised = source.split('<section id="summary">')[1].split("</section>")[0]
    assert summarised.count("Success of neurons 5 % is above that of random 5 % for 2 of 2 labels") == len(TASKS)
    assert source.count("Success of neurons 5 % is above") == summarised.count("Success of neurons 5 % is above")


def test_the_example_is_the_first_text_of_the_first_beginning_for_the_first_label(
    generated: tuple[Path, Generation],
) -> None:
    path, result = generated
    pair = summary.example_pair(result)
    assert pair is not None
    assert (pair.label, pair.method, pair.beginning) == ("calm", "neurons 5 %", "beginning 0")
    assert (pair.before, pair.after) == ("unsteered <i>first</i>\nline", "neurons 5 % <i>first</i>\nline")
    page = Page(path)
    assert "first text of the first beginning, for the first label, calm." in page.words
    told = "Without steering unsteered <i>first</i> line judged: no label Steered by neurons 5 % neurons 5 %"
    assert told in page.words


def test_a_run_without_induction_and_texts_has_neither_in_its_summary(tmp_path: Path) -> None:
    make_run(tmp_path, TASKS)
    (tmp_path / "induction.json").unlink()
    page = Page(build_report(tmp_path))
    assert {"table-induced", "table-generated"}.isdisjoint(page.tables)
    assert "Induction" not in page.words
