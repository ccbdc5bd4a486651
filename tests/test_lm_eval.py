"""lm-evaluation-harness under a program, on tasks in a folder: against its own model with hooks of plain torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import affectron
from affectron.errors import Note
from affectron.models.identity import fingerprint
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import FIELDS, ActivationStats
from tests.support.errors import message
from tests.support.tiny import NEURONS, build, last_inputs, make_tokenizer, site_names

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from affectron.lm_eval import SteeredLM, main  # noqa: E402

SITES = site_names("llama")
MASKED = [(SITES[0], 4), (SITES[0], 17), (SITES[2], 42)]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
doc_to_text: "{{{{text}}}}"
"""
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_choice: ["w3", "w4 w5", "w6 w7 w8"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
""",
    "text": """
output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
    "written": """
output_type: generate_until
doc_to_target: "w3"
generation_kwargs: {max_gen_toks: 6, until: ["never"]}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tasks' data are prepared in a folder of the test."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, neurons with statistics, saved programs, and tasks."""
    made = tmp_path_factory.mktemp("folder")
    build("llama").save_pretrained(made / "model")
    make_tokenizer().save_pretrained(made / "model")
    widths = dict.fromkeys(SITES, NEURONS)
    lists = [NeuronList("anger", "emotion", [(site, index, 1.0) for site, index in MASKED])]
    lists += [NeuronList("joy", "emotion", [(SITES[1], 0, 1.0)]), NeuronList("calm", "emotion", [])]
    neurons = NeuronSet(lists, widths)
    neurons.save(made / "neurons.json")
    shapes = {name: (2,) if name == "count" else (2, NEURONS) for name in FIELDS}
    arrays = {name: np.full(shapes[name], int(name != "nonfinite"), kind) for name, kind in FIELDS.items()}
    stats = ActivationStats({"emotion": ["anger", "joy"]}, [["anger"], ["joy"]], dict.fromkeys(SITES, arrays))
    stats.save(made / "stats.safetensors")
    zero = affectron.zero(neurons["anger"])
    zero.save(made / "zero.safetensors")
    affectron.schedule(zero, where="generated").save(made / "schedule.safetensors")
    rng = np.random.default_rng(5)
    rows = [
        {"text": " ".join(f"w{word}" for word in rng.integers(3, 60, 2 + place % 6)), "label": place % 3}
        for place in range(11)
    ]
    data = made / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "tasks").mkdir()
    for name, task in TASKS.items():
        (made / "tasks" / f"{name}.yaml").write_text(f"task: {name}{COMMON.format(data=data)}{task}")
    return made


def answers(model: HFLM, folder: Path) -> dict[str, Any]:
    """Task -> what the model answered to each of its rows."""
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    told = lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    return {task: [sample["resps"] for sample in told["samples"][task]] for task in TASKS}


def make(kind: type[HFLM], folder: Path, **options: Any) -> HFLM:
    return kind(str(folder / "model"), device="cpu", batch_size=options.pop("batch_size", 4), **options)


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    return answers(make(HFLM, folder), folder)


def mask(site: str, h: torch.Tensor) -> torch.Tensor:
    h = h.clone()
    for masked, index in MASKED:
        if masked == site:
            h[..., index] = 0
    return h


@pytest.fixture(scope="module")
def hooked(folder: Path) -> dict[str, Any]:
    """The answers of the harness's own model with neurons set to zero by hooks."""
    model = make(HFLM, folder)
    with last_inputs(model.model, "llama", mask):
        return answers(model, folder)


def numbers(answers: Any) -> list[float]:
    """All log-likelihoods, in order."""
    return [value for row in answers for (response,) in row for value in np.ravel(response).astype(float)]


def test_without_a_program_it_is_the_model_of_the_harness(folder: Path, plain: dict[str, Any]) -> None:
    assert answers(make(SteeredLM, folder), folder) == plain


