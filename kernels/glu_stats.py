"""out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows.

Floor: that of glu, and the cost of partials and accumulators (statistics.py): about 4 % more for 10 segments and 8192
rows in 16 bits, 18 % for 64. The rows are gathered through the plan's order, 128 bytes at a time, and the output goes
back to the same rows, so that the order of the labels changes when a cache line is moved, not how many are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from .activation import glu_values
from .launch import rows_of
from .statistics import TILE_ROWS, Partials, empty_partial, load_tile, merge_tile, tile_part, write_partial


@triton.jit(do_not_specialize=["num_tiles", "tiles_per_group", "slots"])
def glu_stats_kernel(
    out, gate, up, gate_stride, up_stride, f, order, tiles, num_tiles, tiles_per_group, slots,
    count, before, partial_tally, partial_moments, partial_extrema,
    GATED: tl.constexpr, ACT: tl.constexpr, PRODUCT: tl.constexpr,
    COLUMNS: tl.constexpr, PART_ROWS: tl.constexpr, EVEN: tl.constexpr,
    SINGLE_PASS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    if OVERLAP:
        gdc_launch_dependents()  # the merge may start as soon as every block has
    strips = tl.cdiv(f, COLUMNS)
    strip, group = tl.program_id(0) % strips, tl.program_id(0) // strips
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    tl.assume(gate_stride >= 0)
    tl.assume(up_stride >= 0)
    tl.assume(f >= 0)
    current = tl.full([], -1, tl.int64)
    seen, active, nonfinite, mean, m2, low, high = empty_partial(partial_tally, partial_moments, column, PART_ROWS)
    for t in range(group * tiles_per_group, tl.minimum((group + 1) * tiles_per_group, num_tiles)):
        segment, rows, row_numbers = load_tile(tiles, order, t)
        if rows > 0:
            if segment != current:
                if current >= 0:
                    write_partial(
                        current, group, column, f, slots, strip == 0, count, before,
                        partial_tally, partial_moments, partial_extrema, active, nonfinite, mean, m2, low, high,
                    )  # fmt: skip
                current = segment
                seen, active, nonfinite, mean, m2, low, high = empty_partial(
                    partial_tally, partial_moments, column, PART_ROWS
                )
            # All loads stand before the first store: the compiler moves no load past a store.
            g, u, h = (), (), ()
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = tile_part(row_numbers, rows, part, column, f, PART_ROWS, EVEN)
                g += (tl.load(gate + row * gate_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
                if GATED:
                    u += (tl.load(up + row * up_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = tile_part(row_numbers, rows, part, column, f, PART_ROWS, EVEN)
                h += (glu_values(g[part], u[part] if GATED else g[part], GATED, ACT),)  # type: ignore[assignment]
                tl.store(out + row * f + column[None, :], h[part], mask=inside)
            seen, active, nonfinite, mean, m2, low, high = merge_tile(
                h, h if PRODUCT else g, out, f, row_numbers, rows, column, f,
                seen, active, nonfinite, mean, m2, low, high, PART_ROWS, SINGLE_PASS,
            )  # fmt: skip
    if current >= 0:
        write_partial(
            current, group, column, f, slots, strip == 0, count, before,
            partial_tally, partial_moments, partial_extrema, active, nonfinite, mean, m2, low, high,
        )  # fmt: skip


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    n, f = gate.shape
    out = torch.empty((n, f), dtype=gate.dtype, device=gate.device)
    if n == 0:
        return out
    partials = Partials(gate, tiles, count)
    glu_stats_kernel[partials.grid](
        out, *rows_of(gate, up), f, order, tiles, *partials.shape, count, *partials.workspace,
        up is not None, act, product, *partials.form, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    partials.merge(count, tally, moments, extrema)
    return out
