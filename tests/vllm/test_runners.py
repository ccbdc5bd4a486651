"""The rows that the model runners of vLLM write before each forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affectron.interventions import schedule
from affectron.vllm.activations import SteeredActivation
from affectron.vllm.internals import Unsupported
from affectron.vllm.library import Library, load
from affectron.vllm.runners import steer_runner
from affectron.vllm.settings import Settings
from tests.support.errors import message
from tests.support.tiny import HIDDEN, build
from tests.vllm.fakes import RunnerV1, RunnerV2, SamplingParams, Step, served
from tests.vllm.programs import program

TOKENS, REQUESTS = 61, 5
RUNNERS = pytest.mark.parametrize("kind", [RunnerV1, RunnerV2])


class Recorder(nn.Module):
    """A model that keeps the rows of each forward, and computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = served(build("llama")).model
        self.rows: list[list[int]] = []

    def forward(self, input_ids: Tensor) -> Tensor:
        first, *others = (module.rows for module in self.modules() if isinstance(module, SteeredActivation))
        assert all(other is first for other in others)
        self.rows.append(first[: len(input_ids)].tolist())
        with torch.no_grad():
            return self.model.layers[1].mlp(torch.ones(len(input_ids), HIDDEN))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Places: anger 0, answer 1 for generated tokens, window 2 from the second to the fourth of them."""
    program(0).save(tmp_path / "anger.safetensors")
    schedule(program(1), where="generated").save(tmp_path / "answer.safetensors")
    schedule(program(2), where="generated", start=1, stop=4).save(tmp_path / "window.safetensors")
    return load(Settings(tmp_path))


def steered(kind: type, config: Any, library: Library) -> Any:
    runner = kind(config, Recorder, TOKENS, REQUESTS)
    steer_runner(runner, library)
    runner.load_model()
    return runner


def places(library: Library, step: Step) -> list[int]:
    """The places of a step's tokens, one by one."""
    name = None if step.params is None else (step.params.extra_args or {}).get("affectron")
    positions = range(step.computed - step.prompt, step.computed - step.prompt + step.tokens)
    if name is None:
        return [-1] * step.tokens
    return [{
        "anger": 0, "answer": 1 if position >= 0 else -1, "window": 2 if 1 <= position < 4 else -1,
    }[name] for position in positions]  # fmt: skip


@RUNNERS
def test_each_forward_has_the_rows_of_its_requests(kind: type, config: Any, library: Library) -> None:
    """Requests come, go on in chunks and finish; others take their indices."""
    runner = steered(kind, config, library)
    rng = np.random.default_rng(3)
    names, running, number = ["anger", "answer", "window", None], [], 0
    for _ in range(60):
        running = [step for step in running if rng.random() < 0.8]
        while len(running) < REQUESTS and rng.random() < 0.6:
            name = names[rng.integers(4)]
            params = SamplingParams(None if name is None else {"affectron": name, "other": 1})
            running.append(Step(f"request {number}", params, int(rng.integers(1, 20)), 0, 0))
            number += 1
        for step in running:
            step.computed += step.tokens
            step.tokens = int(rng.integers(1, 9))
        order = [running[i] for i in rng.permutation(len(running))]
        if not order:
            continue
        wanted = [place for step in order for place in places(library, step)]
        padded = min(TOKENS, len(wanted) + int(rng.integers(0, 9)))
        runner.execute_model(order, padded)
        assert runner.model.rows[-1] == wanted + [-1] * (padded - len(wanted))
    seen = {place for rows in runner.model.rows for place in rows}
    assert seen == {-1, 0, 1, 2}
    assert number > 4 * REQUESTS


@RUNNERS
def test_an_index_that_is_used_again_keeps_no_program(kind: type, config: Any, library: Library) -> None:
    runner = steered(kind, config, library)
    for request, params in (("a", SamplingParams({"affectron": "anger"})), ("b", SamplingParams()), ("c", None)):
        steps = [Step(f"{request}{i}", params, 4, 0, 4) for i in range(REQUESTS)]  # every index
        runner.execute_model(steps, 4 * REQUESTS)
    assert runner.model.rows == [[0] * 4 * REQUESTS, *([[-1] * 4 * REQUESTS] * 2)]


