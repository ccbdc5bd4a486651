"""Experts whose weights are stacked in a way that nothing but the shapes tells: where they are, and how to see and
change the activation of each while the module runs its own forward.

Apart from experts.py, which computes what classes that describe themselves compute. Here the parameters are made to
notice, while the module runs, what they are multiplied with: the operand of a product with an expert's part of the last
one is the expert's activation, and its rows are those of the tokens that the first one was given.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectron.models import attaching as swap
from affectron.models.discovery import probe
from affectron.models.experts import routing
from affectron.models.layout import Routed

Give = Callable[[int, Tensor, "Tensor | None", Routed], Tensor]
"""``give(expert, h, gate, routed) -> h'``"""

_PRODUCTS = {"linear", "matmul", "__matmul__", "mm", "bmm"}


class Stack(NamedTuple):
    """``firsts`` and ``last`` are names of parameters in the module, ``activation`` that of a module."""

    firsts: tuple[str, ...]
    last: str
    experts: int
    neurons: int
    activation: str | None


def find(module: nn.Module) -> Stack | None:
    """The stacked experts whose weights ``module`` hands out: two parameters [E, ...], its own or the only ones of its
    children, of which one makes the 2F numbers of gate and up and the other reads F; or three alike [E·F, H] of a
    child that has a number of experts, the last of them declared last."""
    shapes: dict[str, torch.Size] = {}
    for name, value in module._parameters.items():
        if value is not None:
            shapes[name] = value.shape
    for name, child in module._modules.items():
        if child is None:
            continue
        parts = {key: value.shape for key, value in child._parameters.items() if value is not None}
        if len(parts) == 3 and len(set(parts.values())) == 1:
            experts = next((value for key, value in vars(child).items() if key.endswith("num_experts")), 0)
            *firsts, last = (f"{name}.{key}" for key in parts)
            (shape,) = set(parts.values())
            if len(shape) == 2 and isinstance(experts, int) and experts > 1 and shape[0] % experts == 0:
                function = _activation(child)
                return Stack(
                    tuple(firsts), last, experts, shape[0] // experts, f"{name}.{function}" if function else None
                )
        elif len(parts) == 1 and not child._modules:
            shapes |= {f"{name}.{key}": shape for key, shape in parts.items()}
    three = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    for first, last in permutations(three, 2):
        (e, a, b), (experts, c, d) = three[first], three[last]
        # Both as linear layers store them, [outputs, inputs], or both the other way round.
        for neurons, fits in ((d, (a, b) == (2 * d, c)), (c, (a, b) == (d, 2 * c))):
            if fits and 1 < experts <= e:
                return Stack((first,), last, experts, neurons, _activation(module))
    return None


def unknown(module: nn.Module) -> bool:
    """Whether the module looks like stacked experts in a form that is not known: three stacks of as many numbers, and
    an activation function."""
    sizes = [
        value.numel()
        for value in module._parameters.values()
        if value is not None and value.dim() == 3 and len(value) > 1
    ]
    return len(sizes) >= 3 and len(set(sizes)) == 1 and _activation(module) is not None


def _activation(module: nn.Module) -> str | None:
    """The one child that can be the activation function."""
    functions = [
        name
        for name, child in module._modules.items()
        if child is not None and not probe.passes(child) and not any(True for _ in child.parameters())
    ]
    return functions[0] if len(functions) == 1 else None


def followed(module: nn.Module, owner: nn.Module | None, give: Give, undo: ExitStack) -> Callable[..., Any]:
    """The module's forward, but that ``give`` is handed the activation of each expert and what it returns goes on.

    Raises:
        RuntimeError: in the forward, it does not show what is an expert's activation, or which tokens it belongs to.
    """
    found, own = find(module), module.forward
    assert found is not None
    routing.follow_input(module if owner is None else owner, undo)
    runs: list[_Run] = []

    def watch(_module: nn.Module, _args: Any, out: Tensor) -> None:
        if runs:
            runs[-1].gate = out.reshape(-1, out.shape[-1])

    if found.activation is not None:
        undo.callback(module.get_submodule(found.activation).register_forward_hook(watch).remove)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(*args: Any, **named: Any) -> Any:
        runs.append(_Run(type(module).__name__, found, give))
        with ExitStack() as after:
            after.callback(runs.pop)
            for name in (*found.firsts, found.last):
                path, _, parameter = name.rpartition(".")
                holder = module.get_submodule(path)
                weights = holder._parameters[parameter].as_subclass(_Weights)  # type: ignore[union-attr]
                weights.run, weights.called, weights.whole = runs[-1], name, holder._parameters[parameter]
                swap.swap_attribute(holder, parameter, weights, after)
            out = own(*args, **named)
            runs[-1].end()
        return out

    return forward  # type: ignore[no-any-return]


