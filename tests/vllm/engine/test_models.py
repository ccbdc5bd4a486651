"""Several engines in one process: with other programs, with none, of other models, with an adapter, and in bf16."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import affectron
from tests.support.tiny import make_tokenizer
from tests.vllm.engine.engines import (
    CONTEXT,
    KEY,
    PLACES,
    PROGRAMS,
    Model,
    batch,
    expected,
    mixed,
    program_of,
    request,
    run,
    told,
    unsteered,
)

Requests = list[dict[str, Any]]

#: Small models whose heads have a size that vLLM's attention has on a CPU.
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 87,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 97,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config),  # silu
    "gemma": (transformers.GemmaForCausalLM, transformers.GemmaConfig),  # gelu_tanh
}
NO_PROGRAMS = (7, "joy", ["zero"])
ADAPTED, RANK, ALPHA = ("q_proj", "gate_proj", "up_proj", "down_proj"), 8, 16


@dataclass
class World:
    """Models, and engines of one process.

    Attributes:
        models: name -> model with programs.
        requests: name of a model -> its requests.
        batches: name of an engine -> the answers to its batches, in their order.
        engines: name of an engine -> what it is, or why it did not start.
    """

    models: dict[str, Model]
    requests: dict[str, Requests]
    batches: dict[str, list[dict[str, Any]]]
    engines: dict[str, dict[str, Any]]


def random_model(family: str, folder: Path) -> Model:
    torch.manual_seed(0)
    kind, config = FAMILIES[family]
    kind(config(**_SIZES)).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    return Model(folder / "model", folder / "programs")


def with_adapter(demo: Model, folder: Path) -> Model:
    """Write a LoRA adapter of random weights; return the model with its products added to the weights."""
    folder.mkdir()
    adapted = copy.copy(demo)
    adapted.model, adapted.written = copy.deepcopy(demo.model), {}
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, linear in adapted.model.named_modules():
        if name.endswith(ADAPTED):
            a = torch.randn(RANK, linear.in_features, generator=generator) / 16
            b = torch.randn(linear.out_features, RANK, generator=generator) / 16
            linear.weight.data += ALPHA / RANK * b @ a
            tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ADAPTED, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return adapted


@pytest.fixture(scope="module")
def world(demo: Model, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("models")
    models = {"demo": demo, "others": Model(demo.folder, folder / "others", seed=1)}
    models |= {family: random_model(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    models["adapted"] = with_adapter(demo, folder / "adapter")
    few, short = mixed(prompts[:4]), [[1, *(3 + token % 60 for token in prompt[1:40])] for prompt in prompts[:4]]
    requests = {"demo": few, "others": few, **dict.fromkeys(FAMILIES, mixed(short))}
    requests["adapted"] = [{**one, "adapter": str(folder / "adapter")} for one in few]
    engines = {name: model.engine() for name, model in models.items()}
    engines["adapted"] |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": RANK}
    engines |= {
        "bf16": demo.engine(dtype="bfloat16"),
        "plain": demo.engine(additional_config={}),
        "pooling": demo.engine(runner="pooling"),
        "foreign": {**models["qwen3"].engine(), "model": str(demo.folder)},
        "narrow": demo.engine(additional_config={KEY: {"programs": str(demo.programs), "capacity": 2}}),
    }
    asked = [(name, requests[name]) for name in ("demo", "others", "demo", "others", *FAMILIES)]
    asked += [("adapted", requests["adapted"]), ("adapted", few), ("adapted", requests["adapted"])]
    asked += [("plain", unsteered(few)), ("plain", [request([5, 6], "zero")]), ("plain", unsteered(few))]
    asked += [("demo", [request([5, 6], extra_args={KEY: value})]) for value in (None, *NO_PROGRAMS)]
    asked += [("bf16", [request(prompts[0], name, 1, prompt_logprobs=0) for name in (None, *PROGRAMS)])]
    numbers = {name: number for number, name in enumerate(engines)}
    result = run(folder, list(engines.values()), [batch(given, numbers[name]) for name, given in asked])
    batches: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    for (name, _), answered in zip(asked, result["batches"], strict=True):
        batches[name].append(answered)
    return World(models, requests, batches, dict(zip(engines, result["engines"], strict=True)))


def test_engines_of_one_process_have_their_own_programs(world: World) -> None:
    texts = {name: expected(world.models[name], world.requests[name]) for name in ("demo", "others")}
    for name, text in texts.items():
        assert [told(one) for one in world.batches[name][:2]] == [text, text]
    steered = [program_of(one) is not None for one in world.requests["demo"]]
    same = [a == b for a, b in zip(texts["demo"], texts["others"], strict=True)]
    assert sum(one and changes for one, changes in zip(same, steered, strict=True)) < 4


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, world: World) -> None:
    model, requests = world.models[family], world.requests[family]
    (answered,) = world.batches[family]
    texts = expected(model, requests)
    assert told(answered) == texts
    plain = [model.text(one["prompt"], None) for one in requests]
    assert sum(text == other for text, other in zip(texts, plain, strict=True)) < 8  # 4 of 16 are unsteered


def test_an_adapter_and_programs(world: World) -> None:
    """LoRA wraps the layers beside the activation."""
    with_it, without, again = map(told, world.batches["adapted"])
    assert with_it == again == expected(world.models["adapted"], world.requests["adapted"])
    assert without == expected(world.models["demo"], world.requests["demo"])
    assert sum(a == b for a, b in zip(with_it, without, strict=True)) < 8


def test_without_configuration_requests_for_programs_are_refused(world: World) -> None:
    first, refused, last = world.batches["plain"]
    assert world.engines["plain"]["steered"] == 0
    assert f"{KEY} is 'zero', but the server was started without programs" in refused["refused"]
    assert told(first) == told(last) == expected(world.models["demo"], unsteered(world.requests["demo"]))


def test_offline_requests_for_what_is_no_program_are_refused(world: World) -> None:
    none, *others = world.batches["demo"][2:]
    assert f"{KEY} is None, expected the name of a program" in none["refused"]
    for answered, value in zip(others, NO_PROGRAMS, strict=True):
        assert f"{KEY} is {value!r}, expected one of {', '.join(sorted(PROGRAMS))}" in answered["refused"]
        assert answered["error"] == "VLLMValidationError"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pooling", "runner_type is pooling, expected generate with programs"),
        ("foreign", "program 'amplify' "),
        ("narrow", f"capacity is 2, expected at least {PLACES}"),
    ],
)
def test_engines_that_cannot_serve_the_programs_do_not_start(name: str, reason: str, world: World) -> None:
    assert reason in world.engines[name]["refused"]


def test_bf16_is_as_near_to_fp32_as_transformers_is(world: World, prompts: list[list[int]]) -> None:
    """Of the logarithms of probability of a prompt's tokens. The stored weights are in bf16, and hence the same."""
    demo = world.models["demo"]
    narrow, _ = affectron.load_model(demo.folder, "bfloat16")
    (answered,) = world.batches["bf16"]
    exact = {name: logarithms(demo, demo.model, prompts[0], name) for name in (None, *PROGRAMS)}
    for (name, truth), answer in zip(exact.items(), answered["answers"], strict=True):
        error = (torch.tensor(answer["logprobs"]) - truth).abs()
        usual = (logarithms(demo, narrow, prompts[0], name) - truth).abs()
        assert error.mean() < 1.5 * usual.mean()
        assert error.max() < 3 * usual.max()
        if name in ("zero", "amplify", "shift", "damped", "prompt"):  # they act on the prompt
            assert (truth - exact[None]).abs().mean() > 20 * error.mean()


@torch.inference_mode()
def logarithms(demo: Model, model: Any, prompt: list[int], program: str | None) -> torch.Tensor:
    """fp32 [tokens - 1]: of the probability of each token of a prompt but the first."""
    given = torch.tensor(prompt)
    with demo.steered(program, model):
        logits = model(given[None]).logits[0, :-1]
    return logits.float().log_softmax(-1).gather(1, given[1:, None])[:, 0]


def test_a_real_model(shared: Path, tmp_path: Path) -> None:
    model, rng = Model(shared / "models" / "emorhet-3m", tmp_path / "programs"), random.Random(0)
    vocabulary = model.model.config.vocab_size
    requests = mixed([[rng.randrange(3, vocabulary) for _ in range(length)] for length in (40, 53, 70)])
    result = run(tmp_path, [model.engine()], [batch(requests)])
    assert told(result["batches"][0]) == expected(model, requests)
