"""out = down . intervention(act(gate x) (up x)) for a few rows, in two launches that read each weight once.

The rows, at most MLP_ROWS, are one operand of tensor-core products whatever their number: the time goes into reading
the weights (8B shape, bf16: 235 MB and 117 MB). The gate and up rows of a neuron that every row has hard-masked are not
read. Where down is stored by neuron, its row is not read for a neuron whose h' is 0 in every row.

Where down is stored by neuron, its neurons are split among blocks; the shapes alone decide how. The last block of a
strip of outputs to finish adds up the partial sums of all splits, in a fixed order. Finished blocks are counted
atomically; no float is added so. The host reads nothing, so that a captured graph serves any interventions. None of
this has been measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from affectron import _native

from .activation import INTERPRETED, glu_values, intervene, load_program
from .launch import rows_of

ROWS = tl.constexpr(_native.MLP_ROWS)
# Blocks aimed at where down is stored by neuron: several for each SM of the largest GPUs.
DOWN_BLOCKS = 640


@triton.jit
def multiply(a, b, total):
    """total + a b, with exact products and fp32 sums. The interpreter cannot multiply bf16, so it converts to fp32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def product(x, x_stride, n, weights, stride, output, wanted, size, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr):
    """x weights^T, fp32 [ROWS, OUTPUTS], for the rows ``output`` of the weights. A row that is not ``wanted`` is not
    read, and gives 0."""
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, size, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(x + row[:, None] * x_stride + k[None, :], mask=(row < n)[:, None] & (k < size)[None, :], other=0.0)
        b = tl.load(
            weights + output[:, None].to(tl.int64) * stride + k[None, :],
            mask=wanted[:, None] & (k < size)[None, :],
            other=0.0,
        )
        total = multiply(a, tl.trans(b), total)
    return tl.where(wanted[None, :], total, 0.0)


