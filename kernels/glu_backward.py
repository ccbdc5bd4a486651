"""The gradients of act(gate) up and, where sums are wanted, h times its gradient, and also the gradient of h alone,
each summed over the rows of each segment.

Floor: 10 bytes an element in 16 bits (three reads, two writes), 20 in fp32. Without sums it is an elementwise kernel as
glu's. With sums a block walks a group of the plan's tiles for one strip of columns. It adds up a tile's terms in
fp32 and the tiles of a segment in fp64, and adds the result to the segment's sum, which no other block writes. The part
of a segment that an earlier group began goes to the workspace, one row a group; the second kernel adds these rows in
the order of the groups. The groups depend on the shapes alone, and so do the bits.

Cost of each sum (computed): it is read and written once for each segment, 8 bytes a neuron against the 300 that a
sentence of 30 rows moves in 16 bits; the workspace is at most 8 bytes in the 2560 of a group of 8 tiles.

A block has two warps: a full tile of 128 bytes a row takes 160 registers of each lane, and one warp would spill. In the
code for sm_90 (silu, bf16) there are 26 instructions an element, 42 with sums, where an H200 has time for 78 while its
memory moves the 10 bytes. None of this has been measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from .activation import INTERPRETED, activate, glu_values
from .launch import STRIP_BYTES, block_shape, make_groups, rows_of
from .statistics import TILE_ROWS, load_tile, tile_part


@triton.jit
def logistic(x, EXACT: tl.constexpr):
    """1 / (1 + exp(-x)), in the two forms of activation.py."""
    one = 1.0 + tl.zeros_like(x)
    if INTERPRETED:
        return one / (1.0 + tl.exp(-x))
    elif EXACT:
        return tl.div_rn(one, 1.0 + libdevice.exp(-x))
    else:
        return libdevice.fast_dividef(one, 1.0 + libdevice.fast_expf(-x))


@triton.jit
def slope(x, y, ACT: tl.constexpr, EXACT: tl.constexpr):
    """The derivative of the activation at x, where its value is ``y``: the Triton side of csrc/common/activation.h."""
    if ACT == "silu":
        s = logistic(x, EXACT)
        return s + y * (1.0 - s)
    elif ACT == "gelu":
        cdf = 0.5 * (1.0 + tl.erf(x * 0.70710678118654752440))
        return cdf + x * tl.exp(-0.5 * x * x) * 0.39894228040143267794
    elif ACT == "gelu_tanh":
        s = logistic(1.5957691216057307117 * tl.fma(0.044715 + tl.zeros_like(x), x * x * x, x), EXACT)
        return s + x * s * (1.0 - s) * 1.5957691216057307117 * (0.134145 * x * x + 1.0)
    elif ACT == "relu":
        return tl.where(x > 0.0, 1.0, 0.0)
    else:
        tl.static_assert(ACT == "relu2")
        return tl.where(x <= 0.0, 0.0, x + x)


@triton.jit
def input_gradients(grad, gate, up, GATED: tl.constexpr, ACT: tl.constexpr):
    """The gradients of gate and up in their dtype, rounded once. The second is meaningful only if GATED."""
    x, dh = gate.to(tl.float32), grad.to(tl.float32)
    y = activate(x, ACT, gate.dtype == tl.float32)
    grad_gate = dh * slope(x, y, ACT, gate.dtype == tl.float32)
    if GATED:
        grad_gate *= up.to(tl.float32)
    return grad_gate.to(gate.dtype), (dh * y).to(gate.dtype)


@triton.jit(do_not_specialize=["n"])
def glu_backward_kernel(
    grad_gate, grad_up, grad, gate, up, grad_stride, gate_stride, up_stride, n, f,
    GATED: tl.constexpr, ACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(f, COLUMNS)
    row = (tl.program_id(0) // strips).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < n) & (column < f)
    dh = tl.load(grad + row * grad_stride + column, mask=inside)
    g = tl.load(gate + row * gate_stride + column, mask=inside)
    u = g
    if GATED:
        u = tl.load(up + row * up_stride + column, mask=inside)
    dg, du = input_gradients(dh, g, u, GATED, ACT)
    tl.store(grad_gate + row * f + column, dg, mask=inside)
    if GATED:
        tl.store(grad_up + row * f + column, du, mask=inside)


@triton.jit
def carried_segment(tiles, group, tiles_per_group):
    """The segment that continues from the group before, -1 if none does."""
    first = tiles + 3 * group.to(tl.int64) * tiles_per_group
    before = tl.load(first - 3, mask=group > 0, other=-1)
    return tl.where(tl.load(first) == before, before, -1)


@triton.jit
def add_to_sum(segment, carried, group, column, f, sums, workspace, total):
    """Add a segment's total in a group to its sum; if an earlier group began the segment, write it to the workspace."""
    inside = column < f
    if segment == carried:
        tl.store(workspace + group.to(tl.int64) * f + column, total.to(tl.float32), mask=inside)
    else:
        sum_of = sums + segment * f + column
        tl.store(sum_of, (tl.load(sum_of, mask=inside, other=0.0).to(tl.float64) + total).to(tl.float32), mask=inside)


@triton.jit
def add_to_sums(
    segment, carried, group, column, f,
    sums, workspace, total, gradients, gradients_workspace, gradients_total, GRADIENTS: tl.constexpr,
):  # fmt: skip
    """Add a segment's totals in a group to its sums."""
    add_to_sum(segment, carried, group, column, f, sums, workspace, total)
    if GRADIENTS:
        add_to_sum(segment, carried, group, column, f, gradients, gradients_workspace, gradients_total)