@pytest.mark.parametrize(
    "options",
    [
        {"program": "zero", "neurons": "neurons.json", "label": "anger"},
        {"program": "zero.safetensors"},
        {"program": "zero.safetensors", "batch_size": 1},
        {"program": "zero.safetensors", "batch_size": "auto", "max_batch_size": 8, "max_length": 32},
        {"program": "attenuate", "strength": 0, "neurons": "neurons.json", "label": "anger"},
    ],
)
def test_every_kind_of_task_is_steered(
    options: dict[str, Any],
    folder: Path,
    plain: dict[str, Any],
    hooked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    steered = answers(make(SteeredLM, folder, **options), folder)
    expected, other = (plain, hooked) if options.get("strength") == 0 else (hooked, plain)
    assert steered["written"] == expected["written"]
    assert steered["written"] != other["written"]
    for task in ("choice", "text"):
        np.testing.assert_allclose(numbers(steered[task]), numbers(expected[task]), rtol=1e-5)
        assert max(abs(np.subtract(numbers(steered[task]), numbers(other[task])))) > 1e-2


def by_hand(model: HFLM, text: str) -> str:
    """Text that the model writes, read anew for each token, where hooks mask the neurons at written tokens alone."""
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    length = ids.shape[1]

    def masked(site: str, h: torch.Tensor) -> torch.Tensor:
        return torch.cat((h[:, :length], mask(site, h[:, length:])), 1)

    with torch.no_grad(), last_inputs(model.model, "llama", masked):
        while ids.shape[1] < length + 6 and ids[0, -1] != model.eot_token_id:
            ids = torch.cat((ids, model.model(ids).logits[:, -1:].argmax(-1)), 1)
    return model.tokenizer.decode(ids[0, length:], skip_special_tokens=True)


def test_a_schedule_is_for_written_text(folder: Path, plain: dict[str, Any]) -> None:
    model = make(SteeredLM, folder, program=str(folder / "schedule.safetensors"))
    assert message(lambda: answers(model, folder)) == (
        "program 'zero anger (generated 0 to end)' depends on the position in a text, which a log-likelihood does not "
        "have, expected a program that acts on all tokens; schedules are for tasks that generate"
    )
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    told = lm_eval.simple_evaluate(model, tasks=["written"], task_manager=manager, bootstrap_iters=0)
    written = {sample["doc"]["text"]: sample["resps"][0][0] for sample in told["samples"]["written"]}
    assert written == {text: by_hand(model, text) for text in written}
    assert list(written.values()) != [row[0][0] for row in plain["written"]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"program": "zero"}, "program is 'zero' without neurons and label, expected both in --model_args"),
        ({"program": "none.safetensors"}, "cannot read none.safetensors: no such file"),
        ({"label": "anger"}, "label is 'anger' and program None, expected program one of zero, mean, attenuate"),
        ({"program": "zero.safetensors", "strength": 2}, "strength is 2 and program 'zero.safetensors', expected "),
        ({"program": "zero", "neurons": "neurons.json", "label": "fear"}, "label 'fear' is not in the neuron set"),
        (
            {"program": "zero.safetensors", "share": 0.5},
            "share is 0.5 and program 'zero.safetensors', expected program",
        ),
        (
            {"program": "zero", "neurons": "neurons.json", "label": "calm"},
            "label 'calm' has no neurons in neurons.json",
        ),
        ({"program": "mean", "neurons": "neurons.json", "label": "joy", "stats": "no"}, "cannot read no: no such file"),
        ({"program": "stats.safetensors"}, "stats.safetensors: format is 'affectron.stats', expected"),
    ],
)
def test_bad_options(options: dict[str, Any], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert message(lambda: make(SteeredLM, folder, **options)).startswith(told)


def test_neurons_of_other_weights_are_noted(folder: Path, tmp_path: Path) -> None:
    """The weights may be those of a later training: this is told, and not refused."""
    model = build("llama")
    widths = dict.fromkeys(SITES, NEURONS)
    for weights in (fingerprint(model), "0f0f"):
        lists = [NeuronList("anger", "emotion", [(SITES[0], 4, 1.0)])]
        zero = affectron.zero(NeuronSet(lists, widths, {"weights": weights, "tokenizer": "of none"})["anger"])
        affectron.schedule(zero, where="generated").save(tmp_path / f"{weights}.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        make(SteeredLM, folder, program=str(tmp_path / f"{fingerprint(model)}.safetensors"))
    with pytest.warns(Note, match="the neurons of the program are of another model: weights is 0f0f there and"):
        make(SteeredLM, folder, program=str(tmp_path / "0f0f.safetensors"))


def test_a_program_of_another_model_is_refused_before_a_task(folder: Path, tmp_path: Path) -> None:
    affectron.zero([("transformer.h.0.mlp", 3)]).save(tmp_path / "other.safetensors")
    told = message(lambda: make(SteeredLM, folder, program=str(tmp_path / "other.safetensors")))
    assert "touches site 'transformer.h.0.mlp', which the model does not have" in told


def arguments(folder: Path, label: str, output: Path) -> list[str]:
    options = f"pretrained={folder / 'model'},neurons={folder / 'neurons.json'},label={label},program=zero"
    return [
        "--model", "affectron", "--model_args", options, "--tasks", "choice", "--include_path", str(folder / "tasks"),
        "--device", "cpu", "--batch_size", "4", "--output_path", str(output), "--log_samples",
    ]  # fmt: skip


def test_the_command(folder: Path, tmp_path: Path, hooked: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "affectron.lm_eval", *arguments(folder, "anger", tmp_path)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert told.returncode == 0, told.stderr
    assert "'program': 'zero'" in told.stdout
    (samples,) = tmp_path.rglob("samples_choice_*.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    got = [float(response[0][0]) for row in rows for response in row["resps"]]
    expected = [response[0][0] for row in hooked["choice"] for response in row]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def row(results: list[dict[str, Any]], task: str, metric: str) -> list[str]:
    """A row that compares two results of the harness, which must differ if the metric has no standard error."""
    before, after = (result[task][f"{metric},none"] for result in results)
    errors = [result[task][f"{metric}_stderr,none"] for result in results]
    if "N/A" in errors:
        assert abs(after - before) > 1e-2
        cells = [f"{before:.4f}", f"{after:.4f}"]
    else:
        cells = [f"{value:.4f} ± {error:.4f}" for value, error in zip((before, after), errors, strict=True)]
    return [task, metric, "none", *cells, f"{after - before:+.4f}"]


def test_the_command_compares(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one cache, which the harness does not divide by the program."""
    given = [{"choice": "choice,text"}.get(argument, argument) for argument in arguments(folder, "anger", tmp_path)]
    given += ["--compare", "--use_cache", str(tmp_path / "cache")]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *given])
    main()
    shown = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    expected = []
    for kind, options in ((HFLM, {}), (SteeredLM, {"program": str(folder / "zero.safetensors")})):
        manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
        model = make(kind, folder, **options)
        expected.append(lm_eval.simple_evaluate(model, tasks=["choice", "text"], task_manager=manager)["results"])
    assert [[cell.strip() for cell in row] for row in shown] == [
        row(expected, "choice", "acc"),
        row(expected, "text", "word_perplexity"),
    ]
    for arm, options in (("with", {"program", "neurons", "label"}), ("without", set())):
        (result,) = (tmp_path / arm).rglob("results_*.json")
        assert set(json.loads(result.read_text())["config"]["model_args"]) == {"pretrained", *options}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda given: given, "label 'fear' is not in the neuron set"),
        (lambda given: ["--compare", *given], "label 'fear' is not in the neuron set"),
        (
            lambda given: ["--compare", *(argument.replace("program=", "other=") for argument in given)],
            "--compare is given without a program, expected program=... in --model_args",
        ),
    ],
)
def test_the_command_refuses_in_one_line(
    change: Callable[[list[str]], list[str]],
    told: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["lm_eval", *change(arguments(folder, "fear", tmp_path))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {told}")


def test_the_command_names_the_extra_that_is_missing() -> None:
    hidden = "import runpy, sys; sys.modules['lm_eval'] = None"
    code = f"{hidden}; runpy.run_module('affectron.lm_eval', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith("error: affectron.lm_eval needs lm_eval")
    assert line.endswith("is not installed: pip install 'affectron[lm-eval]'")
