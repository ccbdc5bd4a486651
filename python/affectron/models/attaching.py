"""Let kernels compute, or be given, the activation of a site, and take them out again.

Three ways in, from what probe.py found: a block that is nothing but its MLP gets another ``forward``; where nothing
multiplies the output of the activation module, another module stands in its place; else a hook before the last linear
layer is given what the block computed. What is changed is the instance's dictionary and the place in its parent: never
a class, a parameter or the keys of the state dict.

Kernels on one site form a chain. The first one in computes h; those after it are given what it returned. They leave
in any order, and with the last of them everything that was changed is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from affectron.models.experts import routing
from affectron.models.layout import CHUNK_SIZE, Given, Kernel, Routed, Site, Structure


class Link(NamedTuple):
    """One kernel on a site, with the site's position in the list that was attached."""

    position: int
    kernel: Kernel
    given: Given


class Chain:
    """The kernels on one site in the order in which they came; ``site`` is as it was found before the first."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.links: list[Link] = []
        self.undo = ExitStack()
        self.routed: tuple[Routed, ...] = ()  # in an expert, the tokens of the call that is under way

    def compute(self, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        (position, kernel, _), *others = self.links
        h = kernel(position, gate, up, act, *self.routed)
        for position, _, given in others:
            h = given(position, h, gate, *self.routed)
        return h

    def give(self, h: Tensor, gate: Tensor | None) -> Tensor:
        for position, _, given in self.links:
            h = given(position, h, gate, *self.routed)
        return h

    def tell(self, routed: Routed | None) -> None:
        self.routed = () if routed is None else (routed,)


class KernelActivation(nn.Module):
    """Stands where a plain MLP's activation function stood, and lets the kernels compute it.

    ``stands_for`` holds that function in a tuple, since a module would become a child.
    """

    def __init__(self, chain: Chain, act: str, stands_for: nn.Module) -> None:
        super().__init__()
        self.chain, self.act, self.stands_for = chain, act, (stands_for,)

    def forward(self, gate: Tensor) -> Tensor:
        return self.chain.compute(gate, None, self.act)


# By the layer whose input is the activation: a site has one, whatever else describes it.
_CHAINS: WeakKeyDictionary[nn.Module, Chain] = WeakKeyDictionary()


def attached() -> dict[int, Structure]:
    """What was found of the blocks that kernels are on now, by the block's identity: it does not show any more."""
    return {id(chain.site.module): chain.site.structure for chain in _CHAINS.values()}


def add(site: Site, link: Link) -> Callable[[], None]:
    """Put a kernel on a site; returns what takes it off again."""
    last = site.module.get_submodule(site.structure.last)
    chain = _CHAINS.get(last)
    if chain is None:
        chain = Chain(site)
        _enter(site, last, chain)
        _CHAINS[last] = chain
    chain.links.append(link)

    def remove() -> None:
        # By identity: the same kernel may be on a site twice.
        chain.links[:] = [other for other in chain.links if other is not link]
        if not chain.links:
            _CHAINS.pop(last, None)
            chain.undo.close()

    return remove


def _enter(site: Site, last: nn.Module, chain: Chain) -> None:
    found = site.structure
    if site.chunking is not None and vars(site.chunking)[CHUNK_SIZE]:
        swap_attribute(site.chunking, CHUNK_SIZE, 0, chain.undo)
    if site.owner is not None:
        routing.follow(site.module, site.owner, chain.tell, chain.undo)
    dropping = found.dropout and site.module.training
    if site.plain_activation and found.activation is not None:
        path, _, name = found.activation.rpartition(".")
        parent, function = site.module.get_submodule(path), site.module.get_submodule(found.activation)
        swap_child(parent, name, KernelActivation(chain, found.act, function), chain.undo)
    elif site.path == "fused" and not dropping:
        swap_forward(site.module, _forward(site, chain), chain.undo)
    else:
        _hook(site, last, chain)


