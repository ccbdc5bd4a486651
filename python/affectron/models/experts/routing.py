"""Routing to experts that are modules in a list: the tokens that an expert is given.

A model does not store them: the block picks rows of its input by its router, in its own way, and calls each expert with
them. So the input of the block is traced: it carries, through every operation that picks, moves and reshapes its rows,
the token that each row is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from affectron.models.chain import Routed

# Names of torch functions: those that move rows, those that return several parts, those that keep rows in place.
_MOVES = {"__getitem__", "contiguous", "clone", "detach", "expand", "flatten", "gather", "index_select"}
_MOVES |= {"repeat_interleave", "reshape", "squeeze", "unflatten", "unsqueeze", "view"}
_SPLITS = {"chunk", "split", "unbind"}
_KEEPS = {"to", "type_as", "float", "half", "bfloat16"}


class Traced(Tensor):
    """A tensor [..., D] that knows which of ``total`` tokens each of its rows is: ``rows``, int64, of its shape.

    A function that moves its rows moves ``rows`` too; a function that computes with it returns a plain tensor.
    """

    rows: Tensor
    total: int

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        traced = args[0] if args and isinstance(args[0], Traced) else None
        plain_args, plain_kwargs = torch.utils._pytree.tree_map_only(Traced, untraced, (args, kwargs))
        out = func(*plain_args, **plain_kwargs)
        name = getattr(func, "__name__", "")
        if traced is None:
            return out
        if name in _SPLITS:
            rows = func(traced.rows, *plain_args[1:], **plain_kwargs)
            return tuple(trace(part, part_rows, traced.total) for part, part_rows in zip(out, rows, strict=True))
        if not isinstance(out, Tensor) or not out.dim():
            return out
        if name in _MOVES:
            return trace(out, func(traced.rows, *plain_args[1:], **plain_kwargs), traced.total)
        return trace(out, traced.rows, traced.total) if name in _KEEPS else out


def untraced(value: Traced) -> Tensor:
    """The same tensor as a plain one."""
    with torch._C.DisableTorchFunctionSubclass():  # else the compiler of torch 2.8 comes back here without end
        return value.as_subclass(Tensor)


def trace(value: Tensor, rows: Tensor, total: int) -> Traced:
    """The same tensor with the token of each row."""
    traced: Traced = value.as_subclass(Traced)
    traced.rows, traced.total = rows, total
    return traced


def rows_of(x: Traced) -> Routed:
    """The tokens of the rows of ``x``, flattened to [rows, D]."""
    return Routed(x.rows.reshape(-1, x.rows.shape[-1])[:, 0], x.total)


def follow(expert: nn.Module, owner: nn.Module, tell: Callable[[Routed | None], None], undo: ExitStack) -> None:
    """Before each call of ``expert``, ``tell`` which tokens of the input of ``owner`` it is given; None if it is given
    all of them in order."""

    def enter(_expert: nn.Module, args: tuple[Any, ...]) -> Any:
        if not args or not isinstance(args[0], Traced):
            tell(None)
            return None
        tell(rows_of(args[0]))
        return (untraced(args[0]), *args[1:])

    follow_input(owner, undo)
    undo.callback(expert.register_forward_pre_hook(enter).remove)


def follow_input(owner: nn.Module, undo: ExitStack) -> None:
    """Trace the input of ``owner``: its first argument, whose rows are the tokens."""

    def begin(_owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = list(kwargs.items())
        hidden = args[0] if args else named[0][1]
        if not isinstance(hidden, Tensor) or isinstance(hidden, Traced) or hidden.dim() < 2:
            return None
        total = hidden.numel() // hidden.shape[-1]
        rows = torch.arange(total, device=hidden.device).view(*hidden.shape[:-1], 1).expand(hidden.shape)
        traced = trace(hidden, rows, total)
        return ((traced, *args[1:]), kwargs) if args else ((), {**kwargs, named[0][0]: traced})

    undo.callback(owner.register_forward_pre_hook(begin, with_kwargs=True).remove)
