"""A run from its file: what is read from it, what is run again and what is not, and how it goes on after a stop."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools import options
from typer.testing import CliRunner

from affectron._internal.artifacts import KINDS, findings_file
from affectron._internal.files import locked
from affectron.cli.app import app
from affectron.corpus import Corpus
from affectron.corpus.batching import Batch
from affectron.corpus.loading import load_corpus
from affectron.experiments.cards import describe
from affectron.experiments.results import Cards
from affectron.models import load_model
from affectron.neurons import NeuronSet
from affectron.runs import engine, load_config, plan, run
from affectron.runs.session import Session
from affectron.runs.stages import Generate, Stage
from affectron.screening.accumulate import Accumulator
from affectron.stats import ActivationStats
from tests.support.devices import pretended_device
from tests.support.errors import message
from tests.support.planted import PROMPTS, TOKENIZER, make_corpus, make_model

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = f"""
model = "model"
corpus = "corpus.jsonl"
output = "out"
[screen]
folds = 3
[select]
top = 0.05
score = "attribution_moderated"
filter_rate = 0
[stability]
resamples = 4
splits = 2
[candidates]
permutations = 10
cards = 3
texts = 2
[responses]
neurons = 1
factors = [0, 1, 3]
[evaluate]
limit = 6
[evaluate.prompts]
mood = "{PROMPTS["mood"]}"
tone = "{PROMPTS["tone"]}"
[validate]
random_sets = 2
[methods]
methods = ["lee", "npti"]
random_sets = 2
[ablate]
alphas = [1.0]
shares = [0.5]
model_shares = [0.05]
random_sets = 2
[induce]
betas = [1.0]
random_sets = 1
[cross_signal]
source = "tone"
target = "mood"
omegas = [1.0]
random_sets = 2
[cross_dataset]
corpus = "other.jsonl"
task = "mood"
[generate]
task = "mood"
shares = [0.02]
budgets = [0.2]
layers = [1]
tried = 3
count = 3
words = 2
max_new_tokens = 3
"""
# What does not depend on the attributions, or is left out where they are of other positions than the masks.
LEFT = ("screen", "estimate", "layers", "gradients", "generate")
ALL = [
    "screen", "attribute", "stability", "select", "candidates", "validate", "estimate", "responses", "methods",
    "ablate", "induce", "cross_signal", "cross_dataset", "associate", "layers", "gradients", "generate", "report",
]  # fmt: skip


def write_corpus(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_model().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    corpus = make_corpus(each=6)
    records = [
        {"text": one.text, "label": one.labels[0], "task": corpus.task_of[one.labels[0]], "split": one.split}
        for one in corpus
    ]
    write_corpus(folder / "corpus.jsonl", records)
    moods = [{key: one[key] for key in ("text", "label", "split")} for one in records if one["task"] == "mood"]
    strange = [{"text": "w1 w2", "label": "w3", "split": split} for split in ("train", "dev", "test")]
    write_corpus(folder / "other.jsonl", [*moods[::-1], *strange])
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped in every stage, its work done but not recorded, and went on each time."""
    output = tmp_path_factory.mktemp("out")
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=output)
    table = engine.STAGES
    ran: list[str] = []

    class Watched:
        """A stage that is stopped when its work is done."""

        def __init__(self, stage: Stage, stop: str | None) -> None:
            self.stage, self.stop = stage, stop

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stage, name)

        def work(self, session: Session) -> None:
            self.stage.work(session)
            if self.stage.name == self.stop:
                raise KeyboardInterrupt
            ran.append(self.stage.name)

    with pytest.MonkeyPatch.context() as patch:
        for stop in [*ALL, None]:
            patch.setattr(engine, "STAGES", tuple(Watched(stage, stop) for stage in table))
            if stop is None:
                run(config)
            else:
                with pytest.raises(KeyboardInterrupt):
                    run(config)
                assert set(json.loads((output / "run.json").read_text())["stages"] if ran else []) == set(ran)
    assert ran == ALL  # each stage once more and no other, however often the run was stopped
    return output


