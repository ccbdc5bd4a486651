"""Statistics of tiles of rows, merged into the accumulators: the Triton side of csrc/cpu/accumulate.h, shared by
glu_stats and neuron_stats, which differ only in where the values come from.

Two kernels. The first walks chunks of consecutive tiles of the plan: a program has one chunk and one block of
columns, measures each tile in fp32 while its values stay in registers, and merges it in fp64 (Chan et al. 1979) into
the run it belongs to, a run being what one chunk holds of one segment. The second merges the runs of a segment into
the accumulators, in order. What is a chunk depends on the shapes alone, so the bits do not depend on the number of SMs
or on who is first.

On sm_90 the second kernel is launched while the first drains (programmatic dependent launch) and finds a segment's
tiles meanwhile. Until it has waited it reads the plan and nothing else, and writes nothing; the plan is older than the
first kernel, which waits for all before it as any kernel does.

A chunk and a segment number only ever grow along the plan, so their sum names a run: it is where the first kernel
leaves a run and the second finds it, without either counting.

Cost beyond the values themselves: a run is 32 bytes a neuron, written and read once (mostly from the L2 cache). With
8 tiles a chunk that is 32 bytes against the 1536 that 256 rows move in 16 bits: 2 %, and another 2 % where the L2
does not hold it. The accumulators are read and written once a call: 80 bytes a segment and neuron, 1.6 % for 10
segments and 8192 rows, 10 % for 64.

One warp a program: a lane has 8 rows of 8 neurons of a tile (16 bits). Active rows, min and max are kept a lane to
itself and combined when a run ends, so a tile costs two reductions, each of two shuffles, and never waits at a barrier;
128 bytes of a row at a time keep the gathered rows whole cache lines. The rare tile that fp32 cannot measure is read
again.

A full tile, its merge included, takes glu_stats 31 instructions an element and 210 registers in a single pass, 39 and
226 in two, of the 47 that an H200 can issue while its memory moves the 6 bytes; glu takes 14 (sm_90, silu, bf16, Triton
3.7.1; counted by `python tools/instructions.py --triton`). An SM holds 9 programs or 8. None of this has been measured
on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from . import forms, launch

TILE_ROWS = tl.constexpr(32)  # SegmentPlan's
CHUNK_TILES = 8
# Programs below which chunks are made smaller: some for each warp that the largest GPUs hold.
ENOUGH_PROGRAMS = 4096
COLUMN_BYTES = 128
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def load_tile(tiles, order, t):
    """Segment and rows of tile ``t``, and where its row numbers are."""
    return tl.load(tiles + 3 * t), tl.load(tiles + 3 * t + 2).to(tl.int32), order + tl.load(tiles + 3 * t + 1)


@triton.jit
def part_of(place, rows, part: tl.constexpr, column, f, PART_ROWS: tl.constexpr, EVEN: tl.constexpr):
    """The row numbers [PART_ROWS, 1] of one part of a tile, and the mask of what there is of it. Rows are unsigned, so
    that an offset, row times stride in 64 bits, is one multiplication."""
    position = part * PART_ROWS + tl.arange(0, PART_ROWS)
    row = tl.load(place + position, mask=position < rows, other=0).to(tl.uint32).to(tl.int64)
    return row[:, None], (position < rows)[:, None] & (EVEN | (column < f)[None, :])


@triton.jit
def reset(run_tally, run_moments, column, PART_ROWS: tl.constexpr):
    """A run that has seen nothing: rows, then active [PART_ROWS, COLUMNS], nonfinite, mean, m2 [COLUMNS], min and max
    [PART_ROWS, COLUMNS]. Loads that are never made give those of one dimension the layout of ``column``."""
    never = column < 0
    nonfinite = tl.load(run_tally + column, mask=never, other=0)
    mean = tl.load(run_moments + column, mask=never, other=0.0)
    low = tl.full((PART_ROWS, column.shape[0]), INFINITY, tl.float32)
    return tl.zeros([], tl.int32), tl.zeros(low.shape, tl.int32), nonfinite, mean, mean, low, -low


@triton.jit
def all_of(condition):
    return tl.min(condition.to(tl.int32), 0) != 0


@triton.jit
def merge_carefully(values, stride, place, rows, column, f, seen, nonfinite, mean, m2, low, high):
    """Merge any tile: its values once more from memory, row by row, in fp64 about the first finite one of each column;
    what is not finite is left out."""
    tl.debug_barrier()  # other lanes of this program have just written them
    observed = tl.zeros(column.shape, tl.int32)
    center = tl.zeros(column.shape, tl.float64)
    residual, squares = center, center
    tile_low = tl.full(column.shape, INFINITY, tl.float32)
    tile_high = -tile_low
    for r in range(rows):
        value = tl.load(values + tl.load(place + r) * stride + column, mask=column < f, other=0.0).to(tl.float32)
        finite = tl.abs(value) < INFINITY
        center = tl.where(finite & (observed == 0), value.to(tl.float64), center)
        deviation = tl.where(finite, value.to(tl.float64) - center, 0.0)
        residual += deviation
        squares += deviation * deviation
        observed += finite.to(tl.int32)
        tile_low = tl.minimum(tile_low, tl.where(finite, value, INFINITY))
        tile_high = tl.maximum(tile_high, tl.where(finite, value, -INFINITY))
    number = tl.maximum(observed, 1).to(tl.float64)
    before = seen - nonfinite
    share = observed / (before + number)
    delta = tl.where(observed > 0, center + residual / number - mean, 0.0)
    mean += delta * share
    m2 += tl.maximum(squares - residual * residual / number, 0.0) + delta * delta * (before * share)
    low, high = tl.minimum(low, tile_low[None, :]), tl.maximum(high, tile_high[None, :])
    return nonfinite + rows - observed, mean, m2, low, high


@triton.jit
def measure(
    h, source, values, stride, place, rows, column, f, seen, active, nonfinite, mean, m2, low, high,
    PART_ROWS: tl.constexpr, SINGLE_PASS: tl.constexpr,
):  # fmt: skip
    """Merge a tile into a run: the parts ``h``, 0 beyond the tile's ``rows``, active where those of ``source`` are
    positive. The same values lie at ``values``.

    The tile's mean and m2 come from deviations from a center: the tile's mean, or in a single pass the run's mean so
    far, 0 at first. What the center is off cancels in m2, and leaves its rounding. In a run's first tile it may be half
    of the squares: m2 is then good to 6e-7 (simulated, 400,000 columns of each of two distributions). In a later one it
    may be anything, because the mean that it shifts adds at least half as much to the run's m2.
    """
    residual = tl.zeros(low.shape, tl.float32)
    if SINGLE_PASS:
        center = mean.to(tl.float32)
    else:
        total = residual
        for part in tl.static_range(TILE_ROWS // PART_ROWS):
            total += h[part].to(tl.float32)
        center = tl.sum(total, 0) * (1.0 / TILE_ROWS)
    squares, tile_low, tile_high = residual, low, high
    for part in tl.static_range(TILE_ROWS // PART_ROWS):
        value = h[part].to(tl.float32)
        active += (source[part] > 0).to(tl.int32)
        tile_low, tile_high = tl.minimum(tile_low, value), tl.maximum(tile_high, value)
        deviation = value - center[None, :]
        residual += deviation
        squares = tl.fma(deviation, deviation, squares)
    residual, squares = tl.sum(residual, 0), tl.sum(squares, 0)
    shift = residual * residual * (1.0 / TILE_ROWS)  # what the center is off, in the squares
    accurate = ((seen > 0) | (shift <= 0.5 * squares)) & (squares < 1e30)  # not so where there is a NaN
    fast = (rows == TILE_ROWS) & all_of(nonfinite == 0)
    if fast & (not all_of(accurate & (squares > 1e-28))):
        # Squares may have vanished; that is nothing beside those of the run, or if all its values equal the center.
        enough = squares + m2.to(tl.float32) > 1e-28
        constant = (tile_low == tile_high) & (tile_low == center[None, :])
        fast = all_of(all_of(accurate[None, :] & (constant | enough[None, :])))
    if fast:
        share = TILE_ROWS / (seen + TILE_ROWS).to(tl.float64)
        delta = center.to(tl.float64) + residual.to(tl.float64) * (1.0 / TILE_ROWS) - mean
        mean += delta * share
        m2 += tl.maximum(squares - shift, 0.0).to(tl.float64)
        m2 += delta * delta * (seen * share)
        low, high = tile_low, tile_high
    else:
        nonfinite, mean, m2, low, high = merge_carefully(
            values, stride, place, rows, column, f, seen, nonfinite, mean, m2, low, high
        )
    return seen + rows, active, nonfinite, mean, m2, low, high


@triton.jit
def flush(
    segment, chunk, column, f, runs, first_block, count, before,
    run_tally, run_moments, run_extrema, active, nonfinite, mean, m2, low, high,
):  # fmt: skip
    """Leave a run at its place in the workspace, and with it the rows that its segment had before this call."""
    at = (segment + chunk) * f + column
    half = runs.to(tl.int64) * f
    inside = column < f
    tl.store(run_tally + at, tl.sum(active, 0), mask=inside)
    tl.store(run_tally + half + at, nonfinite, mask=inside)
    tl.store(run_moments + at, mean, mask=inside)
    tl.store(run_moments + half + at, m2, mask=inside)
    tl.store(run_extrema + at, tl.min(low, 0), mask=inside)
    tl.store(run_extrema + half + at, tl.max(high, 0), mask=inside)
    # Every run of the segment writes the same value; the second kernel cannot read it where it also writes it.
    tl.store(before + segment, tl.load(count + segment), mask=first_block)


@triton.jit(do_not_specialize=["num_tiles", "chunk_tiles", "segments", "runs"])
def merge_kernel(
    tiles, num_tiles, chunk_tiles, f, segments, runs, before, run_tally, run_moments, run_extrema,
    count, tally, moments, extrema, COLUMNS: tl.constexpr, SCAN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Merge the runs of one segment into one block of its accumulators, in order."""
    blocks = tl.cdiv(f, COLUMNS)
    segment = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < f
    # Where the segment's tiles lie, and how many rows they have.
    first, last, total = num_tiles, 0, tl.zeros([], tl.int64)
    for scan in range(0, num_tiles, SCAN):
        t = scan + tl.arange(0, SCAN)
        there = t < num_tiles
        rows = tl.load(tiles + 3 * t + 2, mask=there, other=0)
        mine = (tl.load(tiles + 3 * t, mask=there, other=-1) == segment) & (rows > 0)
        first = tl.minimum(first, tl.min(tl.where(mine, t, num_tiles), 0))
        last = tl.maximum(last, tl.max(tl.where(mine, t + 1, 0), 0))
        total += tl.sum(tl.where(mine, rows, 0), 0)
    if OVERLAP:
        gdc_wait()  # for all that the first kernel and those before it wrote; till here only the plan may be read
    if last > 0:
        seen = tl.load(before + segment)
        if tl.program_id(0) % blocks == 0:
            tl.store(count + segment, seen + total)
        at = segment * f + column
        half = segments.to(tl.int64) * f
        run_half = runs.to(tl.int64) * f
        active = tl.load(tally + at, mask=inside, other=0)
        nonfinite = tl.load(tally + half + at, mask=inside, other=0)
        mean = tl.load(moments + at, mask=inside, other=0.0)
        m2 = tl.load(moments + half + at, mask=inside, other=0.0)
        low = tl.load(extrema + at, mask=inside, other=0.0)
        high = tl.load(extrema + half + at, mask=inside, other=0.0)
        merged = tl.zeros([], tl.int64)  # rows of this call so far
        for chunk in range(first // chunk_tiles, tl.cdiv(last, chunk_tiles)):
            run = (segment + chunk) * f + column
            # All tiles but a segment's last are full.
            end = tl.minimum((tl.minimum((chunk + 1) * chunk_tiles, last) - first).to(tl.int64) * TILE_ROWS, total)
            run_nonfinite = tl.load(run_tally + run_half + run, mask=inside, other=0).to(tl.int64)
            observed = end - merged - run_nonfinite
            had = seen + merged - nonfinite
            share = observed.to(tl.float64) / tl.maximum(had + observed, 1)
            delta = tl.load(run_moments + run, mask=inside, other=0.0) - mean
            mean += tl.where(observed > 0, delta * share, 0.0)
            m2 += tl.load(run_moments + run_half + run, mask=inside, other=0.0)
            m2 += tl.where(observed > 0, delta * delta * (had * share), 0.0)
            low = tl.minimum(low, tl.load(run_extrema + run, mask=inside, other=0.0))
            high = tl.maximum(high, tl.load(run_extrema + run_half + run, mask=inside, other=0.0))
            active += tl.load(run_tally + run, mask=inside, other=0)
            nonfinite += run_nonfinite
            merged = end
        tl.store(tally + at, active, mask=inside)
        tl.store(tally + half + at, nonfinite, mask=inside)
        tl.store(moments + at, mean, mask=inside)
        tl.store(moments + half + at, m2, mask=inside)
        tl.store(extrema + at, low, mask=inside)
        tl.store(extrema + half + at, high, mask=inside)


class Runs:
    """How the tiles of one call are shared out, and the workspace for the runs they leave."""

    def __init__(self, values: Tensor, tiles: Tensor, count: Tensor) -> None:
        f, segments, num_tiles = values.shape[1], count.shape[0], tiles.shape[0]
        self.tiles, self.f, self.segments = tiles, f, segments
        self.columns = COLUMN_BYTES // values.itemsize
        blocks = triton.cdiv(f, self.columns)
        chunk_tiles = max(1, min(CHUNK_TILES, num_tiles * blocks // ENOUGH_PROGRAMS))
        chunks = triton.cdiv(num_tiles, chunk_tiles)
        self.grid = (blocks * chunks,)
        runs = chunks + segments - 1  # chunk + segment at most, and one
        self.shape = (num_tiles, chunk_tiles, runs)
        self.overlap = launch.may_overlap(values.device)
        # A tile is read in parts that give each lane 16 bytes.
        part_rows = 16 * launch.WARP // COLUMN_BYTES
        self.form = (self.columns, part_rows, f % self.columns == 0, forms.single_pass, self.overlap)
        self.workspace = (
            torch.empty(segments, dtype=torch.int64, device=values.device),
            torch.empty((2, runs, f), dtype=torch.int32, device=values.device),
            torch.empty((2, runs, f), dtype=torch.float64, device=values.device),
            torch.empty((2, runs, f), dtype=torch.float32, device=values.device),
        )

    def merge(self, count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor) -> None:
        torch.autograd.graph.increment_version((count, tally, moments, extrema))  # a kernel's writes are not seen
        num_tiles, chunk_tiles, runs = self.shape
        merge_kernel[(self.segments * triton.cdiv(self.f, 128),)](
            self.tiles, num_tiles, chunk_tiles, self.f, self.segments, runs, *self.workspace,
            count, tally, moments, extrema, 128, 1024, self.overlap,
            num_warps=4, enable_fp_fusion=False, **({"launch_pdl": True} if self.overlap else {}),
        )  # fmt: skip
