"""What all of models/ shares: the description of a site, what a kernel is, and what counts as a linear layer.

Apart from sites.py so that probe.py, swap.py and experts.py can import it and sites.py can import them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn


class Routed(NamedTuple):
    """Which rows of the batch an expert reads: row i of its activation is token ``tokens[i]`` of ``total``, the
    number of tokens of the flattened batch. ``tokens`` is int64 [n] on the device of the activation."""

    tokens: Tensor
    total: int


class Kernel(Protocol):
    """Compute the activation h of a site.

    ``position`` counts the attached sites from 0; gate and up are [..., F] with last stride 1 (``up`` is None in a
    plain MLP); h has the shape and dtype of gate. In an expert, whose rows are some of the batch's tokens, ``routed``
    says which; it is not passed elsewhere.
    """

    def __call__(
        self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None, /
    ) -> Tensor: ...


class Given(Protocol):
    """Change an activation h [..., F] that something else has computed.

    Where ``gate`` is a tensor a neuron is active at a token where gate > 0; where it is None only h itself is known.
    ``position`` and ``routed`` are those of :class:`Kernel`.
    """

    def __call__(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None, /) -> Tensor: ...


KernelOrGiven = TypeVar("KernelOrGiven", Kernel, Given)

Needed = Callable[[Collection[int]], bool]
"""``needed(positions)``: whether the kernel has anything to do now at any of these sites, the experts of one layer."""


@dataclass(frozen=True)
class Structure:
    """What is known of an MLP block; names are those of modules inside the block, with dots where they are deeper.

    Attributes:
        layout: ``gated`` (gate and up from two linear layers), ``gate_up``, ``up_gate`` or ``interleaved`` (both from
            one: its output is gate then up, up then gate, or in turn), ``plain`` (no up), ``other`` (not known).
        act: silu, gelu, gelu_tanh, relu or relu2; in the layout ``other`` the class of the activation module, or "?".
        neurons: F, the width of the last linear layer's input.
        first, second: the linear layers whose outputs are, or hold, gate and up; None where there is none.
        last: the linear layer whose input is the activation h.
        activation: the module whose output is act(gate); None where a function computes it.
        whole: the block is last(act(gate) · up) of its one input and nothing else, so that its forward can be replaced.
        dropout: while the block is in training mode, some of this is dropped out.
    """

    layout: str
    act: str
    neurons: int
    last: str
    first: str | None = None
    second: str | None = None
    activation: str | None = None
    whole: bool = False
    dropout: bool = False


# The attribute of transformers' blocks that says how many tokens a piece has; 0 is all.
CHUNK_SIZE = "chunk_size_feed_forward"


@dataclass(frozen=True)
class Site:
    """One MLP of a model, or one expert of a mixture of experts.

    ``name`` is the name of the block that holds its linear layers (``model.layers.7.mlp``; in OPT the decoder layer;
    ``model.layers.7.mlp.experts.3`` for an expert), ``module`` the block, or what holds the weights of all experts of
    a layer when they are stacked; then ``expert`` is the expert's number. Where experts are modules in a list ``owner``
    is the block that routes tokens to them. ``time_first`` says that the block's input is [T, B, H] and not [B, T, H],
    as only a forward shows. ``chunking`` is the block that hands the site its tokens in pieces, to save memory.
    """

    name: str
    module: nn.Module
    structure: Structure
    expert: int | None = None
    owner: nn.Module | None = None
    time_first: bool = False
    chunking: nn.Module | None = None

    @property
    def layout(self) -> str:
        return self.structure.layout

    @property
    def neurons(self) -> int:
        return self.structure.neurons

    @property
    def act(self) -> str:
        return self.structure.act

    @property
    def path(self) -> str:
        """``fused``: the kernel computes the activation itself. ``fallback``: it is given the input of the last linear
        layer, which the block has computed; the results are the same, at the cost of reading h once more."""
        known = self.layout != "other"
        return "fused" if known and (self.structure.whole or self.plain_activation) else "fallback"

    @property
    def plain_activation(self) -> bool:
        """Whether the kernel can stand where the activation module stands, as nothing multiplies its output."""
        return self.layout == "plain" and self.structure.activation is not None


def sizes(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer, quantised or with an adapter too; GPT-2's Conv1D names them nx and nf."""
    own, kind = vars(module), type(module)
    adapted = module._modules.get("base_layer")
    if adapted is not None and sizes(adapted) is None:  # an adapter, of stacked experts for example
        return None
    weight = module._parameters.get("weight")
    if weight is not None and weight.dim() == 3:  # those of several experts
        return None
    for first, second in (("in_features", "out_features"), ("nx", "nf")):
        # An attribute or a property: to ask a module for what it lacks takes ten times as long.
        if (first in own or hasattr(kind, first)) and (second in own or hasattr(kind, second)):
            found = getattr(module, first), getattr(module, second)
            if isinstance(found[0], int) and isinstance(found[1], int):
                return found
    return None


def running(module: nn.Module) -> tuple[str, nn.Module]:
    """The module that does the work of a wrapper, with its name inside; any other module is its own, the name empty.

    Wrappers are that of ``torch.compile``, that of PEFT which holds a copy of a module for each adapter
    (``modules_to_save``), and that whose adapter changes the parameters of a module that is no linear layer
    (``target_parameters``).
    """
    path: list[str] = []
    while True:
        inside = module._modules
        if "_orig_mod" in inside:
            name = "_orig_mod"
        elif "modules_to_save" in inside and "original_module" in inside:
            wrapper: Any = module
            active = wrapper.active_adapter
            chosen = active if isinstance(active, str) else next(iter(active), None)
            copied = not wrapper.disable_adapters and chosen in wrapper.modules_to_save
            name = f"modules_to_save.{chosen}" if copied else "original_module"
        elif "base_layer" in inside and sizes(module) is None:
            name = "base_layer"
        else:
            return ".".join(path), module
        path.append(name)
        module = module.get_submodule(name)


def set_sizes(linear: Any, inputs: int, outputs: int) -> None:
    """What :func:`sizes` tells of a layer whose weights have changed."""
    names = ("nx", "nf") if hasattr(linear, "nf") else ("in_features", "out_features")
    setattr(linear, names[0], inputs)
    setattr(linear, names[1], outputs)


def device_of(site: Site) -> torch.device:
    """Where the site's activation is computed. Under accelerate's offloading the weights themselves lie elsewhere."""
    last = site.module if site.expert is not None else site.module.get_submodule(site.structure.last)
    for module in (last, site.module):
        place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.device(f"cuda:{place}" if isinstance(place, int) else place)
    weight = next(last.parameters(), None)
    return next(site.module.parameters()).device if weight is None else weight.device
