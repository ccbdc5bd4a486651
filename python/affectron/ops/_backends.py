"""The backends of the ops: one record each, with the devices that it serves and the module that holds its functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

from affectron import _native

#: The ops that every backend implements.
KERNELS = ("glu", "glu_backward", "glu_stats", "glu_steer", "masked_mlp", "neuron_stats")


def _absence_of_triton(kind: str) -> str | None:
    # Triton's interpreter takes CPU tensors. It is for tests, so that only a caller who asks for it gets it.
    if kind != "cuda" and not (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"Triton has no kernels for {kind} tensors"
    try:
        import_module("affectron.kernels")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


def _absence_of_native(kind: str) -> str | None:
    if kind == "cpu":
        return None
    if kind != "cuda" or torch.version.hip is not None:
        return f"the compiled module has no kernels for {'HIP' if kind == 'cuda' else kind} tensors"
    return None if _native.CUDA_BUILT else "this build has no CUDA kernels"


@dataclass(frozen=True)
class Backend:
    """One implementation of all ops.

    Attributes:
        name: as ``use_backend`` and AFFECTRON_BACKEND take it.
        description: what it is and which devices it serves, for people.
        module: full name of the module that holds one function for each of ``KERNELS``, of the op's name and with its
            arguments. It is imported when a function is first needed.
        absence: the reason why the backend cannot serve tensors on devices of a type ("cpu", "cuda"), None if it can.
    """

    name: str
    description: str
    module: str
    absence: Callable[[str], str | None]

    def implementation(self, op: str) -> Callable[..., Any]:
        """The function that computes ``op``; each op has its own signature."""
        return getattr(import_module(self.module), op)  # type: ignore[no-any-return]


#: Backends by name. On a GPU the first that can serve is chosen, for every op.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("triton", "Triton (kernels/), on CUDA and HIP tensors", "affectron.kernels", _absence_of_triton),
        Backend(
            "native",
            "compiled C++ and CUDA (csrc/), on CPU tensors, and on CUDA tensors where the build has them",
            "affectron.ops.backends.native",
            _absence_of_native,
        ),
        Backend(
            "reference",
            "plain torch (ops/backends/reference.py), on any device",
            "affectron.ops.backends.reference",
            lambda kind: None,
        ),
    )
}


@cache
def absence_of(backend: str, kind: str) -> str | None:
    """The reason why ``backend`` cannot serve tensors on devices of type ``kind``, None if it can; found out once."""
    return BACKENDS[backend].absence(kind)
