"""The report: what stands in it is what the files say, it needs nothing from outside, and it survives odd input."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affectron.report
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.experiments.findings import Findings
from affectron.experiments.results import LabelResult, Mask, RandomSets, read_validation
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import build_report, figures
from affectron.report import text as words
from affectron.report.tables import Column, Table
from affectron.scores import SCORES
from affectron.stats import ActivationStats
from tests.support.errors import message
from tests.support.raw_activations import starved

TASKS = {
    "emotion": ["anger", "disgust", "fear", "happiness", "sadness", "surprise"],
    "rhetoric": ["hyperbole", "literal", "metaphor", "sarcasm", "simile"],
}
SITES = [f"model.layers.{layer}.mlp" for layer in range(6)]
WIDTH = 512
PROVENANCE = {
    "affectron": "0.1.0",
    "model": "emorhet-3m",
    "model_hash": "5f0c9b7e",
    "weights": "a41b77d0",
    "tokenizer": "9d1e22c4",
    "corpus": ["77b1c0de"],
    "corpus_name": "data.jsonl",
    "split": "train",
    "tokens": "all",
    "active": "gate",
    "dtype": "bfloat16",
    "template": "{text}",
    "count_special": False,
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.14"},
}
SELECT = {
    "task": None, "top": 0.05, "score": "entropy", "filter_rate": 0.95, "assign": "argmax",
    "activation_bar_ratio": 0.95, "sign": None, "min_effect": None, "fdr": None, "min_count": None,
}  # fmt: skip


def make_stats(tasks: dict[str, list[str]]) -> ActivationStats:
    rng = np.random.default_rng(1)
    segments = [(label,) for labels in tasks.values() for label in labels]
    if len(tasks) > 1:
        segments.append(tuple(labels[0] for labels in tasks.values()))
    arrays = {}
    count = rng.integers(3000, 9000, len(segments))
    for site in SITES:
        shape = (len(segments), WIDTH)
        arrays[site] = {
            "count": count,
            "active": rng.integers(0, 3000, shape),
            "nonfinite": np.zeros(shape, np.int64),
            "mean": rng.normal(size=shape),
            "m2": rng.random(shape),
            "min": np.full(shape, -5, np.float32),
            "max": np.full(shape, 5, np.float32),
        }
    return ActivationStats(tasks, segments, arrays, PROVENANCE)


def make_neurons(tasks: dict[str, list[str]]) -> NeuronSet:
    rng = np.random.default_rng(2)
    weights = np.array([1, 1, 2, 3, 5, 8]) / 20
    lists = []
    for task, labels in tasks.items():
        taken: set[tuple[str, int]] = set()
        for label in labels:
            size = int(rng.integers(18, 60))
            found = {(SITES[rng.choice(6, p=weights)], int(rng.integers(0, 120))) for _ in range(size)} - taken
            taken |= found
            lists.append(NeuronList(label, task, [(s, i, 0.1) for s, i in sorted(found)]))
    return NeuronSet(lists, dict.fromkeys(SITES, WIDTH), {**PROVENANCE, "select": SELECT})


def make_validation(tasks: dict[str, list[str]], neurons: NeuronSet) -> dict[str, Any]:
    rng = np.random.default_rng(3)

    def around(center: float, half: float) -> list[float]:
        return [center - half * rng.uniform(0.8, 1.2), center + half * rng.uniform(0.8, 1.2)]

    content: dict[str, Any] = {
        "format": "affectron.validation",
        "version": 1,
        "provenance": {**PROVENANCE, "split": "test"},
        "options": {
            "evaluator": "label_likelihood",
            "prompts": {task: f"{{bos}}{{text}}\n{task.title()}:" for task in tasks},
            "alpha": 0.3, "alpha_step": 0.1, "alpha_cap": 1.0, "share": 0.1, "share_step": 0.1, "share_cap": 1.0,
            "min_drop": 0.05, "random_sets": 20, "bootstrap": 1000, "seed": 0, "dev": "dev", "test": "test",
            "neutral": None,
        },
        "tasks": {},
    }  # fmt: skip
    for task, labels in tasks.items():
        per_label = {label: float(rng.uniform(0.4, 0.85)) for label in labels}
        accuracy = float(np.mean(list(per_label.values())))
        results = {}
        for label in labels:
            rounds = int(rng.integers(1, 9))
            drop = np.cumsum(rng.uniform(-0.005, 0.025, rounds))
            effect = -float(rng.uniform(-0.02, 0.16))
            random_deltas = rng.normal(-0.01, 0.015, 20).tolist()
            low, high = np.quantile(random_deltas, [0.025, 0.975]).tolist()
            selected = len(neurons[label])
            share = min(1.0, 0.1 * rounds)
            sites: dict[str, int] = {}
            for site, _, _ in neurons[label].top(share):
                sites[site] = sites.get(site, 0) + 1
            masked = sum(sites.values())
            masks = {}
            for name, factor in (("adaptive", 1.0), ("zero", 0.6), ("mean", 0.35)):
                delta = effect * factor
                others = float(rng.normal(0.003, 0.006))
                masks[name] = {
                    "accuracy": per_label[label] + delta,
                    "delta": delta,
                    "interval": around(delta, 0.05),
                    "others_delta": others,
                    "others_interval": around(others, 0.02),
                    "loss_delta": float(rng.uniform(0, 0.05)),
                }
            results[label] = {
                "selected": selected,
                "trace": [
                    {
                        "alpha": 0.3 + 0.1 * i,
                        "share": 0.1 * (i + 1),
                        "neurons": max(1, round(0.1 * (i + 1) * selected)),
                        "dev_accuracy": per_label[label] - float(drop[i]),
                        "dev_drop": float(drop[i]),
                    }
                    for i in range(rounds)
                ],
                "stopped": "drop reached" if drop[-1] >= 0.05 else "caps reached",
                "alpha": 0.3 + 0.1 * (rounds - 1),
                "share": share,
                "masked": masked,
                "sites": sites,
                "baseline": per_label[label],
                "sentences": int(rng.integers(90, 135)),
                "masks": masks,
                "random": {
                    "sets": 20,
                    "deltas": random_deltas,
                    "mean": float(np.mean(random_deltas)),
                    "interval": [low, high],
                },
                "beats_random": effect < low,
                "verdict": "unspecific" if effect < low else "no effect",
            }
        content["tasks"][task] = {
            "labels": labels,
            "dev_sentences": 120 * len(labels),
            "test_sentences": 119 * len(labels),
            "baseline": {
                "dev": {"accuracy": accuracy + 0.01, "per_label": {k: v + 0.01 for k, v in per_label.items()}},
                "test": {"accuracy": accuracy, "per_label": per_label},
            },
            "results": results,
        }
    return content


def make_induction(tasks: dict[str, list[str]]) -> Findings:
    rng = np.random.default_rng(4)
    betas = [0.0, 0.5, 1.0, 2.0, 4.0]

    def curve() -> dict[str, Any]:
        share = 0.1 + 0.5 * (1 - np.exp(-np.array(betas) * rng.random()))
        return {
            "selected": 9, "sentences": 100, "baseline": 0.1, "share": share.tolist(),
            "interval": np.stack([share - 0.05, share + 0.05], 1).tolist(), "random": [0.1, 0.11, 0.1, 0.12, 0.13],
            "random_interval": [[0.05, 0.15]] * 5, "loss_delta": [0.0, 0.01, 0.05, 0.2, None],
        }  # fmt: skip

    found = {task: {label: curve() for label in labels} for task, labels in tasks.items()}
    options = {"betas": betas, "random_sets": 5}
    return Findings("induction", {"provenance": PROVENANCE, "options": options, "tasks": found})


def make_candidates(tasks: dict[str, list[str]], score: str = "entropy", **options: Any) -> Findings:
    """Two neurons a label, the first selected for a higher value, the second for a lower one, where scores do that."""
    reads, second = SCORES[score].reads, "lower" if SCORES[score].per_label else "higher"

    def neuron(label: str, index: int, direction: str) -> dict[str, Any]:
        example = {"text": f"a text of {label}", "labels": [label], "rate": 0.75, "mean": -1.25}
        return {
            "site": SITES[0], "index": index, "direction": direction, "auroc": 0.9 - 0.5 * index,
            "interval": [0.85 - 0.5 * index, 0.95 - 0.5 * index], "p": 0.01, "q": 0.02, "redundancy": None,
            "examples": [example] * options.get("examples", 2),
        }  # fmt: skip

    found = {
        label: {"task": task, "sentences": 9, "rest": 9,
                "neurons": [neuron(label, 0, "higher"), neuron(label, 1, second)]}
        for task, labels in tasks.items() for label in labels
    }  # fmt: skip
    made = {"split": "dev", "score": score, "reads": reads, "tokens": "all", "active": "gate", "bootstrap": 1000,
            "permutations": 1000, "examples": 2, "seed": 0, **options}  # fmt: skip
    provenance = {**PROVENANCE, "tested": {"sentences": 9, "screened": 0, "texts": ""}}
    return Findings("candidates", {"provenance": provenance, "options": made, "labels": found})


def make_methods(tasks: dict[str, list[str]]) -> Findings:
    effect = {"selected": 3, "delta": -0.1, "interval": [-0.2, -0.05], "others_delta": 0.0, "specific_delta": -0.1,
              "random": None, "verdict": None}  # fmt: skip
    found = {
        task: {
            "labels": {label: {"sentences": 9, "methods": {"paper": effect}, "best": None} for label in labels},
            "agreement": [[None]],
        }
        for task, labels in tasks.items()
    }
    options = {"methods": ["paper"], "top": 0.01, "alpha": 1.0, "random_sets": 0, "bootstrap": 10}
    return Findings("methods", {"provenance": PROVENANCE, "options": options, "tasks": found})


def make_run(folder: Path, tasks: dict[str, list[str]] = TASKS) -> dict[str, Any]:
    """Write a whole run; return the content of its validation.json."""
    folder.mkdir(parents=True, exist_ok=True)
    make_stats(tasks).save(folder / "stats.safetensors")
    neurons = make_neurons(tasks)
    neurons.save(folder / "neurons.json")
    content = make_validation(tasks, neurons)
    (folder / "validation.json").write_text(json.dumps(content), encoding="utf-8")
    make_induction(tasks).save(folder / "induction.json")
    return content


class Page(HTMLParser):
    """A strict reader: every element is closed in order, no attribute or id comes twice."""

    VOID = frozenset(("meta", "br", "hr", "img", "link", "input", "wbr"))

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        self.ids = set(ids)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), tag
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables[attributes.get("id", str(len(self.tables)))] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append([])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and ("td" in self.open or "th" in self.open) and data.strip():
            list(self.tables.values())[-1][-1][-1].append(" ".join(data.split()))

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def written(fraction: float) -> str:
    """A difference in points as the page must show it, from Python's own formatting."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def written_pair(interval: list[float]) -> str:
    return f"[{written(interval[0])}, {written(interval[1])}]"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    content = make_run(folder)
    return build_report(folder), content


