"""Values of the page: tables, options, facts and notices are what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from affectron.evaluation.verdicts import RULE, VERDICTS
from affectron.report import build_report
from affectron.scores import SCORES
from affectron.stats import ActivationStats
from tests.report.reading import Page, read_csv, written, written_p, written_pair
from tests.support.raw_activations import starved
from tests.support.results import (
    PROVENANCE,
    SELECT,
    SITES,
    make_neurons,
    make_run,
)


def test_main_table_shows_every_label_mask_and_number_of_the_file(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    rows = Page(path).tables["table-results"][1:]
    expected: list[list[list[str]]] = []
    for task, part in content["tasks"].items():
        expected.append([[task]])
        for label in part["labels"]:
            result = part["results"][label]
            named = [label, f"{100 * result['baseline']:.1f}", f"{result['sentences']}"]
            for name, mask in result["masks"].items():
                drawn = mask["random"]
                loss = f"{mask['loss_delta']:+.3f}".replace("-", "−")
                loss = "0.000" if float(f"{mask['loss_delta']:.3f}") == 0 else loss
                row = [named, [name, f"{result['masked']}"], [mask["verdict"], *filter(None, [mask["reason"]])]]
                row += [[written(mask["delta"]), written_pair(mask["interval"])]]
                row += [[written_p(mask["adjusted_p"]), written_p(mask["p"])]]
                row += [[f"{drawn['beyond']} of {drawn['sets']}"]]
                row += [[written(mask["others_delta"]), written_pair(mask["others_interval"])]]
                row += [[f"{100 * mask['relative_change']:.1f}"], [loss]]
                expected.append(row)
    assert rows == expected
    assert tuple(RULE) == VERDICTS
    assert all(rule in Page(path).words for rule in RULE.values())
    assert {row[2][0] for row in rows if len(row) > 1} == set(VERDICTS)


def test_the_first_table_has_a_row_for_each_label_with_its_strongest_mask(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    page = Page(path)
    assert next(iter(page.tables)) == "table-verdicts"
    expected: list[list[list[str]]] = [
        [["label", "sentences"], ["verdict", "mask"], ["Δ own, points", "interval, points"],
         ["claim adjusted p", "claim p"], ["Δ others, points", "others interval, points"], ["random"]]
    ]  # fmt: skip
    for task, part in content["tasks"].items():
        expected.append([[task]])
        for label in part["labels"]:
            result = part["results"][label]
            ranked = []
            for name, mask in result["masks"].items():
                parts = [mask["p"], mask["random"]["p"], mask["specific_p"], mask["answers_p"]]
                specific = mask["verdict"] == "specific"
                p = (mask["specific_adjusted_p"], max(parts)) if specific else (mask["adjusted_p"], mask["p"])
                ranked.append((VERDICTS.index(mask["verdict"]), p, name, mask))
            _, p, name, mask = min(ranked)
            drawn = mask["random"]
            expected.append(
                [[label, f"{result['sentences']}"], [mask["verdict"], name],
                 [written(mask["delta"]), written_pair(mask["interval"])], [*map(written_p, p)],
                 [written(mask["others_delta"]), written_pair(mask["others_interval"])],
                 [f"{drawn['beyond']} of {drawn['sets']}"]]
            )  # fmt: skip
    assert page.tables["table-verdicts"] == expected


def test_the_csv_gives_every_number_back(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    header, *lines = read_csv((path.parent / "table-results.csv").read_text(encoding="utf-8"))
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(row["task"], row["label"], row["mask"]) for row in rows] == [
        (t, label, mask)
        for t, part in content["tasks"].items()
        for label in part["labels"]
        for mask in ("adaptive", "zero", "mean")
    ]
    for row in rows:
        result = content["tasks"][row["task"]]["results"][row["label"]]
        assert [int(row["neurons"]), int(row["masked neurons"])] == [result["selected"], result["masked"]]
        mask = result["masks"][row["mask"]]
        drawn = mask["random"]
        told = {
            "lost": mask["lost"], "gained": mask["gained"], "p": mask["p"], "adjusted p": mask["adjusted_p"],
            "specific p": mask["specific_p"], "answers p": mask["answers_p"],
            "random beyond": drawn["beyond"], "random sets": drawn["sets"], "random p": drawn["p"],
            "specific adjusted p": mask["specific_adjusted_p"], "loss Δ, nats": mask["loss_delta"],
            "sentences": result["sentences"],
        }  # fmt: skip
        assert {name: float(row[name]) for name in told} == told
        fractions = {
            "Δ own, points": mask["delta"], "interval low, points": mask["interval"][0],
            "interval high, points": mask["interval"][1], "Δ others, points": mask["others_delta"],
            "others interval low, points": mask["others_interval"][0],
            "others interval high, points": mask["others_interval"][1], "specific Δ, points": mask["specific_delta"],
            "specific interval low, points": mask["specific_interval"][0],
            "specific interval high, points": mask["specific_interval"][1],
            "Δ answers own, points": mask["answers_delta"], "Δ answers others, points": mask["others_answers_delta"],
            "random mean, points": drawn["mean"], "random range low, points": drawn["interval"][0],
            "random range high, points": drawn["interval"][1], "Δh, %": mask["relative_change"],
            "baseline, %": result["baseline"],
        }  # fmt: skip
        for name, fraction in fractions.items():
            assert float(row[name]) == pytest.approx(100 * fraction, abs=1e-9), name
        assert set(row) == {
            *told,
            *fractions,
            "task",
            "label",
            "mask",
            "neurons",
            "masked neurons",
            "verdict",
            "reason",
        }
        assert (row["verdict"], row["reason"]) == (mask["verdict"], mask["reason"])


def test_baselines_options_and_provenance_are_shown(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    page = Page(path)
    cells = [cell for rows in page.tables.values() for row in rows for cell in row]
    for part in content["tasks"].values():
        for split in part["baseline"].values():
            assert [f"{100 * split['accuracy']:.1f}"] in cells
            for label, value in split["per_label"].items():
                assert any(
                    [label] in row and [f"{100 * value:.1f}"] in row for rows in page.tables.values() for row in rows
                )
    for name in (*content["options"], *SELECT, *PROVENANCE):
        assert [name] in cells, name
    for value in ("a41b77d0", "emorhet-3m", "2.13.0", "label_likelihood"):
        assert value in page.words


@pytest.mark.parametrize("score", SCORES)
def test_what_a_score_makes_no_use_of_is_not_said_of_it(score: str, tmp_path: Path) -> None:
    """Only an entropy is filtered, and only it gives each neuron to one label."""
    tasks = {"tone": ["calm", "loud"]}
    neurons = make_neurons(tasks)
    neurons.provenance["select"] = {**SELECT, "score": score}
    neurons.save(tmp_path / "neurons.json")
    page = Page(build_report(tmp_path))
    entropy = score in ("entropy", "raw_entropy")
    assert ("activity filter" in page.words) == entropy
    assert ("all values are 0 by construction" in page.words) == entropy
    assert ("Of a neuron in one sentence" in page.words) == (SCORES[score].kind == "attribution")
    assert (["filter_rate"] in [cell for rows in page.tables.values() for row in rows for cell in row]) == entropy


@pytest.mark.parametrize(("top", "count", "told"), [(0.05, None, "top 5\u00a0%"), (None, 1500, "1,500 a label")])
def test_the_size_of_a_selection_is_told(top: float | None, count: int | None, told: str, tmp_path: Path) -> None:
    neurons = make_neurons({"tone": ["calm", "loud"]})
    neurons.provenance["select"] = {**SELECT, "score": "attribution_t", "top": top, "count": count}
    neurons.save(tmp_path / "neurons.json")
    assert f"Selected by attribution_t, {told}." in build_report(tmp_path).read_text(encoding="utf-8")


def test_what_each_step_of_the_selection_removed_stands_beside_the_label(tmp_path: Path) -> None:
    neurons = make_neurons({"tone": ["calm", "loud"]})
    removed = {"calm": {"score": 0, "count": 3020, "sign": 2}, "loud": {"fdr": 1}}
    neurons.provenance["select"] = {**SELECT, "removed": removed}
    neurons.save(tmp_path / "neurons.json")
    page = Page(build_report(tmp_path))
    cells = {row[0][0]: row[-1] for rows in page.tables.values() for row in rows if row[0] in (["calm"], ["loud"])}
    assert cells == {
        "calm": ["3,020 beyond the number asked for, 2 of the other sign"],
        "loud": ["1 above the false discovery rate"],
    }
    assert [["removed"]] not in [row[:1] for rows in page.tables.values() for row in rows]


def test_pieces_of_different_models_are_pointed_out(tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]}).to_json()
    content["provenance"]["weights"] = "ffff0000"
    (tmp_path / "validation.json").write_text(json.dumps(content))
    page = Page(build_report(tmp_path))
    assert "do not belong together: the weights differ" in page.words
    assert "validation.json: ffff0000" in page.words


def test_a_site_without_tokens_is_pointed_out_and_the_tokens_are_those_of_the_fullest(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud", "soft"]})
    stats = ActivationStats.load(tmp_path / "stats.safetensors")
    page = Page(build_report(tmp_path))
    assert "Not every" not in page.words
    starved(stats, {SITES[0]: ["calm", "soft"]}).save(tmp_path / "stats.safetensors")
    bare = Page(build_report(tmp_path))
    assert f"at 1 of 6 sites, the first {SITES[0]}, fewer than two labels have tokens" in bare.words
    assert "the tokens counted are those of the site that has most of the label’s" in bare.words
    tokens = int(stats.count[SITES[0]][stats.rows("calm")].sum())
    assert f"{tokens:,}" in bare.words
    assert tokens > 0


def test_a_label_with_a_source_of_its_own_is_pointed_out(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud", "soft"]})
    stats = ActivationStats.load(tmp_path / "stats.safetensors")
    for sources, named in (
        ({"calm": {"web": 3}, "loud": {"books": 2, "web": 1}, "soft": {"letters": 3}}, "soft come from letters"),
        ({"calm": {"web": 3}, "loud": {"web": 1}, "soft": {"web": 3}}, None),
    ):
        stats.provenance["sources"] = sources
        stats.save(tmp_path / "stats.safetensors")
        page = Page(build_report(tmp_path))
        assert page.words.count("where no other label of tone has any") == (named is not None)
        assert named is None or f"All sentences of {named}" in page.words
