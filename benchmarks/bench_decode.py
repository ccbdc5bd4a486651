"""Steered decoding against the same model unsteered and against a hook, and masked_mlp against three products.

Decoding: a Llama of hidden size 512, 1792 neurons a site, 8 layers and a vocabulary of 32000, random weights; 16 tokens
of prompt and 24 written, by `generate` as it is. In the batch of 8 every request has a program of its own, on 1 % of
the neurons. One MLP: hidden size 2048 and 5632 neurons, whose weights no cache holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers import LlamaConfig, LlamaForCausalLM

import affectron
from affectron import ops

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PLAIN, HOOK, STEERED = "plain generate", "a hook that scales 1 %", "steered generate"
LAYERS, HIDDEN, NEURONS, VOCABULARY = 8, 512, 1792, 32_000
TORCH, NONE, HALF = "torch, three products", "masked_mlp, none masked", "masked_mlp, half masked"


@cache
def llama(dtype: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).to(DTYPES[dtype]).eval()


def neurons(request: int) -> list[tuple[str, int]]:
    generator = torch.Generator().manual_seed(request)
    return [
        (f"model.layers.{layer}.mlp", int(index))
        for layer in range(LAYERS)
        for index in torch.randperm(NEURONS, generator=generator)[: NEURONS // 100]
    ]


@contextmanager
def hooks(model: nn.Module) -> Iterator[None]:
    """The usual hook without this package: a copy of the activation, and 1 % of it scaled."""
    handles = []
    for layer in range(LAYERS):
        index = torch.tensor([i for site, i in neurons(0) if site == f"model.layers.{layer}.mlp"])

        def scale(module: nn.Module, args: tuple[Tensor], index: Tensor = index) -> tuple[Tensor]:
            h = args[0].clone()
            h[..., index] *= 1.5
            return (h,)

        down = model.get_submodule(f"model.layers.{layer}.mlp.down_proj")
        handles.append(down.register_forward_pre_hook(scale))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("contender", [PLAIN, HOOK, STEERED])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_generate(contend: Any, dtype: str, batch: int, contender: str) -> None:
    model = llama(dtype)
    ids = torch.randint(0, VOCABULARY, (batch, 16), generator=torch.Generator().manual_seed(0))
    programs = [affectron.amplify(neurons(request), 1.5) for request in range(batch)]
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    context = {PLAIN: nullcontext(), HOOK: hooks(model), STEERED: affectron.intervene(model, programs)}[contender]
    goals = {PLAIN: 1 / 0.98, HOOK: 1.0} if contender == STEERED else {}
    rounds = 3 if (dtype, batch) == ("bf16", 8) else 8
    with context:
        contend(
            f"decode {dtype}, batch {batch}",
            contender,
            lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options),
            rounds=rounds,
            goals=goals,
        )


@cache
def weights(dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5632, 2048), (5632, 2048), (2048, 5632))
    gate, up, down = ((torch.randn(shape, generator=generator) * 0.02).to(DTYPES[dtype]) for shape in shapes)
    return gate, up, down


@pytest.mark.parametrize("contender", [TORCH, NONE, HALF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_mlp(contend: Any, dtype: str, contender: str) -> None:
    gate, up, down = weights(dtype)
    by_neuron = ops.neuron_major(down)
    x = torch.randn(1, 2048, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])
    table = torch.tensor([1.0, 0.0, -torch.inf, -0.0])[None, :, None].repeat(1, 1, 5632)
    if contender == HALF:
        masked = torch.randperm(5632, generator=torch.Generator().manual_seed(2))[: 5632 // 2]
        table[0, 0, masked] = 0.0
        table[0, 3, masked] = 0.0
    function = {TORCH: lambda: linear(silu(linear(x, gate)) * linear(x, up), down)}.get(
        contender, lambda: ops.masked_mlp(x, gate, up, by_neuron, table)
    )
    goals = {TORCH: {}, NONE: {TORCH: 1.0}, HALF: {NONE: 0.6}}[contender]
    contend(f"masked_mlp {dtype}, batch 1", contender, function, rounds=30, goals=goals)