class _Weights(routing.Traced):
    """A stack of weights, or a view of some of it, that tells ``run`` what it is multiplied with.

    A kind of what routing.py traces, so that torch asks it first where both meet in a product."""

    run: _Run
    called: str
    whole: Tensor  # the parameter

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        weights = next((value for value in args if isinstance(value, _Weights)), None)
        if weights is not None and getattr(func, "__name__", "") in _PRODUCTS and args[1:2] == (weights,):
            args = (weights.run.product(weights, args[0]), *args[1:])
        plain = torch.utils._pytree.tree_map_only(routing.Traced, routing.untraced, (args, kwargs or {}))
        out = func(*plain[0], **plain[1])
        if weights is None:
            return out
        return tuple(map(weights.part, out)) if isinstance(out, (tuple, list)) else weights.part(out)

    def part(self, value: Any) -> Any:
        """The same of a view of these; anything else as it is."""
        storage = self.whole.untyped_storage()._cdata
        if not isinstance(value, Tensor) or value.untyped_storage()._cdata != storage:
            return value
        part = value.as_subclass(_Weights)
        part.run, part.called, part.whole = self.run, self.called, self.whole
        return part


class _Run:
    """One forward of the module: which tokens its experts were given, and the output of its activation function."""

    def __init__(self, kind: str, found: Stack, give: Give) -> None:
        self.kind, self.found, self.give = kind, found, give
        self.routed: dict[int, Routed] = {}
        self.gate: Tensor | None = None  # [rows, F] of the experts that come next
        self.given = False

    def product(self, weights: _Weights, operand: Tensor) -> Tensor:
        """What is to be multiplied with the weights instead of ``operand``."""
        part, whole = routing.untraced(weights), weights.whole
        each = whole.numel() // (len(whole) if whole.dim() == 3 else self.found.experts)
        expert = (part.storage_offset() - whole.storage_offset()) // each
        one, last = part.numel() <= each, weights.called == self.found.last
        if last:
            self.given = True
            return self.one(expert, operand) if one else self.all(operand)
        if one and isinstance(operand, routing.Traced):
            self.routed[expert] = routing.rows_of(operand)
        elif not one:
            self.route_all(operand)
        return operand

    def one(self, expert: int, h: Tensor) -> Tensor:
        if expert not in self.routed:
            raise RuntimeError(f"{self.kind} does not show which tokens expert {expert} is given")
        return self.give(expert, h, self.gate_of(h), self.routed[expert])

    def all(self, h: Tensor) -> Tensor:
        """For h [E, N, F]: a row for each expert and token."""
        gate, out = self.gate_of(h), h.clone()
        for expert, routed in self.routed.items():
            tokens = routed.tokens
            out[expert, tokens] = self.give(
                expert, h[expert, tokens], None if gate is None else gate[expert, tokens], routed
            )
        return out

    def route_all(self, x: Tensor) -> None:
        """For the input [E, N, H] of all experts at once: a row is zero where its token is not routed."""
        routed = (x != 0).any(-1)
        if bool(routed.all()) and routed.numel():
            raise RuntimeError(
                f"{self.kind} gives all tokens to all experts here, so that it does not show which are routed to one; "
                "a newer transformers may"
            )
        for expert, mine in enumerate(routed):
            self.routed[expert] = Routed(mine.nonzero()[:, 0], routed.shape[1])

    def gate_of(self, h: Tensor) -> Tensor | None:
        """The activation function's output for the rows of h: it is called for them, or for all experts before."""
        rows = h.numel() // h.shape[-1]
        if self.gate is None or self.gate.shape[-1] != h.shape[-1] or len(self.gate) < rows:
            return None
        gate, self.gate = self.gate[:rows], self.gate[rows:]
        return gate.reshape(h.shape)

    def end(self) -> None:
        if not self.given:
            raise RuntimeError(f"{self.kind} computed its experts in a way that does not show their activation")
