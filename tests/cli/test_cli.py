"""The command line: the main job from files to files, and one clear line with exit code 2 for everything that a user
can get wrong, with nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

import affectron
from affectron._internal.files import locked
from affectron.cli.app import app
from affectron.errors import Note
from affectron.interventions import doses
from affectron.ops import backend_for
from affectron.screening import screen as screening
from tests.support.families import FAMILIES
from tests.support.tiny import VOCABULARY, build, layer_names, make_tokenizer

LABELS = ("anger", "joy", "calm")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    """The stdout of a command that must succeed."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refuse(*arguments: object, status: int = 2) -> str:
    """The one line of a command that must be refused with exit code 2."""
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def refuse_last(*arguments: object) -> str:
    """The last line, below a bar, of a command that must be refused with exit code 2."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return str(result.stderr.splitlines()[-1])


def sentences() -> Iterator[dict[str, str]]:
    rng = np.random.default_rng(0)
    for i in range(90):
        label = i % 3
        words = [f"w{w}" for w in rng.integers(20 * label, 20 * label + 30, rng.integers(2, 9)) % 60]
        yield {"text": " ".join(words), "label": LABELS[label], "split": ("train", "dev", "test")[i // 3 % 3]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model, a corpus, and the statistics and neurons of the two."""
    folder = tmp_path_factory.mktemp("cli")
    build("llama").save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    write_corpus(folder / "corpus.jsonl", sentences())
    run("screen", folder / "model", folder / "corpus.jsonl", "--split", "train", "-o", folder / "stats.safetensors")
    run("select", folder / "stats.safetensors", "--top", 0.2, "-o", folder / "neurons.json")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def write_corpus(path: Path, lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_outputs_of_layers_are_screened_and_not_selected_from(copy: Path) -> None:
    corpus, output = copy / "corpus.jsonl", copy / "layers.safetensors"
    run("screen", copy / "model", corpus, "--split", "train", "--at", "layers", "-o", output)
    stats = affectron.ActivationStats.load(output)
    assert stats.sites == tuple(layer_names("llama"))
    assert "hold the outputs of layers" in refuse("select", output, "-o", copy / "other.json")


# --- found on one part, tested on another ---


def train_texts() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {label: [] for label in LABELS}
    for one in sentences():
        if one["split"] == "train":
            found[one["label"]].append(one["text"])
    return found


def same_split(folder: Path) -> tuple[Path, tuple[str, ...], int]:
    return folder / "corpus.jsonl", ("--test", "train", "--train", "none"), 30


def another_name(folder: Path) -> tuple[Path, tuple[str, ...], int]:
    """The screened split under another name in another file, its labels dealt out anew."""
    lines = [{**one, "split": "test"} for one in sentences() if one["split"] == "train"]
    for one, label in zip(lines, LABELS * 10, strict=True):
        one["label"] = label
    lines += [one for one in sentences() if one["split"] == "dev"]
    return write_corpus(folder / "renamed.jsonl", lines), (), 30


def another_file(folder: Path) -> tuple[Path, tuple[str, ...], int]:
    """Five of the screened texts, differently written, among others in a file of another kind."""
    lines = ["text,label,split"]
    for one in sentences():
        if one["split"] != "train":
            lines.append(f"{one['text']},{one['label']},{one['split']}")
    for text in train_texts()["joy"][:5]:
        lines.append(f"  {text.replace(' ', '   ')} ,joy,dev")
    (folder / "other.csv").write_text("\n".join(lines) + "\n")
    return folder / "other.csv", (), 5


@pytest.mark.parametrize("way", [same_split, another_name, another_file])
def test_sentences_that_were_screened_are_refused_or_stated(copy: Path, way) -> None:
    corpus, options, screened = way(copy)
    result = copy / "validation.json"
    command = (
        "validate", copy / "model", corpus, "--neurons", copy / "neurons.json", "-o", result,
        "--prompt", "label={bos}{text}", "--random-sets", 1, *options,
    )  # fmt: skip
    line = refuse(*command)
    assert f"{screened} of the " in line
    assert "tested sentences were screened, the first sentence " in line
    assert line.endswith("; test another split, or state it with --allow-overlap (allow_overlap=True)")
    assert not result.exists()
    run(*command, "--allow-overlap")
    tested = affectron.Validation.load(result).provenance["tested"]
    assert tested["screened"] == screened
    run("report", copy)
    page = (copy / "report" / "index.html").read_text()
    assert f"{screened} of the {tested['sentences']} sentences that validation.json tests were screened too." in page
    assert tested["texts"][:40] not in page


def without_record(folder: Path, *files: str) -> None:
    """As files of before the texts were kept, and such that people write themselves."""
    if "neurons" in files:
        content = json.loads((folder / "neurons.json").read_text())
        del content["screened"]
        (folder / "neurons.json").write_text(json.dumps(content))
    if "statistics" in files:
        stats = affectron.ActivationStats.load(folder / "stats.safetensors")
        stats.screened = None
        stats.save(folder / "stats.safetensors")


@pytest.mark.parametrize("files", [("neurons",), ("statistics",), ("neurons", "statistics")])
def test_files_that_do_not_tell_what_was_screened_are_said_to_and_used(copy: Path, files: tuple[str, ...]) -> None:
    without_record(copy, *files)
    selected, stats = (
        affectron.NeuronSet.load(copy / "neurons.json"), affectron.ActivationStats.load(copy / "stats.safetensors")
    )  # fmt: skip
    model, tokenizer = affectron.load_model(copy / "model")
    corpus = affectron.Corpus.from_file(copy / "corpus.jsonl")
    options = {"prompts": {"label": "{bos}{text}"}, "random_sets": 0}
    silent = f"the {' and the '.join(files)} do not tell which texts were screened"
    with pytest.warns(UserWarning, match=silent):
        found = affectron.validate(model, tokenizer, corpus, selected, stats, **options)
    assert found.provenance["tested"]["screened"] is None
    found.save(copy / "validation.json")
    run("report", copy)
    page = (copy / "report" / "index.html").read_text()
    assert page.count("were screened too cannot be checked: the files do not tell.") == 1
    overlapping = affectron.validate if len(files) == 2 else refused
    with pytest.warns(UserWarning, match=silent) if len(files) == 2 else nullcontext():
        overlapping(model, tokenizer, corpus, selected, stats, test="train", train="none", **options)


def refused(*arguments, **options) -> None:
    with pytest.raises(affectron.InputError, match="30 of the 60 tested sentences were screened"):
        affectron.validate(*arguments, **options)


def test_a_report_of_files_of_several_runs_is_refused_or_states_the_overlap(copy: Path) -> None:
    """The neurons were exchanged, after the validation, for some that were found on its test split."""
    command = (
        "validate", copy / "model", copy / "corpus.jsonl", "--neurons", copy / "neurons.json", "-o",
        copy / "validation.json", "--prompt", "label={bos}{text}", "--random-sets", 0,
    )  # fmt: skip
    run(*command)
    run("report", copy)
    assert "screened too" not in (copy / "report" / "index.html").read_text()
    run("screen", copy / "model", copy / "corpus.jsonl", "--split", "test", "-o", copy / "stats.safetensors")
    run("select", copy / "stats.safetensors", "--top", 0.2, "-o", copy / "neurons.json")
    shutil.rmtree(copy / "report")
    assert "30 of the 60 sentences that validation.json tests were screened too" in refuse("report", copy)
    assert not (copy / "report").exists()
    run("report", copy, "--allow-overlap")
    assert "30 of the 60 sentences" in (copy / "report" / "index.html").read_text()
    # Files of before the texts were kept tell the digests of their splits.
    without_record(copy, "neurons", "statistics")
    content = json.loads((copy / "validation.json").read_text())
    del content["provenance"]["tested"]
    (copy / "validation.json").write_text(json.dumps(content))
    assert "all sentences of split 'test' that validation.json tests were screened too" in refuse("report", copy)


# --- the main job ---


def test_the_main_job_from_files_to_files(copy: Path) -> None:
    model, corpus, neurons = copy / "model", copy / "corpus.jsonl", copy / "neurons.json"
    screened = json.loads(
        run("screen", model, corpus, "--split", "train", "-o", copy / "new" / "s.safetensors", "--json")
    )
    stats = affectron.ActivationStats.load(copy / "new" / "s.safetensors")
    words = dict.fromkeys(LABELS, 0)
    for sentence in sentences():
        if sentence["split"] == "train":
            words[sentence["label"]] += len(sentence["text"].split())
    assert {label: found["tokens"] for label, found in screened["labels"].items()} == words
    assert stats.label("joy")[stats.sites[0]].count == words["joy"]

    selected = json.loads(run("select", copy / "stats.safetensors", "--top", 0.2, "-o", neurons, "--json"))
    found = affectron.NeuronSet.load(neurons)
    assert found == affectron.select(affectron.ActivationStats.load(copy / "stats.safetensors"), top=0.2)
    assert {label: one["neurons"] for label, one in selected["labels"].items()} == {k: len(v) for k, v in found.items()}
    removed = {label: one["removed"] for label, one in selected["labels"].items()}
    assert (
        removed == found.provenance["select"]["removed"] == {label: {"score": 0, "top": 129 - 26} for label in LABELS}
    )

    options = ("--prompt", r"label={bos}{text}\nw1", "--random-sets", 2)
    validated = json.loads(
        run("validate", model, corpus, "--neurons", neurons, *options, "-o", copy / "validation.json", "--json")
    )
    assert validated == affectron.Validation.load(copy / "validation.json").content
    assert validated["options"]["prompts"] == {"label": "{bos}{text}\nw1"}
    assert validated["options"]["where"] == "all"
    part = ("validate", model, corpus, "--neurons", neurons, *options, "-o", copy / "text.json", "--where", "text")
    assert json.loads(run(*part, "--json"))["options"]["where"] == "text"

    steering = ("--neurons", neurons, "--label", "joy", "--strength", 40, "--prompt", "w1 w2", "--max-new-tokens", 5)
    steered = json.loads(run("steer", model, *steering, "--json"))
    assert [program["name"] for program in steered["programs"]] == ["contrast 40 joy"]
    (text,) = steered["texts"]
    assert text["unsteered"] != text["steered"][0]

    page = json.loads(run("report", copy, "--json"))["output"]
    assert "joy" in Path(page).read_text()


def test_answers_are_attributed_and_their_neurons_selected(made: Path, tmp_path: Path) -> None:
    attributions, neurons = tmp_path / "attribution.safetensors", tmp_path / "neurons.json"
    known = dict(zip(LABELS, ("w50", "w51", "w52"), strict=True))  # words, which the model tells apart as answers
    corpus = write_corpus(tmp_path / "corpus.jsonl", ({**row, "label": known[row["label"]]} for row in sentences()))
    asked, task = (made / "model", corpus, "--split", "train", "-o", attributions), "label"
    shown = json.loads(run("attribute", *asked, "--prompt", f"{task}={{bos}}{{text}}", "--json"))
    found = affectron.ActivationStats.load(attributions)
    assert (found.kind, found.provenance["prompts"]) == ("attribution", {task: "{bos}{text}"})
    assert shown["sentences"] == found.provenance["sentences"] > 0
    assert set(shown["labels"]) == set(found.labels)
    assert not list(tmp_path.glob("*.shards"))
    run("select", attributions, "--count", 3, "-o", neurons)
    selected = affectron.NeuronSet.load(neurons)
    assert [len(selected[label]) for label in found.labels] == [3] * len(found.labels)
    assert selected.provenance["select"]["score"] == "attribution_t"
    run("attribute", *asked, "--metric", "text", "--json")
    stats = tmp_path / "stats.safetensors"
    run("screen", made / "model", corpus, "--split", "train", "-o", stats)
    line = refuse("select", attributions, "-o", neurons)
    assert "score is 'text_attribution_t' and activations are not given, expected them for text_attribution, " in line
    run("select", attributions, "--activations", stats, "-o", neurons)
    assert affectron.NeuronSet.load(neurons).provenance["select"]["score"] == "text_attribution_t"
    assert "top is 0.1 and count 3" in refuse("select", attributions, "--top", 0.1, "--count", 3, "-o", neurons)


def test_pairs_are_attributed(made: Path, tmp_path: Path) -> None:
    answers = {"answer": "w5", "other_answer": "w6"}
    rows = [{"label": "joy", "text": f"w{i} w2", "other": f"w{i + 20} w2", **answers} for i in range(5)]
    pairs, out = write_corpus(tmp_path / "pairs.jsonl", rows), tmp_path / "pairs.safetensors"
    assert json.loads(run("attribute-pairs", made / "model", pairs, "-o", out, "--json"))["labels"] == {"joy": 5}
    run("select", out, "-o", tmp_path / "neurons.json")
    usual = affectron.NeuronSet.load(tmp_path / "neurons.json").provenance["select"]
    assert (usual["score"], usual["count"]) == ("paired_difference", 50)


def test_pairs_are_screened_and_their_neurons_selected(made: Path, tmp_path: Path) -> None:
    found = [{"label": "joy", "text": f"w2 w{i}", "other": f"w3 w{i}"} for i in range(20)]
    pairs, stats = write_corpus(tmp_path / "pairs.jsonl", found), tmp_path / "stats.safetensors"
    shown = json.loads(run("screen-pairs", made / "model", pairs, "--task", "mood", "-o", stats, "--json"))
    assert shown["labels"]["joy"]["pairs"] == 20
    p = affectron.fdr(np.concatenate(list(affectron.score(affectron.ActivationStats.load(stats), "paired_p").values())))
    assert shown["labels"]["joy"]["neurons_at_q_0.05"] == (p <= 0.05).sum() > 0
    neurons = tmp_path / "neurons.json"
    run("select", stats, "--score", "paired_t", "--top", 0.1, "-o", neurons)
    assert affectron.NeuronSet.load(neurons)["joy"].task == "mood"
    assert "for statistics of pairs" in refuse("select", stats, "--score", "entropy", "-o", neurons)
    run("select", stats, "-o", tmp_path / "usual.json")
    usual = affectron.NeuronSet.load(tmp_path / "usual.json").provenance["select"]
    assert (usual["score"], usual["top"]) == ("paired_t", 0.01)
    steering = ("--neurons", neurons, "--label", "joy", "--stats", stats, "--prompt", "w1", "--program", "induce")
    (program,) = json.loads(run("steer", made / "model", *steering, "--json"))["programs"]
    assert program["dose"] is None  # differences within pairs do not tell the size of an activation


@pytest.mark.parametrize("command", ["screen", "screen-pairs"])
def test_activations_that_are_not_finite_are_said_and_a_site_of_them_is_refused(copy: Path, command: str) -> None:
    model, _ = affectron.load_model(copy / "model")
    found = [{"label": "joy", "text": f"w{i} w2", "other": f"w{i + 20} w3"} for i in range(20)]
    corpus = copy / "corpus.jsonl" if command == "screen" else write_corpus(copy / "pairs.jsonl", found)
    stats = copy / "s.safetensors"
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[5] = float("nan")
    model.save_pretrained(copy / "model")
    result = invoke(command, copy / "model", corpus, "-o", stats, "--json")
    assert result.exit_code == 0
    if command == "screen":
        assert json.loads(result.stdout)["nonfinite"] == pytest.approx(1 / 129)
    assert affectron.ActivationStats.load(stats).nonfinite_share == pytest.approx(1 / 129)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    model.save_pretrained(copy / "model")
    stats.unlink()
    said = refuse_last(command, copy / "model", corpus, "-o", stats)
    assert said.startswith("error: model.layers.1.mlp: all ")
    assert not stats.exists()


def test_tables_name_every_label(copy: Path) -> None:
    for arguments in (
        ("screen", copy / "model", copy / "corpus.jsonl", "-o", copy / "s.safetensors"),
        ("select", copy / "stats.safetensors", "--top", 0.2, "-o", copy / "n.json"),
    ):
        table = run(*arguments)
        assert all(label in table for label in LABELS)


def test_labels_without_neurons_are_named(copy: Path) -> None:
    table = run("select", copy / "stats.safetensors", "--top", 0.2, "--min-count", 10**6, "-o", copy / "n.json")
    assert "no neuron was selected for anger, calm, joy" in table
    assert "removed of 129 neurons, for each label:\n  103 beyond the share asked for (top)\n  26 active too " in table


def test_an_error_rate_over_tokens_is_refused_in_one_line(copy: Path) -> None:
    line = refuse("select", copy / "stats.safetensors", "--fdr", 0.05, "-o", copy / "n.json")
    assert "fdr is 0.05, and tokens of the statistics is 'all', expected one of mean, last" in line


def test_bad_lines_are_skipped_and_counted_on_request(copy: Path) -> None:
    corpus = write_corpus(copy / "c.jsonl", [*sentences(), {"text": "w1"}, {"text": "", "label": "joy"}])
    result = invoke("screen", copy / "model", corpus, "-o", copy / "s.safetensors", "--on-bad-line", "skip")
    assert result.exit_code == 0
    assert "skipped 2 bad lines, the first at line 91: no label column 'label'" in result.stderr


def test_a_table_that_may_be_quoted_is_read_as_the_options_say(copy: Path) -> None:
    corpus, output = copy / "c.tsv", copy / "s.safetensors"
    corpus.write_text('text\tlabel\n"w1 ""w2"""\tjoy, calm\nw3\tjoy\nw4\tcalm\n')
    command = ("screen", copy / "model", corpus, "-o", output)
    assert "give quoting as false to keep them" in refuse(*command)
    assert "give label_separator as ',' to split it" in refuse(*command, "--quoting")
    assert not output.exists()
    for quoting in ("--quoting", "--no-quoting"):
        run(*command, quoting, "--label-separator", ",")
        assert affectron.ActivationStats.load(output).tasks == {"label": ("calm", "joy")}
    line = refuse("screen", copy / "model", copy, "--quoting", "-o", output)
    assert f"and {copy} is no table" in line


def test_steering_may_be_limited_to_the_prompt_or_to_what_is_written(made: Path, one_thread: None) -> None:
    """The forward over the prompt writes the first token."""
    common = ("--neurons", made / "neurons.json", "--label", "joy", "--strength", 40, "--prompt", "w1 w2", "--json")
    texts, names = {}, {}
    for where in ("all", "prompt", "generated"):
        for tokens in (1, 8):
            limited = ("--where", where, "--max-new-tokens", tokens)
            steered = json.loads(run("steer", made / "model", *common, *limited))
            (text,), (program,) = steered["texts"], steered["programs"]
            texts[where, tokens], names[where] = text["steered"][0], program["name"]
            plain = text["unsteered"]
            assert (texts[where, tokens] == plain) == ((where, tokens) == ("generated", 1))
    assert texts["prompt", 1] == texts["all", 1]
    assert len({texts[where, 8] for where in ("all", "prompt", "generated")}) == 3
    name = "contrast 40 joy"
    assert names == {"all": name, "prompt": f"{name} (prompt)", "generated": f"{name} (generated 0 to end)"}


@pytest.mark.parametrize(
    ("program", "arguments", "name"),
    [
        ("zero", (), "zero joy"),
        ("mean", (), "mean joy"),
        ("attenuate", (), "attenuate dynamic 0.5 joy"),
        ("attenuate", ("--reference", "rms"), "attenuate dynamic 0.5 joy"),
        ("contrast", (), "contrast 4 joy"),
        ("induce", (), "induce 1 joy"),
        ("induce", ("--max-dose", 0.1), "induce 1 joy, dose at most 0.1"),
        ("amplify", ("--strength", 3), "amplify 3 joy"),
        ("cross-signal", ("--signal", "anger"), "cross-signal 1 anger at joy"),
    ],
)
def test_every_program_steers(made: Path, program: str, arguments: tuple, name: str) -> None:
    common = ("--neurons", made / "neurons.json", "--label", "joy", "--prompt", "w1", "--max-new-tokens", 2, "--json")
    steered = json.loads(run("steer", made / "model", *common, "--program", program, *arguments))
    (told,) = steered["programs"]
    neurons = affectron.NeuronSet.load(made / "neurons.json")["joy"]
    assert (told["name"], told["neurons"]) == (name, len(neurons))
    if program == "zero":
        measured = affectron.ActivationStats.load(made / "stats.safetensors").total()
        assert told["dose"] == max(doses(affectron.zero(neurons), measured).values())
    assert 0 < told["dose"] < (0.1001 if "--max-dose" in arguments else 99)


def test_programs_side_by_side_for_the_prompts_of_a_file(copy: Path, one_thread: None) -> None:
    """Each text is the one that its program gives alone, whatever stands beside it."""
    (copy / "prompts.txt").write_text("w1 w2\n\nw3\\nw4 w5 w6\n")
    common = ("steer", copy / "model", "--neurons", copy / "neurons.json", "--max-new-tokens", 6, "--json")
    file = ("--prompts", copy / "prompts.txt")
    labels, strengths = ("joy", "anger"), (20, 60)
    asked = [word for label in labels for word in ("--label", label)] + [
        word for strength in strengths for word in ("--strength", strength)
    ]
    for options in ((), ("--temperature", 1.0, "--seed", 7)):
        together = json.loads(run(*common, *file, "--prompt", "w7", *asked, *options))
        programs = [f"contrast {strength} {label}" for label in labels for strength in strengths]
        assert [program["name"] for program in together["programs"]] == programs
        assert [text["prompt"] for text in together["texts"]] == ["w7", "w1 w2", "w3\nw4 w5 w6"]
        assert together["tokens"] <= 3 * 5 * 6
        assert together["tokens_per_second"] > 0
        assert len({text for row in together["texts"] for text in (row["unsteered"], *row["steered"])}) > 6
        for place, (label, strength) in enumerate((label, s) for label in labels for s in strengths):
            alone = json.loads(run(*common, *file, "--label", label, "--strength", strength, *options))
            assert [row["steered"][0] for row in alone["texts"]] == [
                row["steered"][place] for row in together["texts"][1:]
            ]
            assert [row["unsteered"] for row in alone["texts"]] == [row["unsteered"] for row in together["texts"][1:]]


def test_steering_shows_every_text_and_its_speed(made: Path, one_thread: None) -> None:
    shown = run("steer", made / "model", "--neurons", made / "neurons.json", "--label", "joy", "--prompt", "w1 w2")
    assert "unsteered" in shown
    assert "contrast 4 joy, " in shown
    assert re.search(r"^\d+ tokens in \d+\.\d s, [\d,]+ tokens/s$", shown, re.MULTILINE)  # a line of its own


def test_a_strength_is_chosen_within_a_loss_budget(made: Path, one_thread: None) -> None:
    """As in Python; the curve is shown, and every label has a strength of its own."""
    labels = ("--label", "joy", "--label", "anger")
    common = ("--neurons", made / "neurons.json", *labels, "--prompt", "w1 w2", "--max-new-tokens", 4)
    budget = ("--loss-budget", 0.01, "--corpus", made / "corpus.jsonl")
    steered = json.loads(run("steer", made / "model", *common, *budget, "--json"))
    model, tokenizer = affectron.load_model(made / "model")
    selected = affectron.NeuronSet.load(made / "neurons.json")
    stats = affectron.ActivationStats.load(made / "stats.safetensors")
    dev = affectron.Corpus.from_file(made / "corpus.jsonl").where(split="dev")
    for label, program in zip(("joy", "anger"), steered["programs"], strict=True):
        neutral = [sentence for sentence in dev if label not in sentence.labels]
        choice = affectron.choose_beta(
            model, tokenizer, neutral, lambda beta, of=selected[label]: affectron.contrast(of, stats, beta),
            budget=0.01,
        )  # fmt: skip
        assert steered["choices"][label] == choice.to_json()
        assert program["name"] == f"contrast {choice.beta:g} {label}"
        assert program["dose"] > 0
    calm = run("steer", made / "model", *common, *budget, "--neutral", "calm")
    for label in ("joy", "anger"):
        assert re.search(rf"^{label}: \S+ is the largest beta up to which the loss of a token is expected ", calm, re.M)


def test_the_model_as_it_is_judges_the_texts(made: Path, one_thread: None) -> None:
    """P(label) by hand: the softmax of the labels' mean log-likelihoods after the question, one forward each."""
    template = "{bos}{text} w5"
    common = ("--neurons", made / "neurons.json", "--label", "joy", "--strength", 40, "--max-new-tokens", 5)
    asked = (*common, "--prompt", "w1 w2", "--prompt", "w9", "--label-prompt", f"label={template}")
    steered = json.loads(run("steer", made / "model", *asked, "--json"))
    model, tokenizer = affectron.load_model(made / "model")

    def probability(text: str) -> float:
        context = tokenizer(template.format(bos="", text=text))["input_ids"]
        scores = []
        for label in sorted(LABELS):
            answer = tokenizer(label, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([[*context, *answer]])).logits[0, len(context) - 1 : -1].double()
            scores.append(logits.log_softmax(-1)[range(len(answer)), answer].mean())
        return float(torch.stack(scores).softmax(0)[sorted(LABELS).index("joy")])

    expected = {
        "unsteered": np.mean([probability(row["unsteered"]) for row in steered["texts"]]),
        "steered": np.mean([probability(row["steered"][0]) for row in steered["texts"]]),
    }
    assert steered["programs"][0]["probability"] == pytest.approx(expected, rel=1e-4)
    shown = run("steer", made / "model", *asked)
    assert "mean P(label) of the texts" in shown
    assert f"{expected['steered']:.3f}" in shown


def test_a_probability_among_one_label_is_left_out(copy: Path, one_thread: None) -> None:
    found = affectron.NeuronSet.load(copy / "neurons.json")
    affectron.NeuronSet([found["joy"]], found.widths, found.provenance).save(copy / "joy.json")
    result = invoke("steer", copy / "model", "--neurons", copy / "joy.json", "--label", "joy", "--prompt", "w1")
    assert result.exit_code == 0
    assert "P(label) is left out: task 'label' has the labels joy, expected two or more" in result.stderr
    assert "P(label)" not in result.stdout


def test_steering_tells_of_neurons_that_were_found_in_other_weights(copy: Path, one_thread: None) -> None:
    given = ("steer", copy / "model", "--neurons", copy / "neurons.json", "--label", "joy", "--prompt", "w1 w2")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(*given, "--json")
    assert not [str(warning.message) for warning in told if "of another model" in str(warning.message)]
    neurons = json.loads((copy / "neurons.json").read_text())
    neurons["provenance"]["weights"] = "0f0f"
    (copy / "neurons.json").write_text(json.dumps(neurons))
    with pytest.warns(Note, match="the neurons are of another model: weights is 0f0f there and"):
        run(*given, "--json")


def test_steering_says_when_no_text_changed(made: Path, one_thread: None) -> None:
    common = ("steer", made / "model", "--neurons", made / "neurons.json", "--label", "joy", "--prompt", "w1 w2")
    weak = ("--strength", 1e-6, "--strength", 40)
    shown = run(*common, *weak)
    (line,) = re.findall("^no text changed: .*$", shown, re.MULTILINE)
    assert re.fullmatch(
        r"no text changed: the largest dose of contrast 1e-06 joy is \S+e-\d+, at model\.layers\.\d\.mlp", line
    )
    assert [one["changed"] for one in json.loads(run(*common, *weak, "--json"))["programs"]] == [0, 1]


def test_info_describes_backends_and_a_model_without_its_weights(copy: Path) -> None:
    (copy / "model" / "model.safetensors").unlink()
    facts = json.loads(run("info", copy / "model", "--json"))
    backend, reason = backend_for("glu_stats", "cpu")
    assert facts["backends"]["cpu"]["glu_stats"] == {"backend": backend, "reason": reason}
    assert [site["name"] for site in facts["model"]["sites"]] == [f"model.layers.{i}.mlp" for i in range(3)]
    assert facts["model"]["parameters"] == sum(p.numel() for p in build("llama").parameters())
    assert "model.layers.1.mlp" in run("info", copy / "model")


def test_info_shows_the_experts_of_a_layer_in_one_row(tmp_path: Path) -> None:
    FAMILIES["jetmoe"].build().save_pretrained(tmp_path)
    shown = run("info", tmp_path)
    assert "model.layers.1.mlp.0 to 3" in shown
    assert "model.layers.1.mlp.1" not in shown


COMMANDS = ["demo", "info", "screen", "screen-pairs", "select", "validate", "steer", "export", "run", "report"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert "--json" in run(command, "--help")
    assert run(command, "-h") == run(command, "--help")


def test_the_command_alone_lists_the_others() -> None:
    shown = run()
    assert shown == run("-h") == run("--help")
    assert all(re.search(rf"^  {command} ", shown, re.MULTILINE) for command in COMMANDS)
    assert "--install-completion" in shown
    assert run("--version") == f"affectron {affectron.__version__}\n"


def test_one_of_a_thing_is_singular(copy: Path) -> None:
    corpus = write_corpus(copy / "c.jsonl", [*sentences(), {"text": "w1"}])
    arguments = ("screen", copy / "model", corpus, "-o", copy / "s.safetensors", "--on-bad-line", "skip")
    result = invoke(*arguments, "--device", "cpu")
    assert "skipped 1 bad line, the first at line 91" in result.stderr
    assert "; 1 shard, padding" in result.stdout
    assert " 1 checkpoint in " in result.stdout
    assert "float32 on cpu" in result.stdout
    assert "on the device" not in result.stdout  # of which a CPU has none
    steering = (
        "--label",
        "joy",
        "--neurons",
        copy / "neurons.json",
        "--share",
        0.01,
        "--stats",
        copy / "s.safetensors",
    )
    shown = run("steer", copy / "model", *steering, "--prompt", "w1", "--max-new-tokens", 1)
    assert "contrast 4 joy, 1 neuron, dose " in shown


def test_the_whole_share_is_told(copy: Path) -> None:
    result = invoke("select", copy / "stats.safetensors", "--top", 1, "--filter-rate", 0, "-o", copy / "n.json")
    assert result.exit_code == 0
    assert "--top is a share, and 1 is all neurons" in result.stderr
    assert [len(members) for members in affectron.NeuronSet.load(copy / "n.json").values()] == [129] * len(LABELS)
    assert invoke("select", copy / "stats.safetensors", "--top", 0.5, "-o", copy / "n.json").stderr == ""


def test_the_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "affectron", "report", "nowhere"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: run folder nowhere is not a folder")
    assert result.stderr.count("\n") == 1


# --- bad input ---


def screen(folder: Path, *arguments: object, model: str = "model", corpus: str = "corpus.jsonl") -> tuple[object, ...]:
    return ("screen", folder / model, folder / corpus, "-o", folder / "out.safetensors", *arguments)


def validate(folder: Path, *arguments: object, corpus: str = "corpus.jsonl") -> tuple[object, ...]:
    neurons = ("--neurons", folder / "neurons.json", "-o", folder / "out.json")
    return ("validate", folder / "model", folder / corpus, *neurons, *arguments)


def steer(folder: Path, *arguments: object) -> tuple[object, ...]:
    return ("steer", folder / "model", "--neurons", folder / "neurons.json", "--prompt", "w1", *arguments)


def budgeted(folder: Path, *arguments: object) -> tuple[object, ...]:
    return steer(folder, "--label", "joy", "--loss-budget", 0.3, "--corpus", folder / "corpus.jsonl", *arguments)


def listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda f: screen(f, corpus="absent.jsonl"), "cannot read .*absent.jsonl: No such file"),
        (lambda f: screen(f, corpus="absent"), "absent does not exist; a dataset of the Hugging Face Hub is hf://"),
        (lambda f: screen(f, model="absent"), "model folder .*absent does not exist"),
        (lambda f: screen(f, model="corpus.jsonl"), "model folder .*corpus.jsonl is a file"),
        (lambda f: screen(f, "--label-column", "emotion"), "no label column 'emotion'; columns found: 'text', 'label'"),
        (
            lambda f: screen(f, "--split", "valid"),
            "split .valid. is not in .*corpus.jsonl; known: 'dev', 'test', 'train'",
        ),
        (lambda f: screen(f, "--template", "Say:"), r"prompt without \{text\}: template is 'Say:'"),
        (lambda f: screen(f, "--tokens", "first"), "tokens is 'first', expected one of all, last, mean"),
        (lambda f: screen(f, "--device", "toaster"), "device is 'toaster'"),
        (lambda f: screen(f, "-o", f / "model"), "cannot write .*model: it is a folder"),
        (lambda f: screen(f, "-o", f / "corpus.jsonl"), "cannot write .*corpus.jsonl: it is read as well"),
        (lambda f: screen(f, "--log-json", f / "corpus.jsonl"), "cannot write .*corpus.jsonl: it is read as well"),
        (lambda f: screen(f, "-o", f / "corpus.jsonl" / "x"), "cannot write .*x: .*corpus.jsonl is not a folder"),
        (lambda f: screen(f, "--checkpoint", f / "corpus.jsonl"), "cannot make or lock the folder .*: File exists"),
        (lambda f: screen(f, "--top", 1), "No such option: --top.*; .* screen -h shows what there is"),
        (lambda f: screen(f, "--shards", "many"), "Invalid value for '--shards'.*; .* screen -h shows what there is"),
        (lambda f: ("scren", f / "model"), "No such command 'scren'. Did you mean 'screen'.*"),
        (lambda f: ("--colour",), "No such option: --colour"),
        (lambda f: ("select", "-o", f / "out.json"), "Missing argument 'STATS'; .* select -h shows what there is"),
        (
            lambda f: ("screen", "owner/absent", f / "corpus.jsonl", "-o", f / "out"),
            "owner/absent is no folder here: it is not in the cache",
        ),
        (lambda f: ("select", f / "stats.safetensors", "-o", f / "stats.safetensors"), "it is read as well"),
        (lambda f: ("select", f / "absent", "-o", f / "out.json"), "absent"),
        (lambda f: ("select", f / "stats.safetensors", "--top", 0, "-o", f / "out.json"), r"top is 0.0, .*\(0, 1\]"),
        (lambda f: ("select", f / "stats.safetensors", "--top", 1.5, "-o", f / "out.json"), r"top is 1.5, .*\(0, 1\]"),
        (lambda f: ("select", f / "stats.safetensors", "--score", "magic", "-o", f / "out.json"), "score is 'magic'"),
        (lambda f: ("select", f / "stats.safetensors", "--task", "tone", "-o", f / "out.json"), "task.*'tone'"),
        (lambda f: validate(f, "--prompt", "label=Say:"), r"prompt without \{text\}"),
        (lambda f: validate(f, "--prompt", "Say {text}"), r"prompt is 'Say \{text\}', expected TASK=TEMPLATE"),
        (lambda f: validate(f, "--prompt", "tone={text}"), "prompts has task 'tone', expected label"),
        (lambda f: validate(f, "--dev", "valid"), "split .valid. is not in .*corpus.jsonl"),
        (lambda f: validate(f, "--reference", "max,peak"), r"reference\[1\] is 'peak', expected one of max, q99, rms"),
        (lambda f: validate(f, "--reference", "mean"), r"reference\[0\] is 'mean', expected one of max, q99, rms"),
        (lambda f: validate(f, "--alpha", 2), r"alpha is 2.0, expected a number in \(0, 1\]"),
        (
            lambda f: validate(f, "--evaluator", "oracle"),
            "evaluator is 'oracle', expected one of label_likelihood",
        ),
        (
            lambda f: validate(f, "--evaluator", "linear_probe", "--calibrate", "train"),
            "calibrate is 'train', which goes with 'label_likelihood', and the evaluator is 'linear_probe'",
        ),
        (lambda f: validate(f, "--stats", f / "absent"), "absent"),
        (lambda f: steer(f, "--label", "envy"), "label 'envy' .*anger.*calm.*joy"),
        (lambda f: steer(f, "--label", "joy", "--share", 0), r"share is 0.0, .*\(0, 1\]"),
        (
            lambda f: steer(f, "--label", "joy", "--program", "zero", "--strength", 2),
            "strength is 2.0, but .* has none",
        ),
        (lambda f: steer(f, "--label", "joy", "--program", "cross-signal"), "signal is None, expected a label"),
        (lambda f: steer(f, "--label", "joy", "--reference", "rms"), "reference is 'rms', but .* contrast has none"),
        (
            lambda f: steer(f, "--label", "joy", "--program", "attenuate", "--reference", "q99"),
            "reference is 'q99', expected max, rms",
        ),
        (lambda f: steer(f, "--label", "joy", "--prompts", f / "absent"), "cannot read .*absent: No such file"),
        (
            lambda f: ("steer", f / "model", "--neurons", f / "neurons.json", "--label", "joy"),
            "no prompt is given, expected --prompt or --prompts",
        ),
        (
            lambda f: steer(f, "--label", "joy", "--program", "amplify", "--loss-budget", 1),
            "loss_budget is 1, and the program is amplify, expected one of contrast, induce, cross-signal",
        ),
        (
            lambda f: steer(f, "--label", "joy", "--program", "zero", "--max-dose", 1),
            "max_dose is 1, and the program is zero, expected one of contrast",
        ),
        (lambda f: steer(f, "--label", "joy", "--max-dose", 0), "max_dose is 0.0, expected a number above 0"),
        (lambda f: steer(f, "--label", "joy", "--chat"), "the tokenizer has no chat template"),
        (lambda f: ("report", f / "model"), "has none of stats.safetensors, neurons.json, validation.json"),
    ],
)
def test_bad_input_is_refused_with_one_line_and_leaves_nothing(made: Path, command, message: str) -> None:
    before = listing(made)
    line = refuse(*command(made))
    assert re.search(message, line), line
    assert listing(made) == before


