"""Find out what a block of a model computes, by running a stand-in of it once.

No class and no child is known by name. A stand-in is a copy of the block's module tree, without weights, on the CPU
(on a GPU where the block is): its linear layers return prepared numbers of the right width, which costs the same for
a model of any size, and nothing of the model itself is touched or called. What the stand-in feeds its last linear
layer is then compared with every way to make it from the outputs of the others: act(gate), act(gate) · up from two
layers, or from the parts of one. The prepared numbers reach from 1e-4 to 1e4 in both signs, so that a clamp, a
multiplier, a threshold or an activation function that differs in the fourth digit shows.

A block in which nothing of that holds is still an MLP where it treats each token by itself; then only the input of its
last linear layer is known.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectron.models.layout import Structure, running, sizes
from affectron.ops.library import ACTIVATIONS
from affectron.ops.reference import activate

_TOKENS = 3
# Attributes in which the layers of a model differ and that no MLP computes with.
_NUMBERING = frozenset({"layer_idx", "layer_id", "layer_index", "layer_number"})
_HOOKS = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip


class Run(NamedTuple):
    """What one run of a stand-in has shown: the calls of its leaves in order, and its result (None if it failed)."""

    x: Tensor
    calls: list[Call]
    output: Any


class Call(NamedTuple):
    name: str
    kind: str  # "linear", "weights" (another leaf that has parameters) or "function" (one that has none)
    input: Tensor
    output: Tensor


def linears(block: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in ``block`` by their names in it, in the order of declaration; never those inside another."""
    found: dict[str, nn.Module] = {}

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module._modules.items():
            if child is None:
                continue
            within, inner = running(child)
            path = f"{prefix}{name}.{within}" if within else prefix + name
            if sizes(inner) is not None:
                found[path] = inner
            else:
                walk(f"{path}.", inner)

    walk("", block)
    return found


def widths(layers: dict[str, nn.Module]) -> set[int]:
    """The inputs F of those layers that another could feed: one with F outputs, or 2F."""
    all_sizes = [size for size in map(sizes, layers.values()) if size is not None]
    outputs = {size[1] for size in all_sizes}
    return {size[0] for size in all_sizes if size[0] in outputs or 2 * size[0] in outputs}


def signature(block: nn.Module) -> tuple[Any, ...]:
    """Equal for blocks that compute the same with other weights, as classes, forwards, sizes and plain attributes tell.
    Compare within one model only: objects are told apart by their identity."""

    def of(module: nn.Module) -> tuple[Any, ...]:
        own = vars(module)
        forward = own.get("forward")
        plain = tuple(
            (key, value)
            for key, value in own.items()
            if isinstance(value, (bool, int, float, str, tuple)) and key not in _NUMBERING and key != "training"
        )
        dtypes = tuple(parameter.dtype for parameter in module._parameters.values() if parameter is not None)
        children = tuple((name, of(child)) for name, child in module._modules.items() if child is not None)
        function = getattr(forward, "__func__", forward)
        return type(module), id(function) if function else None, sizes(module), plain, dtypes, children

    return of(block)


@torch.no_grad()
def structure(block: nn.Module, closed: frozenset[str] = frozenset()) -> Structure | None:
    """The MLP in ``block``, or None where there is none. ``closed`` names linear layers that belong to other MLPs."""
    layers = linears(block)
    open_layers = {name: layer for name, layer in layers.items() if name not in closed}
    candidates = widths(open_layers)
    if not candidates:
        return None
    inputs = dict.fromkeys(size[0] for size in map(sizes, open_layers.values()) if size is not None)
    for width in inputs:
        run = _run(block, width)
        for at, call in enumerate(run.calls):
            if call.kind == "linear" and call.name in open_layers and call.input.shape[-1] in candidates:
                found = _recognise(block, run, at)
                if found is not None:
                    return found
    for width in inputs:
        found = _pointwise(block, width, candidates, open_layers)
        if found is not None:
            return found
    return _by_declaration(block)