def test_main_table_shows_every_label_and_number_of_the_file(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    rows = Page(path).tables["main-table"][1:]
    expected: list[list[list[str]]] = []
    for task, part in content["tasks"].items():
        expected.append([[task]])
        for label in part["labels"]:
            result = part["results"][label]
            row = [[label], [str(result["selected"])], [str(result["masked"])], [str(result["sentences"])]]
            row.append([f"{100 * result['baseline']:.1f}"])
            row += [[written(m["delta"]), written_pair(m["interval"])] for m in result["masks"].values()]
            row.append([written(result["random"]["mean"]), written_pair(result["random"]["interval"])])
            adaptive = result["masks"]["adaptive"]
            row.append([written(adaptive["others_delta"]), written_pair(adaptive["others_interval"])])
            row.append([f"{adaptive['loss_delta']:+.3f}".replace("-", "−").replace("+0.000", "0.000")])
            row.append(["yes" if result["beats_random"] else "no"])
            row.append([result["verdict"]])
            expected.append(row)
    assert rows == expected


def test_table_text_gives_the_numbers_back(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    text = re.search(r'<pre class="copy" id="main-table-text">(.*?)</pre>', path.read_text(encoding="utf-8"), re.S)
    assert text is not None
    lines = [line.split("\t") for line in text[1].split("\n")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [(row["task"], row["label"]) for row in rows] == [(t, label) for t in TASKS for label in TASKS[t]]
    for row in rows:
        result = content["tasks"][row["task"]]["results"][row["label"]]
        masks, drawn = result["masks"], result["random"]
        assert [int(row["neurons"]), int(row["masked"])] == [result["selected"], result["masked"]]
        found = [float(row[f"{name}_{part}"]) for name in masks for part in ("delta", "low", "high")]
        assert found == pytest.approx([100 * x for m in masks.values() for x in (m["delta"], *m["interval"])], rel=1e-5)
        found = [float(row[f"random_{part}"]) for part in ("mean", "low", "high")]
        assert found == pytest.approx([100 * drawn["mean"], *(100 * x for x in drawn["interval"])], rel=1e-5)
        assert float(row["loss_delta"]) == pytest.approx(masks["adaptive"]["loss_delta"], rel=1e-5)


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
    assert len(names) == 17
    for name in names:
        assert (path.parent / name).read_bytes() == (again.parent / name).read_bytes(), name


SVG = "{http://www.w3.org/2000/svg}"


def texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter(f"{SVG}text")]


def test_accuracy_figure_places_marks_at_the_numbers(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    root = ElementTree.parse(path.parent / "figure-accuracy.svg").getroot()
    legend = {use for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("legend") for use in group.iter()}
    results = [r for part in content["tasks"].values() for r in part["results"].values()]
    places, values = [], []
    for name, color in (("adaptive", "#d55e00"), ("zero", "#0072b2"), ("mean", "#009e73")):
        marks = [
            float(use.get("x", ""))
            for use in root.iter(f"{SVG}use")
            if use not in legend and f"fill: {color}" in use.get("style", "")
        ]
        assert len(marks) == len(results)
        places += marks
        values += [result["masks"][name]["delta"] for result in results]
    # One linear scale takes all deltas to their marks, to a hundredth of a point of the figure.
    slope, offset = np.polyfit(values, places, 1)
    assert slope > 0
    np.testing.assert_allclose(np.polyval([slope, offset], values), places, atol=0.01)


def test_trace_figure_marks_the_setting_used_on_test(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    root = ElementTree.parse(path.parent / "figure-trace.svg").getroot()
    panels = [node for node in root.iter(f"{SVG}g") if node.get("id", "").startswith("axes_")]
    results = [r for part in content["tasks"].values() for r in part["results"].values()]
    assert len([panel for panel in panels if len(panel) > 1]) == len(results)
    panels = [panel for panel in panels if len(panel) > 1]
    for panel, result in zip(panels, results, strict=True):
        rounds, used = (
            [use.get("x") for use in panel.iter(f"{SVG}use") if f"fill: {color}" in use.get("style", "")]
            for color in ("#0072b2", "#d55e00")
        )
        assert len(rounds) == len(result["trace"])
        place = [(step["alpha"], step["share"]) for step in result["trace"]].index((result["alpha"], result["share"]))
        assert used == [rounds[place]]


def test_layer_figure_bars_are_the_counts(whole: tuple[Path, dict[str, Any]]) -> None:
    path, content = whole
    neurons = NeuronSet.load(path.parent.parent / "neurons.json")
    selected = [int(count) for row in neurons.site_counts()[1] for count in row]
    masked = [n for part in content["tasks"].values() for r in part["results"].values() for n in r["sites"].values()]
    root = ElementTree.parse(path.parent / "figure-layers.svg").getroot()
    legend = {node for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("legend") for node in g.iter()}
    scales = []
    for color, counts in (("#56b4e9", selected), ("#d55e00", masked)):
        heights = []
        for node in root.iter(f"{SVG}path"):
            if node not in legend and f"fill: {color}" in node.get("style", ""):
                ys = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", node.get("d", ""))]
                heights.append(max(ys) - min(ys))
        scales.append(max(heights) / max(counts))
        np.testing.assert_allclose(heights, np.array(counts) * scales[-1], atol=0.01)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_overlap_figure_shows_the_jaccard_numbers(whole: tuple[Path, dict[str, Any]]) -> None:
    path, _ = whole
    sets = {
        label: {(site, index) for site, index, _ in found}
        for label, found in json.loads((path.parent.parent / "neurons.json").read_text())["labels"].items()
    }
    expected = [
        f"n={len(a)}" if a is b else f"{len(a & b) / len(a | b):.2f}" for a in sets.values() for b in sets.values()
    ]
    assert [
        text for text in texts(path.parent / "figure-overlap.svg") if re.fullmatch(r"n=\d+|\d\.\d\d", text)
    ] == expected


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


PIECES = ("stats.safetensors", "neurons.json", "validation.json")


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
    assert ("main-table" in page.tables) == bool(kept & 4)
    assert ("figure-layers" in page.ids) == bool(kept & 2)
    assert {file.name for file in path.parent.glob("*.svg")} == {
        f"{i}.svg" for i in page.ids if i.startswith("figure-")
    }
    for tag, attributes in page.elements:
        if tag == "a" and attributes["href"].startswith("#"):
            assert attributes["href"][1:] in page.ids
    if not kept & 4:
        assert "beyond" not in page.words.split("Methods and definitions")[1]
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
    content = make_run(tmp_path, {"tone": ["calm"]})
    result = content["tasks"]["tone"]["results"]["calm"]
    result["masks"] = {"adaptive": {**result["masks"]["adaptive"], "interval": None, "others_delta": None,
                                    "others_interval": None, "loss_delta": None}}  # fmt: skip
    result |= {"random": None, "beats_random": None, "trace": [], "sites": {}}
    (tmp_path / "induction.json").unlink()
    content["options"] = {}
    (tmp_path / "validation.json").write_text(json.dumps(content))
    page = Page(build_report(tmp_path))
    row = page.tables["main-table"][2]
    assert row[0] == ["calm"]
    assert row[5] == [written(result["masks"]["adaptive"]["delta"])]
    assert row[6:] == [["–"]] * 6 + [[result["verdict"]]]
    assert "For 1 of 1 label (calm) there are no random sets to compare with." in page.words
    assert {i for i in page.ids if i.startswith("figure-")} == {"figure-accuracy", "figure-layers"}


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


def test_strings_of_the_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    tasks = {"<b>task</b>": sorted(HOSTILE)}
    neurons = make_neurons(tasks)
    neurons.provenance["model"] = "<img src=x onerror=alert(2)>"
    neurons.save(tmp_path / "neurons.json")
    content = make_validation(tasks, neurons)
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
    rows = page.tables["main-table"][2:]
    assert [row[0] for row in rows] == [[" ".join(label.split())] for label in sorted(HOSTILE)]
    text = re.search(r'id="main-table-text">(.*?)</pre>', path.read_text(encoding="utf-8"), re.S)
    assert text is not None
    assert {line.count("\t") for line in text[1].split("\n")} == {text[1].split("\n")[0].count("\t")}


def test_what_no_file_can_carry_is_replaced(tmp_path: Path) -> None:
    tasks = {"tone": ["\x07bell", "\ud800half"]}
    content = make_validation(tasks, make_neurons(tasks))
    (tmp_path / "validation.json").write_text(json.dumps(content))
    path = build_report(tmp_path)
    assert [row[0] for row in Page(path).tables["main-table"][2:]] == [["\ufffdbell"], ["\ufffdhalf"]]
    assert "\ufffdbell" in texts(path.parent / "figure-trace.svg")


# --- spreadsheets ------------------------------------------------------------------------------------------------

FORMULAS = ['=HYPERLINK("x","y")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "=", "+49 30"]
PLAIN = ["a=b", " =1", "'=1", "1-1", "", "−1", "x\ry", 'a "quoted", cell']


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_no_text_of_a_csv_is_a_formula_and_every_number_stays_one() -> None:
    columns = (Column("=label"), Column("n", "number"), Column("i", "interval"), Column("setting"))
    rows = [[text, -0.25, [-1.5, 2], -4.0] for text in [*FORMULAS, *PLAIN]]
    header, *lines = read_csv(Table("t", "c", columns, rows, "f").csv())
    assert header == ["'=label", "n", "i low", "i high", "setting"]
    assert [line[0] for line in lines] == [f"'{text}" for text in FORMULAS] + PLAIN
    for line in lines:
        assert [float(cell) for cell in line[1:]] == [-0.25, -1.5, 2.0, -4.0]


def test_what_is_missing_is_a_dash_and_an_empty_cell() -> None:
    columns = (Column("t"), Column("n", "number"), Column("i", "interval"), Column("p", "percent"), Column("q", "p"))
    rows = [["x", missing, None, missing, missing] for missing in (None, float("nan"))]
    table = Table("t", "c", columns, rows, "f")
    assert table.cells() == [["x", "–", "–", "–", "–"]] * 2
    assert read_csv(table.csv())[1:] == [["x", "", "", "", "", ""]] * 2


def test_formulas_of_labels_reach_no_spreadsheet(tmp_path: Path) -> None:
    tasks = {"@task": ["=1+1", "-label"]}
    make_run(tmp_path, tasks)
    make_candidates(tasks).save(tmp_path / "candidates.json")
    make_methods(tasks).save(tmp_path / "methods.json")
    path = build_report(tmp_path)
    tables = list(path.parent.glob("table-*.csv"))
    assert {"table-results.csv", "table-examples.csv"} <= {file.name for file in tables}
    text = re.search(r'id="main-table-text">(.*?)</pre>', path.read_text(encoding="utf-8"), re.S)
    assert text is not None
    cells = [cell for line in text[1].split("\n") for cell in line.split("\t")]
    cells += [cell for file in tables for row in read_csv(file.read_text(encoding="utf-8")) for cell in row]
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)
    assert {"&#39;=1+1", "&#39;@task", "'=1+1"} <= set(cells)


def test_latex_of_odd_text_keeps_its_rows() -> None:
    """A bracket or a star after the end of a row would be its option; a blank line would end a paragraph."""
    rows = [["[2cm] x"], ["*y"], ["two\n\nlines"], ["50 % & $x_1$ \\end{table}"]]
    lines = Table("t", "c", (Column("label"),), rows, "f").latex().split("\n")
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [r"{[}2cm{]} x \\", r"{*}y \\", r"two lines \\",
                    r"50 \% \& \$x\_1\$ \textbackslash{}end\{table\} \\"]  # fmt: skip


# --- names of files ----------------------------------------------------------------------------------------------


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


@given(st.text(max_size=60), st.text(max_size=60))
def test_names_of_files_are_safe_and_never_shared(one: str, other: str) -> None:
    for text in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,49}", words.file_name(text))
    assert (words.file_name(one) == words.file_name(other)) == (one == other)


# --- candidates --------------------------------------------------------------------------------------------------


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
    for name in ("candidates", "examples"):
        shown = [[cell[0] for cell in row] for row in page.tables[f"table-{name}"]]
        exported = read_csv((path.parent / f"table-{name}.csv").read_text(encoding="utf-8"))
        for rows in (shown, exported):
            assert rows[0][2] == "selected for"
            assert {row[2] for row in rows[1:]} == {f"higher {reads}", f"{second} {reads}"}
    assert exported[1] == ["calm", f"{SITES[0]} 0", f"higher {reads}", "a text of calm", "calm", "0.75", "-1.25"]
    assert "the AUROC of 2 of 4 neurons is above 0.5. The whole interval lies above 0.5 for 2, below 0.5 for 2." in (
        page.words
    )


def test_a_neuron_without_an_auroc_is_left_out_of_figure_and_tables(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    found = make_candidates({"tone": ["calm", "loud"]})
    lost = dict.fromkeys(("auroc", "interval", "p", "q"))
    found["labels"]["calm"]["neurons"] = [{**one, **lost} for one in found["labels"]["calm"]["neurons"]]
    found["labels"]["loud"]["neurons"][0] |= lost
    found.save(tmp_path / "candidates.json")
    page = Page(build_report(tmp_path))
    assert [row[:2] for row in page.tables["table-candidates"][1:]] == [[["loud"], [f"{SITES[0]} 1"]]]
    assert "the AUROC of 0 of 1 neuron is above 0.5" in page.words


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
    assert (["filter_rate"] in [cell for rows in page.tables.values() for row in rows for cell in row]) == entropy


# --- words -------------------------------------------------------------------------------------------------------


def test_counts_agree_with_their_nouns() -> None:
    assert count(1, "neuron") == "1 neuron"
    assert [count(n, "neuron") for n in (0, 2, 1024)] == ["0 neurons", "2 neurons", "1,024 neurons"]
    assert [count(n, "axis", "axes") for n in (1, 2)] == ["1 axis", "2 axes"]


def test_a_page_of_ones_has_no_plural_after_a_one(tmp_path: Path) -> None:
    tasks = {"tone": ["calm"]}
    content = make_run(tmp_path, tasks)
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
    part["results"]["calm"]["random"]["sets"] = 1
    (tmp_path / "validation.json").write_text(json.dumps(content))
    make_candidates(tasks, bootstrap=1, permutations=1).save(tmp_path / "candidates.json")
    entry = {"task": "tone", "selected": 1, "neurons": [[SITES[0], 0, 1.0]], "others": [], "split_half": None}
    options = {"folds": 1, "resamples": 1, "splits": 1}
    Findings("stability", {"provenance": PROVENANCE, "options": options, "labels": {"calm": entry}}).save(
        tmp_path / "stability.json"
    )
    page = Page(build_report(tmp_path))
    nouns = "neuron|site|label|sentence|fold|set|resample|split|permutation|activation"
    assert re.findall(rf"(?<![\d.,])1 (?:\w+ )?(?:{nouns})s\b", page.words) == []
    assert len(re.findall(rf"(?<![\d.,])1 (?:\w+ )?(?:{nouns})\b", page.words)) > 10
    assert not re.search(r"(?<![\d.,])1 \w+ were\b", page.words)


def label_result(beats: bool | None, interval: tuple[float, float] | None) -> LabelResult:
    random = None if beats is None else RandomSets(20, (0.0,) * 20, -0.001, (-0.01, 0.01))
    mask = Mask(0.5, -0.05 if beats else 0.0, interval, None, None, None)
    return LabelResult("t", f"{beats} {interval}", 9, 3, 0.5, 0.3, "caps reached", (), {}, 0.6, 80, {"adaptive": mask},
                       random, beats, None)  # fmt: skip


def test_the_summary_claims_an_effect_only_where_both_controls_agree() -> None:
    below, across = (-0.09, -0.01), (-0.09, 0.01)
    results = [label_result(b, i) for b in (True, False, None) for i in (below, across, None)]
    lines = words.headline(results)
    for result in results:
        # Each label stands in one sentence, and a plain "fell beyond" needs both the random sets and the interval.
        assert sum(result.label in line for line in lines) == 1
        line = next(line for line in lines if result.label in line)
        sure = result.beats_random is True and result.masks["adaptive"].interval == below
        assert ("fell beyond what random sets did, with an interval below zero" in line) == sure
        assert ("beyond the random sets, and the interval is below zero" in words.label_sentence(result)) == sure
    assert words.headline([]) == []


def test_numbers_as_words() -> None:
    assert words.decimal(-0.04, 1) == "0.0"
    assert words.signed(-0.04, 1) == words.signed(0.04, 1) == "0.0"
    assert words.signed(-9.26, 1) == "−9.3"
    assert words.points(0.0123) == "+1.2"
    assert words.layer_names(["model.layers.10.mlp", "model.layers.2.mlp"]) == ("layer", ["10", "2"])
    assert words.layer_names(["a.0.x1", "b.0.x2"]) == ("site, in the order of the forward pass", ["0", "1"])


@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=2, unique=True))
def test_any_label_makes_a_figure(labels: list[str]) -> None:
    selected = {label: {SITES[0]: place + 1} for place, label in enumerate(labels)}
    drawn = figures.layers_figure(selected, {}, SITES)
    # The label comes back as it is but for blanks, length and what XML cannot hold.
    shown = ["".join(node.itertext()) for node in ElementTree.fromstring(drawn.svg).iter(f"{SVG}text")]
    for label in labels:
        kept = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in label)
        assert not label.isprintable() or len(label) > 22 or (" ".join(kept.split()) or "(empty)") in shown
    ElementTree.fromstring(figures.inline(drawn.svg, "f1", labels[0]))


def at(content: dict[str, Any], path: str) -> tuple[Any, str]:
    *parents, last = path.split("/")
    for key in parents:
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content, last


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("version", 2, "version is 2, expected 1"),
        ("format", "affectron.neurons", "format is 'affectron.neurons'"),
        ("tasks", [], "tasks is [], expected an object"),
        ("tasks/tone/test_sentences", -1, "tasks.tone.test_sentences is -1, expected a count"),
        ("tasks/tone/results/calm/baseline", "high", "tasks.tone.results.calm.baseline is 'high'"),
        ("tasks/tone/results/calm/masks/adaptive/delta", None, "masks.adaptive.delta is None, expected a finite"),
        ("tasks/tone/results/calm/masks/adaptive/delta", float("nan"), "masks.adaptive.delta is nan"),
        ("tasks/tone/results/calm/masks/adaptive/interval", [0.1, -0.1], "interval is [0.1, -0.1], expected two"),
        ("tasks/tone/results/calm/masks/other", {}, "masks.other is not a known mask"),
        ("tasks/tone/results/calm/trace/0/alpha", True, "trace[0].alpha is True, expected a finite number"),
        ("tasks/tone/results/calm/sites/nowhere", 3, "site 'nowhere' of label 'calm' is not in neurons.json"),
        ("tasks/tone/results/odd", {}, "tasks.tone.results.odd is not among the task's 2 labels"),
        ("tasks/tone/labels", ["calm", 3], "tasks.tone.labels is ['calm', 3], expected a list of texts"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(place: str, value: Any, named: str, tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]})
    parent, key = at(content, place)
    parent[int(key) if isinstance(parent, list) else key] = value
    (tmp_path / "validation.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        build_report(tmp_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]})
    del content["tasks"]["tone"]["results"]["loud"]["masked"]
    (tmp_path / "validation.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tasks\.tone\.results\.loud\.masked is missing, expected a count"):
        read_validation(tmp_path / "validation.json")


def test_no_run_folder_or_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent is not a folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has none of stats\.safetensors, neurons\.json, validation\.json"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]})
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="cannot write to"):
        build_report(tmp_path)
    assert (tmp_path / "report").read_text() == "a file"


