"""Statistics of tiles of rows, merged into the accumulators: the Triton side of csrc/cpu/accumulate.h, shared by
glu_stats and neuron_stats, which differ only in where the values come from.

Two kernels. In the first, a block walks a group of the plan's tiles for one strip of columns. It measures each tile in
fp32 while its values stay in registers, and merges it in fp64 (Chan et al. 1979) into a partial: the statistics of one
segment in one group. The second merges the partials of a segment into the accumulators, in the order of the groups. The
groups depend on the shapes alone, so the bits depend neither on the number of SMs nor on which block runs first.

On sm_90 the second kernel is launched while the first drains (programmatic dependent launch) and finds a segment's
tiles meanwhile. Until it has waited it reads only the plan and writes nothing. The plan was complete before the first
kernel began, because that kernel waits for all work before it as any kernel does.

The partial of segment s in group g is in slot g + s of the workspace. Both numbers only grow along the plan, so that no
two partials share a slot, and either kernel finds it without counting.

Cost beyond the values themselves: a partial is 32 bytes a neuron, written and read once (mostly from the L2 cache).
With 8 tiles a group that is 32 bytes against the 1536 that 256 rows move in 16 bits: 2 %, and another 2 % where the L2
does not hold it. The accumulators are read and written once a call: 80 bytes a segment and neuron, 1.6 % for 10
segments and 8192 rows, 10 % for 64.

A block is one warp: a lane has 8 rows of 8 neurons of a tile (16 bits). Each lane counts active rows and keeps min and
max for itself until a partial ends, so that a tile costs two reductions of two shuffles each and no barrier. A strip of
128 bytes keeps the gathered rows whole cache lines. A tile that fp32 cannot measure is rare, and is read again.

A full tile, its merge included, takes glu_stats 31 instructions an element and 210 registers in a single pass, 39 and
226 in two, of the 47 that an H200 can issue while its memory moves the 6 bytes; glu takes 14 (sm_90, silu, bf16, Triton
3.7.1; counted by `python tools/instructions.py --triton`). An SM holds 9 blocks or 8. None of this has been measured on
a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from affectron import _native

from . import forms, launch

TILE_ROWS = tl.constexpr(_native.TILE_ROWS)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def load_tile(tiles, order, t):
    """Segment of tile ``t``, its number of rows, and the address of its row numbers."""
    return tl.load(tiles + 3 * t), tl.load(tiles + 3 * t + 2).to(tl.int32), order + tl.load(tiles + 3 * t + 1)


@triton.jit
def tile_part(row_numbers, rows, part: tl.constexpr, column, f, PART_ROWS: tl.constexpr, EVEN: tl.constexpr):
    """Row numbers [PART_ROWS, 1] of one part of a tile, and the mask of the elements that exist. They are unsigned, so
    that an offset, row times stride in 64 bits, is one multiplication."""
    position = part * PART_ROWS + tl.arange(0, PART_ROWS)
    row = tl.load(row_numbers + position, mask=position < rows, other=0).to(tl.uint32).to(tl.int64)
    return row[:, None], (position < rows)[:, None] & (EVEN | (column < f)[None, :])


@triton.jit
def empty_partial(partial_tally, partial_moments, column, PART_ROWS: tl.constexpr):
    """A partial without observations: rows, then active [PART_ROWS, COLUMNS], nonfinite, mean, m2 [COLUMNS], min and
    max [PART_ROWS, COLUMNS]. Masked loads give the values of one dimension the layout of ``column``."""
    never = column < 0
    nonfinite = tl.load(partial_tally + column, mask=never, other=0)
    mean = tl.load(partial_moments + column, mask=never, other=0.0)
    low = tl.full((PART_ROWS, column.shape[0]), INFINITY, tl.float32)
    return tl.zeros([], tl.int32), tl.zeros(low.shape, tl.int32), nonfinite, mean, mean, low, -low


@triton.jit
def all_of(condition):
    return tl.min(condition.to(tl.int32), 0) != 0


@triton.jit
def merge_exactly(values, stride, row_numbers, rows, column, f, seen, nonfinite, mean, m2, low, high):
    """Merge a tile in fp64, from its ``values`` in memory, row by row; values that are not finite are left out. The
    pivot is the first finite value of each column."""
    tl.debug_barrier()  # other lanes of this block have just written the values
    observed = tl.zeros(column.shape, tl.int32)
    pivot = tl.zeros(column.shape, tl.float64)
    deviations, squares = pivot, pivot
    tile_low = tl.full(column.shape, INFINITY, tl.float32)
    tile_high = -tile_low
    for r in range(rows):
        value = tl.load(values + tl.load(row_numbers + r) * stride + column, mask=column < f, other=0.0).to(tl.float32)
        finite = tl.abs(value) < INFINITY
        pivot = tl.where(finite & (observed == 0), value.to(tl.float64), pivot)
        deviation = tl.where(finite, value.to(tl.float64) - pivot, 0.0)
        deviations += deviation
        squares += deviation * deviation
        observed += finite.to(tl.int32)
        tile_low = tl.minimum(tile_low, tl.where(finite, value, INFINITY))
        tile_high = tl.maximum(tile_high, tl.where(finite, value, -INFINITY))
    number = tl.maximum(observed, 1).to(tl.float64)
    before = seen - nonfinite
    share = observed / (before + number)
    delta = tl.where(observed > 0, pivot + deviations / number - mean, 0.0)
    mean += delta * share
    m2 += tl.maximum(squares - deviations * deviations / number, 0.0) + delta * delta * (before * share)
    low, high = tl.minimum(low, tile_low[None, :]), tl.maximum(high, tile_high[None, :])
    return nonfinite + rows - observed, mean, m2, low, high


@triton.jit
def merge_tile(
    h, signs, values, stride, row_numbers, rows, column, f, seen, active, nonfinite, mean, m2, low, high,
    PART_ROWS: tl.constexpr, SINGLE_PASS: tl.constexpr,
):  # fmt: skip
    """Merge a tile into a partial.

    ``h`` are the parts of the tile's values, 0 beyond its ``rows``; a row is active where the parts ``signs`` are
    positive. The values also lie at ``values``, in rows of ``stride`` elements.

    The tile's mean and m2 come from deviations from a pivot: the tile's mean or, in a single pass, the mean of the
    partial so far, 0 at first. The pivot's distance from the tile's mean cancels in m2 and leaves a rounding error. In
    the first tile of a partial it may make up half of the squares: m2 is then good to 6e-7 (simulated, 400,000 columns
    of each of two distributions). In a later tile it may be anything, because moving the mean adds at least half as
    much to the partial's m2.
    """
    deviations = tl.zeros(low.shape, tl.float32)
    if SINGLE_PASS:
        pivot = mean.to(tl.float32)
    else:
        total = deviations
        for part in tl.static_range(TILE_ROWS // PART_ROWS):
            total += h[part].to(tl.float32)
        pivot = tl.sum(total, 0) * (1.0 / TILE_ROWS)
    squares, tile_low, tile_high = deviations, low, high
    for part in tl.static_range(TILE_ROWS // PART_ROWS):
        value = h[part].to(tl.float32)
        active += (signs[part] > 0).to(tl.int32)
        tile_low, tile_high = tl.minimum(tile_low, value), tl.maximum(tile_high, value)
        deviation = value - pivot[None, :]
        deviations += deviation
        squares = tl.fma(deviation, deviation, squares)
    deviations, squares = tl.sum(deviations, 0), tl.sum(squares, 0)
    shift = deviations * deviations * (1.0 / TILE_ROWS)  # the pivot's distance from the mean, squared, rows times
    accurate = ((seen > 0) | (shift <= 0.5 * squares)) & (squares < 1e30)  # false for NaN
    fast = (rows == TILE_ROWS) & all_of(nonfinite == 0)
    if fast & (not all_of(accurate & (squares > 1e-28))):
        # Squares that have vanished do no harm beside those of the partial, or where all values equal the pivot.
        enough = squares + m2.to(tl.float32) > 1e-28
        constant = (tile_low == tile_high) & (tile_low == pivot[None, :])
        fast = all_of(all_of(accurate[None, :] & (constant | enough[None, :])))
    if fast:
        share = TILE_ROWS / (seen + TILE_ROWS).to(tl.float64)
        delta = pivot.to(tl.float64) + deviations.to(tl.float64) * (1.0 / TILE_ROWS) - mean
        mean += delta * share
        m2 += tl.maximum(squares - shift, 0.0).to(tl.float64)
        m2 += delta * delta * (seen * share)
        low, high = tile_low, tile_high
    else:
        nonfinite, mean, m2, low, high = merge_exactly(
            values, stride, row_numbers, rows, column, f, seen, nonfinite, mean, m2, low, high
        )
    return seen + rows, active, nonfinite, mean, m2, low, high


@triton.jit
def write_partial(
    segment, group, column, f, slots, first_strip, count, before,
    partial_tally, partial_moments, partial_extrema, active, nonfinite, mean, m2, low, high,
):  # fmt: skip
    """Write a partial to its slot, and the rows that its segment had before this call to ``before``."""
    slot = (segment + group) * f + column
    half = slots.to(tl.int64) * f
    inside = column < f
    tl.store(partial_tally + slot, tl.sum(active, 0), mask=inside)
    tl.store(partial_tally + half + slot, nonfinite, mask=inside)
    tl.store(partial_moments + slot, mean, mask=inside)
    tl.store(partial_moments + half + slot, m2, mask=inside)
    tl.store(partial_extrema + slot, tl.min(low, 0), mask=inside)
    tl.store(partial_extrema + half + slot, tl.max(high, 0), mask=inside)
    # All partials of the segment write the same value. The second kernel cannot read it in `count`, which it writes.
    tl.store(before + segment, tl.load(count + segment), mask=first_strip)


@triton.jit(do_not_specialize=["num_tiles", "tiles_per_group", "segments", "slots"])
def merge_kernel(
    tiles, num_tiles, tiles_per_group, f, segments, slots, before, partial_tally, partial_moments, partial_extrema,
    count, tally, moments, extrema, COLUMNS: tl.constexpr, SCAN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Merge the partials of one segment into one strip of its accumulators, in the order of the groups."""
    strips = tl.cdiv(f, COLUMNS)
    segment = (tl.program_id(0) // strips).to(tl.int64)
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < f
    # The range of the segment's tiles, and their rows.
    first, last, total = num_tiles, 0, tl.zeros([], tl.int64)
    for scan in range(0, num_tiles, SCAN):
        t = scan + tl.arange(0, SCAN)
        exists = t < num_tiles
        rows = tl.load(tiles + 3 * t + 2, mask=exists, other=0)
        of_segment = (tl.load(tiles + 3 * t, mask=exists, other=-1) == segment) & (rows > 0)
        first = tl.minimum(first, tl.min(tl.where(of_segment, t, num_tiles), 0))
        last = tl.maximum(last, tl.max(tl.where(of_segment, t + 1, 0), 0))
        total += tl.sum(tl.where(of_segment, rows, 0), 0)
    if OVERLAP:
        gdc_wait()  # for the writes of the first kernel and those before it: up to here only the plan may be read
    if last > 0:
        seen = tl.load(before + segment)
        if tl.program_id(0) % strips == 0:
            tl.store(count + segment, seen + total)
        at = segment * f + column
        half = segments.to(tl.int64) * f
        partial_half = slots.to(tl.int64) * f
        active = tl.load(tally + at, mask=inside, other=0)
        nonfinite = tl.load(tally + half + at, mask=inside, other=0)
        mean = tl.load(moments + at, mask=inside, other=0.0)
        m2 = tl.load(moments + half + at, mask=inside, other=0.0)
        low = tl.load(extrema + at, mask=inside, other=0.0)
        high = tl.load(extrema + half + at, mask=inside, other=0.0)
        merged = tl.zeros([], tl.int64)  # rows of this call so far
        for group in range(first // tiles_per_group, tl.cdiv(last, tiles_per_group)):
            slot = (segment + group) * f + column
            # All tiles but a segment's last are full.
            end = tl.minimum((tl.minimum((group + 1) * tiles_per_group, last) - first).to(tl.int64) * TILE_ROWS, total)
            partial_nonfinite = tl.load(partial_tally + partial_half + slot, mask=inside, other=0).to(tl.int64)
            observed = end - merged - partial_nonfinite
            had = seen + merged - nonfinite
            share = observed.to(tl.float64) / tl.maximum(had + observed, 1)
            delta = tl.load(partial_moments + slot, mask=inside, other=0.0) - mean
            mean += tl.where(observed > 0, delta * share, 0.0)
            m2 += tl.load(partial_moments + partial_half + slot, mask=inside, other=0.0)
            m2 += tl.where(observed > 0, delta * delta * (had * share), 0.0)
            low = tl.minimum(low, tl.load(partial_extrema + slot, mask=inside, other=0.0))
            high = tl.maximum(high, tl.load(partial_extrema + partial_half + slot, mask=inside, other=0.0))
            active += tl.load(partial_tally + slot, mask=inside, other=0)
            nonfinite += partial_nonfinite
            merged = end
        tl.store(tally + at, active, mask=inside)
        tl.store(tally + half + at, nonfinite, mask=inside)
        tl.store(moments + at, mean, mask=inside)
        tl.store(moments + half + at, m2, mask=inside)
        tl.store(extrema + at, low, mask=inside)
        tl.store(extrema + half + at, high, mask=inside)


class Partials:
    """Division of one call's tiles among blocks, and the workspace for the partials.

    Attributes:
        grid: of the first kernel.
        shape: number of tiles, tiles in a group, slots.
        form: columns of a strip, rows of a part, and the first kernel's three flags, its last arguments.
        workspace: the rows of each segment before this call, then the partials, [2, slots, F] each.
    """

    def __init__(self, values: Tensor, tiles: Tensor, count: Tensor) -> None:
        f, segments, num_tiles = values.shape[1], count.shape[0], tiles.shape[0]
        self.tiles, self.f, self.segments = tiles, f, segments
        self.columns = launch.STRIP_BYTES // values.itemsize
        strips = triton.cdiv(f, self.columns)
        groups, tiles_per_group = launch.make_groups(num_tiles, strips)
        self.grid = (strips * groups,)
        slots = groups + segments - 1  # the largest slot is (groups - 1) + (segments - 1)
        self.shape = (num_tiles, tiles_per_group, slots)
        self.overlap = launch.may_overlap(values.device)
        # A tile is read in parts that give each lane 16 bytes.
        part_rows = 16 * launch.WARP // launch.STRIP_BYTES
        self.form = (self.columns, part_rows, f % self.columns == 0, forms.single_pass, self.overlap)
        self.workspace = (
            torch.empty(segments, dtype=torch.int64, device=values.device),
            torch.empty((2, slots, f), dtype=torch.int32, device=values.device),  # active, nonfinite
            torch.empty((2, slots, f), dtype=torch.float64, device=values.device),  # mean, m2
            torch.empty((2, slots, f), dtype=torch.float32, device=values.device),  # min, max
        )

    def merge(self, count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor) -> None:
        """Merge the partials into the accumulators."""
        # Autograd cannot see that a kernel writes.
        torch.autograd.graph.increment_version((count, tally, moments, extrema))
        num_tiles, tiles_per_group, slots = self.shape
        merge_kernel[(self.segments * triton.cdiv(self.f, 128),)](
            self.tiles, num_tiles, tiles_per_group, self.f, self.segments, slots, *self.workspace,
            count, tally, moments, extrema, 128, 1024, self.overlap,
            num_warps=4, enable_fp_fusion=False, **({"launch_pdl": True} if self.overlap else {}),
        )  # fmt: skip
