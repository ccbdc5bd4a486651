"""Attachment of kernels to sites: for a while they compute, or change, the activation of an MLP or a layer's output.

A kernel takes one of four places, by what is known of the block:

- A block that is nothing but its MLP gets another ``forward``, which lets the kernel compute h.
- A plain MLP in a larger block gets another activation module, if nothing multiplies the output of that module.
- In any other block a hook before the last linear layer gives the kernel the h that the block has computed.
- A layer whose output is a site gets another ``forward``, which gives the kernel the hidden states.

Only the dictionary of an instance and the entry in its parent change: never a class, a parameter or the keys of the
state dict. Kernels on one site form a chain and leave it in any order; with the last of them everything is put back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from affectron.models.chain import Chain, Given, Kernel, Link, Needed, Routed, as_given
from affectron.models.experts import routing, stacked
from affectron.models.layout import CHUNK_SIZE, Site, Structure, split
from affectron.models.swapping import swap_attribute, swap_child, swap_forward


@contextmanager
def attach(
    sites: Sequence[Site], kernel: Kernel, given: Given | None = None, needed: Needed = lambda positions: True
) -> Iterator[None]:
    """Let ``kernel(position, gate, up, act)`` compute the activation h of ``sites[position]`` inside the context.

    Several of these contexts may be open at once; the kernel of each is given what those before it returned. They may
    be left in any order. With the last of them, also after an exception, everything is put back: the very objects that
    were there. Parameters, buffers and the keys of the state dict never change. A forward under gradient checkpointing
    must be differentiated before the context is left, because it is computed again then. A model that ``torch.compile``
    has compiled before is compiled anew for the time, because the compiler sees the change.

    At a site that is ``time_first`` the kernel sees [B, T, F] all the same. A block that computes its tokens in pieces
    computes them at once meanwhile, which changes no value beyond rounding. Stacked experts are computed one by one.

    The context serves the thread that opened it. A forward of these sites in another thread is refused: it would be
    measured or steered unasked.

    Args:
        sites: sites of one model, as :func:`find_sites` and :func:`find_layers` list them.
        kernel: computes h (:class:`Kernel`).
        given: changes an h that is already computed (:class:`Given`): at sites of the paths ``fallback`` and
            ``output``, and after another kernel on the same site. By default the kernel is called with h as ``up`` and
            a gate of ones under relu. That is right for every kernel that maps h to h', and for no other.
        needed: asked in each forward of stacked experts with the positions of their sites. While it is false the
            module computes the experts in its own way, all at once.

    Raises:
        RuntimeError: in a forward, another thread runs a site.
    """
    given = given or as_given(kernel)
    if any(site.time_first for site in sites):
        kernel, given = _batch_first_kernel(sites, kernel), _batch_first_given(sites, given)
    with ExitStack() as undo:
        with _ATTACHING:
            positions: dict[nn.Module, dict[int, int]] = {}  # of the experts that are stacked in a module
            owners: dict[nn.Module, nn.Module | None] = {}
            for position, site in enumerate(sites):
                if site.expert is not None:
                    positions.setdefault(site.module, {})[site.expert] = position
                    owners[site.module] = site.owner
                else:
                    undo.callback(_attach_site(site, Link(position, kernel, given)))
            for module, experts in positions.items():
                undo.callback(stacked.attach_experts(module, owners[module], experts, kernel, given, needed))
        if sites:  # every forward passes the first
            undo.callback(sites[0].module.register_forward_pre_hook(_ThreadGuard()).remove)
        yield


# Two threads that attach to one model at once do so one after the other.
_ATTACHING = threading.Lock()


class _ThreadGuard:
    """A forward pre-hook that refuses every thread but the one that made it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()

    def __call__(self, *_: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() == self.thread.ident:
            return
        # Autograd's own threads compute a checkpointed forward again.
        if torch._C._current_graph_task_id() != -1:
            return
        raise RuntimeError(
            f"thread {threading.current_thread().name!r} runs a model that thread {self.thread.name!r} measures or "
            "steers: open the context in the thread that runs the model, or give each thread a model of its own"
        )


def _batch_first_kernel(sites: Sequence[Site], kernel: Kernel) -> Kernel:
    """Adapt ``kernel`` to sites of which some see [T, B, F]: there it is given, and returns, [B, T, F]."""

    def adapted(position: int, gate: Tensor, up: Tensor | None, act: str, *routed: Routed | None) -> Tensor:
        if not sites[position].time_first:
            return kernel(position, gate, up, act, *routed)
        up = None if up is None else _transposed(up)
        return kernel(position, _transposed(gate), up, act, *routed).transpose(0, 1)

    return adapted


def _batch_first_given(sites: Sequence[Site], given: Given) -> Given:
    """:func:`_batch_first_kernel` for an h that is already computed."""

    def adapted(position: int, h: Tensor, gate: Tensor | None, *routed: Routed | None) -> Tensor:
        if not sites[position].time_first:
            return given(position, h, gate, *routed)
        gate = None if gate is None else _transposed(gate)
        return given(position, _transposed(h), gate, *routed).transpose(0, 1)

    return adapted


def _transposed(x: Tensor) -> Tensor:
    """[B, T, F] from [T, B, F]: a copy, as the rows that a kernel reads have one distance from one another."""
    return x.transpose(0, 1).contiguous()


class _Attached(NamedTuple):
    """The kernels on a site; the site is as it was found before the first of them."""

    site: Site
    chain: Chain
    undo: ExitStack


# By the module at which h is taken, :attr:`Structure.last`: a site has exactly one, whatever else describes it.
_ATTACHED: WeakKeyDictionary[nn.Module, _Attached] = WeakKeyDictionary()


def attached_structures() -> dict[int, Structure]:
    """The structures of the MLPs that have kernels on them, by the block's identity: a stand-in would not show them
    now."""
    sites = (attached.site for attached in _ATTACHED.values())
    return {id(site.module): site.structure for site in sites if site.path != "output"}


def _attach_site(site: Site, link: Link) -> Callable[[], None]:
    """Put a kernel on a site; returns the function that removes it."""
    last = site.module.get_submodule(site.structure.last)
    attached = _ATTACHED.get(last)
    if attached is None:
        attached = _Attached(site, Chain(), ExitStack())
        _enter(last, attached)
        _ATTACHED[last] = attached
    links = attached.chain.links
    links.append(link)

    def remove() -> None:
        # By identity: the same kernel may be on a site twice.
        links[:] = [other for other in links if other is not link]
        if not links:
            _ATTACHED.pop(last, None)
            attached.undo.close()

    return remove


def _enter(last: nn.Module, attached: _Attached) -> None:
    """Let the chain take its place at the site."""
    site, chain, undo = attached
    structure = site.structure
    if site.path == "output":
        swap_forward(site.module, _output_forward(site, chain), undo)
        return
    if site.chunking is not None and vars(site.chunking)[CHUNK_SIZE]:
        swap_attribute(site.chunking, CHUNK_SIZE, 0, undo)
    if site.owner is not None:
        routing.follow(site.module, site.owner, chain.route, undo)
    dropping = structure.dropout and site.module.training
    if site.plain_activation and structure.activation is not None:
        path, _, name = structure.activation.rpartition(".")
        parent, function = site.module.get_submodule(path), site.module.get_submodule(structure.activation)
        swap_child(parent, name, KernelActivation(chain, structure.act, function), undo)
    elif site.path == "fused" and not dropping:
        swap_forward(site.module, _forward(site, chain), undo)
    else:
        _hook(last, attached)


class KernelActivation(nn.Module):
    """The activation function of a plain MLP, computed by kernels.

    ``stands_for`` holds the module whose place it takes, in a tuple, because a module would become a child.
    """

    def __init__(self, chain: Chain, act: str, stands_for: nn.Module) -> None:
        super().__init__()
        self.chain, self.act, self.stands_for = chain, act, (stands_for,)

    def forward(self, gate: Tensor) -> Tensor:
        return self.chain.compute(gate, None, self.act)


def _forward(site: Site, chain: Chain) -> Callable[..., Tensor]:
    """The block's forward with the activation computed by the chain.

    The linear layers are looked up in every call, as the block itself does, because an adapter may replace them.
    """
    module, structure = site.module, site.structure
    layout, act, compute = structure.layout, structure.act, chain.compute
    first, first_name = _siblings(module, structure.first)
    second, second_name = _siblings(module, structure.second)
    last, last_name = _siblings(module, structure.last)

    def gated(x: Tensor | None = None, **named: Tensor) -> Tensor:
        if x is None:
            (x,) = named.values()
        output: Tensor = last[last_name](compute(first[first_name](x), second[second_name](x), act))
        return output

    def one_linear(x: Tensor | None = None, **named: Tensor) -> Tensor:
        if x is None:
            (x,) = named.values()
        gate, up = split(first[first_name](x), layout)
        output: Tensor = last[last_name](compute(gate, up, act))
        return output

    return gated if layout == "gated" else one_linear


def _output_forward(site: Site, chain: Chain) -> Callable[..., Any]:
    """The layer's forward with the hidden states that it returns, alone or first of several, changed by the chain."""
    compute, change = site.module.forward, chain.change

    def forward(*args: Any, **named: Any) -> Any:
        output = compute(*args, **named)
        several = isinstance(output, (tuple, list))  # a list in GPT
        hidden, *others = output if several else (output,)
        if not isinstance(hidden, Tensor):
            raise RuntimeError(f"{site.name} is a {type(hidden).__name__}, expected hidden states, alone or in a tuple")
        hidden = change(hidden, None)
        return (hidden, *others) if several else hidden

    return forward


def _siblings(module: nn.Module, path: str | None) -> tuple[dict[str, Any], str]:
    """The modules beside the one at ``path``, itself included, by name, and its name. A look-up there takes a third of
    the time of an attribute of the module."""
    parent, _, name = (path or "").rpartition(".")
    return module.get_submodule(parent)._modules, name


def _hook(last: nn.Module, attached: _Attached) -> None:
    """Give the chain the input of the last linear layer. The gate, which tells whether a neuron is active, is the
    output of the activation module, or the part of a linear layer's output that goes into it."""
    site, chain, undo = attached
    layout = site.structure.layout
    seen: list[Tensor] = []
    source = site.structure.activation if layout == "other" else site.structure.first

    def watch(_module: nn.Module, _args: Any, out: Tensor) -> None:
        seen[:] = [out]

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, *others = args
        return (chain.change(h, gate_of(h) if seen else None), *others)

    def gate_of(h: Tensor) -> Tensor | None:
        output = seen.pop()
        gate = output if layout == "other" else split(output, layout)[0]
        if gate.shape != h.shape:
            return gate.reshape(h.shape) if gate.numel() == h.numel() else None
        return gate

    if source is not None:
        watched = site.module.get_submodule(source)
        undo.callback(watched.register_forward_hook(watch).remove)
        _mark_changed(watched, undo)
    undo.callback(last.register_forward_pre_hook(before).remove)
    _mark_changed(last, undo)


def _mark_changed(module: nn.Module, undo: ExitStack) -> None:
    """Let torch.compile see that a module has changed: it looks at forwards, and not at hooks."""
    swap_forward(module, partial(module.forward), undo)