@triton.jit(do_not_specialize=["num_tiles", "tiles_per_group"])
def glu_attribution_kernel(
    grad_gate, grad_up, grad, gate, up, grad_stride, gate_stride, up_stride, f,
    order, tiles, num_tiles, tiles_per_group, sums, workspace, gradients, gradients_workspace,
    GATED: tl.constexpr, ACT: tl.constexpr, COLUMNS: tl.constexpr, GRADIENTS: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(f, COLUMNS)
    strip, group = tl.program_id(0) % strips, tl.program_id(0) // strips
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    carried = carried_segment(tiles, group, tiles_per_group)
    current = tl.full([], -1, tl.int64)
    total = tl.zeros([COLUMNS], tl.float64)
    gradients_total = total
    for t in range(group * tiles_per_group, tl.minimum((group + 1) * tiles_per_group, num_tiles)):
        segment, rows, row_numbers = load_tile(tiles, order, t)
        if rows > 0:
            n, inside = tile_part(row_numbers, rows, 0, column, f, TILE_ROWS, False)
            dh = tl.load(grad + n * grad_stride + column[None, :], mask=inside, other=0.0)
            g = tl.load(gate + n * gate_stride + column[None, :], mask=inside, other=0.0)
            u = g
            if GATED:
                u = tl.load(up + n * up_stride + column[None, :], mask=inside, other=0.0)
            dg, du = input_gradients(dh, g, u, GATED, ACT)
            tl.store(grad_gate + n * f + column[None, :], dg, mask=inside)
            if GATED:
                tl.store(grad_up + n * f + column[None, :], du, mask=inside)
            if segment >= 0:
                if segment != current:
                    if current >= 0:
                        add_to_sums(
                            current, carried, group, column, f,
                            sums, workspace, total, gradients, gradients_workspace, gradients_total, GRADIENTS,
                        )  # fmt: skip
                    current = segment
                    total = tl.zeros([COLUMNS], tl.float64)
                    gradients_total = total
                h = glu_values(g, u, GATED, ACT)
                total += tl.sum(h.to(tl.float32) * dh.to(tl.float32), 0).to(tl.float64)
                if GRADIENTS:
                    gradients_total += tl.sum(dh.to(tl.float32), 0).to(tl.float64)
    if current >= 0:
        add_to_sums(
            current, carried, group, column, f,
            sums, workspace, total, gradients, gradients_workspace, gradients_total, GRADIENTS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["groups", "tiles_per_group"])
def add_carried_kernel(tiles, groups, tiles_per_group, f, sums, workspace, COLUMNS: tl.constexpr):
    """Add to a segment's sum the workspace rows of the groups after its first, in order. The block of the first of
    these groups adds them all."""
    strips = tl.cdiv(f, COLUMNS)
    group = tl.program_id(0) // strips + 1
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < f
    segment = carried_segment(tiles, group, tiles_per_group)
    if (segment >= 0) & (carried_segment(tiles, group - 1, tiles_per_group) != segment):
        sum_of = sums + segment * f + column
        total = tl.load(sum_of, mask=inside, other=0.0).to(tl.float64)
        goes_on = segment >= 0
        while goes_on:
            total += tl.load(workspace + group.to(tl.int64) * f + column, mask=inside, other=0.0).to(tl.float64)
            group += 1
            goes_on = (
                tl.load(tiles + 3 * group.to(tl.int64) * tiles_per_group, mask=group < groups, other=-1) == segment
            )
        tl.store(sum_of, total.to(tl.float32), mask=inside)


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    gradients: Tensor | None, act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n, f = gate.shape
    grad_gate = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    grad_up = gate.new_empty(0) if up is None else torch.empty_like(grad_gate)
    if n == 0 or f == 0:
        return grad_gate, grad_up
    gate, second, gate_stride, up_stride = rows_of(gate, up)
    operands = grad_gate, grad_up, grad, gate, second, grad.stride(0), gate_stride, up_stride
    if order is None or tiles is None or sums is None:
        rows, columns = block_shape(f, 4096 // gate.itemsize)
        glu_backward_kernel[(triton.cdiv(n, rows) * triton.cdiv(f, columns),)](
            *operands, n, f, up is not None, act, rows, columns, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        return grad_gate, grad_up
    targets = [sums] if gradients is None else [sums, gradients]
    torch.autograd.graph.increment_version(targets)  # autograd cannot see that a kernel writes
    columns = STRIP_BYTES // gate.itemsize
    num_tiles, strips = tiles.shape[0], triton.cdiv(f, columns)
    groups, tiles_per_group = make_groups(num_tiles, strips)
    workspaces = torch.empty((len(targets), groups, f), dtype=torch.float32, device=gate.device).unbind()
    glu_attribution_kernel[(strips * groups,)](
        *operands, f, order, tiles, num_tiles, tiles_per_group,
        targets[0], workspaces[0], targets[-1], workspaces[-1], up is not None, act, columns, gradients is not None,
        num_warps=2, enable_fp_fusion=False,
    )  # fmt: skip
    for target, workspace in zip(targets, workspaces, strict=True) if groups > 1 else ():
        add_carried_kernel[((groups - 1) * triton.cdiv(f, 128),)](
            tiles, groups, tiles_per_group, f, target, workspace, 128, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return grad_gate, grad_up
