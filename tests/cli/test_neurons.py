"""``affectron neurons``: the labels of a run, a label's neurons with every score, one neuron's card, new cards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import affectron
from affectron._internal.artifacts import KINDS
from affectron.cli import neurons as command
from affectron.cli import output
from affectron.experiments.results import Cards
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, score
from affectron.stats import FIELDS, ActivationStats
from tests.cli.test_cli import refuse, run
from tests.cli.test_output import rows
from tests.support.results import PROVENANCE, SITES, make_cards, make_neurons, make_run, make_stats

TASKS = {"tone": ["calm", "loud"], "mood": ["glum", "glad"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, TASKS, *KINDS)
    return folder


def narrow(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    for module in (output, command):
        monkeypatch.setattr(module, "console", lambda: Console(width=width))


def test_labels_are_listed_with_their_neurons_layers_and_best(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch, 80)
    printed = run("neurons", made)
    assert max(len(line) for line in printed.splitlines() if line[0] in "┏┃│") <= 80
    selected = make_neurons(TASKS)
    assert [row[:3] for row in rows(printed)] == [
        [selected[label].task, label, str(len(selected[label]))] for label in selected
    ]
    for label, row in zip(selected, rows(printed), strict=True):
        (site, index, _), sizes = selected[label][0], {s: len(i) for s, i in selected[label].by_site().items()}
        assert row[4].startswith(f"layer {SITES.index(site)}, neuron {index}: ")
        largest = max(sizes.values())
        assert f"({largest})" in row[3]
        assert f"{row[3].split()[0]}" in {str(SITES.index(s)) for s, size in sizes.items() if size == largest}
    told = json.loads(run("neurons", made, "--json"))["labels"]
    assert {label: of_label["neurons"] for label, of_label in told.items()} == {
        label: len(of_label) for label, of_label in selected.items()
    }
    assert all(sum(of_label["sites"].values()) == of_label["neurons"] for of_label in told.values())


@pytest.mark.parametrize("width", [80, 300])
def test_a_label_has_a_row_for_each_neuron_and_every_score(
    width: int, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, width)
    printed = run("neurons", made, "--label", "loud")
    assert max(len(line) for line in printed.splitlines() if line[0] in "┏┃│") <= width
    selected = make_neurons(TASKS)["loud"]
    listed = rows(printed)
    assert [row[:3] for row in listed] == [
        [str(rank), str(SITES.index(site)), str(index)] for rank, (site, index, _) in enumerate(selected, start=1)
    ]
    activation = [name for name, kind in SCORES.items() if kind.kind == "activation" and name != "entropy"]
    names = printed.split("┡")[0]
    left_out = [line for line in printed.splitlines() if line.startswith("no room for ")]
    assert len(left_out) == (width == 80)
    for name in activation:
        assert (name.split("_")[0] in names) or (name in left_out[0])
    if width == 300:
        values = score(make_stats(TASKS), "hedges_g", "tone")
        row = make_stats(TASKS).tasks["tone"].index("loud")
        shown = {float(f"{values[site][row, index]:.3g}") for site, index, _ in selected}
        assert shown <= {float(cell) for line in listed for cell in line if cell[-1:].isdigit()}
    told = json.loads(run("neurons", made, "--label", "loud", "--json"))["neurons"]
    assert [(view["site"], view["index"]) for view in told] == [(site, index) for site, index, _ in selected]
    assert set(told[0]["labels"][0]["scores"]["activation"]) == {*activation, "entropy"}
    assert told[-1]["card"] is None
    assert "No scores of attributions: there is no attribution.safetensors" in printed


def test_scores_like_the_one_that_selected_stand_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch, 300)
    make_run(tmp_path, TASKS)
    stats, selected = make_stats(TASKS), make_neurons(TASKS)
    arrays = {site: {name: getattr(stats, name)[site] for name in FIELDS} for site in stats.sites}
    made = {**PROVENANCE, "kind": "attribution"}
    ActivationStats(stats.tasks, stats.segments, arrays, made).save(tmp_path / "attribution.safetensors")
    columns: list[str] = []
    monkeypatch.setattr(command, "print_table", lambda title, names, rows: columns.extend(names))
    for by, first, last in (("attribution_t", "attribution_g", "hedges_g"), ("entropy", "hedges_g", "attribution_g")):
        NeuronSet(selected.values(), selected.widths, {**PROVENANCE, "select": {"score": by}}).save(
            tmp_path / "neurons.json"
        )
        run("neurons", tmp_path, "--label", "calm")
        names = [name.replace("\n", "") for name in columns]
        assert names[3] == by
        assert names.index(first) < names.index(last)
        columns.clear()


@pytest.mark.parametrize("by", ["name", "number"])
def test_one_neuron_has_its_card(by: str, made: Path) -> None:
    site, index, _ = make_neurons(TASKS)["glum"][0]
    given = site if by == "name" else str(SITES.index(site))
    view = affectron.read_cards(made, "glum")["glum"][0]
    assert run("neurons", made, "--site", given, "--index", index).split() == view.text(160).split()
    told = json.loads(run("neurons", made, "--label", "glum", "--site", given, "--index", index, "--json"))
    assert (told["site"], told["index"]) == (site, index)
    assert told["card"]["promoted"][0]["token"] == " rage"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--label", "joy"), "label 'joy' is not in the neuron set, which has calm, loud, glum, glad"),
        (("--index", 3), "--site is not given, expected --site and --index together"),
        (("--site", 3), "--index is not given, expected --site and --index together"),
        (("--site", 77, "--index", 3), "site is '77', expected one of model.layers.0.mlp, "),
        (("--site", 0, "--index", 511), "index is 511, expected one of "),
        (("--split", "dev"), "--split and --task are of the corpus, and --corpus is not given"),
        (("--model", "somewhere"), "--model and --corpus: one is given, expected both or neither"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(options: tuple[object, ...], line: str, made: Path) -> None:
    assert refuse("neurons", made, *options).startswith(f"error: {line}")


def test_a_neuron_of_another_label_and_a_folder_that_is_no_run_are_refused(made: Path, tmp_path: Path) -> None:
    loud = {(site, index) for site, index, _ in make_neurons(TASKS)["loud"]}
    site, index = next((site, index) for site, index, _ in make_neurons(TASKS)["calm"] if (site, index) not in loud)
    line = refuse("neurons", made, "--label", "loud", "--site", site, "--index", index)
    assert line.endswith(f"selected at {site} for loud")
    assert refuse("neurons", tmp_path / "nowhere").endswith(
        "nowhere is not a folder, expected one with stats.safetensors, neurons.json, validation.json"
    )
    assert "has none of stats.safetensors" in refuse("neurons", tmp_path)
    shutil.copy(made / "stats.safetensors", tmp_path)
    assert "the run has no neurons.json" in refuse("neurons", tmp_path)


def test_cards_are_collected_saved_and_shown(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    (folder / "cards.json").unlink()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(
            json.dumps({"text": f"w{n}", "label": "calm", "split": s}) + "\n" for n, s in enumerate(("dev", "test"))
        )
    )
    given: dict[str, Any] = {}

    def describe(model: object, tokenizer: object, corpus: affectron.Corpus, neurons: object, **options: Any) -> Cards:
        given.update(options, model=model, tokenizer=tokenizer, sentences=[one.text for one in corpus], neurons=neurons)
        return make_cards(TASKS)

    monkeypatch.setattr(affectron, "describe", describe, raising=False)
    monkeypatch.setattr(command, "load_model", lambda name, load: (name, "tokenizer"))
    printed = run(
        "neurons", folder, "--model", "gpt", "--corpus", corpus, "--split", "dev", "--tokens", "last", "--label", "calm"
    )  # fmt: skip
    assert (given["model"], given["tokenizer"], given["sentences"]) == ("gpt", "tokenizer", ["w0"])
    assert (given["neurons"], given["attributions"], given["tokens"]) == (make_neurons(TASKS), None, "last")
    assert Cards.load(folder / "cards.json") == make_cards(TASKS)
    assert "␣rage ärger" in printed
    (folder / "cards.json").unlink()
    line = refuse("neurons", folder, "--model", "gpt", "--corpus", corpus, "--label", "joy")
    assert "label 'joy' is not in the neuron set" in line
    assert not (folder / "cards.json").exists()


def test_neurons_of_another_file_are_shown_and_their_cards_join_the_others(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    known = Cards.load(folder / "cards.json")
    ((site, index, _), *_) = make_neurons(TASKS)["glad"][10:]
    assert all((card.site, card.index) != (site, index) for card in known.neurons)
    other = NeuronSet([NeuronList("glad", "mood", [(site, index, 0.5)])], make_neurons(TASKS).widths, PROVENANCE)
    other.save(folder / "steering.json")
    (corpus := tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "w1", "label": "glad"}) + "\n")
    card = replace(known.neurons[0], site=site, index=index, labels=("glad",))
    monkeypatch.setattr(affectron, "describe", lambda *_, **__: replace(known, neurons=(card,)), raising=False)
    monkeypatch.setattr(command, "load_model", lambda name, load: (name, "tokenizer"))
    steering = ("--neurons", folder / "steering.json")
    told = json.loads(run("neurons", folder, *steering, "--model", "gpt", "--corpus", corpus, "--json"))
    assert told["labels"] == {
        "glad": {"neurons": 1, "sites": {site: 1}, "best": {"site": site, "index": index, "score": 0.5}}
    }
    saved = Cards.load(folder / "cards.json")
    assert list(saved.neurons) == sorted([*known.neurons, card], key=lambda card: (card.site, card.index))
    assert refuse("neurons", folder, *steering, "--label", "calm").startswith(
        "error: label 'calm' is not in the neuron set"
    )
