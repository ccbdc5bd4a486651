"""Recomputation: layers that are computed again in the backward pass, in place of keeping what it needs of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from affectron._internal.warning import warn
from affectron.errors import Note
from affectron.models import Reader, Site, unwrapped
from affectron.models.layers import layer_lists
from affectron.models.swapping import swap_forward

# Share of the free memory that a forward may keep for the backward pass.
_MEMORY = 0.5


class TooLarge(Exception):
    """A forward has kept more bytes for the backward pass than it may."""


class Recomputation:
    """Recomputation of layers in the backward pass: where ``recompute`` says so, or, if it is None, once a
    forward has kept too many bytes."""

    def __init__(self, reader: Reader, recompute: bool | None) -> None:
        self._reader, self._recompute = reader, recompute

    def __call__(self, differentiate: Callable[[], None], tokens: int) -> None:
        """Call a function that runs a forward and a backward pass of ``tokens`` tokens; it may be called twice, the
        first time without an end."""
        model = self._reader.model
        if self._recompute is None:
            most = int(_MEMORY * free_bytes(model.device))
            try:
                with limited(model, most):
                    differentiate()
                return
            except TooLarge:
                self._recompute = True
                warn(
                    f"a batch of {tokens:,} tokens keeps more than {most / 2**30:.1f} GiB for the backward pass: each "
                    "layer is computed again in it, which takes about a third as long again",
                    Note,
                )
        with ExitStack() as stack:
            if self._recompute:
                stack.enter_context(recomputing(model, self._reader.sites))
            differentiate()


@contextmanager
def recomputing(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Let each layer that holds a site keep its inputs alone, and be computed again in the backward pass."""
    with ExitStack() as undo:
        for layer in layers(model, sites):
            swap_forward(layer, _checkpointed(layer.forward), undo)
        yield


def layers(model: nn.Module, sites: Sequence[Site]) -> list[nn.Module]:
    """The layers of a model that hold sites."""
    return [layer for members in layer_lists(unwrapped(model), sites).values() for layer in members]


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)

    return again


@contextmanager
def limited(model: nn.Module, most: int) -> Iterator[None]:
    """Raise :class:`TooLarge` in a forward once autograd keeps more than ``most`` bytes beside the weights."""
    seen = {StorageWeakRef(tensor.untyped_storage()) for tensor in (*model.parameters(), *model.buffers())}
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)  # a quantised weight has no address
        if reference not in seen:
            seen.add(reference)
            kept += storage.nbytes()
            if kept > most:
                raise TooLarge
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes. On a CPU, and on a GPU that shares its memory, it is what this process may
    still take, as one of its kind on the machine."""
    module = torch.get_device_module(device)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        free = min(free, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no group, or one without a limit
        pass
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
