"""Sections of the experiments: their tables and sentences are what the results say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from affectron._internal.artifacts import CROSS_DATASET, KINDS
from affectron.experiments.results import MASKS, Ablation, Candidates, Curve, Effect, MethodResult
from affectron.report import build_report, effects
from affectron.scores import SCORES
from tests.report.reading import SVG, Page, read_csv, written
from tests.support.results import (
    SITES,
    make_ablations,
    make_associations,
    make_candidates,
    make_cross_signal,
    make_effect,
    make_generation,
    make_methods,
    make_neurons,
    make_run,
    make_stability,
    make_validation,
)


@pytest.mark.parametrize(
    ("score", "tokens", "told"),
    [
        ("entropy", "all", "the share of its tokens at which the neuron is active"),
        ("mutual_information", "last", "whether the neuron is active at its last token"),
        ("log_odds", "mean", "whether the neuron is active in the mean over its tokens"),
        ("hedges_g", "all", "the neuron's mean activation over its tokens"),
        ("differential", "last", "the neuron's activation at its last token"),
    ],
)
def test_the_page_says_what_candidates_are_judged_by(score: str, tokens: str, told: str, tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    make_candidates({"tone": ["calm", "loud"]}, score, tokens=tokens).save(tmp_path / "candidates.json")
    path = build_report(tmp_path)
    page, reads = Page(path), SCORES[score].reads
    assert f"“{score}” compares {'activation rates' if reads == 'rate' else 'mean activations'};" in page.words
    assert f"of each sentence of the dev split is taken {told}" in page.words
    assert f"AUROC of each selected neuron for its label, of {told}" in page.words
    second = "higher" if score == "entropy" else "lower"
    shown = [[cell[0] for cell in row] for row in page.tables["table-candidates"]]
    exported = read_csv((path.parent / "table-candidates.csv").read_text(encoding="utf-8"))
    for rows in (shown, exported):
        assert rows[0][2] == "selected for"
        assert {row[2] for row in rows[1:]} == {f"higher {reads}", f"{second} {reads}"}
    assert exported[1][:3] == ["calm", f"{SITES[0]} 0", f"higher {reads}"]
    assert "the AUROC of 2 of 4 neurons is above 0.5. The whole interval lies above 0.5 for 2, below 0.5 for 2." in (
        page.words
    )


def test_a_neuron_without_an_auroc_is_left_out_of_figure_and_tables(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    content = make_candidates({"tone": ["calm", "loud"]}).to_json()
    lost = dict.fromkeys(("auroc", "interval", "p", "q"))
    for neuron in (*content["labels"]["calm"]["neurons"], content["labels"]["loud"]["neurons"][0]):
        neuron |= lost
    Candidates.from_json(content).save(tmp_path / "candidates.json")
    page = Page(build_report(tmp_path))
    assert [row[:2] for row in page.tables["table-candidates"][1:]] == [[["loud"], [f"{SITES[0]} 1"]]]
    assert "the AUROC of 0 of 1 neuron is above 0.5" in page.words


TASKS = {"tone": ["calm", "loud"], "mood": ["glum", "glad"]}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with every experiment."""
    folder = tmp_path_factory.mktemp("everything")
    make_run(folder, TASKS, *KINDS).save(folder / CROSS_DATASET)
    return build_report(folder)