def _recognise(block: nn.Module, run: Run, at: int) -> Structure | None:
    """The structure whose last linear layer is call number ``at``, if what it reads is a known form."""
    last = run.calls[at]
    h = last.input
    before = [call for call in run.calls[:at] if call.kind == "linear" and call.output.numel() % h.numel() == 0]
    for call in before:
        z = call.output.reshape(-1, call.output.shape[-1])
        for layout, gate, up in _parts(z, h.shape[-1]):
            act = _activation(h, gate, up)
            if act is not None:
                return _described(block, run, at, layout, act, call, None, gate)
    for gate_call in before:
        for up_call in before:
            gate, up = (call.output.reshape(-1, call.output.shape[-1]) for call in (gate_call, up_call))
            if gate_call is not up_call and gate.shape[-1] == up.shape[-1] == h.shape[-1]:
                act = _activation(h, gate, up)
                if act is not None:
                    return _described(block, run, at, "gated", act, gate_call, up_call, gate)
    return None


def _activation(h: Tensor, gate: Tensor, up: Tensor | None) -> str | None:
    """The function with h = act(gate) · up, but for rounding: of h, of act where it is spelt out in several steps
    (1 + tanh cancels far below zero), and of tanh where it is spelt 0.79788 for the root of 2/π."""
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


def _described(
    block: nn.Module, run: Run, at: int, layout: str, act: str, first: Call, second: Call | None, gate: Tensor
) -> Structure:
    last = run.calls[at]
    sources = [first] if second is None else [first, second]
    used = [call for call in run.calls if call.kind != "function"]
    parameters = [p for name in (call.name for call in used) for p in block.get_submodule(name).parameters()]
    floating = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    whole = (
        isinstance(run.output, Tensor)
        and torch.equal(run.output, last.output)
        and len(used) == len(sources) + 1
        and all(torch.equal(call.input, run.x) for call in sources)
        and len(floating) <= 1  # a block that changes dtype on the way has a reason to
        and _own_method(block)
    )
    activation = None
    if layout == "plain":
        activation = next(
            (
                call.name
                for call in run.calls[:at]
                if call.kind == "function"
                and not passes(block.get_submodule(call.name))
                and call.input.numel() == gate.numel()
                and torch.equal(call.input.reshape(gate.shape), gate)
                and torch.equal(call.output.reshape(gate.shape), last.input.reshape(gate.shape))
            ),
            None,
        )
    return Structure(
        layout=layout,
        act=act,
        neurons=last.input.shape[-1],
        last=last.name,
        first=first.name,
        second=second.name if second else None,
        activation=activation,
        whole=whole,
        dropout=_drops(block),
    )


@torch.no_grad()
def elementwise(
    module: nn.Module, function: Callable[[nn.Module, Tensor], Tensor], neurons: int, width: int
) -> tuple[str, str]:
    """Layout and activation of ``function(module, z)``, z being [tokens, width]: plain, one of the forms in which z
    holds gate and up, or other."""
    numbers = _wide()
    z = numbers("input", (_TOKENS, width))
    try:
        h = function(_copy(module, "", [], numbers, z.device, {}), z)
    except Exception:  # see _run
        return "other", "?"
    for layout, gate, up in _parts(z, neurons):
        act = _activation(h, gate, up)
        if act is not None:
            return layout, act
    return "other", "?"


def _parts(z: Tensor, neurons: int) -> list[tuple[str, Tensor, Tensor | None]]:
    """The ways in which one linear layer's output can hold a gate, or gate and up."""
    if z.shape[-1] == neurons:
        return [("plain", z, None)]
    if z.shape[-1] != 2 * neurons:
        return []
    (left, right), (even, odd) = z.chunk(2, dim=-1), (z[:, ::2], z[:, 1::2])
    return [("gate_up", left, right), ("up_gate", right, left), ("interleaved", even, odd)]


def _pointwise(
    block: nn.Module, width: int, candidates: set[int], open_layers: dict[str, nn.Module]
) -> Structure | None:
    """An MLP of no known form: the input of its last linear layer depends, token by token, on another's output."""
    first, second = (_run(block, width, _mild(changed)) for changed in (False, True))
    if [call.name for call in first.calls] != [call.name for call in second.calls]:
        return None
    for at in reversed(range(len(first.calls))):
        last, changed = first.calls[at], second.calls[at]
        f = last.input.shape[-1]
        if last.kind != "linear" or last.name not in open_layers or f not in candidates:
            continue
        h, other = last.input.reshape(-1, f), changed.input.reshape(-1, f)
        between = _since_linear(first.calls[:at], f)
        if not between or h.shape[0] != _TOKENS or torch.equal(h[0], other[0]) or not torch.equal(h[1:], other[1:]):
            continue
        functions = [
            call
            for call in between
            if call.kind == "function" and call.output.shape[-1] == f and not passes(block.get_submodule(call.name))
        ]
        copied = any(
            call.output.numel() == h.numel() and torch.equal(call.output.reshape(h.shape), h)
            for call in between
            if call.kind == "linear"
        )
        # Two linear layers with at most a norm between them are one of low rank, not an MLP.
        if copied or (not functions and any(call.kind == "weights" for call in between)):
            continue
        name = functions[0].name if functions else None
        shown = type(block.get_submodule(name)).__name__ if name else "?"
        return Structure("other", shown, f, last.name, activation=name, dropout=_drops(block))
    return None