def test_a_model_without_an_mlp(copy: Path) -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=2)
    transformers.MambaForCausalLM(config).save_pretrained(copy / "mamba")
    make_tokenizer().save_pretrained(copy / "mamba")
    assert "MambaForCausalLM has no MLP that can be found" in refuse(*screen(copy, model="mamba"))


def test_an_empty_corpus(copy: Path) -> None:
    (copy / "empty.jsonl").touch()
    assert "empty.jsonl" in refuse(*screen(copy, corpus="empty.jsonl"))


def test_a_line_without_its_label(copy: Path) -> None:
    write_corpus(copy / "c.jsonl", [{"text": "w1", "label": "joy"}, {"text": "w2"}])
    assert "c.jsonl:2: no label column 'label'; columns found: 'text'" in refuse(*screen(copy, corpus="c.jsonl"))


def test_a_label_without_a_sentence_in_a_split(copy: Path) -> None:
    write_corpus(copy / "c.jsonl", [s for s in sentences() if (s["split"], s["label"]) != ("test", "joy")])
    line = refuse(*validate(copy, corpus="c.jsonl"))
    assert "label 'joy' has no sentence in split 'test' of copy/c.jsonl; labels there: 'anger', 'calm'" in line
    assert not (copy / "out.json").exists()


def test_statistics_and_neurons_of_another_model(copy: Path) -> None:
    build("llama", seed=1).save_pretrained(copy / "model")
    line = refuse(*validate(copy))
    assert "the statistics are of another model: weights is" in line