def test_pieces_of_different_models_are_pointed_out(tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]})
    content["provenance"]["weights"] = "ffff0000"
    (tmp_path / "validation.json").write_text(json.dumps(content))
    page = Page(build_report(tmp_path))
    assert "do not belong together: the weights differ" in page.words
    assert "validation.json: ffff0000" in page.words


@pytest.mark.parametrize(
    ("tested", "named"),
    [
        (3, "provenance.tested is 3, expected an object"),
        (
            {"sentences": "1", "screened": 0, "texts": ""},
            "provenance.tested has sentences '1' and screened 0, expected",
        ),
        (
            {"sentences": 1, "screened": 0.5, "texts": ""},
            "provenance.tested has sentences 1 and screened 0.5, expected",
        ),
        ({"sentences": 1, "screened": 0, "texts": "?"}, "provenance.tested.texts is '?', expected base64 of ascending"),
        ({"sentences": 1, "screened": 0}, "provenance.tested.texts is None, expected base64 of ascending"),
    ],
)
def test_a_wrong_record_of_what_was_tested_is_named(tested: Any, named: str, tmp_path: Path) -> None:
    content = make_run(tmp_path, {"tone": ["calm", "loud"]})
    content["provenance"]["tested"] = tested
    (tmp_path / "validation.json").write_text(json.dumps(content))
    assert message(lambda: build_report(tmp_path)).startswith(f"validation.json: {named}")
    assert not (tmp_path / "report").exists()


