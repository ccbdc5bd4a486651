"""The torch library that the ops are registered in, the choice of backend, and the argument checks they share.

Ops are registered with ``Library.define/impl``: 2 µs a call where ``torch.library.custom_op`` takes 10 (torch 2.13).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from affectron.errors import InputError

LIBRARY = torch.library.Library("affectron", "DEF")

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

BACKENDS = {
    "triton": "Triton (kernels/), on CUDA and HIP tensors",
    "native": "compiled C++ and CUDA (csrc/), on CPU tensors, and on CUDA tensors where the build has them",
    "reference": "plain torch (ops/reference.py), on any device",
}

# Which backend serves an op on a GPU: the first that is there. The one place to change when measurements say so.
_GPU_PREFERENCE = {
    "glu": ("triton", "native", "reference"),
    "glu_backward": ("triton", "native", "reference"),
    "glu_stats": ("triton", "native", "reference"),
    "glu_steer": ("triton", "native", "reference"),
    "masked_mlp": ("triton", "native", "reference"),
    "neuron_stats": ("triton", "native", "reference"),
}
KERNELS = tuple(_GPU_PREFERENCE)


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


@cache
def absence_of(backend: str, kind: str) -> str | None:
    """Why ``backend`` cannot serve tensors on devices of this kind; None where it can."""
    if backend == "reference" or (backend == "native" and kind == "cpu"):
        return None
    if backend == "native":
        if kind != "cuda" or torch.version.hip is not None:
            return f"the compiled module has no kernels for {'HIP' if kind == 'cuda' else kind} tensors"
        return None if import_module("affectron.ops.native").cuda_built else "this build has no CUDA kernels"
    # The interpreter takes CPU tensors, and is there for tests: a caller has to ask for it.
    if kind != "cuda" and not (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"Triton has no kernels for {kind} tensors"
    try:
        import_module("affectron.kernels")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


def backend_for(op: str, device: torch.device | str) -> tuple[str, str]:
    """The backend that serves ``op`` for tensors on ``device``, and the reason in words.

    Raises:
        ValueError: ``op`` is not one of the kernels.
        RuntimeError: the backend that was asked for does not serve this device.
    """
    if op not in _GPU_PREFERENCE:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(KERNELS)}")
    kind = torch.device(device).type
    if _forced is not None:
        absence = absence_of(_forced, kind)
        if absence:
            raise RuntimeError(f"the {_forced} backend was asked for, and cannot serve: {absence}")
        return _forced, "asked for"
    if kind == "cpu":
        return "native", "compiled for this processor"
    passed: list[str] = []
    for backend in _GPU_PREFERENCE[op]:
        absence = absence_of(backend, kind)
        if absence is None:
            return backend, "; ".join(passed) or "the first choice for this op"
        passed.append(absence)
    raise AssertionError("the reference backend serves every device")


def define(
    schema: str, native: Callable[..., Any], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register one op with its shape rule and its implementations; returns the op. That of Triton is the function of
    the op's name in affectron.kernels, which is imported when it is first needed."""
    name = schema[: schema.index("(")]

    def find(backend: str) -> Callable[..., Any]:
        if backend == "triton":
            return getattr(import_module("affectron.kernels"), name)  # type: ignore[no-any-return]
        return native if backend == "native" else reference

    @cache
    def chosen(kind: str, forced: str | None) -> Callable[..., Any]:
        return find(backend_for(name, kind)[0])

    def on_cpu(*args: Any) -> Any:
        return native(*args) if _forced is None else chosen("cpu", _forced)(*args)

    def on_gpu(*args: Any) -> Any:
        # Kernels go to the current stream of the current device: make that the one where the tensors are.
        device = args[0].get_device()
        if device == torch.cuda.current_device():
            return chosen("cuda", _forced)(*args)
        with torch.cuda.device(device):
            return chosen("cuda", _forced)(*args)

    def elsewhere(*args: Any) -> Any:
        return chosen(args[0].device.type, _forced)(*args)

    LIBRARY.define(schema)
    LIBRARY.impl(name, on_cpu, "CPU")
    LIBRARY.impl(name, on_gpu, "CUDA")  # HIP's too: torch calls it by this name
    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"affectron::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.affectron, name).default  # type: ignore[no-any-return]


def define_plain(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register an op of plain torch, the same on every device; returns the op."""
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"affectron::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.affectron, name).default  # type: ignore[no-any-return]


def serves_directly(*args: Tensor | None) -> bool:
    """Whether the native kernel may be called without torch's dispatcher: plain CPU tensors, no gradient, and neither
    a compiler nor a transform nor a dispatch mode that wants to see the op."""
    if torch.compiler.is_compiling() or _forced not in (None, "native") or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    grad = torch.is_grad_enabled()
    return all(a is None or (type(a) is Tensor and a.is_cpu and not (grad and a.requires_grad)) for a in args)


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
