"""out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows.

Floor: that of glu, and what statistics.py says of runs and accumulators: about 4 % more for 10 segments and 8192
rows in 16 bits, 18 % for 64. The rows are gathered through the plan's order, 128 bytes at a time, and the output
goes back to where they came from, so the order of the labels changes which lines are moved when, not how many.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from .activation import glu_tile
from .launch import rows_of
from .statistics import TILE_ROWS, Runs, flush, load_tile, measure, part_of, reset


@triton.jit(do_not_specialize=["num_tiles", "chunk_tiles", "runs"])
def glu_stats_kernel(
    out, gate, up, gate_stride, up_stride, f, order, tiles, num_tiles, chunk_tiles, runs,
    count, before, run_tally, run_moments, run_extrema,
    GATED: tl.constexpr, ACT: tl.constexpr, PRODUCT: tl.constexpr,
    COLUMNS: tl.constexpr, PART_ROWS: tl.constexpr, EVEN: tl.constexpr,
    SINGLE_PASS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    if OVERLAP:
        gdc_launch_dependents()  # the merge may start as soon as every program has
    blocks = tl.cdiv(f, COLUMNS)
    block, chunk = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    tl.assume(gate_stride >= 0)
    tl.assume(up_stride >= 0)
    tl.assume(f >= 0)
    current = tl.full([], -1, tl.int64)
    seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, column, PART_ROWS)
    for t in range(chunk * chunk_tiles, tl.minimum((chunk + 1) * chunk_tiles, num_tiles)):
        segment, rows, place = load_tile(tiles, order, t)
        if rows > 0:
            if segment != current:
                if current >= 0:
                    flush(current, chunk, column, f, runs, block == 0, count, before, run_tally, run_moments,
                          run_extrema, active, nonfinite, mean, m2, low, high)  # fmt: skip
                current = segment
                seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, column, PART_ROWS)
            # Loads come before the first store: the compiler moves none past it.
            g, u, h = (), (), ()
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = part_of(place, rows, part, column, f, PART_ROWS, EVEN)
                g += (tl.load(gate + row * gate_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
                if GATED:
                    u += (tl.load(up + row * up_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = part_of(place, rows, part, column, f, PART_ROWS, EVEN)
                h += (glu_tile(g[part], u[part] if GATED else g[part], GATED, ACT),)  # type: ignore[assignment]
                tl.store(out + row * f + column[None, :], h[part], mask=inside)
            seen, active, nonfinite, mean, m2, low, high = measure(
                h, h if PRODUCT else g, out, f, place, rows, column, f,
                seen, active, nonfinite, mean, m2, low, high, PART_ROWS, SINGLE_PASS,
            )  # fmt: skip
    if current >= 0:
        flush(current, chunk, column, f, runs, block == 0, count, before, run_tally, run_moments,
              run_extrema, active, nonfinite, mean, m2, low, high)  # fmt: skip


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    if n == 0:
        return out
    runs = Runs(gate, tiles, count)
    glu_stats_kernel[runs.grid](
        out, *rows_of(gate, up), f, order, tiles, *runs.shape, count, *runs.workspace,
        up is not None, act, product, *runs.form, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    runs.merge(count, tally, moments, extrema)
    return out
