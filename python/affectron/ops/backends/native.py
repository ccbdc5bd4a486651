"""Calls into the compiled module. Tensors become addresses in this file alone.

The same functions serve tensors on the CPU and, where the build has CUDA kernels, on CUDA devices. There they enqueue
their work on the stream that is current on the tensors' device and return, so they may be captured in a graph.

Arguments are passed by position: keywords would add 0.35 µs to the 5.5 of a call of ``glu_steer`` for one row of 8192
neurons. Shapes are made into tuples: torch.empty takes 0.3 µs longer with a torch.Size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affectron import _native
from affectron.ops._codes import ACTIVATION_CODES, DTYPE_CODES

isa_level = _native.isa_level
isa_levels = _native.isa_levels
set_isa_level = _native.set_isa_level


def _rows(value: Tensor | None) -> _native.Rows:
    return (0, 0) if value is None else (value.data_ptr(), value.stride(0))


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _plan(order: Tensor, tiles: Tensor, num_segments: int) -> _native.Plan:
    return order.data_ptr(), tiles.data_ptr(), tiles.shape[0], num_segments


def _stats(count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor) -> _native.Stats:
    # Autograd cannot see what is written through a bare address.
    torch.autograd.graph.increment_version((count, tally, moments, extrema))
    return count.data_ptr(), tally.data_ptr(), moments.data_ptr(), extrema.data_ptr(), tally.stride(0)


def _check(kernel: str, status: int) -> None:
    """Raise where a CUDA kernel could not be enqueued."""
    if status:
        raise RuntimeError(f"{kernel} failed: {_native.cuda_error_name(status)} ({_native.cuda_error_text(status)})")


def _stream(device: torch.device) -> int:
    """The current stream of ``device``, which ops._registry has made torch's current device. The compiled module has a
    CUDA runtime of its own, which must be told the device."""
    _check("cudaSetDevice", _native.cuda_use_device(device.index))
    return int(torch.cuda.current_stream(device).cuda_stream)


def _workspace(size: int, device: torch.device) -> Tensor:
    """Bytes for a CUDA kernel's partial results. The caching allocator reuses them after the call, on the same
    stream."""
    return torch.empty(size, dtype=torch.uint8, device=device)


def glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    arguments = (
        (out.data_ptr(), f), _rows(gate), _rows(up), (n, f), DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act],
    )  # fmt: skip
    if gate.is_cuda:
        _check("glu", _native.cuda_glu(*arguments, _stream(gate.device)))
    else:
        _native.glu(*arguments, torch.get_num_threads())
    return out


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    gradients: Tensor | None, act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n, f = gate.shape
    grad_gate = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    grad_up = gate.new_empty(0) if up is None else torch.empty_like(grad_gate)
    plan, written = (0, 0, 0, 0), [t for t in (sums, gradients) if t is not None]
    if order is not None and tiles is not None and sums is not None:
        torch.autograd.graph.increment_version(written)  # as in _stats
        plan = _plan(order, tiles, sums.shape[0])
    arguments = (
        (grad_gate.data_ptr(), f), (grad_up.data_ptr(), f), _rows(grad), _rows(gate), _rows(up), (n, f),
        plan, _address(sums), _address(gradients), DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act],
    )  # fmt: skip
    if gate.is_cuda:
        workspace = _workspace(_native.cuda_backward_workspace_size(f, plan[2], len(written)), gate.device)
        _check("glu_backward", _native.cuda_glu_backward(*arguments, workspace.data_ptr(), _stream(gate.device)))
    else:
        _native.glu_backward(*arguments, torch.get_num_threads())
    return grad_gate, grad_up


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    (n, f), dtype = gate.shape, DTYPE_CODES[gate.dtype]
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    plan = _plan(order, tiles, count.shape[0])
    arguments = (
        (out.data_ptr(), f), _rows(gate), _rows(up), (n, f), plan, _stats(count, tally, moments, extrema),
        dtype, ACTIVATION_CODES[act], product,
    )  # fmt: skip
    if gate.is_cuda:
        workspace = _workspace(_native.cuda_workspace_size((n, f), *plan[2:], dtype), gate.device)
        _check("glu_stats", _native.cuda_glu_stats(*arguments, workspace.data_ptr(), _stream(gate.device)))
    else:
        _native.glu_stats(*arguments, torch.get_num_threads())
    return out


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    programs = program.data_ptr(), _address(rows)
    arguments = (
        (out.data_ptr(), f), _rows(gate), _rows(up), (n, f), programs, DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act],
    )  # fmt: skip
    if gate.is_cuda:
        _check("glu_steer", _native.cuda_glu_steer(*arguments, _stream(gate.device)))
    else:
        _native.glu_steer(*arguments, torch.get_num_threads())
    return out


def stored_by_neuron(w_down: Tensor) -> bool:
    """Tell whether the weights [O, F] of one neuron lie next to one another, as ops.neuron_major stores them."""
    return w_down.dim() == 2 and w_down.stride(0) == 1 != w_down.stride(1)


def masked_mlp(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None, act: str
) -> Tensor:
    (n, inputs), (outputs, f) = x.shape, w_down.shape
    out = torch.empty((n, outputs), dtype=x.dtype, device=x.device)
    by_neuron, dtype, shape = stored_by_neuron(w_down), DTYPE_CODES[x.dtype], (n, inputs, f, outputs)
    programs = program.data_ptr(), _address(rows)
    weights = _rows(w_gate), _rows(w_up), _rows(w_down.t() if by_neuron else w_down), by_neuron
    arguments = (
        (out.data_ptr(), outputs), _rows(x), weights, shape, programs, dtype, ACTIVATION_CODES[act],
    )  # fmt: skip
    if x.is_cuda:
        workspace = _workspace(_native.cuda_mlp_workspace_size(shape, dtype, by_neuron), x.device)
        _check("masked_mlp", _native.cuda_masked_mlp(*arguments, workspace.data_ptr(), _stream(x.device)))
    else:
        _native.masked_mlp(*arguments, torch.get_num_threads())
    return out


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    (n, f), dtype = h.shape, DTYPE_CODES[h.dtype]
    plan = _plan(order, tiles, count.shape[0])
    arguments = _rows(h), _rows(gate), (n, f), plan, _stats(count, tally, moments, extrema), dtype
    if h.is_cuda:
        workspace = _workspace(_native.cuda_workspace_size((n, f), *plan[2:], dtype), h.device)
        _check("neuron_stats", _native.cuda_neuron_stats(*arguments, workspace.data_ptr(), _stream(h.device)))
    else:
        _native.neuron_stats(*arguments, torch.get_num_threads())
