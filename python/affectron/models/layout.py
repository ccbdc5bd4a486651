"""What every layout of an MLP shares: the description of a site, the names of activations, the two swaps.

Apart from sites.py so that gated.py, fused.py and plain.py can import it and sites.py can import them.
A layout is a module with three functions: ``match(module)`` returns what was recognised or None,
``swap(site, position, kernel, undo)`` lets the kernel compute the activation until ``undo`` is unwound, and
``projections(module)`` gives the linear layers before the activation and the one after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectron.errors import InputError

Kernel = Callable[[int, Tensor, "Tensor | None", str], Tensor]
"""``kernel(position, gate, up, act) -> h``: ``position`` counts the attached sites from 0; gate and up are
[..., F] with last stride 1 (``up`` is None in a plain MLP); h has the shape and dtype of gate."""

# By class name, because the classes of transformers come and go between versions. The tanh forms differ in
# rounding only: NewGELU and FastGELU spell out what F.gelu(approximate="tanh") fuses.
_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
}


class Match(NamedTuple):
    """What a layout recognised: the number of neurons F and the module that is the activation function."""

    neurons: int
    activation: nn.Module


@dataclass(frozen=True)
class Site:
    """One MLP block of a model.

    ``name`` is the block's module name (``model.layers.7.mlp``; in OPT the decoder layer's, which holds the
    linear layers itself), ``layout`` is gated, fused or plain, ``neurons`` is F, the width of the last
    linear's input, and ``act`` is silu, gelu, gelu_tanh, relu or relu2.
    """

    name: str
    module: nn.Module
    layout: str
    neurons: int
    act: str


class KernelActivation(nn.Module):
    """Stands where a plain MLP's activation function stood, and lets the kernel compute it."""

    def __init__(self, position: int, kernel: Kernel, act: str) -> None:
        super().__init__()
        self.position, self.kernel, self.act = position, kernel, act

    def forward(self, gate: Tensor) -> Tensor:
        return self.kernel(self.position, gate, None, self.act)


def activation_name(module: nn.Module) -> str | None:
    """silu, gelu, gelu_tanh, relu or relu2; None for any other activation."""
    if isinstance(module, KernelActivation):
        return module.act
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    return _ACTIVATIONS.get(type(module).__name__)


def children(module: nn.Module, *names: str) -> list[nn.Module] | None:
    """The submodules of these names, or None unless all are there."""
    found = [module._modules.get(name) for name in names]
    present = [child for child in found if child is not None]
    return present if len(present) == len(names) else None


def sizes(linear: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer; GPT-2's Conv1D names them nx and nf."""
    for names in (("in_features", "out_features"), ("nx", "nf")):
        found = tuple(getattr(linear, name, None) for name in names)
        if isinstance(found[0], int) and isinstance(found[1], int):
            return found[0], found[1]
    return None


def set_sizes(linear: Any, inputs: int, outputs: int) -> None:
    """What :func:`sizes` tells of a layer whose weights have changed."""
    names = ("nx", "nf") if hasattr(linear, "nf") else ("in_features", "out_features")
    setattr(linear, names[0], inputs)
    setattr(linear, names[1], outputs)


def require_known(module: nn.Module, known: set[str]) -> None:
    """Refuse a block whose class computes something that our forward would leave out.

    Falcon-H1 multiplies the gate, Gemma 3n keeps the largest only, DeepSeek-V4 clamps, BitNet normalises:
    all have the submodules of Llama's MLP. Their forward uses names beside ``known``; its bytecode tells.

    Raises:
        InputError: it uses other names.
    """
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    foreign = sorted(set(code.co_names) - known) if code is not None else []
    if foreign:
        name = type(module).__name__
        raise InputError(f"{name} is not a known MLP: its forward also uses {', '.join(foreign)}")


def is_attached(site: Site) -> bool:
    """Whether a kernel computes this site's activation now."""
    if hasattr(vars(site.module).get("forward"), "affectron_kernel"):
        return True
    return any(isinstance(child, KernelActivation) for child in site.module.children())


def swap_forward(module: nn.Module, forward: Callable[[Tensor], Tensor], undo: ExitStack) -> None:
    """Let this instance run ``forward`` until ``undo`` is unwound."""
    forward.affectron_kernel = True  # type: ignore[attr-defined]
    swap_attribute(module, "forward", forward, undo)


def swap_attribute(module: nn.Module, name: str, value: Any, undo: ExitStack) -> None:
    """Let this instance have ``value`` as its attribute until ``undo`` is unwound; then all is what it was."""
    own: dict[str, Any] = vars(module)
    restore: Callable[[], Any] = (
        partial(own.__setitem__, name, own[name]) if name in own else partial(own.pop, name, None)
    )
    # First the way back, then the change: an interruption between the two leaves nothing behind.
    undo.callback(restore)
    own[name] = value


def swap_child(module: nn.Module, name: str, child: nn.Module, undo: ExitStack) -> None:
    """Let ``child`` stand in the place of the submodule ``name`` until ``undo`` is unwound.

    The place is changed, not the object that stood there: several layers may share one activation function.
    """
    before = module._modules[name]
    undo.callback(module._modules.__setitem__, name, before)
    module._modules[name] = child


def device_of(site: Site) -> torch.device:
    """Where the site's weights are."""
    return next(site.module.parameters()).device
