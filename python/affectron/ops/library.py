"""The torch library that the ops are registered in, the choice of backend, and the argument checks they share.

Ops are registered with ``Library.define/impl``: 2 µs a call where ``torch.library.custom_op`` takes 10 (torch 2.13).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from affectron.errors import InputError

LIBRARY = torch.library.Library("affectron", "DEF")

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

BACKENDS = {
    "native": "compiled C++ (csrc/cpu), on CPU tensors",
    "reference": "plain torch (ops/reference.py), on any device",
}


def _from_environment() -> str | None:
    name = os.environ.get("AFFECTRON_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise InputError(f"AFFECTRON_BACKEND is {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


_forced = _from_environment()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op with the backend ``name`` inside the ``with`` block, as AFFECTRON_BACKEND does for a process."""
    global _forced
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def backend_for(device: torch.device | str) -> tuple[str, str]:
    """The backend that serves tensors on ``device``, and the reason in words.

    Raises:
        RuntimeError: the backend that was asked for does not serve this device.
    """
    kind = torch.device(device).type
    if _forced == "native" and kind != "cpu":
        raise RuntimeError(f"the native backend was asked for, and this build has none for {kind} tensors")
    if _forced is not None:
        return _forced, "asked for"
    if kind == "cpu":
        return "native", "compiled for this processor"
    return "reference", f"this build has no kernels for {kind} tensors"


def define(
    schema: str, native: Callable[..., Any], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register one op with its two implementations and its shape rule; returns the op."""
    name = schema[: schema.index("(")]

    def on_cpu(*args: Any) -> Any:
        return native(*args) if _forced != "reference" else reference(*args)

    def elsewhere(*args: Any) -> Any:
        backend_for(next(a for a in args if isinstance(a, Tensor)).device)
        return reference(*args)

    LIBRARY.define(schema)
    LIBRARY.impl(name, on_cpu, "CPU")
    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"affectron::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.affectron, name).default  # type: ignore[no-any-return]


def check_activation(act: str) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")


def as_rows(name: str, value: Tensor, like: Tensor | None = None) -> Tensor:
    """``value`` [..., F] as rows [N, F], without a copy where its strides allow; it must be like ``like``."""
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {value.dtype}, expected float32, bfloat16 or float16")
    if value.dim() == 0:
        raise ValueError(f"{name} is a scalar, expected shape [..., neurons]")
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{name} has a last stride of {value.stride(-1)}, expected 1: call .contiguous() first")
    if like is not None:
        if value.shape != like.shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(like.shape)}")
        if value.dtype != like.dtype:
            raise TypeError(f"{name} has dtype {value.dtype}, expected {like.dtype}")
        if value.device != like.device:
            raise ValueError(f"{name} is on {value.device}, expected {like.device}")
    return value if value.dim() == 2 else value.reshape(-1, value.shape[-1])
