"""Calls into the compiled module: tensors become addresses here, and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron import _native
from affectron.ops.library import ACTIVATIONS, DTYPES

isa_level = _native.isa_level
isa_levels = _native.isa_levels
set_isa_level = _native.set_isa_level

_DTYPE_CODE = {dtype: code for code, dtype in enumerate(DTYPES)}
_ACT_CODE = {act: code for code, act in enumerate(ACTIVATIONS)}


def _rows(value: Tensor | None) -> tuple[int, int]:
    return (0, 0) if value is None else (value.data_ptr(), value.stride(0))


def _accumulators(count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor) -> tuple[int, int, int, int]:
    # Autograd cannot see what is written through a bare address.
    torch.autograd.graph.increment_version((count, tally, moments, extrema))
    return count.data_ptr(), tally.data_ptr(), moments.data_ptr(), extrema.data_ptr()


def glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    _native.glu(
        out.data_ptr(), *_rows(gate), *_rows(up), n, f,
        _DTYPE_CODE[gate.dtype], _ACT_CODE[act], torch.get_num_threads(),
    )  # fmt: skip
    return out


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    _native.glu_stats(
        out.data_ptr(), *_rows(gate), *_rows(up), n, f, order.data_ptr(), tiles.data_ptr(), tiles.shape[0],
        *_accumulators(count, tally, moments, extrema), count.shape[0],
        _DTYPE_CODE[gate.dtype], _ACT_CODE[act], product, torch.get_num_threads(),
    )  # fmt: skip
    return out


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    _native.glu_steer(
        out.data_ptr(), *_rows(gate), *_rows(up), n, f, program.data_ptr(), 0 if rows is None else rows.data_ptr(),
        _DTYPE_CODE[gate.dtype], _ACT_CODE[act], torch.get_num_threads(),
    )  # fmt: skip
    return out


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    n, f = h.shape
    _native.neuron_stats(
        *_rows(h), *_rows(gate), n, f, order.data_ptr(), tiles.data_ptr(), tiles.shape[0],
        *_accumulators(count, tally, moments, extrema), count.shape[0],
        _DTYPE_CODE[h.dtype], torch.get_num_threads(),
    )  # fmt: skip
