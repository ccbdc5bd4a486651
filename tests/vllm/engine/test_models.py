"""Several engines in one process: with other programs, with none, of other models, with an adapter, and in bf16."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tests.support.tiny import make_tokenizer
from tests.vllm.engine.engines import (
    CONTEXT,
    KEY,
    PROGRAMS,
    Model,
    batch,
    mixed,
    program_of,
    request,
    run,
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
ADAPTED, RANK, ALPHA = ("q_proj", "gate_proj", "up_proj", "down_proj"), 8, 16


@dataclass
class World:
    """Models, requests, and what the engines of the process answered.

    Attributes:
        models: name -> model with programs.
        requests: name of a model -> its requests.
        batches: name of an engine -> its batches in their order.
        refused: name of an engine that does not start -> the reason.
        started: name of another engine -> what it is.
    """

    models: dict[str, Model]
    requests: dict[str, Requests]
    batches: dict[str, list[dict[str, Any]]]
    refused: dict[str, str]
    started: dict[str, dict[str, Any]]


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
            a, b = (
                torch.randn(*size, generator=generator) / 16
                for size in ((RANK, linear.in_features), (linear.out_features, RANK))
            )
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
    few = mixed(prompts[:4])
    requests = dict.fromkeys(("demo", "others"), few)
    requests |= dict.fromkeys(
        FAMILIES, mixed([[1, *(3 + token % 60 for token in prompt[1:40])] for prompt in prompts[:4]])
    )
    requests["adapted"] = [{**one, "adapter": str(folder / "adapter")} for one in few]
    engines = {name: model.engine() for name, model in models.items()}
    engines["adapted"] |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": RANK}
    engines |= {
        "bf16": demo.engine(dtype="bfloat16"),
        "plain": demo.engine(additional_config={}),
        "pooling": demo.engine(runner="pooling"),
        "foreign": {**demo.engine(), "additional_config": models["qwen3"].engine()["additional_config"]},
        "narrow": demo.engine(additional_config={KEY: {"programs": str(demo.programs), "capacity": 2}}),
    }
    given = [(name, requests[name]) for name in ("demo", "others", "demo", "others", *FAMILIES)]
    given += [("adapted", requests["adapted"]), ("adapted", few), ("adapted", requests["adapted"])]
    given += [
        ("plain", [one for one in few if not program_of(one)]),
        ("plain", few[:1]),
        ("plain", [request([5, 6], "zero")]),
    ]
    given += [("demo", [request([5, 6], extra_args={KEY: value})]) for value in (None, 7, "joy", ["zero"])]
    given += [("bf16", [request(prompts[0], name, 1, prompt_logprobs=0) for name in (None, *PROGRAMS)])]
    numbers = {name: number for number, name in enumerate(engines)}
    result = run(folder, list(engines.values()), [batch(asked, numbers[name]) for name, asked in given])
    batches: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    for (name, _), answered in zip(given, result["batches"], strict=True):
        batches[name].append(answered)
    started = dict(zip(engines, result["engines"], strict=True))
    refused = {name: engine["refused"] for name, engine in started.items() if "refused" in engine}
    return World(models, requests, batches, refused, started)
