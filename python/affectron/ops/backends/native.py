"""Calls into the compiled module: tensors become addresses here, and nowhere else.

The same functions serve tensors on the CPU and, where the build has CUDA kernels, on CUDA devices. There they enqueue
their work on the stream that is current on the tensors' device and return, so they may be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from affectron import _native
from affectron.ops._codes import ACTIVATION_CODES, DTYPE_CODES

isa_level = _native.isa_level
isa_levels = _native.isa_levels
set_isa_level = _native.set_isa_level


def _rows(value: Tensor | None) -> tuple[int, int]:
    return (0, 0) if value is None else (value.data_ptr(), value.stride(0))


def _accumulators(count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor) -> tuple[int, int, int, int, int]:
    # Autograd cannot see what is written through a bare address.
    torch.autograd.graph.increment_version((count, tally, moments, extrema))
    return count.data_ptr(), tally.data_ptr(), moments.data_ptr(), extrema.data_ptr(), count.shape[0]


def _sums(order: Tensor | None, tiles: Tensor | None, sums: Tensor | None) -> tuple[int, int, int, int, int]:
    """A plan and the sums by segment that it is for; all three or none."""
    if order is None or tiles is None or sums is None:
        return 0, 0, 0, 0, 0
    torch.autograd.graph.increment_version(sums)
    return order.data_ptr(), tiles.data_ptr(), tiles.shape[0], sums.data_ptr(), sums.shape[0]


def _enqueue(name: str, kernel: Callable[..., int], device: torch.device, *arguments: int) -> None:
    """Call a CUDA kernel on the current stream of ``device``, which ops._registry has made torch's current device. The
    compiled module has a CUDA runtime of its own, which must be told the device."""
    stream = torch.cuda.current_stream(device).cuda_stream
    status = _native.cuda_use_device(device.index) or kernel(*arguments, stream)
    if status:
        raise RuntimeError(f"{name} failed: {_native.cuda_error_name(status)} ({_native.cuda_error_text(status)})")


def _workspace(value: Tensor, tiles: Tensor, num_segments: int) -> Tensor:
    """Room for the partial statistics of the CUDA kernels; the caching allocator gives it to others afterwards, on the
    same stream."""
    n, f = value.shape
    size = _native.cuda_workspace_size(n, f, tiles.shape[0], num_segments, DTYPE_CODES[value.dtype])
    return torch.empty(size, dtype=torch.uint8, device=value.device)


def glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    arguments = (out.data_ptr(), *_rows(gate), *_rows(up), n, f, DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act])
    if gate.is_cuda:
        _enqueue("glu", _native.cuda_glu, gate.device, *arguments)
    else:
        _native.glu(*arguments, torch.get_num_threads())
    return out


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n, f = gate.shape
    grad_gate = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    grad_up = gate.new_empty(0) if up is None else torch.empty_like(grad_gate)
    arguments = (
        grad_gate.data_ptr(), grad_up.data_ptr(), *_rows(grad), *_rows(gate), *_rows(up), n, f,
        *_sums(order, tiles, sums), DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act],
    )  # fmt: skip
    if gate.is_cuda:
        size = 0 if tiles is None else _native.cuda_backward_workspace_size(f, tiles.shape[0])
        workspace = torch.empty(size, dtype=torch.uint8, device=gate.device)
        _enqueue("glu_backward", _native.cuda_glu_backward, gate.device, *arguments, workspace.data_ptr())
    else:
        _native.glu_backward(*arguments, torch.get_num_threads())
    return grad_gate, grad_up


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    arguments = (
        out.data_ptr(), *_rows(gate), *_rows(up), n, f, order.data_ptr(), tiles.data_ptr(), tiles.shape[0],
        *_accumulators(count, tally, moments, extrema), DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act], product,
    )  # fmt: skip
    if gate.is_cuda:
        workspace = _workspace(gate, tiles, count.shape[0])
        _enqueue("glu_stats", _native.cuda_glu_stats, gate.device, *arguments, workspace.data_ptr())
    else:
        _native.glu_stats(*arguments, torch.get_num_threads())
    return out


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    arguments = (
        out.data_ptr(), *_rows(gate), *_rows(up), n, f, program.data_ptr(),
        0 if rows is None else rows.data_ptr(), DTYPE_CODES[gate.dtype], ACTIVATION_CODES[act],
    )  # fmt: skip
    if gate.is_cuda:
        _enqueue("glu_steer", _native.cuda_glu_steer, gate.device, *arguments)
    else:
        _native.glu_steer(*arguments, torch.get_num_threads())
    return out


def stored_by_neuron(w_down: Tensor) -> bool:
    """Whether the weights [O, F] of one neuron lie next to one another: what ops.neuron_major makes."""
    return w_down.dim() == 2 and w_down.stride(0) == 1 != w_down.stride(1)


def masked_mlp(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None, act: str
) -> Tensor:
    (n, inputs), (outputs, f) = x.shape, w_down.shape
    out = torch.empty((n, outputs), dtype=x.dtype, device=x.device)
    by_neuron, dtype = stored_by_neuron(w_down), DTYPE_CODES[x.dtype]
    arguments = (
        out.data_ptr(), *_rows(x), *_rows(w_gate), *_rows(w_up), *_rows(w_down.t() if by_neuron else w_down), by_neuron,
        n, inputs, f, outputs, program.data_ptr(), 0 if rows is None else rows.data_ptr(), dtype, ACTIVATION_CODES[act],
    )  # fmt: skip
    if x.is_cuda:
        size = _native.cuda_mlp_workspace_size(n, inputs, f, outputs, by_neuron, dtype)
        workspace = torch.empty(size, dtype=torch.uint8, device=x.device)
        _enqueue("masked_mlp", _native.cuda_masked_mlp, x.device, *arguments, workspace.data_ptr())
    else:
        _native.masked_mlp(*arguments, torch.get_num_threads())
    return out


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    n, f = h.shape
    arguments = (
        *_rows(h), *_rows(gate), n, f, order.data_ptr(), tiles.data_ptr(), tiles.shape[0],
        *_accumulators(count, tally, moments, extrema), DTYPE_CODES[h.dtype],
    )  # fmt: skip
    if h.is_cuda:
        workspace = _workspace(h, tiles, count.shape[0])
        _enqueue("neuron_stats", _native.cuda_neuron_stats, h.device, *arguments, workspace.data_ptr())
    else:
        _native.neuron_stats(*arguments, torch.get_num_threads())
