"""Find the MLP sites of a model, and let a kernel compute their activation for a while.

Apart because screening and steering use the same mechanism with different kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from affectron.errors import InputError
from affectron.models import fused, gated, plain
from affectron.models.layout import Kernel, Site, activation_name, is_attached

_LAYOUTS = {"gated": gated, "fused": fused, "plain": plain}


def find_sites(model: nn.Module) -> list[Site]:
    """The MLP blocks of ``model`` in the order in which its modules are declared, which is forward order.

    Raises:
        InputError: no block of a known layout, or one whose activation function or forward is not known.
    """
    sites = []
    for name, module in model.named_modules():
        for layout, functions in _LAYOUTS.items():
            try:
                match = functions.match(module)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            if match is None:
                continue
            act = activation_name(match.activation)
            if act is None:
                raise InputError(
                    f"{name}: activation function {type(match.activation).__name__} is not known; "
                    "expected silu, gelu, gelu_tanh, relu or relu2"
                )
            sites.append(Site(name, module, layout, match.neurons, act))
            break
    if not sites:
        raise InputError(
            f"{type(model).__name__} has no known MLP: expected gate_proj, up_proj and down_proj; "
            "gate_up_proj and down_proj; c_fc and c_proj; dense_h_to_4h and dense_4h_to_h; or fc1 and fc2"
        )
    return sites


def projections(site: Site) -> tuple[list[nn.Module], nn.Module]:
    """The linear layers whose outputs are the site's neurons (gate and up, both in one, or a single one), and the one
    whose inputs they are."""
    found: tuple[list[nn.Module], nn.Module] = _LAYOUTS[site.layout].projections(site.module)
    return found


@contextmanager
def attach(sites: Sequence[Site], kernel: Kernel) -> Iterator[None]:
    """Let ``kernel(position, gate, up, act)`` compute the activation h of ``sites[position]`` for a while.

    A gated block's ``forward`` is replaced on the instance, a plain block's activation submodule by another.
    On the way out, also after an exception, everything is put back in reverse order: the very objects that
    were there. Parameters, buffers and the keys of the state dict never change. A forward made under gradient
    checkpointing has to be differentiated before the context is left, since it is computed again then.

    The context serves the thread that opened it. A forward of these sites in another one is refused: it would be
    measured or steered unasked, or, as it may have been meant to be, not at all.

    Raises:
        RuntimeError: one of the sites is attached already; in a forward, another thread runs it.
    """
    with ExitStack() as undo:
        with _ATTACHING:
            for position, site in enumerate(sites):
                if is_attached(site):
                    raise RuntimeError(
                        f"{site.name} is attached already: leave the running intervene, screen or attach first"
                    )
                _LAYOUTS[site.layout].swap(site, position, kernel, undo)
        if sites:  # every forward passes the first
            undo.callback(sites[0].module.register_forward_pre_hook(_Owner()).remove)
        yield


# Two threads that attach the same model at once: one of them is refused.
_ATTACHING = threading.Lock()


class _Owner:
    """A forward pre-hook that lets the thread pass in which it was made."""

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


def max_length(model: Any) -> int | None:
    """The tokens that a model of transformers reads at most; None where its config sets no limit."""
    found: int | None = getattr(model.config, "max_position_embeddings", None)
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for a while, and each module's mode back as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
