"""``affectron export``: the file is the program that its options describe, for the model that it is checked against."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import affectron
from affectron.errors import Note
from affectron.generation import prompt_ids
from affectron.interventions import Program, Schedule, doses, load_program, schedule
from affectron.models.identity import config_hash, fingerprint
from tests.cli.test_cli import listing, refuse, run, sentences, write_corpus
from tests.support.tiny import build, make_tokenizer
from tests.test_program_files import bits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the statistics and neurons of it."""
    folder = tmp_path_factory.mktemp("export")
    build("llama").save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    corpus = write_corpus(folder / "corpus.jsonl", sentences())
    run("screen", folder / "model", corpus, "--split", "train", "-o", folder / "stats.safetensors")
    run("select", folder / "stats.safetensors", "--top", 0.2, "-o", folder / "neurons.json")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def export(folder: Path, *options: object, output: Path | None = None, label: str = "joy") -> tuple[object, ...]:
    file = folder / "out" / "joy.safetensors" if output is None else output
    return (
        "export", folder / "model", "--neurons", folder / "neurons.json", "--label", label, "-o", file, *options
    )  # fmt: skip


def all_of(program: Program | Schedule) -> Any:
    """All of a program or a schedule, comparable bit for bit."""
    if isinstance(program, Program):
        return bits(program)
    pieces = [(start, bits(one)) for start, one in program.generated]
    return program.name, bits(program.prompt), bits(program.text), pieces, program.origin


def neurons_and_stats(folder: Path) -> tuple[Any, Any]:
    stats = affectron.ActivationStats.load(folder / "stats.safetensors")
    return affectron.NeuronSet.load(folder / "neurons.json")["joy"], stats


def windowed(program: Program) -> Schedule:
    return schedule(program, where="generated", start=2, stop=9, half_life=3)


