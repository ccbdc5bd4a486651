"""The torch library that the ops are registered in, and the choice of the backend that serves a call.

Ops are registered with ``Library.define/impl``: 2 µs a call where ``torch.library.custom_op`` takes 10 (torch 2.13).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from affectron import _native
from affectron.errors import InputError
from affectron.ops._backends import BACKENDS, KERNELS, absence_of

P = ParamSpec("P")
R = TypeVar("R")

LIBRARY = torch.library.Library("affectron", "DEF")


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


def backend_for(op: str, device: torch.device | str) -> tuple[str, str]:
    """The backend that serves ``op`` for tensors on ``device``, and the reason in words.

    Raises:
        ValueError: ``op`` is not one of the kernels.
        RuntimeError: the backend that was asked for does not serve this device.
    """
    if op not in KERNELS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(KERNELS)}")
    kind = torch.device(device).type
    if _forced is not None:
        absence = absence_of(_forced, kind)
        if absence:
            raise RuntimeError(f"the {_forced} backend was asked for, and cannot serve: {absence}")
        return _forced, "asked for"
    if kind == "cpu":
        return "native", "compiled for this processor" + ("" if _native.openmp() else " without OpenMP: one thread")
    absent: list[str] = []
    for backend in BACKENDS:
        absence = absence_of(backend, kind)
        if absence is None:
            return backend, "; ".join(absent) or "the first choice for this op"
        absent.append(absence)
    raise AssertionError("the reference backend serves every device")


def _name_of(schema: str) -> str:
    return schema[: schema.index("(")]


def _register(schema: str, fake: Callable[P, R]) -> Callable[P, R]:
    name = _name_of(schema)
    torch.library.register_fake(f"affectron::{name}", fake, lib=LIBRARY)
    op: Callable[P, R] = getattr(torch.ops.affectron, name).default
    return op


def kernel_op(schema: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a shape rule: register the op of ``schema``, which the backends implement, and return the op."""
    name = _name_of(schema)
    native = BACKENDS["native"].implementation(name)

    @cache
    def chosen(kind: str, forced: str | None) -> Callable[..., Any]:
        return BACKENDS[backend_for(name, kind)[0]].implementation(name)

    def on_cpu(*args: Any) -> Any:
        return native(*args) if _forced is None else chosen("cpu", _forced)(*args)

    def on_gpu(*args: Any) -> Any:
        # Kernels go to the current stream of the current device: make that the device of the tensors.
        device = args[0].get_device()
        if device == torch.cuda.current_device():
            return chosen("cuda", _forced)(*args)
        with torch.cuda.device(device):
            return chosen("cuda", _forced)(*args)

    def elsewhere(*args: Any) -> Any:
        return chosen(args[0].device.type, _forced)(*args)

    LIBRARY.define(schema)
    LIBRARY.impl(name, on_cpu, "CPU")
    LIBRARY.impl(name, on_gpu, "CUDA")  # and HIP, which torch calls by this name too
    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    return lambda fake: _register(schema, fake)


def torch_op(schema: str, implementation: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a shape rule: register the op of ``schema``, which ``implementation`` computes in plain torch on
    every device, and return the op."""
    LIBRARY.define(schema)
    LIBRARY.impl(_name_of(schema), implementation, "CompositeExplicitAutograd")
    return lambda fake: _register(schema, fake)


def serves_directly(*args: Tensor | None) -> bool:
    """Tell whether the native kernel may be called without torch's dispatcher: for plain CPU tensors, without a
    gradient, and without a compiler, a transform or a dispatch mode, which must see the op."""
    if torch.compiler.is_compiling() or _forced not in (None, "native") or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    grad = torch.is_grad_enabled()
    return all(a is None or (type(a) is Tensor and a.is_cpu and not (grad and a.requires_grad)) for a in args)