def test_a_run_on_a_device_without_float64_finds_the_same(inputs: Path, whole: Path, tmp_path: Path) -> None:
    with pretended_device("mps", float64=False):
        run(dataclasses.replace(load_config(inputs / "config.toml"), output=tmp_path, device="mps"))
    files = sorted(path.name for path in whole.glob("*.json") if path.name != "run.json")
    assert {"validation.json", "generation.json", "estimate.json"} < set(files)
    for file in files:
        expected, found = (dict(numbers(json.loads((folder / file).read_text()))) for folder in (whole, tmp_path))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), file


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """(place, number) of each number in nested JSON but for times."""
    if isinstance(value, (int, float)):
        if "seconds" not in place:
            yield place, float(value)
    elif isinstance(value, (list, dict)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, f"{place}/{key}")


def renewed(inputs: Path, output: Path, **changes: Any) -> list[str]:
    """The stages that a plan would run after a change of the configuration."""
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=output)
    for name, value in changes.items():
        section = getattr(config, name)
        config = dataclasses.replace(
            config, **{name: dataclasses.replace(section, **value) if isinstance(value, dict) else value}
        )
    return [one.stage for one in plan(config) if not one.cached]


def test_a_stopped_run_goes_on_and_ends_whole(inputs: Path, whole: Path) -> None:
    files = {path.name for path in whole.iterdir()}
    assert {"attribution.safetensors", *(findings_file(kind) for kind in KINDS)} <= files
    assert {"stats.safetensors", "neurons.json", "validation.json", "cross_dataset.json", "run.json", "report"} <= files
    record = json.loads((whole / "run.json").read_text())
    assert record["config"]["screen"]["folds"] == 3
    assert record["config"]["validate"]["alpha"] == 0.3  # defaults are written out
    assert set(record["versions"]) == {"python", "torch", "transformers"}
    other = json.loads((whole / "cross_dataset.json").read_text())
    assert set(other["tasks"]) == {"mood"}
    assert other["provenance"]["corpus_name"].endswith("/other.jsonl")
    validation = json.loads((whole / "validation.json").read_text())
    results = [result for part in validation["tasks"].values() for result in part["results"].values()]
    masks = [result["masks"][mask] for result in results for mask in ("adaptive", "zero")]
    # All six answers are lost: p is 1/32, small for one label and not for five.
    assert {(mask["delta"], mask["verdict"]) for mask in masks} == {(-1.0, "cannot tell")}
    assert {mask["reason"] for mask in masks} == {"p does not hold for 5 labels together"}


FORWARD = Accumulator.forward


def count_sentences(patch: pytest.MonkeyPatch, batches: int | None = None) -> list[int]:
    """The number of sentences of each batch that is screened from now on; Ctrl-C comes after so many batches."""
    read: list[int] = []

    def counted(self: Accumulator, batch: Batch) -> None:
        if len(read) == batches:
            raise KeyboardInterrupt
        FORWARD(self, batch)
        read.append(len(batch.sentences))

    patch.setattr(Accumulator, "forward", counted)
    return read


