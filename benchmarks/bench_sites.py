"""Cost of finding the sites of a model, of attaching kernels to them, and of a kernel's attachment in each call.

The model has the shape of Llama 3.1 8B and no weights; a stand-in of its blocks is run. The calls have so few numbers
that Python takes the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from affectron import ops
from affectron.models import attach, find_sites

CALLS = 1000


@cache
def llama() -> Any:
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def find_and_attach() -> None:
    with attach(find_sites(llama()), lambda position, gate, up, act: gate):
        pass


def test_find_and_attach(contend: Any) -> None:
    """The goal is 50 ms, on a machine with nothing else to do."""
    contend("sites of an 8B model", "find and attach", find_and_attach, rounds=10)


class Block(nn.Module):
    """A gated MLP, with a clamp where it is to be the fallback's."""

    def __init__(self, clamped: bool) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.limit = 7.0 if clamped else float("inf")

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.silu(self.gate(x)) * self.up(x)
        return self.down(h.clamp(max=self.limit) if self.limit < 1e30 else h)


def second_of_two(clamped: bool) -> tuple[nn.Module, Block]:
    """A model and the second of its blocks: what is done once in a forward is done at the first."""
    blocks = nn.ModuleList([Block(clamped), Block(clamped)])
    return nn.ModuleDict({"layers": blocks}), blocks[1]  # type: ignore[return-value]


def fused(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return ops.glu(gate, up, act)


def by_hand(block: Block, x: Tensor) -> Tensor:
    return block.down(ops.glu(block.gate(x), block.up(x), "silu"))


@torch.no_grad()
@pytest.mark.parametrize("contender", ["block with the op written in", "fused path"])
def test_overhead(contend: Any, contender: str) -> None:
    """A thousand calls of a block: their difference in ms is the microseconds of a call."""
    (model, block), x = second_of_two(clamped=False), torch.randn(1, 8)
    if contender == "fused path":
        sites = find_sites(model)
        assert sites[0].path == "fused"
        with attach(sites, fused):
            contend("1000 calls, fused", contender, lambda: [block(x) for _ in range(CALLS)], rounds=30)
    else:
        block.forward = lambda x: by_hand(block, x)  # type: ignore[method-assign]
        contend("1000 calls, fused", contender, lambda: [block(x) for _ in range(CALLS)], rounds=30)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
@pytest.mark.parametrize("contender", ["plain hook", "fallback path"])
def test_fallback(contend: Any, contender: str) -> None:
    (model, block), x = second_of_two(clamped=True), torch.randn(1, 8)
    run = lambda: [block(x) for _ in range(CALLS)]  # noqa: E731
    if contender == "plain hook":
        handle = block.down.register_forward_pre_hook(lambda _module, args: (2 * args[0],))
        contend("1000 calls, fallback", contender, run, rounds=30)
        handle.remove()
    else:
        with attach(find_sites(model), fused, lambda position, h, gate: 2 * h):
            contend("1000 calls, fallback", contender, run, rounds=30, goals={"plain hook": 1.0})