@RUNNERS
def test_a_request_that_is_computed_again_after_preemption_is_steered_alike(
    kind: type, config: Any, library: Library
) -> None:
    runner = steered(kind, config, library)
    params = SamplingParams({"affectron": "window"})
    runner.execute_model([Step("a", params, 3, 0, 3)], 3)
    for position in range(3, 8):
        runner.execute_model([Step("a", params, 3, position, 1)], 1)
    runner.execute_model([Step("other", SamplingParams(), 3, 0, 3)], 3)
    runner.execute_model([Step("a", params, 3, 0, 8)], 8)  # with its generated tokens
    rows = runner.model.rows
    assert rows[-1] == [row for step in rows[:6] for row in step] == [-1] * 4 + [2] * 3 + [-1]


@RUNNERS
def test_dummy_runs_are_unsteered(kind: type, config: Any, library: Library) -> None:
    runner = steered(kind, config, library)
    runner._dummy_run(TOKENS)
    runner.execute_model([Step("a", SamplingParams({"affectron": "anger"}), 9, 0, 9)], 9)
    runner._dummy_run(num_tokens=12)
    assert runner.model.rows == [[-1] * TOKENS, [0] * 9, [-1] * 12]


@RUNNERS
def test_what_the_model_returns_is_returned(kind: type, config: Any, library: Library) -> None:
    runner = steered(kind, config, library)
    steps = [Step("a", SamplingParams({"affectron": "anger"}), 2, 0, 2), Step("b", SamplingParams(), 3, 0, 3)]
    outputs = runner.execute_model(steps, 5)
    # A product of matrices may round rows of the same values differently.
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], outputs[4])
    assert not torch.allclose(outputs[0], outputs[2], rtol=0.01, atol=0.01)
    torch.testing.assert_close(runner._dummy_run(5)[0], outputs[2])


@RUNNERS
def test_two_runners_of_a_process_are_apart(kind: type, config: Any, library: Library) -> None:
    """As those of a draft model and of another engine."""
    first, second = (steered(kind, config, library) for _ in range(2))
    plain = kind(config, lambda: served(build("llama")), TOKENS, REQUESTS)
    plain.load_model()
    first.execute_model([Step("a", SamplingParams({"affectron": "anger"}), 3, 0, 3)], 3)
    second.execute_model([Step("a", SamplingParams(), 3, 0, 3)], 3)
    assert (first.model.rows, second.model.rows) == ([[0] * 3], [[-1] * 3])
    assert not any(isinstance(module, SteeredActivation) for module in plain.model.modules())


@RUNNERS
def test_a_model_that_cannot_be_steered_ends_the_start(kind: type, config: Any, library: Library) -> None:
    runner = kind(config, lambda: nn.ModuleDict({"model": nn.Module()}), TOKENS, REQUESTS)
    steer_runner(runner, library)
    assert message(runner.load_model) == "model.layers.0.mlp cannot be steered in ModuleDict: there is no such module"


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        *((kind, missing) for kind in (RunnerV1, RunnerV2) for missing in ("device", "max_num_tokens", "model_config")),
        *((RunnerV1, "input_batch"), (RunnerV1, "query_start_loc"), (RunnerV2, "req_states")),
    ],
)
def test_an_unknown_runner_is_refused(kind: type, missing: str, config: Any, library: Library) -> None:
    runner = kind(config, Recorder, TOKENS, REQUESTS)
    delattr(runner, missing)
    with pytest.raises(Unsupported) as error:
        steer_runner(runner, library)
    told = str(error.value)
    assert told.startswith(f"affectron cannot steer vLLM 0.32.0: {kind.__name__} has other attributes than the runners")
    assert missing in told