@pytest.fixture
def only_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that end with the screening."""
    monkeypatch.setattr(engine, "STAGES", tuple(stage for stage in engine.STAGES if stage.name == "screen"))


@pytest.mark.usefixtures("only_screen")
def test_a_stopped_screening_goes_on_from_its_checkpoint(
    inputs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=tmp_path / "out")
    read = count_sentences(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    kept = sorted(path.relative_to(config.output).as_posix() for path in config.output.rglob("shard-*"))
    assert kept
    assert all(name.startswith("checkpoint/screen-") for name in kept)
    (config.output / "checkpoint" / "notes.txt").write_text("mine")  # what the user keeps there stays
    again = count_sentences(monkeypatch)
    run(config)
    assert sum(read) + sum(again) == len(load_corpus(str(config.corpus), config.columns, split="train"))
    assert (config.output / "stats.safetensors").read_bytes() == (whole / "stats.safetensors").read_bytes()
    assert [path.name for path in (config.output / "checkpoint").iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("only_screen")
@pytest.mark.parametrize("changes", [{"tokens": "last"}, {"resume": False}])
def test_a_screening_with_other_options_begins_anew(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=tmp_path / "out")
    count_sentences(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    read = count_sentences(monkeypatch)
    run(dataclasses.replace(config, screen=dataclasses.replace(config.screen, **changes)))
    assert sum(read) == len(load_corpus(str(config.corpus), config.columns, split="train"))
    assert not (config.output / "checkpoint").exists()


def test_a_run_reads_what_the_commands_read(inputs: Path, tmp_path: Path) -> None:
    """Label columns side by side, spans, a folder of datasets, a task, lines to skip and long texts."""
    datasets = pytest.importorskip("datasets")
    rows = [json.loads(line) for line in (inputs / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    wide = [
        {"text": row["text"], "mood": None, "tone": None, "split": row["split"], row["task"]: row["label"]}
        for row in rows
    ]
    write_corpus(tmp_path / "wide.jsonl", [{"text": 7}, *wide])
    datasets.Dataset.from_list(wide).save_to_disk(str(tmp_path / "folder"))
    usual = CONFIG.replace('"model"', f'"{inputs / "model"}"').replace("other.jsonl", str(inputs / "other.jsonl"))
    options = '\n[columns]\nlabel = ["mood", "tone"]\n'
    for corpus, more in (("wide.jsonl", 'on_bad_line = "skip"\n'), ("folder", "")):
        file = tmp_path / "config.toml"
        file.write_text(usual.replace('"corpus.jsonl"', f'"{corpus}"') + options + more, encoding="utf-8")
        config = load_config(file)
        assert config.columns.label == ("mood", "tone")
        assert [stage.stage for stage in plan(config)] == ALL
    spans = [
        {"text": row["text"], "split": row["split"], "spans": [{"start": 0, "end": 5, "label": row["label"]}]}
        for row in rows
    ]
    write_corpus(
        tmp_path / "spans.jsonl", [row for row, whole in zip(spans, rows, strict=True) if whole["task"] == "mood"]
    )
    text = usual.replace('"corpus.jsonl"', '"spans.jsonl"').replace('output = "out"', 'output = "out"\ntask = "mood"')
    text = text[: text.index("[cross_signal]")].replace(f'tone = "{PROMPTS["tone"]}"\n', "")
    text = text.replace("folds = 3", 'folds = 3\nlong_texts = "windows"\nshards = 2')
    file.write_text(f'{text}\n[columns]\nspan = "spans"\n', encoding="utf-8")
    assert [stage.stage for stage in plan(load_config(file))] == [name for name in ALL if not name.startswith("cross")]


def test_what_has_not_changed_is_not_run_again(inputs: Path, whole: Path) -> None:
    assert renewed(inputs, whole) == []
    said: list[str] = []
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=whole)
    _, done = run(config, say=said.append)
    assert all(one.cached for one in done)
    assert said == [f"{name}: there already" for name in ALL]


def test_cards_of_the_candidates_pass_are_those_of_describe(inputs: Path, whole: Path) -> None:
    found = Cards.load(whole / "cards.json")
    dev = Corpus.from_file(inputs / "corpus.jsonl").where(split="dev")
    neurons = NeuronSet.load(whole / "neurons.json")
    attributions = ActivationStats.load(whole / "attribution.safetensors")
    model, tokenizer = load_model(inputs / "model")
    told = describe(model, tokenizer, dev, neurons, attributions=attributions, cards=3, texts=2)
    assert found.options == told.options
    for one, other in zip(found.neurons, told.neurons, strict=True):
        assert dataclasses.replace(one, activation={}) == dataclasses.replace(other, activation={})
        for label, spread in one.activation.items():  # sums over tokens round by the number of neurons
            assert spread.quantiles == pytest.approx(other.activation[label].quantiles, rel=1e-5, abs=1e-6)
    assert {label for card in found.neurons for label in card.labels} == set(neurons)
    assert all(card.promoted and card.attribution for card in found.neurons)


def test_a_changed_option_runs_what_depends_on_it(inputs: Path, whole: Path) -> None:
    assert renewed(inputs, whole, induce={"betas": (2.0,)}) == ["induce", "report"]
    assert renewed(inputs, whole, associate={"score": "welch_t"}) == ["associate", "report"]
    assert renewed(inputs, whole, validate={"alpha": 0.5}) == ["validate", "cross_dataset", "report"]
    assert renewed(inputs, whole, select={"top": 0.1}) == [
        name for name in ALL[2:] if name not in ("layers", "gradients", "generate")
    ]
    assert renewed(inputs, whole, generate={"count": 2}) == ["generate", "report"]
    assert renewed(inputs, whole, screen={"folds": 4}) == ALL
    assert renewed(inputs, whole, evaluate={"limit": 5}) == [
        "validate", "estimate", "responses", "methods", "ablate", "induce", "cross_signal", "cross_dataset", "generate",
        "report",
    ]  # fmt: skip
    assert renewed(inputs, whole, attribute={"positions": "text"}) == [name for name in ALL if name not in LEFT]
    assert renewed(inputs, whole, ablate={"enabled": False}) == ["report"]


def test_a_file_that_was_altered_is_made_again(inputs: Path, whole: Path, tmp_path: Path) -> None:
    kept = (whole / "induction.json").read_bytes()
    (whole / "induction.json").write_bytes(kept + b" ")
    assert renewed(inputs, whole) == ["induce", "report"]
    (whole / "induction.json").unlink()
    assert renewed(inputs, whole) == ["induce", "report"]
    (whole / "induction.json").write_bytes(kept)
    assert renewed(inputs, whole) == []


def test_the_same_configuration_gives_the_same_files(inputs: Path, whole: Path, tmp_path: Path) -> None:
    text = CONFIG.replace('output = "out"', f'output = "{tmp_path / "again"}"')
    (inputs / "again.toml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(inputs / "again.toml"), "--json"])
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert [one["stage"] for one in shown["stages"]] == ALL
    assert Path(shown["report"]).is_file()
    for file in sorted(whole.glob("*.json")):
        if file.name != "run.json":  # which holds the times
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_what_a_stage_left_goes_with_it(inputs: Path, whole: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "less"))
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=output)
    _, done = run(dataclasses.replace(config, induce=dataclasses.replace(config.induce, enabled=False)))
    assert [one.stage for one in done if not one.cached] == ["report"]
    assert not (output / "induction.json").exists()
    assert "induce" not in json.loads((output / "run.json").read_text())["stages"]
    assert "Induction" not in (output / "report" / "index.html").read_text(encoding="utf-8").split("<main>")[1][:4000]


def test_a_dry_run_writes_nothing_and_estimates(inputs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["run", str(inputs / "config.toml"), "-o", str(tmp_path / "x"), "--dry-run", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["stages"]
    assert [one["stage"] for one in found] == ALL
    assert all(one["seconds"] > 0 and not one["cached"] for one in found)
    assert list(tmp_path.iterdir()) == []


def test_writing_is_estimated_for_the_task_and_the_layers_asked(inputs: Path) -> None:
    config = load_config(inputs / "config.toml")

    def tokens(**changed: object) -> float:
        asked = dataclasses.replace(config.generate, **{"task": None, "layers": None, **changed})
        return Generate().tokens(Session(dataclasses.replace(config, generate=asked), False))

    assert tokens() == tokens(task="mood") + tokens(task="tone")
    assert tokens(layers=(0,)) < tokens()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("folds = 3", "folds = 1", "screen.folds is 1, expected an integer of at least 2"),
        ("folds = 3", 'at = "layers"', "screen.at is not an option, expected one of tokens, active"),
        ("folds = 3", "fold = 3", "screen.fold is not an option, expected one of tokens, active"),
        ("top = 0.05", 'top = "much"', "select.top is 'much', expected a finite number"),
        ("top = 0.05", "top = 2.0", "select.top is 2.0, expected a number in (0, 1]"),
        ('score = "attribution_moderated"', 'score = "best"', "select.score is 'best', expected one of entropy"),
        (
            'score = "attribution_moderated"',
            'score = "hedges_g"\nfdr = 0.05',
            "fdr is 0.05, and tokens of the statistics is 'all', expected one of mean, last",
        ),
        ("limit = 6", "limit = true", "evaluate.limit is True, expected an integer"),
        ("limit = 6", 'test = "dev"', "evaluate.the splits are dev 'dev', test 'dev'; expected different ones"),
        ("betas = [1.0]", "betas = [1.0, inf]", "induce.betas[1] is inf, expected a finite number"),
        ("betas = [1.0]", "betas = 1.0", "induce.betas is 1.0, expected a list"),
        ("omegas = [1.0]", 'omegas = ["a"]', "cross_signal.omegas[0] is 'a', expected a finite number"),
        ('model = "model"', "", "model is missing"),
        ('mood = "{bos}{text}"', 'mood = "hello"', "evaluate.prompt without {text}"),
        (
            'methods = ["lee", "npti"]',
            'methods = ["mine"]',
            "methods.methods[0] is 'mine', expected one of attribution",
        ),
        ("[select]", "[select", "is not TOML that can be read"),
    ],
)
def test_a_wrong_option_is_named(inputs: Path, old: str, new: str, named: str) -> None:
    file = inputs / "wrong.toml"
    assert old in CONFIG
    file.write_text(CONFIG.replace(old, new, 1), encoding="utf-8")
    text = message(lambda: load_config(file))
    assert text.startswith(str(file))
    assert named in text


def test_a_configuration_in_another_encoding_is_named(inputs: Path) -> None:
    file = inputs / "marked.toml"
    file.write_text(CONFIG, encoding="utf-8-sig")
    assert load_config(file) == load_config(inputs / "config.toml")
    file.write_text(CONFIG, encoding="utf-16")
    assert message(lambda: load_config(file)) == f"{file} starts with the mark of UTF-16, expected UTF-8 text"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[screen]", '[screen]\nsplit = "training"', "screen.split is 'training', expected one of dev, test, train"),
        ('source = "tone"', 'source = "style"', "cross_signal.source is 'style', expected one of mood, tone"),
        ('task = "mood"', 'task = "tone"', "no sentence has only labels of task 'tone'"),
        ("[validate]", '[validate]\nneutral = "none"', "validate.neutral is 'none', expected one of w50"),
        ('model = "model"', 'model = "./nowhere"', "nowhere does not exist"),
        ('model = "model"', 'model = "no/where"', "no/where is no folder here: it is not in the cache"),
        ("[screen]", '[screen]\nsplit = "dev"', "30 of the 30 tested sentences were screened"),
        ("[candidates]", '[candidates]\nsplit = "train"', "90 of the 90 tested sentences were screened"),
        ('task = "mood"\nshares', 'task = "moods"\nshares', "generate.task is 'moods', expected one of mood, tone"),
        ("words = 2", 'beginnings = "none.txt"', "none.txt"),
        ("[evaluate]", '[evaluate]\ntrain = "rest"', "evaluate.train is 'rest', expected one of dev, test, train"),
        ('task = "mood"', 'task = "mood"\ntest = "train"', "54 of the 54 tested sentences were screened"),
        ('"attribution_moderated"', '"paired_t"', "select.score is 'paired_t', expected one of entropy"),
        ('"attribution_moderated"', '"text_attribution_t"', "select.score is 'text_attribution_t', expected one of"),
        (
            'score = "attribution_moderated"\nfilter_rate = 0',
            '[attribute]\nmetric = "text"',
            "attribute.metric is 'text' and select.score is not given, expected the metric 'answer', or a score",
        ),
        (
            CONFIG[CONFIG.index("score =") : CONFIG.index("random_sets = 2\n[ablate]")],
            '[attribute]\nenabled = false\n[methods]\nmethods = ["lee", "attribution"]\n',
            "methods.methods[1] is 'attribution', expected one of paper, paper_raw,",
        ),
    ],
)
def test_what_the_corpus_does_not_have_is_named_before_anything_is_run(
    inputs: Path, tmp_path: Path, old: str, new: str, named: str
) -> None:
    file = inputs / "wrong.toml"
    assert old in CONFIG
    file.write_text(CONFIG.replace(old, new, 1), encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(file), "-o", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_columns_table_says_how_a_corpus_is_written(inputs: Path) -> None:
    lines = (inputs / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [["text", "label", "task", "split"], *(list(json.loads(line).values()) for line in lines)]
    rows[1] = ['"w1 ""w2"""', "w50; w51", *rows[1][2:]]
    table = "\n".join("\t".join(row) for row in rows)
    (inputs / "corpus.tsv").write_text(table, encoding="utf-8")
    file = inputs / "table.toml"
    other = CONFIG.replace("corpus.jsonl", "corpus.tsv", 1)
    file.write_text(other, encoding="utf-8")
    assert "give quoting as false to keep them" in message(lambda: plan(load_config(file)))
    file.write_text(f"{other}\n[columns]\nquoting = true\n", encoding="utf-8")
    assert "give label_separator as ';' to split it" in message(lambda: plan(load_config(file)))
    file.write_text(f'{other}\n[columns]\nquoting = true\nlabel_separator = ";"\n', encoding="utf-8")
    plan(load_config(file))