def _since_linear(calls: list[Call], f: int) -> list[Call]:
    """The calls from the first linear layer that is wide enough to feed F neurons; empty where there is none."""
    starts = (at for at, call in enumerate(calls) if call.kind == "linear" and call.output.shape[-1] in (f, 2 * f))
    return calls[next(starts, len(calls)) :]


def _by_declaration(block: nn.Module) -> Structure | None:
    """For a block that a stand-in cannot run: linear layers of fitting widths around an activation module, all of them
    its own children, and besides them nothing that has weights but norms."""
    own = {name: child for name, child in block._modules.items() if child is not None}
    layers = {name: child for name, child in own.items() if sizes(child) is not None}
    norms = {name for name, child in own.items() if "norm" in type(child).__name__.lower()}
    functions = {
        name: c
        for name, c in own.items()
        # Nor what holds tables, as rotary embeddings do, nor what attention normalises with.
        if name not in norms
        and not (passes(c) or isinstance(c, nn.Softmax) or any(True for _ in (*c.parameters(), *c.buffers())))
    }
    others = own.keys() - layers.keys() - norms
    if not functions or block._parameters or any(own[name]._parameters and not own[name]._modules for name in others):
        return None
    fitting = widths(layers)
    lasts = [name for name, layer in layers.items() if (sizes(layer) or (0, 0))[0] in fitting]
    if not lasts:
        return None
    size = sizes(layers[lasts[-1]])
    assert size is not None
    name, function = next(iter(functions.items()))
    return Structure("other", type(function).__name__, size[0], lasts[-1], activation=name, dropout=_drops(block))


def passes(module: nn.Module) -> bool:
    return isinstance(module, (nn.Identity, nn.Dropout, nn.modules.dropout._DropoutNd))


def _drops(block: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in block.modules())


def _own_method(block: nn.Module) -> bool:
    """Whether the block's forward is a method: its class's, or one that a patch has bound to it. What else stands there
    (accelerate's wrapper, a closure) may do more than the stand-in has shown."""
    forward = vars(block).get("forward")
    return forward is None or getattr(forward, "__self__", None) is block


# --- stand-ins --------------------------------------------------------------------------------------------------

Numbers = Callable[[str, tuple[int, ...]], Tensor]
"""Makes what a stand-in's leaf of this kind returns: a tensor of this shape, another in each call, the same from run to
run."""


def _wide() -> Numbers:
    """Half within ±6, where activation functions bend, half spread over the magnitudes from 1e-4 to 1e4."""
    generator = torch.Generator().manual_seed(0)

    def numbers(_kind: str, shape: tuple[int, ...]) -> Tensor:
        random = torch.rand((3, *shape), generator=generator)
        near = random[0] * 12 - 6
        far = (10 ** (random[1] * 8 - 4)).copysign(near)
        return torch.where(random[2] < 0.5, near, far)

    return numbers


def _mild(change_first_token: bool) -> Numbers:
    """Within ±1, so that no softmax is so sharp that it hides what attention reads."""
    generator = torch.Generator().manual_seed(0)

    def numbers(kind: str, shape: tuple[int, ...]) -> Tensor:
        out = torch.rand(shape, generator=generator) * 2 - 1
        if change_first_token and kind == "linear":
            out.view(-1, shape[-1])[0] *= -0.5
        return out

    return numbers


def _run(block: nn.Module, width: int, numbers: Numbers | None = None) -> Run:
    """Run a stand-in of ``block`` on three tokens of ``width`` numbers. Never raises: what was called counts."""
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    if device.type not in ("cpu", "cuda"):
        device = torch.device("cpu")
    x = _wide()("input", (1, _TOKENS, width)).to(device)
    calls: list[Call] = []
    output = None
    try:
        stand_in = _copy(block, "", calls, numbers or _wide(), device, {})
        arguments = [x, *(None for _ in _required(stand_in)[1:])]
        with torch.autocast(device.type, enabled=False):
            output = stand_in(*arguments)
    except Exception:  # other people's code on made-up arguments: whatever it raises, it is no error of the model
        pass
    return Run(x, calls, output)


