"""The page as a whole: it needs nothing from outside, its bytes follow from the files, and it survives odd input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import affectron.report
from affectron.errors import InputError
from affectron.experiments.results import LabelStability, Stability, StabilityOptions
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import build_report
from affectron.stats import ActivationStats
from tests.report.reading import Page, texts, written, written_pair
from tests.support.results import (
    PROVENANCE,
    SELECT,
    SITES,
    make_candidates,
    make_methods,
    make_neurons,
    make_run,
    make_validation,
)

PIECES = ("stats.safetensors", "neurons.json", "validation.json")

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a&b 'q' </svg></title></style>",
    "$x_{1}$ {{ 7 * 7 }}",
    "_hidden",
    "悲しみ",
    'id="f1-x" url(#y)',
    "two\nlines\tand a tab",
    "a label far too long to be set in full beside any axis of any figure in the report",
]


def test_page_and_figures_need_nothing_from_outside(whole: tuple[Path, dict[str, Any]]) -> None:
    path, _ = whole
    page = Page(path)
    assert page.tags.isdisjoint({"script", "link", "img", "image", "iframe", "object", "embed", "form", "base"})
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                if value.startswith("#"):
                    assert value[1:] in page.ids, value
                else:
                    assert (path.parent / value).is_file(), value
            for target in re.findall(r"url\((.*?)\)", value):
                assert target.startswith("#"), value
                assert target[1:] in page.ids, value
    source = path.read_text(encoding="utf-8")
    assert "@import" not in source
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", source))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never fetched
    for file in path.parent.glob("*.svg"):
        assert "<image" not in file.read_text(encoding="utf-8")


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path, {"mood": ["glum"], "tone": ["calm", "loud"]})
    path = build_report(tmp_path)
    again = build_report(path.parent.parent, out=tmp_path / "elsewhere")
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == sorted(file.name for file in again.parent.iterdir())
    assert len(names) == 25
    for name in names:
        assert (path.parent / name).read_bytes() == (again.parent / name).read_bytes(), name


@pytest.mark.parametrize("kept", range(1, 8))
def test_opens_with_pieces_missing(kept: int, tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    for bit, name in enumerate(PIECES):
        if not kept >> bit & 1:
            (tmp_path / name).unlink()
    path = build_report(tmp_path)
    page = Page(path)
    for bit, name in enumerate(PIECES):
        assert (f"There is no {name} in the run folder" in page.words) != bool(kept >> bit & 1)
    assert ("table-results" in page.tables) == bool(kept & 4)
    assert ("figure-layers" in page.ids) == bool(kept & 2)
    assert {file.name for file in path.parent.glob("*.svg")} == {
        f"{i}.svg" for i in page.ids if i.startswith("figure-")
    }
    for tag, attributes in page.elements:
        if tag == "a" and attributes["href"].startswith("#"):
            assert attributes["href"][1:] in page.ids
    if not kept & 4:
        assert "adaptive mask" not in page.words


def test_a_figure_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    path = build_report(tmp_path)
    assert (path.parent / "figure-layers.svg").is_file()
    (tmp_path / "neurons.json").unlink()
    build_report(tmp_path)
    assert sorted(f.name for f in path.parent.glob("*.svg")) == [
        "figure-accuracy.svg", "figure-fluency.svg", "figure-induction.svg", "figure-trace.svg",
    ]  # fmt: skip


def test_one_label_with_as_little_as_there_can_be(tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm"]}).to_json()
    result = content["tasks"]["tone"]["results"]["calm"]
    lost = (
        "others_delta", "others_interval", "specific_delta", "specific_interval", "specific_p", "loss_delta", "random",
        "others_answers_delta", "answers_p", "specific_adjusted_p", "relative_change",
    )  # fmt: skip
    result["masks"] = {"adaptive": {**result["masks"]["adaptive"], **dict.fromkeys(lost)}}
    result |= {"trace": [], "sites": {}}
    (tmp_path / "induction.json").unlink()
    content["options"] = {}
    (tmp_path / "validation.json").write_text(json.dumps(content))
    page = Page(build_report(tmp_path))
    (row,) = page.tables["table-results"][2:]
    assert row[0][0] == "calm"
    adaptive = result["masks"]["adaptive"]
    assert row[3] == [written(adaptive["delta"]), written_pair(adaptive["interval"])]
    assert row[5:] == [["–"]] * 4
    assert "Verdicts on 1 label. Adaptive mask: specific 1." in page.words
    assert {i for i in page.ids if i.startswith("figure-")} == {"figure-accuracy", "figure-layers"}


def test_strings_of_the_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    tasks = {"<b>task</b>": sorted(HOSTILE)}
    neurons = make_neurons(tasks)
    neurons.provenance["model"] = "<img src=x onerror=alert(2)>"
    neurons.save(tmp_path / "neurons.json")
    content = make_validation(tasks, neurons).to_json()
    content["provenance"]["<i>key</i>"] = {"<u>deep</u>": ["</td></table>"]}
    content["options"]["<s>option</s>"] = "</pre></details>"
    (tmp_path / "validation.json").write_text(json.dumps(content))
    path = build_report(tmp_path)
    page = Page(path)
    assert page.tags.isdisjoint({"script", "img", "i", "u", "s"})
    for attributes in (attributes for _, attributes in page.elements):
        assert not any(name.startswith("on") for name in attributes)
    for text in [
        *HOSTILE,
        "<b>task</b>",
        "<img src=x onerror=alert(2)>",
        "<i>key</i>",
        "<s>option</s>",
        "</pre></details>",
    ]:
        assert " ".join(text.split()) in page.words, text
    assert "{{ 7 * 7 }}" in page.words
    shown = texts(path.parent / "figure-layers.svg")
    for label in HOSTILE:
        flat = " ".join(label.split())
        assert (flat if len(flat) <= 22 else flat[:21] + "…") in shown
    for name in ("table-verdicts", "table-results"):
        shown = dict.fromkeys(row[0][0] for row in page.tables[name][2:])
        assert [*shown] == [" ".join(label.split()) for label in sorted(HOSTILE)]


def test_what_no_file_can_carry_is_replaced(tmp_path: Path) -> None:
    tasks = {"tone": ["\x07bell", "\ud800half"]}
    content = make_validation(tasks, make_neurons(tasks)).to_json()
    (tmp_path / "validation.json").write_text(json.dumps(content))
    path = build_report(tmp_path)
    assert [row[0][0] for row in Page(path).tables["table-results"][2::3]] == ["\ufffdbell", "\ufffdhalf"]
    assert "\ufffdbell" in texts(path.parent / "figure-trace.svg")


def test_a_task_whose_name_is_a_path_leaves_nothing_outside(tmp_path: Path) -> None:
    tasks = {"../../out": ["a", "b"], "x/y": ["c", "d"], "x y": ["e", "f"], "..": ["g", "h"], "tone": ["i", "j"]}
    run = tmp_path / "deep" / "er" / "run"
    make_run(run, tasks)
    make_methods(tasks).save(run / "methods.json")
    path = build_report(run)
    page = Page(path)
    for tag, attributes in page.elements:
        if tag == "a" and not attributes["href"].startswith("#"):
            assert (path.parent / attributes["href"]).parent == path.parent
            assert (path.parent / attributes["href"]).is_file()
    assert not any(re.search(r"\s|/", name) for name in page.ids)
    assert (path.parent / "table-methods-tone.csv").is_file()
    assert len(list(path.parent.glob("table-methods-*.csv"))) == len(tasks)
    assert {file.name for file in (tmp_path / "deep" / "er").iterdir()} == {"run"}


def test_a_page_of_ones_has_no_plural_after_a_one(tmp_path: Path) -> None:
    tasks = {"tone": ["calm"]}
    content = make_run(tmp_path, tasks).to_json()
    site = {name: getattr(ActivationStats.load(tmp_path / "stats.safetensors"), name)[SITES[0]][:, :1].copy()
            for name in ("active", "mean", "m2", "min", "max")}  # fmt: skip
    one = np.ones((1, 1), np.int64)
    stats = ActivationStats(
        tasks, [("calm",)], {SITES[0]: {**site, "active": one, "nonfinite": one, "count": np.array([1])}}, PROVENANCE
    )
    stats.save(tmp_path / "stats.safetensors")
    NeuronSet([NeuronList("calm", "tone", [(SITES[0], 0, 0.1)])], {SITES[0]: 1}, {"select": SELECT}).save(
        tmp_path / "neurons.json"
    )
    part = content["tasks"]["tone"]
    part |= {"dev_sentences": 1, "test_sentences": 1}
    part["results"]["calm"] |= {"selected": 1, "masked": 1, "sentences": 1, "sites": {SITES[0]: 1}}
    for mask in part["results"]["calm"]["masks"].values():
        mask["random"]["sets"] = 1
    (tmp_path / "validation.json").write_text(json.dumps(content))
    make_candidates(tasks, permutations=1).save(tmp_path / "candidates.json")
    stable = LabelStability("tone", 1, ((SITES[0], 0, 1.0),), (), None)
    Stability(PROVENANCE, StabilityOptions(1, {}, 1, 1, 0), {"calm": stable}).save(tmp_path / "stability.json")
    page = Page(build_report(tmp_path))
    nouns = "neuron|site|label|sentence|fold|set|resample|split|permutation|activation"
    assert re.findall(rf"(?<![\d.,])1 (?:\w+ )?(?:{nouns})s\b", page.words) == []
    assert len(re.findall(rf"(?<![\d.,])1 (?:\w+ )?(?:{nouns})\b", page.words)) > 10
    assert not re.search(r"(?<![\d.,])1 \w+ were\b", page.words)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="cannot write to"):
        build_report(tmp_path)
    assert (tmp_path / "report").read_text() == "a file"


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_says_what_to_install(
    package: str, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("curves", "drawing", "effects", "figures", "overview", "section", "sections"):
        monkeypatch.delitem(sys.modules, f"affectron.report.{module}")
        monkeypatch.delattr(affectron.report, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"a report needs {package}.*pip install affectron\[report\]"):
        build_report(whole[0].parent.parent, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