CASES: dict[str, tuple[tuple[object, ...], Callable[[Any, Any], Program | Schedule]]] = {
    "usual": ((), lambda joy, stats: affectron.contrast(joy, stats, 4.0)),
    "weaker": (("--strength", 1.5, "--max-dose", 0.2), lambda j, s: affectron.contrast(j, s, 1.5, max_dose=0.2)),
    "against": (("--strength", -2), lambda joy, stats: affectron.contrast(joy, stats, -2.0)),
    "share": (("--program", "zero", "--share", 0.5), lambda joy, stats: affectron.zero(joy.top(0.5))),
    "mean": (("--program", "mean"), lambda joy, stats: affectron.mean(joy, stats)),
    "attenuate": (
        ("--program", "attenuate", "--reference", "rms"),
        lambda joy, stats: affectron.attenuate(joy, stats, 0.5, reference="rms"),
    ),
    "signal": (
        ("--program", "cross-signal", "--signal", "calm", "--strength", 3),
        lambda joy, stats: affectron.cross_signal(joy, stats, "calm", 3.0),
    ),
    "prompt": (("--where", "prompt"), lambda j, s: schedule(affectron.contrast(j, s, 4.0), stop=0)),
    "generated": (("--where", "generated"), lambda j, s: schedule(affectron.contrast(j, s, 4.0), where="generated")),
    "from a token on": (("--start", 3), lambda j, s: schedule(affectron.contrast(j, s, 4.0), start=3)),
    "up to a token": (("--stop", 5), lambda j, s: schedule(affectron.contrast(j, s, 4.0), stop=5)),
    "fading": (
        ("--where", "generated", "--start", 2, "--stop", 9, "--half-life", 3, "--program", "amplify"),
        lambda joy, stats: windowed(affectron.amplify(joy, 2.0)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_the_program_of_the_options(made: Path, tmp_path: Path, case: str) -> None:
    options, expected = CASES[case]
    run(*export(made, *options, output=tmp_path / "joy.safetensors"))
    loaded = load_program(tmp_path / "joy.safetensors")
    assert all_of(loaded) == all_of(expected(*neurons_and_stats(made)))
    assert loaded.origin is not None
    model, _ = affectron.load_model(made / "model")
    assert loaded.origin.provenance["weights"] == fingerprint(model)
    assert (loaded.origin.provenance["dtype"], loaded.origin.provenance["label"]) == ("float32", "joy")


@pytest.mark.parametrize(
    "options",
    [
        ("--strength", 40),
        ("--strength", 40, "--where", "prompt"),
        ("--strength", 40, "--where", "generated"),
        ("--program", "amplify", "--strength", 30),
    ],
)
def test_the_file_writes_what_steer_writes(
    made: Path, tmp_path: Path, one_thread: None, options: tuple[object, ...]
) -> None:
    neurons = ("--neurons", made / "neurons.json", "--label", "joy")
    asked = ("--prompt", "w1 w2", "--max-new-tokens", 9, "--json")
    (text,) = json.loads(run("steer", made / "model", *neurons, *options, *asked))["texts"]
    run(*export(made, *options, output=tmp_path / "joy.safetensors"))
    model, tokenizer = affectron.load_model(made / "model")
    ids = torch.tensor([prompt_ids(model, tokenizer, "w1 w2")])
    with affectron.intervene(model, load_program(tmp_path / "joy.safetensors")):
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False)
    assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) == text["steered"][0]
    assert text["steered"][0] != text["unsteered"]


def test_one_line_tells_what_was_written_and_an_older_file_is_replaced(copy: Path) -> None:
    joy, stats = neurons_and_stats(copy)
    file = copy / "new" / "joy-2.v1.safetensors"
    assert run(*export(copy, "--program", "zero", output=file)).startswith("saved zero joy to ")
    shown = run(*export(copy, "--strength", 2, "--where", "generated", output=file))
    given = doses(affectron.contrast(joy, stats, 2.0), stats.total())
    at = max(given, key=lambda site: given[site])
    sites = {site: len(index) for site, index in joy.by_site().items()}
    assert shown == (
        f"saved contrast 2 joy (generated 0 to end) to {file}: {len(joy)} neurons at {len(sites)} sites, "
        f"largest dose {given[at]:.2g} at {at}, {file.stat().st_size:,} bytes; affectron.interventions.load_program "
        "reads it, and requests to a server ask for joy-2.v1 (docs/serving.md)\n"
    )
    assert json.loads(run(*export(copy, "--strength", 2, "--where", "generated", "--json", output=file))) == {
        "output": str(file),
        "name": "joy-2.v1",
        "program": "contrast 2 joy (generated 0 to end)",
        "neurons": len(joy),
        "sites": sites,
        "dose": given[at],
        "at": at,
        "bytes": file.stat().st_size,
    }
    (copy / "stats.safetensors").unlink()
    assert " 1 neuron at 1 site, " in run(*export(copy, "--program", "zero", "--share", 0.001, output=file))
    assert json.loads(run(*export(copy, "--program", "zero", "--json", output=file)))["dose"] is None


# --- the model ---


def change(file: Path, **provenance: Any) -> None:
    """Change fields of the provenance of neurons; None takes one out."""
    content = json.loads(file.read_text())
    told = content["provenance"] | provenance
    content["provenance"] = {field: value for field, value in told.items() if value is not None}
    file.write_text(json.dumps(content))


def test_neurons_that_do_not_tell_their_model_are_of_the_given_one(copy: Path) -> None:
    """Written by hand, or found before the weights were recorded; what they tell stays."""
    model, _ = affectron.load_model(copy / "model")
    known = {"model_hash": config_hash(model), "weights": fingerprint(model), "dtype": "float32"}
    neurons = affectron.NeuronSet.load(copy / "neurons.json")
    affectron.NeuronSet(neurons.values(), neurons.widths, {"model": "mine"}).save(copy / "neurons.json")
    run(*export(copy, "--where", "prompt"))
    origin = load_program(copy / "out" / "joy.safetensors").origin
    assert origin is not None
    assert origin.provenance == {"model": "mine", "label": "joy", **known}
    affectron.NeuronSet(neurons.values(), neurons.widths).save(copy / "neurons.json")
    run(*export(copy))
    origin = load_program(copy / "out" / "joy.safetensors").origin
    assert origin is not None
    assert origin.provenance == {"model": "model", "label": "joy", **known}


@pytest.mark.parametrize("options", [(), ("--program", "zero")])
def test_neurons_and_statistics_of_other_weights_are_refused(copy: Path, options: tuple[object, ...]) -> None:
    build("llama", seed=1).save_pretrained(copy / "model")
    before = listing(copy)
    assert "the neurons are of another model: weights is" in refuse(*export(copy, *options))
    change(copy / "neurons.json", weights=None)
    assert "the statistics are of another model: weights is" in refuse(*export(copy, *options))
    assert listing(copy) == before


def test_weights_in_another_type_are_told_as_such(copy: Path) -> None:
    """Saved in float32 and read in bfloat16 they are rounded, which the fingerprint sees."""
    corpus, half = copy / "corpus.jsonl", ("--dtype", "bfloat16")
    run("screen", copy / "model", corpus, "--split", "train", *half, "-o", copy / "stats.safetensors")
    run("select", copy / "stats.safetensors", "--top", 0.2, "-o", copy / "neurons.json")
    line = refuse(*export(copy))
    assert line.endswith("; dtype is bfloat16 there and float32 here, which may round the weights")
    run(*export(copy, *half))
    origin = load_program(copy / "out" / "joy.safetensors").origin
    assert origin is not None
    assert origin.provenance["dtype"] == "bfloat16"


def test_another_configuration_of_the_same_weights_is_a_note(copy: Path) -> None:
    change(copy / "neurons.json", model_hash="0f0f")
    with pytest.warns(Note, match="the neurons are of another model: model_hash is 0f0f there and"):
        run(*export(copy))
    assert (copy / "out" / "joy.safetensors").is_file()


def test_a_neuron_beyond_the_model_is_refused(copy: Path) -> None:
    content = json.loads((copy / "neurons.json").read_text())
    content["sites"] = dict.fromkeys(content["sites"], 9999)
    content["labels"]["joy"].append(["model.layers.0.mlp", 4321, 0.5])
    (copy / "neurons.json").write_text(json.dumps(content))
    assert "index 4321 of model.layers.0.mlp, which has 43 neurons" in refuse(*export(copy, "--program", "zero"))
    assert not (copy / "out").exists()


# --- before the model is loaded ---


def named(folder: Path, name: str) -> tuple[object, ...]:
    return export(folder, output=folder / "out" / name)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda f: named(f, "joy.json"), "file of a program is 'joy.json', expected NAME.safetensors"),
        (lambda f: named(f, "joy"), "file of a program is 'joy', expected NAME.safetensors"),
        (lambda f: named(f, ".safetensors"), "name of a program is '', expected letters"),
        (lambda f: named(f, "None.safetensors"), "name of a program is 'None', expected letters, .* not 'None'"),
        (lambda f: named(f, "my joy.safetensors"), "name of a program is 'my joy', expected letters"),
        (lambda f: export(f, output=f / "stats.safetensors"), "cannot write .*stats.safetensors: it is read as well"),
        (lambda f: export(f, label="envy"), "label 'envy' is not in the neuron set, which has anger, calm, joy"),
        (lambda f: export(f, label="calm"), "label 'calm' has no neurons in .*neurons.json; select more"),
        (lambda f: export(f, "--label", "anger"), "label is given 2 times, expected once: a file holds one program"),
        (lambda f: export(f, "--strength", 1, "--strength", 2), "strength is given 2 times, expected once"),
        (lambda f: export(f, "--program", "zero", "--strength", 2), "strength is 2.0, but the program zero has none"),
        (lambda f: export(f, "--strength", "nan"), "beta is nan"),
        (lambda f: export(f, "--program", "mean", "--max-dose", 1), "max_dose is 1, and the program is mean"),
        (lambda f: export(f, "--program", "cross-signal"), "signal is None, expected a label"),
        (lambda f: export(f, "--share", 0), r"share is 0.0, .*\(0, 1\]"),
        (lambda f: export(f, "--stats", f / "absent"), "absent"),
        (lambda f: export(f, "--where", "text"), "Invalid value for '--where'"),
        (lambda f: export(f, "--where", "prompt", "--start", 2), "where is 'prompt' beside prompt True, start 2"),
        (lambda f: export(f, "--where", "generated", "--stop", 0), "stop is 0, expected more than start, 0"),
        (lambda f: export(f, "--start", 4, "--stop", 4), "stop is 4, expected more than start, 4"),
        (lambda f: export(f, "--half-life", 0.5), "half_life is 0.5, expected a finite number of at least 1"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(
    copy: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], tuple[object, ...]], message: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(affectron, "load_model", load)
    content = json.loads((copy / "neurons.json").read_text())
    content["labels"]["calm"] = []
    (copy / "neurons.json").write_text(json.dumps(content))
    before = listing(copy)
    line = refuse(*command(copy))
    assert re.search(message, line), line
    assert listing(copy) == before