def test_screened_sentences_of_any_file_are_refused_or_stated(tmp_path: Path) -> None:
    """Candidates of before the texts were kept, on the very sentences of the statistics; and a validation that states
    its own overlap, which needs no leave."""
    content = make_run(tmp_path, {"tone": ["calm", "loud"]})
    content["provenance"]["tested"] = {"sentences": 9, "screened": 4, "texts": ""}
    (tmp_path / "validation.json").write_text(json.dumps(content))
    assert "4 of the 9 sentences that validation.json tests were screened too." in Page(build_report(tmp_path)).words
    candidates = dict(make_candidates({}, split="train").content)
    candidates["provenance"] = {**PROVENANCE, "split": "train"}
    Findings("candidates", candidates).save(tmp_path / "candidates.json")
    line = "all sentences of split 'train' that candidates.json tests were screened too"
    assert message(lambda: build_report(tmp_path)).startswith(line)
    assert f"A{line[1:]}." in Page(build_report(tmp_path, allow_overlap=True)).words
    candidates["provenance"] = {**PROVENANCE, "corpus": ["other"]}
    Findings("candidates", candidates).save(tmp_path / "candidates.json")
    shown = Page(build_report(tmp_path)).words
    assert "sentences that candidates.json and induction.json test were screened too cannot be checked" in shown


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


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_says_what_to_install(
    package: str, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "affectron.report.figures")
    monkeypatch.delattr(affectron.report, "figures")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"a report needs {package}.*pip install affectron\[report\]"):
        build_report(whole[0].parent.parent, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
