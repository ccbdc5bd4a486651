"""out = act(gate) up.

Floor: 6 bytes an element in 16 bits (two reads, one write), 12 in fp32; nothing is read twice. A block has 4 KB of each
operand: 128 threads with two 16-byte loads of each operand under way, so that the 16 blocks an SM holds ask for 128 KB
at a time, several times what its share of the memory's latency and bandwidth needs. In bf16 an element takes 14
instructions, in fp32 32 (silu, sm_90; `python tools/instructions.py --triton`), not measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import glu_values
from .launch import block_shape, rows_of


@triton.jit(do_not_specialize=["n"])
def glu_kernel(
    out, gate, up, gate_stride, up_stride, n, f,
    GATED: tl.constexpr, ACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(f, COLUMNS)  # blocks that run at the same time are neighbours in a row
    row = (tl.program_id(0) // strips).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < n) & (column < f)
    g = tl.load(gate + row * gate_stride + column, mask=inside)
    u = g
    if GATED:
        u = tl.load(up + row * up_stride + column, mask=inside)
    tl.store(out + row * f + column, glu_values(g, u, GATED, ACT), mask=inside)


def glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    if n == 0 or f == 0:
        return out
    rows, columns = block_shape(f, 4096 // gate.itemsize)
    glu_kernel[(triton.cdiv(n, rows) * triton.cdiv(f, columns),)](
        out, *rows_of(gate, up), n, f, up is not None, act, rows, columns, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
