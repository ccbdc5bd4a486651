"""Recognition of an MLP from a run of a block's stand-in.

No class and no child is known by name. The input h of the block's last linear layer is compared with every way to make
it from the outputs of the others: act(gate), act(gate) · up from two layers, or from the two parts of one layer.

A block in which none of these holds is still an MLP if it treats each token by itself; then only the input of its last
linear layer is known (layout ``other``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from affectron.models.discovery import stand_in
from affectron.models.discovery.blocks import fed_widths, has_dropout, is_passthrough, linears
from affectron.models.discovery.stand_in import Call, Recording
from affectron.models.layout import Structure, sizes
from affectron.ops._codes import ACTIVATIONS
from affectron.ops.backends.reference import activate


class _Form(NamedTuple):
    """A known form of h: its layout and activation, the gate [rows, F], and the calls that gave gate and up."""

    layout: str
    act: str
    gate: Tensor
    sources: tuple[Call, ...]


@torch.no_grad()
def structure(block: nn.Module, closed: frozenset[str] = frozenset()) -> Structure | None:
    """The structure of the MLP in ``block``, None if there is no MLP. ``closed`` names linear layers that belong to
    other MLPs."""
    layers = {name: size for name, size in linears(block).items() if name not in closed}
    widths = fed_widths(layers.values())
    if not widths:
        return None
    inputs = dict.fromkeys(inputs for inputs, _ in layers.values())
    for width in inputs:
        recording = stand_in.run(block, width)
        for at, call in enumerate(recording.calls):
            if call.kind == "linear" and call.name in layers and call.input.shape[-1] in widths:
                form = _known_form(recording, at)
                if form is not None:
                    return _structure_of(block, recording, at, form)
    for width in inputs:
        pointwise = _pointwise(block, width, widths, layers)
        if pointwise is not None:
            return pointwise
    return _by_declaration(block)


@torch.no_grad()
def elementwise(
    module: nn.Module, function: Callable[[nn.Module, Tensor], Tensor], neurons: int, width: int
) -> tuple[str, str]:
    """(layout, activation) of ``function(module, z)`` for z [tokens, width]: ``plain``, one of the forms in which z
    holds gate and up, or ``other``."""
    numbers = stand_in.wide_numbers()
    z = numbers("input", (stand_in.TOKENS, width))
    try:
        h = function(stand_in.copied(module, z.device, numbers, []), z)
    except Exception:  # foreign code on made-up numbers
        return "other", "?"
    for layout, gate, up in _parts(z, neurons):
        act = _activation_of(h, gate, up)
        if act is not None:
            return layout, act
    return "other", "?"


def _known_form(recording: Recording, at: int) -> _Form | None:
    """The form of the input of call number ``at``, if it is a known one."""
    h = recording.calls[at].input
    neurons = h.shape[-1]
    before = [
        (call, call.output.reshape(-1, call.output.shape[-1]))
        for call in recording.calls[:at]
        if call.kind == "linear" and call.output.numel() % h.numel() == 0
    ]
    for call, z in before:
        for layout, gate, up in _parts(z, neurons):
            act = _activation_of(h, gate, up)
            if act is not None:
                return _Form(layout, act, gate, (call,))
    for (gate_call, gate), (up_call, up) in permutations(before, 2):
        if gate.shape[-1] == up.shape[-1] == neurons:
            act = _activation_of(h, gate, up)
            if act is not None:
                return _Form("gated", act, gate, (gate_call, up_call))
    return None


def _parts(z: Tensor, neurons: int) -> list[tuple[str, Tensor, Tensor | None]]:
    """The ways in which the output z of one linear layer can hold a gate, or gate and up: (layout, gate, up)."""
    if z.shape[-1] == neurons:
        return [("plain", z, None)]
    if z.shape[-1] != 2 * neurons:
        return []
    (left, right), (even, odd) = z.chunk(2, dim=-1), (z[:, ::2], z[:, 1::2])
    return [("gate_up", left, right), ("up_gate", right, left), ("interleaved", even, odd)]


def _activation_of(h: Tensor, gate: Tensor, up: Tensor | None) -> str | None:
    """The activation function for which h = act(gate) · up.

    The tolerance covers the rounding of h, of an act that is written out in several steps (1 + tanh cancels far below
    zero), and of tanh with 0.79788 for the root of 2/π.
    """
    rows = h.reshape(-1, h.shape[-1])
    if rows.shape != gate.shape:
        return None
    factor = 1.0 if up is None else up.abs()
    for name in ACTIVATIONS:
        expected = activate(gate, name)
        slack = (2e-6 * expected.abs() + 2e-6) * factor
        if bool(((rows - (expected if up is None else expected * up)).abs() <= slack).all()):
            return name
    return None


def _structure_of(block: nn.Module, recording: Recording, at: int, form: _Form) -> Structure:
    last, sources = recording.calls[at], form.sources
    used = [call for call in recording.calls if call.kind != "function"]
    parameters = [p for name in (call.name for call in used) for p in block.get_submodule(name).parameters()]
    dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    whole = (
        isinstance(recording.output, Tensor)
        and torch.equal(recording.output, last.output)
        and len(used) == len(sources) + 1
        and all(torch.equal(call.input, recording.x) for call in sources)
        and len(dtypes) <= 1  # a block that changes the dtype on the way has a reason to
        and _forward_is_a_method(block)
    )
    return Structure(
        layout=form.layout,
        act=form.act,
        neurons=last.input.shape[-1],
        last=last.name,
        first=sources[0].name,
        second=sources[1].name if len(sources) > 1 else None,
        activation=_activation_module(block, recording, at, form.gate) if form.layout == "plain" else None,
        whole=whole,
        dropout=has_dropout(block),
    )


def _activation_module(block: nn.Module, recording: Recording, at: int, gate: Tensor) -> str | None:
    """Name of the module that makes h, the input of call number ``at``, from the gate."""
    h = recording.calls[at].input.reshape(gate.shape)
    for call in recording.calls[:at]:
        if (
            call.kind == "function"
            and not is_passthrough(block.get_submodule(call.name))
            and call.input.numel() == gate.numel()
            and torch.equal(call.input.reshape(gate.shape), gate)
            and torch.equal(call.output.reshape(gate.shape), h)
        ):
            return call.name
    return None


def _forward_is_a_method(block: nn.Module) -> bool:
    """Return whether the block's forward is a method: of its class, or one that a patch has bound to it.

    Another function there (accelerate's wrapper, a closure) may do more than the stand-in has shown.
    """
    forward = vars(block).get("forward")
    return forward is None or getattr(forward, "__self__", None) is block


def _pointwise(block: nn.Module, width: int, widths: set[int], layers: Collection[str]) -> Structure | None:
    """An MLP of no known form: the input of its last linear layer depends, token by token, on another's output."""
    plain, changed = (stand_in.run(block, width, stand_in.mild_numbers(change)).calls for change in (False, True))
    if [call.name for call in plain] != [call.name for call in changed]:
        return None
    for at in reversed(range(len(plain))):
        last = plain[at]
        neurons = last.input.shape[-1]
        if last.kind != "linear" or last.name not in layers or neurons not in widths:
            continue
        h, other = (calls[at].input.reshape(-1, neurons) for calls in (plain, changed))
        between = _since_linear(plain[:at], neurons)
        # The first token's numbers differ between the two runs: they must change its h, and no other.
        if not between or h.shape[0] != stand_in.TOKENS or torch.equal(h[0], other[0]):
            continue
        if not torch.equal(h[1:], other[1:]) or _is_copied(h, between):
            continue
        functions = [call.name for call in between if _is_function(block, call, neurons)]
        # Two linear layers with at most a norm between them are one of low rank, not an MLP.
        if not functions and any(call.kind == "weights" for call in between):
            continue
        name = functions[0] if functions else None
        shown = type(block.get_submodule(name)).__name__ if name else "?"
        return Structure("other", shown, neurons, last.name, activation=name, dropout=has_dropout(block))
    return None


def _since_linear(calls: list[Call], neurons: int) -> list[Call]:
    """The calls from the first linear layer that is wide enough to feed F neurons; empty if there is no such layer."""
    starts = (
        at for at, call in enumerate(calls) if call.kind == "linear" and call.output.shape[-1] in (neurons, 2 * neurons)
    )
    return calls[next(starts, len(calls)) :]


def _is_copied(h: Tensor, calls: list[Call]) -> bool:
    """Return whether h is the output of a linear layer as it stands."""
    return any(
        call.output.numel() == h.numel() and torch.equal(call.output.reshape(h.shape), h)
        for call in calls
        if call.kind == "linear"
    )


def _is_function(block: nn.Module, call: Call, neurons: int) -> bool:
    """Return whether the call can be that of the activation function of F neurons."""
    fits = call.kind == "function" and call.output.shape[-1] == neurons
    return fits and not is_passthrough(block.get_submodule(call.name))


def _by_declaration(block: nn.Module) -> Structure | None:
    """The MLP in a block that a stand-in cannot run: linear layers of fitting widths and an activation module, all of
    them children of the block, which has no other weights than those of norms."""
    children = {name: child for name, child in block._modules.items() if child is not None}
    layers = {name: size for name, child in children.items() if (size := sizes(child)) is not None}
    norms = {name for name, child in children.items() if "norm" in type(child).__name__.lower()}
    functions = [name for name, child in children.items() if name not in norms and _can_activate(child)]
    others = [children[name] for name in children.keys() - layers.keys() - norms]
    if not functions or block._parameters or any(child._parameters and not child._modules for child in others):
        return None
    widths = fed_widths(layers.values())
    lasts = [name for name, (inputs, _) in layers.items() if inputs in widths]
    if not lasts:
        return None
    function, last = functions[0], lasts[-1]
    shown = type(children[function]).__name__
    return Structure("other", shown, layers[last][0], last, activation=function, dropout=has_dropout(block))


def _can_activate(module: nn.Module) -> bool:
    """Return whether the module can be an activation function.

    A softmax, with which attention normalises, cannot, nor a module with parameters or tables, as rotary embeddings
    have them.
    """
    if is_passthrough(module) or isinstance(module, nn.Softmax):
        return False
    return not any(True for _ in (*module.parameters(), *module.buffers()))
