"""Temporary changes of a module: an attribute, the forward, a child.

Only the dictionaries of the instance change: never a class, a parameter or the keys of the state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn


def swap_attribute(module: nn.Module, name: str, value: object, undo: ExitStack) -> None:
    """Set an attribute of this instance until ``undo`` is unwound; then the instance is as it was."""
    attributes: dict[str, Any] = vars(module)
    # An attribute that is already there belongs to someone else, such as a patch by another library.
    restore: Callable[[], object] = (
        partial(attributes.__setitem__, name, attributes[name])
        if name in attributes
        else partial(attributes.pop, name, None)
    )
    # The way back comes before the change, so an interruption between the two leaves nothing behind.
    undo.callback(restore)
    attributes[name] = value


def swap_forward(module: nn.Module, forward: Callable[..., Any], undo: ExitStack) -> None:
    """Let this instance run ``forward`` until ``undo`` is unwound."""
    swap_attribute(module, "forward", forward, undo)


def swap_child(module: nn.Module, name: str, child: nn.Module, undo: ExitStack) -> None:
    """Let ``child`` take the place of the child ``name`` until ``undo`` is unwound.

    The entry in ``module`` changes, not the object there: several layers may share one activation function.
    """
    before = module._modules[name]
    undo.callback(module._modules.__setitem__, name, before)
    module._modules[name] = child
