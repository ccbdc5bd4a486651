"""The gated MLP of Llama, Mistral, Qwen and Gemma: down_proj(act_fn(gate_proj(x)) · up_proj(x)).

Apart because gate and up come from two linear layers: to see both, the block's forward has to be replaced.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from affectron.models.layout import Kernel, Match, Site, children, require_known, sizes, swap_forward

_NAMES = ("gate_proj", "up_proj", "down_proj", "act_fn")


def match(module: nn.Module) -> Match | None:
    """Recognise the block by its four submodules.

    Raises:
        InputError: the block has them, but its class computes more than the formula above.
    """
    found = children(module, *_NAMES)
    if found is None:
        return None
    gate, up, down, activation = found
    gate_size, up_size, down_size = sizes(gate), sizes(up), sizes(down)
    if gate_size is None or gate_size != up_size or down_size is None or down_size[0] != gate_size[1]:
        return None
    require_known(module, set(_NAMES))
    return Match(gate_size[1], activation)


def projections(module: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    gate, up, down = (module.get_submodule(name) for name in _NAMES[:3])
    return [gate, up], down


def swap(site: Site, position: int, kernel: Kernel, undo: ExitStack) -> None:
    module: Any = site.module
    act = site.act

    # The linear layers are looked up in every call, as the block itself does: an adapter may replace them.
    def forward(x: Tensor) -> Tensor:
        h: Tensor = module.down_proj(kernel(position, module.gate_proj(x), module.up_proj(x), act))
        return h

    swap_forward(module, forward, undo)