def test_an_overlap_that_is_stated_is_planned(inputs: Path, tmp_path: Path) -> None:
    file = inputs / "stated.toml"
    text = CONFIG.replace("[screen]", '[screen]\nsplit = "dev"').replace("output", "allow_overlap = true\noutput")
    file.write_text(text, encoding="utf-8")
    config = dataclasses.replace(load_config(file), output=tmp_path / "x")
    assert [one.stage for one in plan(config)] == ALL


def test_the_documentation_has_every_option() -> None:
    page = options.PAGE.read_text(encoding="utf-8")
    assert page == options.with_tables(page), "python -m tools.options writes the tables anew"


# --- the file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[select]", "deep = " + "[" * 50_000, "is not TOML that can be read: it is nested too deep"),
        ("[select]", "deep = " + "{a = " * 50_000, "is not TOML that can be read: it is nested too deep"),
        ("folds = 3", f"folds = {'a.' * 5_000}b", "is not TOML that can be read"),
        ("folds = 3", f"folds.{'a.' * 5_000}b = 1", "screen.folds is {'a': {'a': {'a': "),
        ("folds = 3", f"folds = {'[' * 90}1{']' * 90}", "screen.folds is [[[[[[[...]]]]]]], expected an integer"),
        ("folds = 3", f"folds = {'9' * 10_000}", "is not TOML that can be read: Exceeds the limit"),
        ("folds = 3", f"folds = 0x{'f' * 10_000}", "screen.folds has more than 64 bits, expected an integer"),
        ("top = 0.05", f"top = {2**63}", "select.top has more than 64 bits, expected a finite number"),
        ("top = 0.05", "top = 1e999", "select.top is inf, expected a finite number"),
        ("top = 0.05", "top = nan", "select.top is nan, expected a finite number"),
        ("folds = 3", "folds = 1979-05-27T07:32:00Z", "screen.folds is datetime.datetime(1979, 5, 27, 7, 32, tz"),
        ("folds = 3", "folds = 3\nfolds = 4", "is not TOML that can be read: Cannot overwrite a value"),
        ('model = "model"', 'model = "a\\u0000b"', "model is 'a\\x00b', expected a path"),
        ('model = "model"', 'model = "a\0b"', "is not TOML that can be read: Illegal character"),
        ("folds = 3", '"a\\nb" = 3', "screen.'a\\nb' is not an option"),
        (
            'mood = "{bos}{text}"',
            f"mood = {list(range(1000))}",
            "evaluate.prompts.mood is [0, 1, 2, 3, 4, 5, ...]",
        ),
    ],
)
def test_what_toml_can_hold_and_an_option_cannot(inputs: Path, old: str, new: str, named: str) -> None:
    file = inputs / "wrong.toml"
    assert old in CONFIG
    file.write_text(CONFIG.replace(old, new, 1), encoding="utf-8")
    text = message(lambda: load_config(file))
    assert text.startswith(str(file))
    assert named in text
    assert len(text) < 1000


