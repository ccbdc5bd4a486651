"""Statistics of a given activation: glu_stats without the product, and with nothing to write but the runs.

Floor: one read of h, and one of gate where it says what is active: 2 or 4 bytes an element in 16 bits.
"""

import triton
import triton.language as tl
from affectron.kernels.launch import rows_of
from affectron.kernels.statistics import Runs, flush, load_tile, measure, reset
from torch import Tensor


@triton.jit(do_not_specialize=["num_tiles", "chunk_tiles", "runs"])
def neuron_stats_kernel(
    h, gate, h_stride, gate_stride, f, order, tiles, num_tiles, chunk_tiles, runs,
    count, before, run_tally, run_moments, run_extrema, GATED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(f, COLUMNS)
    block, chunk = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    current = tl.full([], -1, tl.int64)
    seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, run_extrema, column)
    for t in range(chunk * chunk_tiles, tl.minimum((chunk + 1) * chunk_tiles, num_tiles)):
        segment, rows, row = load_tile(tiles, order, t)
        if (rows > 0) & (segment >= 0):
            value = tl.load(
                h + row[:, None].to(tl.int64) * h_stride + column[None, :], mask=column[None, :] < f, other=0.0
            )
            g = value
            if GATED:
                g = tl.load(
                    gate + row[:, None].to(tl.int64) * gate_stride + column[None, :],
                    mask=column[None, :] < f,
                    other=0.0,
                )
            if segment != current:
                if current >= 0:
                    flush(current, chunk, column, f, runs, block == 0, count, before, run_tally, run_moments,
                          run_extrema, active, nonfinite, mean, m2, low, high)  # fmt: skip
                current = segment
                seen, active, nonfinite, mean, m2, low, high = reset(run_tally, run_moments, run_extrema, column)
            seen, active, nonfinite, mean, m2, low, high = measure(
                value.to(tl.float32), g > 0, rows, seen, active, nonfinite, mean, m2, low, high
            )
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
        gate is not None, runs.columns, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    runs.merge(count, tally, moments, extrema)