def table(page: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table beside the page, by column."""
    header, *rows = read_csv((page.parent / f"table-{name}.csv").read_text(encoding="utf-8"))
    return [dict(zip(header, row, strict=True)) for row in rows]


def cells(*values: object) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def hundredths(*fractions: float | None) -> list[str]:
    """The fractions in per cent or points, as a CSV has them."""
    return cells(*(None if fraction is None else round(100 * fraction, 10) for fraction in fractions))


def test_a_run_with_every_experiment_has_a_section_for_each(everything: Path) -> None:
    page = Page(everything)
    sections = (
        "selection-methods", "estimate", "stability", "candidates", "ablations", "induction", "generation",
        "cross-signal", "associations", "cross-dataset",
    )  # fmt: skip
    assert [
        name for tag, attributes in page.elements if tag == "section" and (name := attributes["id"]) in sections
    ] == [*sections]
    assert "do not belong together" not in page.words
    figures = [attributes["id"] for tag, attributes in page.elements if tag == "figure"]
    assert figures[0] == "figure-curves"  # within the summary
    assert {"figure-curves-tone", "figure-curves-mood", "figure-estimate-tone"} <= set(figures)


def test_what_is_chosen_on_the_test_sentences_stands_in_its_chapter_and_not_in_the_summary(everything: Path) -> None:
    summary, rest = everything.read_text(encoding="utf-8").split('<section id="selection-methods">')
    chosen = "best neurons by paper set to zero"
    assert chosen not in summary
    assert chosen in rest.split("</section>")[0]
    claims = summary.split('<section id="summary">')[1].split("</section>")[0]
    first = claims.split('class="found">')[1].split("</p>")[0]
    assert first.startswith("Verdicts on 4 labels. Zero mask:")
    assert claims.count("<li") == 4


def test_a_task_in_which_the_best_method_has_no_neurons_has_no_curves(tmp_path: Path) -> None:
    make_run(tmp_path, TASKS)
    result = make_methods(TASKS)
    none = MethodResult(0, None, Curve((), None))
    bare = {
        label: replace(of_label, methods=dict.fromkeys(of_label.methods, none), best=None)
        for label, of_label in result.tasks["mood"].labels.items()
    }
    tasks = {**result.tasks, "mood": replace(result.tasks["mood"], labels=bare)}
    replace(result, tasks=tasks).save(tmp_path / "methods.json")
    page = Page(build_report(tmp_path))
    assert {"figure-curves", "figure-curves-tone"} <= page.ids
    assert "figure-curves-mood" not in page.ids


def effect_cells(effect: Effect | None) -> list[str]:
    """The cells of an effect in a CSV, but for the numbers that claims are not made of."""
    if effect is None:
        return [""] * 11
    random = effect.random
    assert random is not None
    return [
        *hundredths(effect.delta, *effect.interval), *cells(effect.p, effect.adjusted_p),
        *hundredths(effect.others_delta), *cells(random.beyond, random.sets), *hundredths(effect.relative_change),
        effect.verdict, effect.reason,
    ]  # fmt: skip


EFFECT = (
    "Δ own, points", "interval low, points", "interval high, points", "p", "adjusted p", "Δ others, points",
    "random beyond", "random sets", "Δh, %", "verdict", "reason",
)  # fmt: skip


def told(row: dict[str, str], *columns: str) -> list[str]:
    return [row[name] for name in columns]


def test_tables_of_ablations_and_methods_have_every_effect(everything: Path) -> None:
    ablations = make_ablations(TASKS)
    for sweep in ("sites", "alpha"):
        rows = table(everything, f"ablation-{sweep}")
        expected = [
            cells(row.label, row.setting, row.masked) + effect_cells(row.effect)
            for row in ablations.rows
            if row.sweep == sweep
        ]
        axis = list(rows[0])[1]
        assert [told(row, "label", axis, "masked", *EFFECT) for row in rows] == expected
    for task, compared in make_methods(TASKS).tasks.items():
        expected = [
            [*cells(label, name, method.selected), *effect_cells(method.effect), "yes" if of_label.best == name else ""]
            for label, of_label in compared.labels.items()
            for name, method in of_label.methods.items()
        ]
        named = ("label", "method", "neurons", *EFFECT, "best")
        assert [told(row, *named) for row in table(everything, f"methods-{task}")] == expected
        expected = [
            [label, name, *(cells(6, -12.5, -0.5, None) if method.curve.points else [""] * 4)]
            for label, of_label in compared.labels.items()
            for name, method in of_label.methods.items()
        ]
        assert [list(row.values()) for row in table(everything, f"areas-{task}")] == expected
    words = Page(everything).words
    deltas = {row.setting: row.effect.delta for row in ablations.rows if row.sweep == "sites" and row.effect}
    assert (
        f"bottom {written(deltas['bottom'])}, top {written(deltas['top'])}. The largest drop is in the bottom" in words
    )


def test_shares_of_an_ablation_are_in_per_cent_in_table_and_figure() -> None:
    shares = (0.0005, 0.07, 0.3, 1.0)
    rows = [Ablation("tone", "calm", "share", share, 1.0, 9, 30, make_effect()) for share in shares]
    section = effects.ablations(replace(make_ablations(TASKS), rows=tuple(rows)))
    lines = read_csv(section.tables[0].csv())
    assert lines[0][1] == "share τ of the label's neurons, %"
    assert [line[1] for line in lines[1:]] == ["0.05", "7.0", "30.0", "100.0"]
    drawing = section.figures[0].drawing
    found = ["".join(node.itertext()) for node in ElementTree.fromstring(drawing.svg).iter(f"{SVG}text")]
    assert found[:4] == ["0.05", "7", "30", "100"]
    assert lines[0][1] in found
    assert "calm: 0.05 −10.0 points" in drawing.told


def test_table_of_the_cross_signal_has_every_pair(everything: Path) -> None:
    result = make_cross_signal(*TASKS.values())
    expected = []
    for label, signals in result.labels.items():
        for device, signal in signals.devices.items():
            assert signal.random is not None
            expected.append(
                [*cells(device, label, signal.omega), *hundredths(max(signal.dev), signal.delta, *signal.interval),
                 *cells(signal.adjusted_p, signal.p, signal.random.beyond, signal.random.sets, "yes")]
            )  # fmt: skip
    assert [list(row.values()) for row in table(everything, "cross-signal")] == expected


def test_tables_of_associations_and_stability_have_every_label(everything: Path) -> None:
    result = make_associations(TASKS)
    order = sorted(result.pairs, key=lambda pair: pair.same_task)
    expected = [cells(p.first, p.second, p.overlap, p.expected, p.jaccard, p.p, p.q, p.correlation) for p in order]
    assert [list(row.values()) for row in table(everything, "associations")] == expected
    thirds = [cells(label, *layers.thirds.values()) for label, layers in result.layers.items()]
    assert [list(row.values()) for row in table(everything, "layers")] == thirds
    stable = make_stability(TASKS).labels
    expected = [cells(label, one.task, one.selected, 100.0, 1, one.split_half) for label, one in stable.items()]
    assert [list(row.values()) for row in table(everything, "stability")] == expected


def test_table_of_another_corpus_is_that_of_its_validation(everything: Path) -> None:
    rows = table(everything, "cross-dataset")
    assert rows == table(everything, "results")
    validation = make_validation(TASKS, make_neurons(TASKS))
    assert [(row["task"], row["label"], row["mask"]) for row in rows] == [
        (t, label, mask) for t in TASKS for label in TASKS[t] for mask in MASKS
    ]
    for row in rows:
        effect = validation.results[row["label"]].masks[row["mask"]]
        assert told(row, *EFFECT, "loss Δ, nats") == [*effect_cells(effect), str(effect.loss_delta)]


def test_table_of_the_estimate_has_every_label(everything: Path) -> None:
    known = cells(9, 2, 1, 0.1875, 0.0, 1.0, 1.0, 0.5)
    expected = [
        [label, *(["9", "0", "0", *[""] * 5] if label == labels[-1] else known)]
        for labels in TASKS.values()
        for label in labels
    ]
    assert [list(row.values()) for row in table(everything, "estimate")] == expected


def test_generated_texts_are_told_and_shown(everything: Path) -> None:
    page = Page(everything)
    assert "The model continues 12 beginnings of the test split, 2 texts each, by up to 24 tokens" in page.words
    assert "the judge of words gives 55.0 % of 99 test sentences one of their labels" in page.words
    told = "Success of neurons 5 % is above that of"
    assert f"{told} residual for 2 of 2 labels, below it for 0, not told apart for 0." in page.words
    assert f"{told} prompt for 0 of 2 labels, below it for 0, not told apart for 2." in page.words
    result = make_generation(TASKS)
    for task, labels in TASKS.items():
        rows = table(everything, f"generation-{task}")
        assert [(row["label"], row["method"]) for row in rows] == [
            (label, method) for label in labels for method in result.tasks[task].labels[label]
        ]
        neurons = next(row for row in rows if row["method"] == "neurons 5 %")
        assert (neurons["success, %"], neurons["β"], neurons["words"]) == ("75.0", "4.5", "love hate")
        assert {row["less"] for row in table(everything, f"versus-{task}")} == {
            "unsteered", "random 5 %", "residual", "prompt"
        }  # fmt: skip
        for label in labels:
            shown = table(everything, f"texts-{label}")
            assert [row["beginning"] for row in shown] == [f"beginning {n}" for n in range(10)]
            # Every second text, the first of each beginning; marked where it has the label.
            assert [row["neurons 5 %"] for row in shown][8:] == [f"● {label} text 16", f"{label} text 18"]
            assert shown[9]["unsteered"] == f"{label} text 18"
    figures = [attributes["id"] for tag, attributes in page.elements if tag == "figure"]
    assert {"figure-generation-tone", "figure-generation-mood"} <= set(figures)
