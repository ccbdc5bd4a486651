"""out = the intervention of each row's program on act(gate) up. A row of no program is glu's row.

Floor: that of glu, 6 bytes an element in 16 bits. The four parameters of a neuron are 16 bytes more, which must not
come from memory for every row. One program for all rows: a tile of 16 rows loads them once, 1 byte an element. A
program by row: tiles are no wider than 128 columns, so that the slices of 8 programs are 16 KB and stay in the L1
cache of the SM while the tile's 32 rows pick from them; that is 22 bytes an element from L1, half of what it
delivers in the time the memory takes for 6. With one program an element takes 33 instructions in bf16 (silu, sm_90;
`python tools/instructions.py --triton`), not measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import glu_tile, intervene
from .launch import rows_of, tile_shape


@triton.jit(do_not_specialize=["n"])
def glu_steer_kernel(
    out, gate, up, gate_stride, up_stride, n, f, program, rows,
    MIXED: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(f, COLUMNS)
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < n) & (column < f)
    g = tl.load(gate + row * gate_stride + column, mask=inside)
    u = g
    if GATED:
        u = tl.load(up + row * up_stride + column, mask=inside)
    h = glu_tile(g, u, GATED, ACT)
    if MIXED:
        chosen = tl.load(rows + row, mask=row < n, other=-1)
        steered = inside & (chosen >= 0)
        table = program + chosen.to(tl.int64) * 4 * f + column
    else:
        steered = column < f
        table = program + column
    # A row of no program gets the neutral parameters, which keep every bit.
    scale = tl.load(table, mask=steered, other=1.0)
    damping = tl.load(table + f, mask=steered, other=0.0)
    floor = tl.load(table + 2 * f, mask=steered, other=float("-inf"))
    shift = tl.load(table + 3 * f, mask=steered, other=-0.0)
    h = intervene(h.to(tl.float32), scale, damping, floor, shift).to(h.dtype)
    tl.store(out + row * f + column, h, mask=inside)


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    if n == 0 or f == 0:
        return out
    tile_rows, columns = tile_shape(min(f, 128), 4096 // gate.itemsize)
    glu_steer_kernel[(triton.cdiv(n, tile_rows) * triton.cdiv(f, columns),)](
        out, *rows_of(gate, up), n, f, program, program if rows is None else rows,
        rows is not None, up is not None, act, tile_rows, columns, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
