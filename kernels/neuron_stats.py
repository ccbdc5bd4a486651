"""Statistics of a given activation: glu_stats without the product, which writes only partials.

Floor: one read of h, and one of gate where gate says what is active: 2 or 4 bytes an element in 16 bits. An element
takes 20 instructions in bf16, a tile's merge included (sm_90; `python tools/instructions.py --triton`), not measured on
a GPU.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from .launch import rows_of
from .statistics import TILE_ROWS, Partials, empty_partial, load_tile, merge_tile, tile_part, write_partial


@triton.jit(do_not_specialize=["num_tiles", "tiles_per_group", "slots"])
def neuron_stats_kernel(
    h, gate, h_stride, gate_stride, f, order, tiles, num_tiles, tiles_per_group, slots,
    count, before, partial_tally, partial_moments, partial_extrema,
    GATED: tl.constexpr, COLUMNS: tl.constexpr, PART_ROWS: tl.constexpr, EVEN: tl.constexpr,
    SINGLE_PASS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    if OVERLAP:
        gdc_launch_dependents()  # the merge may start as soon as every block has
    strips = tl.cdiv(f, COLUMNS)
    strip, group = tl.program_id(0) % strips, tl.program_id(0) // strips
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    tl.assume(h_stride >= 0)
    tl.assume(gate_stride >= 0)
    current = tl.full([], -1, tl.int64)
    seen, active, nonfinite, mean, m2, low, high = empty_partial(partial_tally, partial_moments, column, PART_ROWS)
    for t in range(group * tiles_per_group, tl.minimum((group + 1) * tiles_per_group, num_tiles)):
        segment, rows, row_numbers = load_tile(tiles, order, t)
        if (rows > 0) & (segment >= 0):
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
            value, g = (), ()
            for part in tl.static_range(TILE_ROWS // PART_ROWS):
                row, inside = tile_part(row_numbers, rows, part, column, f, PART_ROWS, EVEN)
                value += (tl.load(h + row * h_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
                if GATED:
                    g += (tl.load(gate + row * gate_stride + column[None, :], mask=inside, other=0.0),)  # type: ignore[assignment]
            seen, active, nonfinite, mean, m2, low, high = merge_tile(
                value, g if GATED else value, h, h_stride, row_numbers, rows, column, f,
                seen, active, nonfinite, mean, m2, low, high, PART_ROWS, SINGLE_PASS,
            )  # fmt: skip
    if current >= 0:
        write_partial(
            current, group, column, f, slots, strip == 0, count, before,
            partial_tally, partial_moments, partial_extrema, active, nonfinite, mean, m2, low, high,
        )  # fmt: skip


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    n, f = h.shape
    if n == 0:
        return
    partials = Partials(h, tiles, count)
    neuron_stats_kernel[partials.grid](
        *rows_of(h, gate), f, order, tiles, *partials.shape, count, *partials.workspace,
        gate is not None, *partials.form, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    partials.merge(count, tally, moments, extrema)
