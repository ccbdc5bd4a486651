"""Statistics of a given activation: glu_stats without the product, and with nothing to write but the runs.

Floor: one read of h, and one of gate where it says what is active: 2 or 4 bytes an element in 16 bits.
An element takes 20 instructions in bf16, a tile's merge included (sm_90; `python tools/instructions.py --triton`), not
measured on a GPU.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from .launch import rows_of
from .statistics import TILE_ROWS, Runs, flush, load_tile, measure, part_of, reset


@triton.jit(do_not_specialize=["num_tiles", "chunk_tiles", "runs"])
def neuron_stats_kernel(
    h, gate, h_stride, gate_stride, f, order, tiles, num_tiles, chunk_tiles, runs,
    count, before, run_tally, run_moments, run_extrema,
    GATED: tl.constexpr, COLUMNS: tl.constexpr, PART_ROWS: tl.constexpr, EVEN: tl.constexpr,
    SINGLE_PASS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    if OVERLAP:
        gdc_launch_dependents()  # the merge may start as soon as every program has
    blocks = tl.cdiv(f, COLUMNS)
    block, chunk = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    tl.assume(h_stride >= 0)
    tl.assume(gate_stride >= 0)
    current = tl.full([], -1, tl.int64)
    seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, column, PART_ROWS)
    for t in range(chunk * chunk_tiles, tl.minimum((chunk + 1) * chunk_tiles, num_tiles)):
        segment, rows, place = load_tile(tiles, order, t)
        if (rows > 0) & (segment >= 0):
            if segment != current:
                if current >= 0:
                    flush(current, chunk, column, f, runs, block == 0, count, before, run_tally, run_moments,
                          run_extrema, active, nonfinite, mean, m2, low, high)  # fmt: skip
                current = segment
                seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, column, PART_ROWS)
            value, g = (), ()
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = part_of(place, rows, part, column, f, PART_ROWS, EVEN)
                value += (tl.load(h + row * h_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
                if GATED:
                    g += (tl.load(gate + row * gate_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
            seen, active, nonfinite, mean, m2, low, high = measure(
                value, g if GATED else value, h, h_stride, place, rows, column, f,
                seen, active, nonfinite, mean, m2, low, high, PART_ROWS, SINGLE_PASS,
            )  # fmt: skip
    if current >= 0:
        flush(current, chunk, column, f, runs, block == 0, count, before, run_tally, run_moments,
              run_extrema, active, nonfinite, mean, m2, low, high)  # fmt: skip


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    n, f = h.shape
    if n == 0:
        return
    runs = Runs(h, tiles, count)
    neuron_stats_kernel[runs.grid](
        *rows_of(h, gate), f, order, tiles, *runs.shape, count, *runs.workspace,
        gate is not None, *runs.form, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    runs.merge(count, tally, moments, extrema)
