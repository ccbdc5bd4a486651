"""Odd shapes, strided views and every instruction-set level, for the tests of the ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from affectron.ops.backends import native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
SHAPES = ((0, 760), (1, 431), (199, 760), (70, 431), (33, 1), (5, 3))


@pytest.fixture(params=native.isa_levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level that this processor can run, in turn."""
    before = native.isa_level()
    native.set_isa_level(request.param)
    yield request.param
    native.set_isa_level(before)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def halves(n: int, f: int, dtype: torch.dtype, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """gate and up as the two halves of one [n, 2 f] tensor: rows with a stride, as a fused projection leaves them."""
    both = (torch.randn(n, 2 * f, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
    return both[:, :f], both[:, f:]


def exact(gate: torch.Tensor, up: torch.Tensor | None, act: str) -> torch.Tensor:
    """act(gate) up in fp64, from the definitions."""
    g = gate.double()
    if act == "silu":
        value = g / (1 + torch.exp(-g))
    elif act == "gelu":
        value = g * 0.5 * (1 + torch.erf(g / 2**0.5))
    elif act == "gelu_tanh":
        value = 0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3)))
    else:
        value = g.clamp(min=0) ** (1 if act == "relu" else 2)
    return value if up is None else value * up.double()
