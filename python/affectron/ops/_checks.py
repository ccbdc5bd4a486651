"""Checks of arguments that several ops share. Each raises before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron.ops._codes import ACTIVATIONS, DTYPES


def check_activation(act: str) -> None:
    """Raise ValueError unless ``act`` is one of the activations."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")


def check_like(name: str, value: Tensor, like: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Raise unless ``value`` has this shape and the dtype and device of ``like``."""
    if value.shape != shape:
        raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(shape)}")
    if value.dtype != like.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {like.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, expected {like.device}")


def as_rows(name: str, value: Tensor, like: Tensor | None = None) -> Tensor:
    """``value`` [..., F] as rows [N, F], without a copy where its strides allow; checked against ``like`` if given."""
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {value.dtype}, expected float32, bfloat16 or float16")
    if value.dim() == 0:
        raise ValueError(f"{name} is a scalar, expected shape [..., neurons]")
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{name} has a last stride of {value.stride(-1)}, expected 1: call .contiguous() first")
    if like is not None:
        check_like(name, value, like, like.shape)
    return value if value.dim() == 2 else value.reshape(-1, value.shape[-1])


def check_indices(name: str, indices: Tensor, end: int, absent: str) -> None:
    """Raise IndexError unless all of ``indices`` lie in [-1, end). Reads them all: only for tensors on the CPU.

    Args:
        absent: what -1 says of a row.
    """
    low, high = map(int, indices.aminmax())
    if low < -1 or high >= end:
        raise IndexError(f"{name} holds {low if low < -1 else high}, expected -1 ({absent}) to {end - 1}")


def check_program(program: Tensor, rows: Tensor | None, n: int, f: int, device: torch.device) -> None:
    """Raise unless ``program`` [P, 4, F] and ``rows`` [N] fit n rows of f neurons on ``device``."""
    if program.dtype != torch.float32:
        raise TypeError(f"program has dtype {program.dtype}, expected float32")
    if program.dim() != 3 or program.shape[1:] != (4, f) or not program.is_contiguous():
        raise ValueError(f"program has shape {list(program.shape)}, expected contiguous [programs, 4, {f}]")
    if program.device != device:
        raise ValueError(f"program is on {program.device}, expected {device}")
    if rows is None:
        if program.shape[0] != 1:
            raise ValueError(f"program holds {program.shape[0]} programs, expected 1 where rows is not given")
        return
    if rows.dtype != torch.int32:
        raise TypeError(f"rows has dtype {rows.dtype}, expected int32")
    if rows.shape != (n,) or not rows.is_contiguous() or rows.device != program.device:
        raise ValueError(f"rows has shape {list(rows.shape)} on {rows.device}, expected [{n}] on {program.device}")
    if rows.device.type == "cpu" and n and not torch.compiler.is_compiling():
        check_indices("rows", rows, program.shape[0], "untouched")


def refuse_gradient(op: str, *values: Tensor | None) -> None:
    """Raise RuntimeError where a gradient of ``values`` is required: ``op`` has none."""
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        raise RuntimeError(f"{op} has no gradient: call it under torch.no_grad() or detach its arguments")