def test_a_model_is_a_folder_beside_the_file_or_a_name(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(inputs / "config.toml").model == inputs / "model"
    file = inputs / "named.toml"
    for name in ("gpt2", "owner/gpt2"):
        file.write_text(CONFIG.replace('model = "model"', f'model = "{name}"'), encoding="utf-8")
        assert load_config(file).model == name
    file.write_text(CONFIG.replace('model = "model"', 'model = "./gpt2"'), encoding="utf-8")
    assert load_config(file).model == inputs / "gpt2"
    # A folder of that name elsewhere is neither.
    (tmp_path / "owner" / "gpt2").mkdir(parents=True)
    file.write_text(CONFIG.replace('model = "model"', 'model = "owner/gpt2"'), encoding="utf-8")
    assert "in the current folder; write its whole path" in message(lambda: load_config(file))


# --- two runs --------------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_by_the_first_ones_name(inputs: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(load_config(inputs / "config.toml"), output=tmp_path / "out")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    text = message(lambda: run(config))
    assert text == (
        f"{config.output} is in use by process {holder.pid} on {platform.node()}: wait until it ends, or take another "
        "folder"
    )
    assert [path.name for path in config.output.iterdir()] == [".lock"]
    plan(config)  # reads only
    holder.kill()  # it cannot clean up
    holder.communicate()
    with locked(config.output):
        pass
    assert list(config.output.iterdir()) == []


HOLD = """
import sys
from pathlib import Path
from affectron._internal.files import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""
