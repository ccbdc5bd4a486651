"""Activation modules that steer, in the place of vLLM's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from affectron.errors import InputError
from affectron.interventions.program import NEUTRAL
from affectron.models.layout import Site
from affectron.ops.glu_steer import steer_rows
from affectron.vllm.internals import find
from affectron.vllm.library import Library
from affectron.vllm.limits import steerable
from affectron.vllm.rows import Rows

_LINEAR = "vllm.model_executor.layers.linear:RowParallelLinear"
#: Stands in the place of the layers that another process of a pipeline computes.
_ELSEWHERE = "vllm.model_executor.models.utils:PPMissingLayer"


class SteeredActivation(nn.Module):
    """h' of the last linear layer's input, for the neurons that this process computes.

    Attributes:
        table: fp32 [P, 4, F] of these neurons: scale, damping, floor and shift of the program at each place.
        rows: int32 [tokens], the place of each token's program.
    """

    table: Tensor
    rows: Tensor

    def __init__(self, act: str, table: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.act = act
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] from [N, 2 F]: gate, then up."""
        gate, up = x.chunk(2, dim=-1)
        return steer_rows(gate, up, self.table, self.rows[: x.shape[0]], self.act)


def attach(model: nn.Module, sites: Mapping[str, Site], library: Library, rows: Rows, dtype: torch.dtype) -> int:
    """Put steered activations into the sites of a model that this process computes; return their number.

    Args:
        model: vLLM's model, with its weights.
        sites: the sites that transformers' model of the same folder has, by name.
        library: the programs.
        rows: the places of each token, which all sites share.
        dtype: dtype of the hidden states.

    Raises:
        InputError: a site that a program touches has no activation module that can be replaced, or the model has
            none at all.
    """
    needed = {site for program in library.programs for site, touched in program.sites.items() if len(touched.index)}
    attached = elsewhere = 0
    for name, site in sites.items():
        if not steerable(site):
            continue
        block = _submodule(model, name)
        if isinstance(block, find(_ELSEWHERE)):
            elsewhere += 1
            continue
        reason = "there is no such module" if block is None else _replace(block, site, library, rows, dtype)
        if reason and name in needed:
            raise InputError(f"{name} cannot be steered in {type(model).__name__}: {reason}")
        attached += not reason
    if not attached and not elsewhere:
        raise InputError(f"{type(model).__name__} has no MLP that can be steered")
    return attached


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    """The module of that name, or the one that stands in the place of its layer; None if there is neither."""
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or isinstance(module, find(_ELSEWHERE)):
            break
        module = module._modules.get(part)
    return module


def _replace(block: nn.Module, site: Site, library: Library, rows: Rows, dtype: torch.dtype) -> str:
    """Replace the activation module of a block; return the reason if that is not possible, else an empty text."""
    acts = {name: act for name, module in block.named_children() if (act := _act(module))}
    linear: list[Any] = [_base(module) for module in block.children() if isinstance(_base(module), find(_LINEAR))]
    if len(acts) != 1 or len(linear) != 1:
        parts = ", ".join(type(module).__name__ for module in block.children())
        return f"its parts are {parts}, expected one SiluAndMul or GeluAndMul and one RowParallelLinear"
    ((name, act),), (down,) = acts.items(), linear
    if (act, down.input_size) != (site.act, site.neurons):
        return f"it has {down.input_size} neurons and {act}, expected {site.neurons} and {site.act}"
    here = down.input_size_per_partition
    first = find("vllm.distributed:get_tensor_model_parallel_rank")() * here if here < site.neurons else 0
    table = torch.from_numpy(NEUTRAL)[:, None].repeat(library.capacity, 1, here)
    for place, program in enumerate(library.programs):
        table[place] = torch.from_numpy(program.table(site.name, site.neurons)[:, first : first + here])
    original = block.get_submodule(name)
    steered = SteeredActivation(act, table.to(rows.rows.device), rows.rows)
    setattr(block, name, steered)
    with _without_adapters(block):
        reason = _bypass(block, steered, down.output_size, dtype)
    if reason:
        setattr(block, name, original)
    return reason


def _act(module: nn.Module) -> str | None:
    """The name of an activation that multiplies by up; None for other modules, also those of derived classes."""
    if type(module) is find("vllm.model_executor.layers.activation:SiluAndMul"):
        return "silu"
    if type(module) is find("vllm.model_executor.layers.activation:GeluAndMul"):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    return None


def _base(module: nn.Module) -> nn.Module:
    """The layer below an adapter."""
    base: nn.Module = getattr(module, "base_layer", module)
    return base


@contextmanager
def _without_adapters(block: nn.Module) -> Iterator[None]:
    """Adapters read which request each token belongs to, which is not known before the first batch."""
    adapters = {name: module for name, module in block.named_children() if _base(module) is not module}
    for name, adapter in adapters.items():
        setattr(block, name, _base(adapter))
    yield
    for name, adapter in adapters.items():
        setattr(block, name, adapter)


@torch.inference_mode()
def _bypass(block: nn.Module, steered: SteeredActivation, hidden: int, dtype: torch.dtype) -> str:
    """Try whether a block computes through its activation module: with all neurons masked, its output must be the same
    for two different inputs. Return the reason if it is not, else an empty text."""
    table, rows = steered.table, steered.rows
    x = torch.linspace(-1, 1, 2 * hidden, device=table.device).to(dtype).view(2, hidden)
    try:
        differs = not torch.equal(*block(x))
        steered.table = torch.zeros_like(table[:1])
        steered.rows = torch.zeros_like(rows[:2])
        masked = torch.equal(*block(x))
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        return f"its forward does not take hidden states [tokens, hidden] and return such ({reason})"
    finally:
        steered.table, steered.rows = table, rows
    return "" if differs and masked else "its output does not come from its activation module alone"