def _forward(site: Site, chain: Chain) -> Callable[..., Tensor]:
    """The block's forward with the activation computed by the chain.

    The linear layers are looked up in every call, as the block itself does: an adapter may replace them.
    """
    found, act, compute = site.structure, site.act, chain.compute
    module = site.module
    at_first, at_second, at_last = (_place(module, path) for path in (found.first, found.second, found.last))

    def gated(x: Tensor | None = None, **named: Tensor) -> Tensor:
        if x is None:
            (x,) = named.values()
        (first, one), (second, two), (last, three) = at_first, at_second, at_last
        h: Tensor = last[three](compute(first[one](x), second[two](x), act))
        return h

    def one_linear(x: Tensor | None = None, **named: Tensor) -> Tensor:
        if x is None:
            (x,) = named.values()
        (first, one), (last, two) = at_first, at_last
        gate, up = split(first[one](x), found.layout)
        h: Tensor = last[two](compute(gate, up, act))
        return h

    return gated if found.layout == "gated" else one_linear


def _place(module: nn.Module, path: str | None) -> tuple[dict[str, Any], str]:
    """The children of the module that holds the one at ``path``, and its name among them: to read it there takes a
    third of what asking the module for it takes."""
    parent, _, name = (path or "").rpartition(".")
    return module.get_submodule(parent)._modules, name


def split(both: Tensor, layout: str) -> tuple[Tensor, Tensor | None]:
    """Gate and up from the output of a linear layer that holds both; in a plain MLP it is the gate."""
    if layout == "interleaved":  # a kernel reads rows without gaps: two copies
        return both[..., ::2].contiguous(), both[..., 1::2].contiguous()
    if layout in ("gate_up", "up_gate"):
        left, right = both.chunk(2, dim=-1)
        return (left, right) if layout == "gate_up" else (right, left)
    return both, None


def _hook(site: Site, last: nn.Module, chain: Chain) -> None:
    """Give the chain the input of the last linear layer; and, as the gate, what tells whether a neuron is active: the
    output of the activation module, or that part of a linear layer's which goes into it."""
    found = site.structure
    seen: list[Tensor] = []
    source = found.activation if found.layout == "other" else found.first

    def watch(_module: nn.Module, _args: Any, out: Tensor) -> None:
        seen[:] = [out]

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, *others = args
        if h.stride(-1) != 1:  # the block's own; a kernel reads rows without gaps
            h = h.contiguous()
        return (chain.give(h, gate_of(h) if seen else None), *others)

    def gate_of(h: Tensor) -> Tensor | None:
        value = seen.pop()
        gate = value if found.layout == "other" else split(value, found.layout)[0]
        if gate.shape != h.shape:
            return gate.reshape(h.shape) if gate.numel() == h.numel() else None
        return gate

    if source is not None:
        watched = site.module.get_submodule(source)
        chain.undo.callback(watched.register_forward_hook(watch).remove)
        _unlike(watched, chain)
    chain.undo.callback(last.register_forward_pre_hook(before).remove)
    _unlike(last, chain)


def _unlike(module: nn.Module, chain: Chain) -> None:
    """Make torch.compile see that a module is not what it was: it looks at forwards, and not at hooks."""
    swap_forward(module, partial(module.forward), chain.undo)


def by_identity(kernel: Kernel) -> Given:
    """What a kernel that only maps h to h' does with an h that is there already: relu(1) · h is h, bit for bit."""
    ones: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def given(position: int, h: Tensor, _gate: Tensor | None, *routed: Routed | None) -> Tensor:
        key = (h.shape[-1], h.dtype, h.device)
        if key not in ones:
            ones[key] = torch.ones(h.shape[-1], dtype=h.dtype, device=h.device)
        # Rows of stride 0: one row of ones, read from the cache.
        return kernel(position, ones[key].expand(h.shape), h, "relu", *routed)

    return given


def swap_forward(module: nn.Module, forward: Callable[..., Any], undo: ExitStack) -> None:
    """Let this instance run ``forward`` until ``undo`` is unwound."""
    swap_attribute(module, "forward", forward, undo)


def swap_attribute(module: nn.Module, name: str, value: Any, undo: ExitStack) -> None:
    """Let this instance have ``value`` as its attribute until ``undo`` is unwound; then all is what it was."""
    own: dict[str, Any] = vars(module)
    # What is there already is someone else's, such as a patch that another library made.
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
