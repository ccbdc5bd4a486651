"""The description of a site, and the linear layers by which an MLP is described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from affectron._internal.display import Shown

#: Attribute of transformers' blocks: the number of tokens that a block computes at a time; 0 means all.
CHUNK_SIZE = "chunk_size_feed_forward"
#: End of the name of a site that is the output of a layer: ``model.layers.7:output``. The layer's own name may be that
#: of an MLP, as in OPT and BERT, and no module has a colon in its name.
OUTPUT = ":output"


@dataclass(frozen=True)
class Structure(Shown):
    """The computation of a block. Names are those of modules inside the block, dotted where they are deeper.

    Attributes:
        layout: of an MLP ``gated`` (gate and up from two linear layers), ``gate_up``, ``up_gate`` or ``interleaved``
            (both from one layer: its output is gate then up, up then gate, or one of each in turn), ``plain`` (no up)
            or ``other`` (the block computes something else); ``output`` if h is the hidden states that a layer returns.
        act: silu, gelu, gelu_tanh, relu or relu2; in the layout ``other`` the class of the activation module, or "?";
            "none" in the layout ``output``.
        neurons: F, the width of h: of an MLP that of the last linear layer's input, of a layer the hidden size.
        first, second: the linear layers whose outputs are, or hold, gate and up; None if there is no such layer.
        last: the linear layer whose input is the activation h; in the layout ``output`` the block itself, "".
        activation: the module whose output is act(gate); None if a function computes it.
        whole: the block is last(act(gate) · up) of its one input and nothing else, so its forward can be replaced.
        dropout: in training mode the block applies dropout.
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


@dataclass(frozen=True)
class Site(Shown):
    """One MLP of a model, one expert of a mixture of experts, or the output of one layer.

    Attributes:
        name: name of the block that holds the linear layers: ``model.layers.7.mlp``, in OPT the decoder layer, and
            ``model.layers.7.mlp.experts.3`` for an expert; ``model.layers.7:output`` for the output of a layer.
        module: that block; for stacked experts the module that holds the weights of all experts of a layer.
        structure: the computation of the block.
        expert: number of the expert in ``module`` if the experts are stacked, else None.
        owner: the block that routes tokens to the expert; None for an MLP that every token passes.
        time_first: the input of the block is [T, B, H] instead of [B, T, H]. Only a forward can show it: the sites of
            a :class:`Reader` have it set, those of :func:`find_sites` have not.
        chunking: the block that computes the tokens of the site in pieces, if one does.
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
        """``fused``: the kernel computes the activation. ``fallback``: the block computes it, and the kernel is given
        the input of the last linear layer. The results are the same; the fallback reads h once more. ``output``: the
        kernel is given what a layer returns."""
        if self.layout == "output":
            return "output"
        known = self.layout != "other"
        return "fused" if known and (self.structure.whole or self.plain_activation) else "fallback"

    @property
    def plain_activation(self) -> bool:
        """Return whether the kernel can take the place of the activation module: nothing multiplies its output."""
        return self.layout == "plain" and self.structure.activation is not None


def sizes(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer, also of one that is quantised or has an adapter; None for other modules.

    GPT-2's Conv1D calls them nx and nf.
    """
    attributes, kind = vars(module), type(module)
    adapted = module._modules.get("base_layer")
    if adapted is not None and sizes(adapted) is None:  # an adapter of another module, such as stacked experts
        return None
    weight = module._parameters.get("weight")
    if weight is not None and weight.dim() == 3:  # the weights of several experts
        return None
    for first, second in (("in_features", "out_features"), ("nx", "nf")):
        # An attribute or a property. hasattr(module, ...) takes ten times as long if the module lacks it.
        if (first in attributes or hasattr(kind, first)) and (second in attributes or hasattr(kind, second)):
            inputs, outputs = getattr(module, first), getattr(module, second)
            if isinstance(inputs, int) and isinstance(outputs, int):
                return inputs, outputs
    return None


def set_sizes(linear: Any, inputs: int, outputs: int) -> None:
    """Set the attributes that :func:`sizes` reads."""
    names = ("nx", "nf") if hasattr(linear, "nf") else ("in_features", "out_features")
    setattr(linear, names[0], inputs)
    setattr(linear, names[1], outputs)


def split(output: Tensor, layout: str) -> tuple[Tensor, Tensor | None]:
    """Gate and up, [..., F] each, from the output of the one linear layer that holds both; (gate, None) in the layout
    ``plain``, and in ``gated`` from the output of the first layer."""
    if layout == "interleaved":  # a kernel reads rows without gaps: two copies
        return output[..., ::2].contiguous(), output[..., 1::2].contiguous()
    if layout in ("gate_up", "up_gate"):
        left, right = output.chunk(2, dim=-1)
        return (left, right) if layout == "gate_up" else (right, left)
    return output, None


def is_time_first(shape: torch.Size, batch: int, tokens: int) -> bool | None:
    """Return whether the activation [*shape, F] of B texts of T tokens is [T, B, F]; None if B = T shows no order."""
    if batch == tokens:
        return None
    return shape == (tokens, batch)


def device_of(site: Site) -> torch.device:
    """The device on which the site's activation is computed; accelerate's offloading keeps the weights elsewhere."""
    last = site.module if site.expert is not None else site.module.get_submodule(site.structure.last)
    for module in (*last.modules(), site.module):
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)  # a number is that of the accelerator
    weight = next(last.parameters(), None)
    return next(site.module.parameters()).device if weight is None else weight.device