def test_statistics_of_another_version(copy: Path) -> None:
    path = copy / "stats.safetensors"
    found = path.read_bytes()
    for one in (b'\\"version\\":1', b'\\"version\\": 1'):
        found = found.replace(one, one[:-1] + b"9")
    assert found != path.read_bytes()
    path.write_bytes(found)
    line = refuse("select", path, "-o", copy / "out.json")
    assert "version is 9, expected 1" in line


def test_truncated_and_altered_statistics(copy: Path) -> None:
    path = copy / "stats.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert str(path) in refuse("select", path, "-o", copy / "out.json")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "altered" in refuse("select", path, "-o", copy / "out.json")
    assert not (copy / "out.json").exists()


def test_a_neuron_beyond_the_model(copy: Path) -> None:
    neurons = json.loads((copy / "neurons.json").read_text())
    neurons["sites"] = dict.fromkeys(neurons["sites"], 9999)
    neurons["labels"]["joy"].append(["model.layers.0.mlp", 4321, 0.5])
    (copy / "neurons.json").write_text(json.dumps(neurons))
    for command in (validate(copy), steer(copy, "--label", "joy", "--program", "zero")):
        assert "index 4321 of model.layers.0.mlp, which has 43 neurons" in refuse(*command)


@pytest.mark.parametrize("what", ["stats", "neurons", "report"])
def test_a_full_disk_leaves_what_was_there(copy: Path, what: str) -> None:
    run("report", copy)
    command, path = {
        "stats": (screen(copy, "-o", copy / "stats.safetensors"), copy / "stats.safetensors"),
        "neurons": (("select", copy / "stats.safetensors", "-o", copy / "neurons.json"), copy / "neurons.json"),
        "report": (("report", copy), copy / "report" / "index.html"),
    }[what]
    before, content = listing(copy), path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))  # a write past 512 bytes fails, as on a full disk
    try:
        line = refuse(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in line
    assert "File too large" in line
    assert path.read_bytes() == content
    assert listing(copy) == before


def test_ctrl_c_while_screening_says_how_far_it_got(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = screening.batches

    def interrupted(*arguments, **options):
        for number, batch in enumerate(batches(*arguments, **options)):
            if number == 70:  # made ahead: a few have been measured by then
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(screening, "batches", interrupted)
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        line = refuse(*screen(copy, "--batch-tokens", 1), status=130)
    finally:
        signal.signal(signal.SIGINT, before)
    kept = copy / "out.safetensors.shards"
    assert re.search(f"screening was interrupted after [1-9][0-9]* of 90 sentences; they are kept in {kept}", line)
    assert not (copy / "out.safetensors").exists()
    monkeypatch.undo()

    assert "keeps the shards of an interrupted screening" in refuse(*screen(copy, "--batch-tokens", 1))
    run(*screen(copy, "--batch-tokens", 1, "--resume"))
    assert not kept.exists()
    run(*screen(copy, "--batch-tokens", 1)[:3], "-o", copy / "whole.safetensors", "--batch-tokens", 1)
    assert (copy / "out.safetensors").read_bytes() == (copy / "whole.safetensors").read_bytes()


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(copy: Path) -> None:
    os.mkfifo(copy / "pipe")
    for arguments in (screen(copy, "-o", copy / "pipe"), ("select", copy / "stats.safetensors", "-o", copy / "pipe")):
        assert f"cannot write {copy / 'pipe'}: it is a device or a pipe" in refuse(*arguments)
    assert (copy / "pipe").is_fifo()


def test_the_log_may_be_in_a_new_folder(copy: Path) -> None:
    run(*screen(copy, "--log-json", copy / "a" / "b" / "log.jsonl"))
    assert json.loads((copy / "a" / "b" / "log.jsonl").read_text().splitlines()[-1])["event"] == "summary"


def test_a_checkpoint_folder_for_other_files_is_refused_and_left(copy: Path) -> None:
    before = listing(copy)
    line = refuse(*screen(copy, "--checkpoint", copy / "model"))
    assert f"checkpoint is {copy / 'model'}, which holds config.json; expected a folder for shards alone" in line
    assert listing(copy) == before
    kept = copy / "kept"
    kept.mkdir()
    (kept / ".shard-00000.safetensors.x.tmp").touch()  # of a process that was killed
    run(*screen(copy, "--checkpoint", kept))
    assert not kept.exists()


# --- before the model is loaded ---


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda f: screen(f, "--template", "Say:"), r"prompt without \{text\}"),
        (lambda f: screen(f, "--tokens", "first"), "tokens is 'first'"),
        (lambda f: screen(f, "--active", "off"), "active is 'off'"),
        (lambda f: screen(f, "--long-texts", "drop"), "long_texts is 'drop', expected one of truncate, windows"),
        (lambda f: screen(f, "--batch-tokens", 0), "batch_tokens is 0"),
        (lambda f: screen(f, "--shards", 91), "shards is 91, expected 1 to 90"),
        (lambda f: screen(f, "--checkpoint-minutes", "nan"), "checkpoint_minutes is nan"),
        (lambda f: ("screen-pairs", f / "model", f / "pairs", "-o", f / "o", "--template", "x"), "prompt without"),
        (lambda f: ("screen-pairs", f / "model", f / "pairs", "-o", f / "o", "--batch-tokens", -1), "batch_tokens"),
        (lambda f: ("screen-pairs", f / "model", f / "pairs", "-o", f / "pairs"), "it is read as well"),
        (lambda f: validate(f, "--prompt", "label=Say:"), r"prompt without \{text\}"),
        (lambda f: validate(f, "--prompt", "tone={text}"), "prompts has task 'tone', expected label"),
        (lambda f: validate(f, "--dev", "valid"), "split .valid. is not in"),
        (lambda f: validate(f, "--test", "dev"), "dev 'dev', test 'dev'; expected different ones"),
        (lambda f: validate(f, "--alpha", "nan"), "alpha is nan"),
        (lambda f: validate(f, "--random-sets", -1), "random_sets is -1"),
        (lambda f: validate(f, "--limit", 0), "limit is 0"),
        (lambda f: validate(f, "--seed", -1), "seed is -1"),
        (lambda f: validate(f, "--evaluator", "oracle"), "evaluator is 'oracle'"),
        (lambda f: validate(f, "--task", "tone"), "task 'tone' is not in .*corpus.jsonl|task.*'tone'"),
        (lambda f: validate(f, "--neutral", "envy"), "label 'envy'"),
        (lambda f: steer(f, "--label", "envy"), "label 'envy'"),
        (lambda f: steer(f, "--label", "joy", "--strength", "nan"), "beta is nan"),
        (lambda f: steer(f, "--label", "joy", "--neutral", "calm"), "neutral is 'calm', which goes with --loss-budget"),
        (
            lambda f: steer(f, "--label", "joy", "--loss-budget", 0.3),
            "loss_budget is 0.3 without a corpus; give --corpus, labelled sentences with a split dev",
        ),
        (lambda f: budgeted(f, "--loss-budget", 0), "loss_budget is 0.0, expected a number above 0"),
        (lambda f: budgeted(f, "--strength", 2), "strength is 2 and loss_budget 0.3, expected one of them"),
        (lambda f: budgeted(f, "--neutral", "envy"), "label 'envy' has no sentence in split 'dev'"),
        (lambda f: budgeted(f, "--text-column", "words"), "no text column 'words'"),
        (
            lambda f: steer(f, "--label", "joy", "--label-prompt", "mood={text}"),
            "label_prompt has task 'mood', expected label",
        ),
        (lambda f: steer(f, "--label", "joy", "--label-prompt", "label=what"), r"prompt without \{text\}"),
        (lambda f: steer(f, "--label", "joy", "--program", "cross-signal", "--signal", "envy"), "'envy'"),
    ],
)
def test_what_needs_no_model_is_checked_before_it_is_loaded(
    copy: Path, monkeypatch: pytest.MonkeyPatch, command, message: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(affectron, "load_model", load)
    write_corpus(copy / "pairs", [{"label": "joy", "text": "w1", "other": "w2"}])
    before = listing(copy)
    line = refuse(*command(copy))
    assert re.search(message, line), line
    assert listing(copy) == before


# --- two at once, and the end of a process ---


def test_a_second_screening_of_the_same_output_is_refused(copy: Path) -> None:
    kept = copy / "out.safetensors.shards"
    with locked(kept):
        line = refuse(*screen(copy))
        assert f"{kept} is in use by process {os.getpid()} on " in line
        assert [path.name for path in kept.iterdir()] == [".lock"]
    run(*screen(copy))
    assert not kept.exists()


def test_a_second_demo_in_the_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "demo"):
        assert f"{tmp_path / 'demo'} is in use by process " in refuse("demo", "-o", tmp_path / "demo")


def command(*arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "affectron", *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options
    )


def test_a_reader_that_has_enough_ends_a_command_in_silence() -> None:
    process = command("info", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is full")
@pytest.mark.parametrize("arguments", [["--version"], ["select", "-h"], ["info", "--json"]])
def test_an_output_that_takes_nothing_is_told(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        process = command(*arguments, stdout=full)
        assert process.communicate()[1] == "error: No space left on device\n"
    assert process.returncode == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_one_line_and_leaves_what_was_there(
    copy: Path, number: signal.Signals, status: int
) -> None:
    corpus = copy / "corpus.fifo.jsonl"
    os.mkfifo(corpus)  # of which nothing comes
    before = listing(copy)
    process = command(
        *("screen-pairs", copy / "model", corpus, "-o", copy / "out"), stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    with corpus.open("w"):  # it reads by now
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.endswith("every file is whole or as it was\n")
    assert stderr.count("\n") == 1
    assert process.returncode == status
    assert listing(copy) == before
