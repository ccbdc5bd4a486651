"""Mixtures of experts whose experts are modules in a list: which tokens an expert is given.

Apart because the answer is nowhere in the model: the block picks rows of its input by its router, in its own way, and
calls each expert with them. So the block's input is made to remember, through whatever picks, moves and reshapes its
rows, which rows they were.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from affectron.models.layout import Routed

_MOVES = {"__getitem__", "contiguous", "clone", "detach", "expand", "flatten", "gather", "index_select"}
_MOVES |= {"repeat_interleave", "reshape", "squeeze", "unflatten", "unsqueeze", "view"}
_SPLITS = {"chunk", "split", "unbind"}
_KEEPS = {"to", "type_as", "float", "half", "bfloat16"}


class Traced(Tensor):
    """A tensor [..., D] that knows for each of its rows which token it is, of ``total``: ``rows``, int64, of its shape.

    What moves rows moves ``rows`` along; whatever computes returns a plain tensor.
    """

    rows: Tensor
    total: int

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        traced = args[0] if args and isinstance(args[0], Traced) else None
        plain = torch.utils._pytree.tree_map_only(Traced, untraced, (args, kwargs))
        out = func(*plain[0], **plain[1])
        name = getattr(func, "__name__", "")
        if traced is None:
            return out
        if name in _SPLITS:
            rows = func(traced.rows, *plain[0][1:], **plain[1])
            return tuple(trace(part, own, traced.total) for part, own in zip(out, rows, strict=True))
        if not isinstance(out, Tensor) or not out.dim():
            return out
        if name in _MOVES:
            return trace(out, func(traced.rows, *plain[0][1:], **plain[1]), traced.total)
        return trace(out, traced.rows, traced.total) if name in _KEEPS else out


def untraced(value: Traced) -> Tensor:
    return value.as_subclass(Tensor)


def trace(value: Tensor, rows: Tensor, total: int) -> Traced:
    found: Traced = value.as_subclass(Traced)
    found.rows, found.total = rows, total
    return found


def rows_of(x: Traced) -> Routed:
    return Routed(x.rows.reshape(-1, x.rows.shape[-1])[:, 0], x.total)


def follow(block: nn.Module, owner: nn.Module, tell: Callable[[Routed | None], None], undo: ExitStack) -> None:
    """Before each call of the expert ``block``, ``tell`` which tokens of the input of ``owner`` it is given; None where
    it is given all of them as they come."""

    def enter(_block: nn.Module, args: tuple[Any, ...]) -> Any:
        if not args or not isinstance(args[0], Traced):
            tell(None)
            return None
        tell(rows_of(args[0]))
        return (untraced(args[0]), *args[1:])

    follow_input(owner, undo)
    undo.callback(block.register_forward_pre_hook(enter).remove)


def follow_input(owner: nn.Module, undo: ExitStack) -> None:
    """Let the input of ``owner`` be traced: its first argument, whose rows are the tokens."""

    def begin(_owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = list(kwargs.items())
        hidden = args[0] if args else named[0][1]
        if not isinstance(hidden, Tensor) or isinstance(hidden, Traced) or hidden.dim() < 2:
            return None
        total = hidden.numel() // hidden.shape[-1]
        places = torch.arange(total, device=hidden.device).view(*hidden.shape[:-1], 1).expand(hidden.shape)
        traced = trace(hidden, places, total)
        return ((traced, *args[1:]), kwargs) if args else ((), {**kwargs, named[0][0]: traced})

    undo.callback(owner.register_forward_pre_hook(begin, with_kwargs=True).remove)
