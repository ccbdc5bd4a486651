"""out = the intervention of each row's program on act(gate) up. A row without a program equals glu's row.

Floor: that of glu, 6 bytes an element in 16 bits. The four parameters of a neuron are 16 bytes more, which must not
come from memory for every row. With one program for all rows, a block of 16 rows loads them once: 1 byte an element.
With a program by row, blocks are at most 128 columns wide, so that the slices of 8 programs are 16 KB and stay in the
L1 cache of the SM while the block's 32 rows pick from them. That is 22 bytes an element from L1, half of what it
delivers in the time the memory takes for 6. With one program an element takes 33 instructions in bf16 (silu, sm_90;
`python tools/instructions.py --triton`), not measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import glu_values, intervene, load_program
from .launch import block_shape, rows_of


@triton.jit(do_not_specialize=["n"])
def glu_steer_kernel(
    out, gate, up, gate_stride, up_stride, n, f, program, rows,
    MIXED: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(f, COLUMNS)
    row = (tl.program_id(0) // strips).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < n) & (column < f)
    g = tl.load(gate + row * gate_stride + column, mask=inside)
    u = g
    if GATED:
        u = tl.load(up + row * up_stride + column, mask=inside)
    h = glu_values(g, u, GATED, ACT)
    if MIXED:
        chosen = tl.load(rows + row, mask=row < n, other=-1)
        steered = inside & (chosen >= 0)
        table = program + chosen.to(tl.int64) * 4 * f + column
    else:
        steered = column < f
        table = program + column
    scale, damping, floor, shift = load_program(table, f, steered)
    h = intervene(h.to(tl.float32), scale, damping, floor, shift).to(h.dtype)
    tl.store(out + row * f + column, h, mask=inside)


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    if n == 0 or f == 0:
        return out
    block_rows, columns = block_shape(min(f, 128), 4096 // gate.itemsize)
    glu_steer_kernel[(triton.cdiv(n, block_rows) * triton.cdiv(f, columns),)](
        out, *rows_of(gate, up), n, f, program, program if rows is None else rows,
        rows is not None, up is not None, act, block_rows, columns, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
