"""Statistics of tiles of rows, merged into the accumulators: the Triton side of csrc/cpu/accumulate.h, shared by
glu_stats and neuron_stats, which differ only in where the values come from.

Two kernels. The first walks chunks of consecutive tiles of the plan: a program has one chunk and one block of
columns, measures each tile in fp32 by a centred two-pass while its values stay in registers, and merges it in fp64
(Chan et al. 1979) into the run it belongs to, a run being what one chunk holds of one segment. The second merges the
runs of a segment into the accumulators, in order. What is a chunk depends on the shapes alone, so the bits do not
depend on the number of SMs or on who is first.

A chunk and a segment number only ever grow along the plan, so their sum names a run: it is where the first kernel
leaves a run and the second finds it, without either counting.

Cost beyond the values themselves: a run is 32 bytes a neuron, written and read once (mostly from the L2 cache). With
8 tiles a chunk that is 32 bytes against the 1536 that 256 rows move in 16 bits: 2 %, and another 2 % where the L2
does not hold it. The accumulators are read and written once a call: 80 bytes a segment and neuron, 1.6 % for 10
segments and 8192 rows, 10 % for 64.

One warp a program: a column's rows lie in 8 registers of each of 4 lanes (16 bits), so a reduction is additions and
two shuffles and never waits at a barrier; 128 bytes of a row at a time keep the gathered rows whole cache lines.
Counted in the code for sm_90 (silu, bf16): 32 instructions an element for a full tile, of the 46 that an H200 can issue
while its memory moves the 6 bytes; glu has 14. It takes all 255 registers, so an SM holds 8 programs. None of this has
been measured on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS = tl.constexpr(32)  # SegmentPlan's
CHUNK_TILES = 8
# Programs below which chunks are made smaller: some for each warp that the largest GPUs hold.
ENOUGH_PROGRAMS = 4096
COLUMN_BYTES = 128
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def load_tile(tiles, order, t):
    """Segment, rows and row numbers [TILE_ROWS] of tile ``t``; beyond ``rows`` its last row again. Row numbers are
    int32, so that an offset, row times stride in int64, is one multiplication."""
    segment = tl.load(tiles + 3 * t)
    start = tl.load(tiles + 3 * t + 1)
    rows = tl.load(tiles + 3 * t + 2).to(tl.int32)
    position = tl.minimum(tl.arange(0, TILE_ROWS), tl.maximum(rows - 1, 0))
    return segment, rows, tl.load(order + start + position, mask=rows > 0, other=0).to(tl.int32)


@triton.jit
def reset(run_tally, run_moments, run_extrema, column):
    """A run that has seen nothing: rows, then active, nonfinite, mean, m2, min and max of each column."""
    never = column < 0
    zero = tl.load(run_tally + column, mask=never, other=0)
    mean = tl.load(run_moments + column, mask=never, other=0.0)
    low = tl.load(run_extrema + column, mask=never, other=INFINITY)
    high = tl.load(run_extrema + column, mask=never, other=-INFINITY)
    return tl.zeros([], tl.int32), zero, zero, mean, mean, low, high


@triton.jit
def merge_carefully(h, rows, seen, nonfinite, mean, m2, low, high):
    """A tile that is not full, holds a value that is not finite, or whose squares leave the range of fp32: each column
    scaled by a power of two to a largest value of 1 to 4, what does not count left out."""
    h = tl.where((tl.arange(0, TILE_ROWS) < rows)[:, None], h, INFINITY)
    finite = tl.abs(h) < INFINITY
    observed = tl.sum(finite.to(tl.int32), 0)
    tile_low, tile_high = tl.min(tl.where(finite, h, INFINITY), 0), tl.max(tl.where(finite, h, -INFINITY), 0)
    largest = tl.where(observed > 0, tl.maximum(tl.abs(tile_low), tl.abs(tile_high)), 1.0)
    exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
    scale = tl.maximum(0x7F000000 - exponent, 0x00800000).to(tl.float32, bitcast=True)
    scaled = tl.where(finite, h * scale[None, :], 0.0)
    tile_mean = tl.sum(scaled, 0) / tl.maximum(observed, 1)
    deviation = tl.where(finite, scaled - tile_mean[None, :], 0.0)
    residual = tl.sum(deviation, 0).to(tl.float64)
    squares = tl.sum(deviation * deviation, 0).to(tl.float64)
    number = tl.maximum(observed, 1).to(tl.float64)
    unscale = 1.0 / scale.to(tl.float64)
    before = seen - nonfinite
    share = observed / (before + number)
    delta = tl.where(observed > 0, (tile_mean + residual / number) * unscale - mean, 0.0)
    mean += delta * share
    m2 += tl.maximum(squares - residual * residual / number, 0.0) * unscale * unscale + delta * delta * (before * share)
    low, high = tl.minimum(low, tile_low), tl.maximum(high, tile_high)
    return nonfinite + rows - observed, mean, m2, low, high


@triton.jit
def measure(h, counted, rows, seen, active, nonfinite, mean, m2, low, high):
    """Merge the first ``rows`` rows of ``h`` [TILE_ROWS, COLUMNS] into a run; ``counted`` says where they are active.

    ``h`` is fp32 and repeats its last row beyond ``rows``.
    """
    active += tl.sum((counted & (tl.arange(0, TILE_ROWS) < rows)[:, None]).to(tl.int32), 0)
    tile_low, tile_high = tl.min(h, 0), tl.max(h, 0)
    tile_mean = tl.sum(h, 0) * (1.0 / TILE_ROWS)
    deviation = h - tile_mean[None, :]
    residual = tl.sum(deviation, 0)  # what rounding the mean left
    squares = tl.sum(deviation * deviation, 0)
    # In range: squares neither overflow nor vanish. Comparisons are false for NaN. All equal: no squares to lose.
    in_range = (squares < 1e30) & ((squares > 1e-28) | (tile_low == tile_high)) & (nonfinite == 0)
    if (rows == TILE_ROWS) & (tl.min(in_range.to(tl.int32), 0) != 0):
        share = TILE_ROWS / (seen + TILE_ROWS).to(tl.float64)
        delta = tile_mean.to(tl.float64) + residual.to(tl.float64) * (1.0 / TILE_ROWS) - mean
        mean += delta * share
        m2 += tl.maximum(squares - residual * residual * (1.0 / TILE_ROWS), 0.0).to(tl.float64)
        m2 += delta * delta * (seen * share)
        low, high = tl.minimum(low, tile_low), tl.maximum(high, tile_high)
    else:
        nonfinite, mean, m2, low, high = merge_carefully(h, rows, seen, nonfinite, mean, m2, low, high)
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
    tl.store(run_tally + at, active, mask=inside)
    tl.store(run_tally + half + at, nonfinite, mask=inside)
    tl.store(run_moments + at, mean, mask=inside)
    tl.store(run_moments + half + at, m2, mask=inside)
    tl.store(run_extrema + at, low, mask=inside)
    tl.store(run_extrema + half + at, high, mask=inside)
    # Every run of the segment writes the same value; the second kernel cannot read it where it also writes it.
    tl.store(before + segment, tl.load(count + segment), mask=first_block)


@triton.jit(do_not_specialize=["num_tiles", "chunk_tiles", "segments", "runs"])
def merge_kernel(
    tiles, num_tiles, chunk_tiles, f, segments, runs, before, run_tally, run_moments, run_extrema,
    count, tally, moments, extrema, COLUMNS: tl.constexpr, SCAN: tl.constexpr,
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
            count, tally, moments, extrema, 128, 1024, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
