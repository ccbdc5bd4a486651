"""Values of the page: tables, options, facts and notices are what the files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from affectron.evaluation.verdicts import RULE, VERDICTS
from affectron.report import build_report
from affectron.scores import SCORES
from affectron.stats import ActivationStats
from tests.report.reading import Page, written, written_p, written_pair
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
    rows = Page(path).tables["main-table"][1:]
    expected: list[list[list[str]]] = []
    for task, part in content["tasks"].items():
        expected.append([[task]])
        for label in part["labels"]:
            result = part["results"][label]
            told = (
                f"{result['masked']} of {result['selected']} neurons, {result['sentences']} sentences, baseline "
                f"{100 * result['baseline']:.1f} %"
            )
            named = [[label, told]]
            for name, mask in result["masks"].items():
                drawn = mask["random"]
                loss = f"{mask['loss_delta']:+.3f}".replace("-", "−").replace("+0.000", "0.000")
                row = [[name], [mask["verdict"], *([mask["reason"]] if mask["reason"] else [])]]
                row += [[written(mask["delta"]), written_pair(mask["interval"])]]
                row += [
                    [written_p(mask["adjusted_p"]), "p < 0.001" if mask["p"] < 0.001 else f"p = {written_p(mask['p'])}"]
                ]
                row += [[f"{drawn['beyond']} of {drawn['sets']}"]]
                row += [[written(mask["others_delta"]), written_pair(mask["others_interval"])]]
                row += [[f"{100 * mask['relative_change']:.1f}"], [loss]]
                expected.append([*named, *row])
                named = []
    assert rows == expected
    assert tuple(RULE) == VERDICTS
    assert all(rule in Page(path).words for rule in RULE.values())
    assert {row[-7][0] for row in rows if len(row) > 7} == set(VERDICTS)


def test_table_text_gives_every_number_back(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    text = re.search(r'<pre class="copy" id="main-table-text">(.*?)</pre>', path.read_text(encoding="utf-8"), re.S)
    assert text is not None
    lines = [line.split("\t") for line in text[1].split("\n")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [(row["task"], row["label"], row["mask"]) for row in rows] == [
        (t, label, mask)
        for t, part in content["tasks"].items()
        for label in part["labels"]
        for mask in ("adaptive", "zero", "mean")
    ]
    for row in rows:
        result = content["tasks"][row["task"]]["results"][row["label"]]
        assert [int(row["neurons"]), int(row["masked"])] == [result["selected"], result["masked"]]
        mask = result["masks"][row["mask"]]
        drawn = mask["random"]
        told = {
            "Δ own": mask["delta"], "interval low": mask["interval"][0], "interval high": mask["interval"][1],
            "lost": mask["lost"], "gained": mask["gained"], "p": mask["p"], "adjusted p": mask["adjusted_p"],
            "Δ others": mask["others_delta"], "others interval low": mask["others_interval"][0],
            "others interval high": mask["others_interval"][1], "specific Δ": mask["specific_delta"],
            "specific interval low": mask["specific_interval"][0],
            "specific interval high": mask["specific_interval"][1], "specific p": mask["specific_p"],
            "Δ answers own": mask["answers_delta"], "Δ answers others": mask["others_answers_delta"],
            "answers p": mask["answers_p"],
            "random beyond": drawn["beyond"], "random sets": drawn["sets"], "random p": drawn["p"],
            "random mean": drawn["mean"], "random range low": drawn["interval"][0],
            "random range high": drawn["interval"][1], "specific adjusted p": mask["specific_adjusted_p"],
            "Δh, %": mask["relative_change"], "loss Δ": mask["loss_delta"], "sentences": result["sentences"],
            "baseline, %": result["baseline"],
        }  # fmt: skip
        assert {name: float(row[name]) for name in told} == told
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
