"""Mixtures of experts whose weights are stacked, those of all experts in one parameter.

Apart because there is no linear layer to find. Transformers' experts classes from 5 on say of themselves what they
compute (``has_gate``, ``has_bias``, ``is_transposed``): their forward is replaced, expert by expert, and the kernels
compute the activation. Of other stacks (Llama 4, DBRX, JetMoe) the shapes of the parameters tell which is the last, and
their products with it are followed (stacks.py). An expert is a site of its own, named as an expert that is a module
would be: ``model.layers.3.mlp.experts.7``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectron.models import attaching as swap
from affectron.models.discovery import probe
from affectron.models.experts import stacked as stacks
from affectron.models.layout import Given, Kernel, Needed, Routed, Structure


class _Link(NamedTuple):
    positions: dict[int, int]  # of the experts that are attached
    kernel: Kernel
    given: Given
    needed: Needed


_CHAINS: WeakKeyDictionary[nn.Module, tuple[list[_Link], ExitStack]] = WeakKeyDictionary()


def described(module: nn.Module) -> bool:
    """Whether this is an experts class that says of itself what it computes."""
    down = module._parameters.get("down_proj")
    return down is not None and down.dim() == 3 and hasattr(module, "has_bias") and hasattr(module, "is_transposed")


def _has_gate(module: Any) -> bool:
    # The first releases of transformers 5 know no experts without a gate.
    return bool(getattr(module, "has_gate", True))


def stacked(module: nn.Module) -> bool:
    return described(module) or stacks.find(module) is not None


def number(module: nn.Module) -> int:
    if not described(module):
        found = stacks.find(module)
        assert found is not None
        return found.experts
    down: Any = module._parameters["down_proj"]
    return int(down.shape[0])


def structure(module: Any) -> Structure:
    """What every expert of ``module`` computes between its two products."""
    if not described(module):
        found = stacks.find(module)
        assert found is not None
        shown = "?" if found.activation is None else type(module.get_submodule(found.activation)).__name__
        return Structure("other", shown, found.neurons, found.last, activation=found.activation)
    neurons = int(module.down_proj.shape[1 if module.is_transposed else 2])
    layout, act = probe.elementwise(module, _activate, neurons, 2 * neurons if _has_gate(module) else neurons)
    return Structure(layout, act, neurons, "down_proj", first="gate_up_proj", whole=layout != "other")


def add(
    module: nn.Module,
    owner: nn.Module | None,
    positions: dict[int, int],
    kernel: Kernel,
    given: Given,
    needed: Needed,
) -> Callable[[], None]:
    """Put a kernel on some of the experts; returns what takes it off again.

    While no kernel is needed at any of them the module runs its own forward, which may compute all experts at once.
    ``owner`` is the block that routes tokens to them.
    """
    if module not in _CHAINS:
        links: list[_Link] = []
        undo = ExitStack()
        shown, own = structure(module), module.forward
        if described(module):
            replaced = lambda *args, **named: _forward(module, shown, _needed(links), *args, *named.values())  # noqa: E731
        else:
            replaced = stacks.followed(module, owner, lambda *h: _give(_needed(links), *h), undo)

        def forward(*args: Any, **named: Any) -> Any:
            return (replaced if _needed(links) else own)(*args, **named)

        swap.swap_forward(module, forward, undo)
        _CHAINS[module] = links, undo
    links, undo = _CHAINS[module]
    link = _Link(positions, kernel, given, needed)
    links.append(link)

    def remove() -> None:
        links[:] = [other for other in links if other is not link]
        if not links:
            _CHAINS.pop(module, None)
            undo.close()

    return remove


def _needed(links: list[_Link]) -> list[_Link]:
    # A graph that is captured now has to serve what will be needed later.
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return links
    return [link for link in links if link.needed(link.positions.values())]


def _activate(module: Any, z: Tensor) -> Tensor:
    h: Tensor = module._apply_gate(z) if _has_gate(module) else module.act_fn(z)
    return h


def _forward(
    module: Any, shown: Structure, links: list[_Link], hidden: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """What the class computes, expert by expert; the products are those of its own eager forward.

    ``hidden`` is [N, D], ``chosen`` and ``weights`` [N, K]: the experts of each token. A number beyond the experts
    stands for one that is on another device.
    """
    rows, (total, k) = hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1]).shape
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    experts = len(module.down_proj)  # which is no parameter of the module's while an adapter changes it
    each = torch.bincount(flat, minlength=experts).tolist()
    name = "gate_up_proj" if _has_gate(module) else "up_proj"
    parts = []
    start = 0
    for expert, count in enumerate(each[:experts]):
        picked = order[start : start + count]
        start += count
        if not count:
            continue
        tokens = picked // k
        z = _linear(module, name, expert, rows[tokens])
        h = _activation(module, shown, links, expert, z, Routed(tokens, total))
        parts.append(_linear(module, "down_proj", expert, h))
    out = torch.cat(parts) if parts else rows.new_zeros(0, hidden.shape[-1])
    if getattr(module, "has_post_expert_norm", False):
        out = module.post_expert_norm(out)
    picked = order[:start]
    out = out * weights.reshape(-1)[picked, None]
    # A token's experts are added up in a fixed order; index_add on a GPU has none.
    placed = out.new_zeros(total * k, out.shape[-1]).index_copy(0, picked, out)
    return placed.view(total, k, -1).sum(1).to(hidden.dtype).reshape(hidden.shape)


def _linear(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(x, weight.T if module.is_transposed else weight, bias)


def _activation(module: Any, shown: Structure, links: list[_Link], expert: int, z: Tensor, routed: Routed) -> Tensor:
    here = [link for link in links if expert in link.positions]
    if shown.layout == "other" or not here:
        return _give(here, expert, _activate(module, z), None, routed)
    gate, up = swap.split(z, shown.layout)
    first, *others = here
    h = first.kernel(first.positions[expert], gate, up, shown.act, routed)
    return _give(others, expert, h, gate, routed)


def _give(links: list[_Link], expert: int, h: Tensor, gate: Tensor | None, routed: Routed) -> Tensor:
    if h.stride(-1) != 1:  # the module's own; a kernel reads rows without gaps
        h = h.contiguous()
    for link in links:
        if expert in link.positions:
            h = link.given(link.positions[expert], h, gate, routed)
    return h
