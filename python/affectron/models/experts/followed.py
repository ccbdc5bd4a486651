"""Stacked experts that only the shapes of their parameters show (Llama 4, DBRX, JetMoe, LongCat).

The module runs its own forward, and its parameters notice what they are multiplied with: the operand of a product with
an expert's part of the last stack is the expert's activation, and its rows are the tokens that the first one was given.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectron.models.chain import Routed
from affectron.models.discovery.blocks import is_passthrough
from affectron.models.experts import routing
from affectron.models.swapping import swap_attribute

ExpertChange = Callable[[int, Tensor, "Tensor | None", Routed], Tensor]
"""``change(expert, h, gate, routed)``: the new h of an expert."""

_PRODUCTS = {"linear", "matmul", "__matmul__", "mm", "bmm"}


class Stack(NamedTuple):
    """The stacked weights of several experts.

    Attributes:
        firsts, last: names of parameters in the module.
        experts: number of experts.
        neurons: F of each.
        activation: name of the activation module, if there is one.
    """

    firsts: tuple[str, ...]
    last: str
    experts: int
    neurons: int
    activation: str | None


def find_stack(module: nn.Module) -> Stack | None:
    """The stacked experts of ``module``, in one of two forms.

    - Two parameters [E, ...], its own or the only ones of its children: one makes the 2F numbers of gate and up, the
      other reads F.
    - Three parameters [E · F, H] of a child that has a number of experts; the last one is declared last.
    """
    shapes = {name: value.shape for name, value in module._parameters.items() if value is not None}
    for name, child in module._modules.items():
        if child is None:
            continue
        parts = {f"{name}.{key}": value.shape for key, value in child._parameters.items() if value is not None}
        if len(parts) == 3 and len(set(parts.values())) == 1:
            stack = _flat_stack(name, child, parts)
            if stack is not None:
                return stack
        elif len(parts) == 1 and not child._modules:
            shapes |= parts
    three = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    for first, last in permutations(three, 2):
        (e, a, b), (experts, c, d) = three[first], three[last]
        # Both as linear layers store them, [outputs, inputs], or both the other way round.
        for neurons, fits in ((d, (a, b) == (2 * d, c)), (c, (a, b) == (d, 2 * c))):
            if fits and 1 < experts <= e:
                return Stack((first,), last, experts, neurons, _activation_child(module))
    return None


def _flat_stack(name: str, child: nn.Module, parts: dict[str, torch.Size]) -> Stack | None:
    """The second form of :func:`find_stack`, for the parameters ``parts`` of the child ``name``, all of one shape."""
    experts = next((value for key, value in vars(child).items() if key.endswith("num_experts")), 0)
    *firsts, last = parts
    shape = parts[last]
    if len(shape) != 2 or not isinstance(experts, int) or experts <= 1 or shape[0] % experts:
        return None
    function = _activation_child(child)
    return Stack(tuple(firsts), last, experts, shape[0] // experts, f"{name}.{function}" if function else None)


def is_unknown(module: nn.Module) -> bool:
    """Return whether the module looks like stacked experts in an unknown form: three stacks of equal size and an
    activation function."""
    stacks = [
        value.numel()
        for value in module._parameters.values()
        if value is not None and value.dim() == 3 and len(value) > 1
    ]
    return len(stacks) >= 3 and len(set(stacks)) == 1 and _activation_child(module) is not None


def _activation_child(module: nn.Module) -> str | None:
    """Name of the one child that can be the activation function."""
    functions = [
        name
        for name, child in module._modules.items()
        if child is not None and not is_passthrough(child) and not any(True for _ in child.parameters())
    ]
    return functions[0] if len(functions) == 1 else None


def followed(
    module: nn.Module, stack: Stack, owner: nn.Module | None, change: ExpertChange, undo: ExitStack
) -> Callable[..., Any]:
    """The module's forward with the activation of each expert replaced by what ``change`` returns for it.

    Raises:
        RuntimeError: in the forward, an expert's activation or the tokens that it belongs to do not show.
    """
    inner = module.forward
    routing.follow_input(module if owner is None else owner, undo)
    running: list[_FollowedForward] = []

    def watch(_module: nn.Module, _args: Any, out: Tensor) -> None:
        if running:
            running[-1].gate = out.reshape(-1, out.shape[-1])

    if stack.activation is not None:
        undo.callback(module.get_submodule(stack.activation).register_forward_hook(watch).remove)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(*args: Any, **named: Any) -> Any:
        state = _FollowedForward(type(module).__name__, stack, change)
        running.append(state)
        with ExitStack() as after:
            after.callback(running.pop)
            for name in (*stack.firsts, stack.last):
                path, _, parameter = name.rpartition(".")
                holder = module.get_submodule(path)
                whole = holder._parameters[parameter]
                weights = whole.as_subclass(_Weights)  # type: ignore[union-attr]
                weights.state, weights.stack_name, weights.whole = state, name, whole
                swap_attribute(holder, parameter, weights, after)
            out = inner(*args, **named)
            state.end()
        return out

    return forward  # type: ignore[no-any-return]


class _Weights(routing.Traced):
    """A stack of weights, or a view of some of it, that tells ``state`` what it is multiplied with.

    A subclass of the traced tensor, so that torch asks it first if both meet in a product.
    """

    state: _FollowedForward
    stack_name: str
    whole: Tensor  # the parameter

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        weights = next((value for value in args if isinstance(value, _Weights)), None)
        if weights is not None and getattr(func, "__name__", "") in _PRODUCTS and args[1:2] == (weights,):
            args = (weights.state.operand(weights, args[0]), *args[1:])
        plain_args, plain_kwargs = torch.utils._pytree.tree_map_only(
            routing.Traced, routing.untraced, (args, kwargs or {})
        )
        out = func(*plain_args, **plain_kwargs)
        if weights is None:
            return out
        return tuple(map(weights.part, out)) if isinstance(out, (tuple, list)) else weights.part(out)

    def part(self, value: Any) -> Any:
        """A view of these weights as one that tells, too; any other value as it is."""
        storage = self.whole.untyped_storage()._cdata
        if not isinstance(value, Tensor) or value.untyped_storage()._cdata != storage:
            return value
        part = value.as_subclass(_Weights)
        part.state, part.stack_name, part.whole = self.state, self.stack_name, self.whole
        return part


class _FollowedForward:
    """State of one forward of the module: the tokens of each expert, and the output of the activation function."""

    def __init__(self, kind: str, stack: Stack, change: ExpertChange) -> None:
        self.kind, self.stack, self.change = kind, stack, change
        self.routed: dict[int, Routed] = {}
        self.gate: Tensor | None = None  # [rows, F] of the experts that come next
        self.seen_last = False

    def operand(self, weights: _Weights, operand: Tensor) -> Tensor:
        """The tensor to multiply with the weights in place of ``operand``."""
        part, whole = routing.untraced(weights), weights.whole
        size = whole.numel() // (len(whole) if whole.dim() == 3 else self.stack.experts)
        expert = (part.storage_offset() - whole.storage_offset()) // size
        single = part.numel() <= size
        if weights.stack_name == self.stack.last:
            self.seen_last = True
            return self.change_single(expert, operand) if single else self.change_all(operand)
        if not single:
            self.route_all(operand)
        elif isinstance(operand, routing.Traced):
            self.routed[expert] = routing.rows_of(operand)
        return operand

    def change_single(self, expert: int, h: Tensor) -> Tensor:
        if expert not in self.routed:
            raise RuntimeError(f"{self.kind} does not show which tokens expert {expert} is given")
        return self.change(expert, h, self.gate_of(h), self.routed[expert])

    def change_all(self, h: Tensor) -> Tensor:
        """Change h [E, N, F], a row for each expert and token."""
        gate, out = self.gate_of(h), h.clone()
        for expert, routed in self.routed.items():
            tokens = routed.tokens
            out[expert, tokens] = self.change(
                expert, h[expert, tokens], None if gate is None else gate[expert, tokens], routed
            )
        return out

    def route_all(self, x: Tensor) -> None:
        """Read the routing off the input x [E, N, H] of all experts: a row is zero if its token is not routed there."""
        is_routed = (x != 0).any(-1)
        if bool(is_routed.all()) and is_routed.numel():
            raise RuntimeError(
                f"{self.kind} gives all tokens to all experts here, so that it does not show which are routed to one; "
                "a newer transformers may"
            )
        for expert, tokens in enumerate(is_routed):
            self.routed[expert] = Routed(tokens.nonzero()[:, 0], is_routed.shape[1])

    def gate_of(self, h: Tensor) -> Tensor | None:
        """The activation function's output for the rows of h. The function was called for them, or for all experts."""
        rows = h.numel() // h.shape[-1]
        if self.gate is None or self.gate.shape[-1] != h.shape[-1] or len(self.gate) < rows:
            return None
        gate, self.gate = self.gate[:rows], self.gate[rows:]
        return gate.reshape(h.shape)

    def end(self) -> None:
        if not self.seen_last:
            raise RuntimeError(f"{self.kind} computed its experts in a way that does not show their activation")