def _required(block: nn.Module) -> list[str]:
    parameters = inspect.signature(block.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def _copy(
    module: nn.Module,
    name: str,
    calls: list[Call],
    numbers: Numbers,
    device: torch.device,
    made: dict[int, nn.Module],
) -> nn.Module:
    module = getattr(module, "stands_for", (module,))[0]  # a kernel that is attached now is not to be called
    within, module = running(module)
    if within and _kind(module) != "function":  # in whose place another can stand, but not inside its wrapper
        name = f"{name}.{within}"
    if id(module) in made:
        return made[id(module)]
    twin: Any = copy.copy(module)
    made[id(module)] = twin
    own = vars(twin)
    own["_modules"] = {
        key: None if child is None else _copy(child, f"{name}.{key}" if name else key, calls, numbers, device, made)
        for key, child in module._modules.items()
    }
    own["_parameters"] = {
        key: None if value is None else nn.Parameter(torch.ones((), device=device).expand(value.shape), False)
        for key, value in module._parameters.items()
    }
    own["_buffers"] = {
        key: None
        if value is None
        else torch.zeros(value.shape, dtype=value.dtype, device=device)
        if value.is_meta
        else value.to(device)
        for key, value in module._buffers.items()
    }
    own.update({hooks: OrderedDict() for hooks in _HOOKS}, training=False, _compiled_call_impl=None)
    _rebind(module, twin)
    leaf = _kind(module)
    if leaf is not None:
        size = sizes(module)
        inside = twin.forward

        def forward(value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if leaf == "function":
                out = inside(value, *args, **kwargs)
            else:
                if size is not None and value.shape[-1] != size[0]:
                    raise ValueError
                out = numbers(leaf, (*value.shape[:-1], size[1] if size is not None else value.shape[-1])).to(device)
                if leaf == "weights":  # a norm, say: what it returns goes by what it reads
                    out = out + value
            if isinstance(out, Tensor) and out.dim():
                calls.append(Call(name, leaf, value, out))
            return out

        own["forward"] = forward
    return twin  # type: ignore[no-any-return]


def _kind(module: nn.Module) -> str | None:
    """None for what is no leaf. An activation function may have parameters, but none for each feature."""
    if sizes(module) is not None:
        return "linear"
    if module._modules:
        return None
    parameters = (parameter for parameter in module._parameters.values() if parameter is not None)
    return "weights" if any(parameter.numel() > 1 for parameter in parameters) else "function"


def _rebind(module: nn.Module, twin: nn.Module) -> None:
    """Let a forward that was put on the instance be the twin's; a wrapper gives way to what it wraps."""
    own = vars(twin)
    forward = own.get("forward")
    if forward is None:
        return
    wrapped = own.get("_old_forward", forward)  # accelerate keeps what it wraps there
    if getattr(wrapped, "__self__", None) is module:
        own["forward"] = MethodType(wrapped.__func__, twin)
    else:
        del own["forward"]


def named_blocks(model: nn.Module) -> Iterator[tuple[int, str, nn.Module]]:
    """The modules in which an MLP can be, smaller ones first, each with its place in the order of declaration: what
    lies in a list of layers; where a model has no such list, all but the model itself."""
    seen: set[int] = set()
    found: list[tuple[int, str, nn.Module, bool]] = []

    def walk(prefix: str, module: nn.Module, inside: bool) -> None:
        for name, child in module._modules.items():
            if child is None:
                continue
            _, child = running(child)
            if id(child) in seen or sizes(child) is not None or not (child._modules or _stacks(child)):
                continue
            seen.add(id(child))
            place, path, deeper = len(seen), f"{prefix}.{name}" if prefix else name, inside or name.isdigit()
            walk(path, child, deeper)
            found.append((place, path, child, deeper))

    walk("", model, False)
    in_layers = any(inside for *_, inside in found)
    return ((place, path, child) for place, path, child, inside in found if inside or not in_layers)


def _stacks(module: nn.Module) -> bool:
    return any(parameter is not None and parameter.dim() == 3 for parameter in module._parameters.values())
