"""The gated MLP of Phi-3 and GLM: gate and up are the two halves of one linear layer's output.

Apart from gated.py because the kernel reads the halves in place, as strided views of one [..., 2F] tensor.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from affectron.models.layout import Kernel, Match, Site, children, require_known, sizes, swap_forward

_NAMES = ("gate_up_proj", "down_proj", "activation_fn")


def match(module: nn.Module) -> Match | None:
    """Recognise the block by its three submodules.

    Raises:
        InputError: the block has them, but its class computes more than down_proj(activation_fn(gate) · up).
    """
    found = children(module, *_NAMES)
    if found is None:
        return None
    both, down, activation = found
    both_size, down_size = sizes(both), sizes(down)
    if both_size is None or down_size is None or both_size[1] != 2 * down_size[0]:
        return None
    require_known(module, {*_NAMES, "chunk"})
    return Match(down_size[0], activation)


def projections(module: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    return [module.get_submodule(_NAMES[0])], module.get_submodule(_NAMES[1])


def swap(site: Site, position: int, kernel: Kernel, undo: ExitStack) -> None:
    module: Any = site.module
    act = site.act

    def forward(hidden_states: Tensor) -> Tensor:
        gate, up = module.gate_up_proj(hidden_states).chunk(2, dim=-1)
        h: Tensor = module.down_proj(kernel(position, gate, up, act))
        return h

    swap_forward(module, forward, undo)
