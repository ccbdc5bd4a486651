"""Experts whose weights are stacked, those of all experts of a layer in one parameter.

An expert is a site of its own, named as it would be if it were a module: ``model.layers.3.mlp.experts.7``. The forward
of an experts class that describes itself is computed expert by expert, and the kernels compute the activation; other
stacks run their own forward and are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from affectron.models.chain import Chain, Given, Kernel, Link, Needed, Routed
from affectron.models.discovery import recognise
from affectron.models.experts import described, followed
from affectron.models.layout import Structure, split
from affectron.models.swapping import swap_forward


class _ExpertKernel(NamedTuple):
    """A kernel on some experts of a layer; ``positions`` are those of their sites, by the expert's number."""

    positions: dict[int, int]
    kernel: Kernel
    given: Given
    needed: Needed


# For each module with kernels on it: the kernels in order of arrival, and the way back.
_ATTACHED: WeakKeyDictionary[nn.Module, tuple[list[_ExpertKernel], ExitStack]] = WeakKeyDictionary()


def structures(module: nn.Module) -> list[Structure]:
    """The structure of each stacked expert in ``module``; empty if it holds none."""
    if described.is_described(module):
        down: Any = module._parameters["down_proj"]
        return [_described_structure(module)] * int(down.shape[0])
    stack = followed.find_stack(module)
    return [] if stack is None else [_followed_structure(module, stack)] * stack.experts


def _described_structure(module: Any) -> Structure:
    neurons = int(module.down_proj.shape[1 if module.is_transposed else 2])
    width = 2 * neurons if described.has_gate(module) else neurons
    layout, act = recognise.elementwise(module, described.activate, neurons, width)
    return Structure(layout, act, neurons, "down_proj", first="gate_up_proj", whole=layout != "other")


def _followed_structure(module: nn.Module, stack: followed.Stack) -> Structure:
    shown = "?" if stack.activation is None else type(module.get_submodule(stack.activation)).__name__
    return Structure("other", shown, stack.neurons, stack.last, activation=stack.activation)


def attach_experts(
    module: nn.Module,
    owner: nn.Module | None,
    positions: dict[int, int],
    kernel: Kernel,
    given: Given,
    needed: Needed,
) -> Callable[[], None]:
    """Put a kernel on some of the experts; returns the function that removes it.

    While no kernel is needed at any of them the module runs its own forward, which may compute all experts at once.

    Args:
        owner: the block that routes tokens to the experts, if it is not the module itself.
        positions: position of an expert's site, by the expert's number.
    """
    if module not in _ATTACHED:
        kernels: list[_ExpertKernel] = []
        undo = ExitStack()
        swap_forward(module, _forward(module, owner, kernels, undo), undo)
        _ATTACHED[module] = kernels, undo
    kernels, undo = _ATTACHED[module]
    attached = _ExpertKernel(positions, kernel, given, needed)
    kernels.append(attached)

    def remove() -> None:
        kernels[:] = [other for other in kernels if other is not attached]
        if not kernels:
            _ATTACHED.pop(module, None)
            undo.close()

    return remove


def _forward(
    module: nn.Module, owner: nn.Module | None, kernels: list[_ExpertKernel], undo: ExitStack
) -> Callable[..., Any]:
    inner = module.forward
    stack = None if described.is_described(module) else followed.find_stack(module)
    if stack is None:
        structure = _described_structure(module)

        def replaced(*args: Any, **named: Any) -> Any:
            activation = partial(_expert_activation, module, structure, _working(kernels))
            return described.forward(module, activation, *args, *named.values())

    else:

        def change(expert: int, h: Tensor, gate: Tensor | None, routed: Routed) -> Tensor:
            return _chain(_working(kernels), expert, routed).change(h, gate)

        replaced = followed.followed(module, stack, owner, change, undo)

    def forward(*args: Any, **named: Any) -> Any:
        return (replaced if _working(kernels) else inner)(*args, **named)

    return forward


def _working(kernels: Sequence[_ExpertKernel]) -> Sequence[_ExpertKernel]:
    """The kernels that have work now."""
    # A graph that is captured now must also serve what is needed later.
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return kernels
    return [attached for attached in kernels if attached.needed(attached.positions.values())]


def _chain(kernels: Sequence[_ExpertKernel], expert: int, routed: Routed) -> Chain:
    links = [
        Link(attached.positions[expert], attached.kernel, attached.given)
        for attached in kernels
        if expert in attached.positions
    ]
    return Chain(links, routed)


def _expert_activation(
    module: nn.Module, structure: Structure, kernels: Sequence[_ExpertKernel], expert: int, z: Tensor, routed: Routed
) -> Tensor:
    """h of an expert from its first product z."""
    chain = _chain(kernels, expert, routed)
    if structure.layout == "other" or not chain.links:
        return chain.change(described.activate(module, z), None)
    gate, up = split(z, structure.layout)
    return chain.compute(gate, up, structure.act)