@triton.jit(do_not_specialize=["n", "strips"])
def gate_up_kernel(
    h, x, gate, up, x_stride, gate_stride, up_stride, n, inputs, f, program, rows, finished, strips,
    MIXED: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    if tl.program_id(0) == 0:  # the second launch counts from 0
        for start in range(0, strips, 128):
            strip = start + tl.arange(0, 128)
            tl.store(finished + strip, tl.zeros((128,), tl.int32), mask=strip < strips)
    row = tl.arange(0, ROWS)[:, None]
    neuron = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (row < n) & (neuron < f)[None, :]
    steered, table = inside, program + neuron[None, :]
    if MIXED:
        chosen = tl.load(rows + row, mask=row < n, other=-1)
        steered, table = inside & (chosen >= 0), table + chosen.to(tl.int64) * 4 * f
    scale, damping, floor, shift = load_program(table, f, steered)
    # Hard-masked: the factor is 0 for every h. A neuron that is so in all rows is not computed: h = 0 gives h' = shift.
    masked = (tl.maximum(scale, floor) == 0.0) & ((damping == 0.0) | ((damping > 0.0) & (floor == 0.0)))
    computed = tl.max((inside & (masked == 0)).to(tl.int32), 0) > 0
    g = product(x, x_stride, n, gate, gate_stride, neuron, computed, inputs, OUTPUTS, DEPTH).to(h.dtype.element_ty)
    u = g
    if GATED:
        u = product(x, x_stride, n, up, up_stride, neuron, computed, inputs, OUTPUTS, DEPTH).to(h.dtype.element_ty)
    value = intervene(glu_values(g, u, GATED, ACT).to(tl.float32), scale, damping, floor, shift)
    tl.store(h + row * f + neuron[None, :], value.to(h.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def down_by_output_kernel(
    out, down, h, down_stride, n, f, outputs, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = product(h, f, n, down, down_stride, output, output < outputs, f, OUTPUTS, DEPTH)
    row = tl.arange(0, ROWS)[:, None]
    mask = (row < n) & (output < outputs)[None, :]
    tl.store(out + row * outputs + output[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "splits"])
def down_by_neuron_kernel(
    out, down, h, partial, finished, down_stride, n, f, outputs, split_neurons, splits,
    SPLITS: tl.constexpr, NEURONS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strip, split = tl.program_id(0), tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    output = strip * COLUMNS + column
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(split * split_neurons, tl.minimum((split + 1) * split_neurons, f), NEURONS):
        neuron = start + tl.arange(0, NEURONS)
        factor = tl.load(
            h + row[:, None] * f + neuron[None, :], mask=(row < n)[:, None] & (neuron < f)[None, :], other=0.0
        )
        needed = tl.max((factor != 0.0).to(tl.int32), 0) > 0
        weights = tl.load(
            down + neuron[:, None].to(tl.int64) * down_stride + output[None, :],
            mask=needed[:, None] & (output < outputs)[None, :],
            other=0.0,
        )
        total = multiply(factor, weights, total)
    sums = partial + strip.to(tl.int64) * splits * n * COLUMNS + column[None, :]
    tl.store(sums + (split * n + row)[:, None] * COLUMNS, total, mask=(row < n)[:, None])
    tl.debug_barrier()
    if tl.atomic_add(finished + strip, 1, sem="acq_rel") == splits - 1:
        each = tl.arange(0, SPLITS)
        for r in range(n):
            # Past the L1 cache, which may hold older values than other SMs have written.
            parts = tl.load(
                sums + (each * n + r)[:, None] * COLUMNS,
                mask=(each < splits)[:, None],
                other=0.0,
                cache_modifier=".cg",
            )
            tl.store(out + r * outputs + output, tl.sum(parts, 0).to(out.dtype.element_ty), mask=output < outputs)


def masked_mlp(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None, act: str
) -> Tensor:
    (n, inputs), (outputs, f) = x.shape, w_down.shape
    out = torch.empty((n, outputs), dtype=x.dtype, device=x.device)
    if n == 0 or outputs == 0:
        return out
    half = x.itemsize == 2  # no tensor core multiplies fp32 exactly: smaller blocks, which registers hold
    block, depth = 16, 256 if half else 64
    by_neuron = w_down.stride(0) == 1 != w_down.stride(1)
    neurons, columns = (32, 128) if half else (16, 64)
    strips = triton.cdiv(outputs, columns)
    split_neurons = triton.cdiv(triton.cdiv(max(f, 1), max(1, DOWN_BLOCKS // strips)), 4 * neurons) * 4 * neurons
    splits = triton.cdiv(max(f, 1), split_neurons)

    h = torch.empty((n, f), dtype=x.dtype, device=x.device)
    finished = torch.empty(strips, dtype=torch.int32, device=x.device)
    gate, up, gate_stride, up_stride = rows_of(w_gate, w_up)
    gate_up_kernel[(triton.cdiv(max(f, 1), block),)](
        h, x, gate, up, x.stride(0), gate_stride, up_stride, n, inputs, f,
        program, program if rows is None else rows, finished, strips if by_neuron else 0,
        rows is not None, w_up is not None, act, block, depth, num_warps=4, num_stages=4, enable_fp_fusion=False,
    )  # fmt: skip
    if by_neuron:
        partial = torch.empty((strips, splits, n, columns), dtype=torch.float32, device=x.device)
        down_by_neuron_kernel[(strips, splits)](
            out, w_down.t(), h, partial, finished, w_down.stride(1), n, f, outputs, split_neurons, splits,
            triton.next_power_of_2(splits), neurons, columns, num_warps=4, num_stages=4, enable_fp_fusion=False,
        )  # fmt: skip
    else:
        down_by_output_kernel[(triton.cdiv(outputs, block),)](
            out, w_down, h, w_down.stride(0), n, f, outputs, block, depth,
            num_warps=4, num_stages=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out
