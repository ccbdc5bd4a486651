// Statistics in one pass about a pivot: one of the two ways that partials.h chooses between.
//
// A warp owns every fourth tile of its block's group, and each lane a vector of the strip's neurons. As it makes the
// values it sums their deviations from a pivot and the squares of these in fp32. The pivot is 0 in a segment's first
// tile, then the segment's mean so far. At the tile's end the sums give mean and M2, which are merged in fp64 into the
// warp's run. Going from the pivot to the mean cancels where the mean is far from the pivot. In the first tile, and
// where the squares leave fp32's range or a value is not finite, the lane then reads the neuron's values again and
// measures them in fp64. In a later tile what cancels does no harm: the mean that moves adds at least half as much to
// the run's M2, since the run has as many rows as a tile, or more. Nothing waits and no value passes through shared
// memory until the segment ends, when the block merges its warps' runs in their order.
//
// An element takes glu_stats 18 instructions in 16 bits with the short silu and 38 in fp32, neuron_stats 8 and 11; in
// 16 bits a tile's end adds 1.6, and a neuron that is measured again costs 35 a row (sm_90; computed by `python
// tools/instructions.py`, not measured). At most half of the squares may cancel: then M2 of a run is wrong by at most
// 7e-7 of itself in fp32 and 5e-7 in 16 bits, where with three quarters it would be 1.6e-6 (emulated, 50,000 neurons of
// each of several means).
#pragma once

#include "partials.h"

namespace affectron::cuda {

constexpr int kRowsUnderWay = 4; // of a lane

// Shared memory of a block.
template <Dtype D> struct Runs {
  Run of[kLanes<D>][kThreads];
  int64_t seen[kWarps]; // rows
};

// The two values of a 16-bit word at once, or the one of 32 bits. Of a NaN and a number, `min` and `max` are the
// number.
template <Dtype D> struct Packed {
  using Pair = std::conditional_t<D == Dtype::bf16, __nv_bfloat162, __half2>;
  static __device__ Pair pair(uint32_t word) { return reinterpret_cast<Pair &>(word); }
  static __device__ uint32_t word(Pair pair) { return reinterpret_cast<uint32_t &>(pair); }

  static __device__ uint32_t min(uint32_t a, uint32_t b) { return word(__hmin2(pair(a), pair(b))); }
  static __device__ uint32_t max(uint32_t a, uint32_t b) { return word(__hmax2(pair(a), pair(b))); }
  // Adds 1 where the sign is positive, and not for a NaN: exact up to 256.
  static __device__ uint32_t count(uint32_t number, uint32_t sign) {
    return word(__hadd2(pair(number), __hgt2(pair(sign), pair(0))));
  }
};
template <> struct Packed<Dtype::f32> {
  static __device__ float real(uint32_t word) { return __uint_as_float(word); }
  static __device__ uint32_t min(uint32_t a, uint32_t b) { return __float_as_uint(fminf(real(a), real(b))); }
  static __device__ uint32_t max(uint32_t a, uint32_t b) { return __float_as_uint(fmaxf(real(a), real(b))); }
  static __device__ uint32_t count(uint32_t number, uint32_t sign) {
    return __float_as_uint(real(number) + (real(sign) > 0.0f ? 1.0f : 0.0f));
  }
};

// What a lane knows of its neurons in the current tile.
template <Dtype D> struct Sums {
  static constexpr int lanes = kLanes<D>, per_word = Format<D>::per_word;
  float pivot[lanes], sum[lanes], squares[lanes]; // of the deviations
  Vector min, max, active;

  __device__ Sums(const Runs<D> &runs, int thread) {
    const float infinity = __int_as_float(0x7f800000), ends[4] = {infinity, infinity, -infinity, -infinity};
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      pivot[i] = float(runs.of[i][thread].moments.mean);
      sum[i] = squares[i] = 0.0f;
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      min.word[w] = Format<D>::pack(ends);
      max.word[w] = Format<D>::pack(ends + 2);
      active.word[w] = 0;
    }
  }

  // N rows, summed by themselves first: that leaves less rounding error than one by one.
  template <int N> __device__ void add(const Vector (&h)[N], const Vector (&signs)[N]) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float x[N][per_word];
#pragma unroll
      for (int r = 0; r < N; ++r) {
        min.word[w] = Packed<D>::min(min.word[w], h[r].word[w]);
        max.word[w] = Packed<D>::max(max.word[w], h[r].word[w]);
        active.word[w] = Packed<D>::count(active.word[w], signs[r].word[w]);
        Format<D>::unpack(h[r].word[w], x[r]);
      }
#pragma unroll
      for (int k = 0; k < per_word; ++k) {
        const int i = w * per_word + k;
        const float first = x[0][k] - pivot[i];
        float s = first, q = first * first;
#pragma unroll
        for (int r = 1; r < N; ++r) {
          const float deviation = x[r][k] - pivot[i];
          s += deviation;
          q = fmaf(deviation, deviation, q);
        }
        sum[i] += s;
        squares[i] += q;
      }
    }
  }

  // Into the runs of `thread`, but for the neurons whose bits it returns: those have to be measured exactly.
  __device__ unsigned merge(int rows, int64_t seen, Runs<D> &runs, int thread) const {
    const double inverse = 1.0 / double(rows);
    const double share = double(rows) / double(seen + rows), weight = double(seen) * share;
    const float half = 0.5f * float(rows);
    float low[lanes], high[lanes], number[lanes];
    unpack<D>(min, low);
    unpack<D>(max, high);
    unpack<D>(active, number);
    unsigned careful = 0;
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      Run run = runs.of[i][thread];
      run.active += int(number[i]);
      // At most half of the squares cancels; they neither overflow nor vanish, but where there are none. Comparisons
      // are false for NaN.
      const bool accurate = seen > 0 || sum[i] * sum[i] <= half * squares[i];
      const bool constant = low[i] == pivot[i] && high[i] == pivot[i];
      if (accurate && squares[i] < 1e30f && (squares[i] > 1e-28f || constant) && run.nonfinite == 0) {
        const double total = sum[i], shift = total * inverse;
        run.moments.merge(double(pivot[i]) + shift, ::fma(-total, shift, double(squares[i])), share, weight);
        run.min = fminf(run.min, low[i]);
        run.max = fmaxf(run.max, high[i]);
      } else {
        careful |= 1u << i;
      }
      runs.of[i][thread] = run;
    }
    return careful;
  }
};

// `Source` says how a row's values come about: `load(n, f, neurons)` starts reading a vector, `finish` turns what it
// returned into the values, and the output where there is one; `signs` says active; `value` is one of the values again.
template <Dtype D, class Source>
__device__ void single_pass(const Source &source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                            int64_t *count) {
  constexpr int lanes = kLanes<D>;
  using Number = std::conditional_t<Source::aligned, uint32_t, int64_t>; // of a row
  __shared__ Runs<D> runs;
  allow_next();
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t strip = int64_t(blockIdx.x) * kStrip<D>;
  // A lane past the last neuron does the strip's first vector again, and nobody looks at its runs.
  const int64_t f = strip + (strip + lane * lanes < shape.neurons ? lane * lanes : 0);
  const int neurons = int(min(shape.neurons - f, lanes));
  const int64_t first = int64_t(blockIdx.y) * tiles_per_group;
  const int64_t last = min(first + tiles_per_group, plan.num_tiles);

#pragma unroll
  for (int i = 0; i < lanes; ++i) runs.of[i][thread] = empty_run();
  int64_t seen = 0; // rows of the segment so far, in this warp's tiles
  for (int64_t t = first; t < last; ++t) {
    const Tile tile = plan.tiles[t];
    if (t % kWarps == warp && tile.rows > 0) {
      const int rows = int(tile.rows);
      const Number mine = lane < rows ? Number(plan.order[tile.start + lane]) : 0;
      Sums<D> sums(runs, thread);
      auto take = [&](int r, auto batch) {
        constexpr int N = batch.value;
        typename Source::Row row[N];
        Number n[N];
        Vector h[N], signs[N];
#pragma unroll
        for (int b = 0; b < N; ++b) {
          n[b] = __shfl_sync(kAll, mine, r + b);
          row[b] = source.load(n[b], f, neurons);
        }
#pragma unroll
        for (int b = 0; b < N; ++b) {
          h[b] = source.finish(row[b], n[b], f, neurons);
          signs[b] = source.signs(row[b], h[b]);
        }
        sums.add(h, signs);
      };
      int r = 0;
#pragma unroll 1
      for (; r + kRowsUnderWay <= rows; r += kRowsUnderWay) take(r, std::integral_constant<int, kRowsUnderWay>{});
#pragma unroll 1
      for (; r < rows; ++r) take(r, std::integral_constant<int, 1>{});
      if (tile.segment >= 0) {
        for (unsigned careful = sums.merge(rows, seen, runs, thread); careful != 0; careful &= careful - 1) {
          const int i = __ffs(int(careful)) - 1;
          auto value = [&](int r) { return source.value(plan.order[tile.start + r], f + i); };
          merge_exactly(value, rows, seen, runs.of[i][thread]);
        }
        seen += rows;
      }
    }

    const bool counted = tile.segment >= 0 && tile.rows > 0;
    if (counted && (t + 1 == last || plan.tiles[t + 1].segment != tile.segment)) {
      if (lane == 0) runs.seen[warp] = seen;
      seen = 0;
      __syncthreads();
      for (int i = thread; i < kStrip<D>; i += kThreads) {
        Run total = empty_run();
        int64_t rows = 0;
        for (int w = 0; w < kWarps; ++w) {
          Run &run = runs.of[i % lanes][w * kWarp + i / lanes];
          total.merge(run, rows, runs.seen[w]);
          rows += runs.seen[w];
          run = empty_run();
        }
        if (strip + i < shape.neurons) {
          partials.write((int64_t(blockIdx.y) + tile.segment) * shape.neurons + strip + i, total);
        }
        // An integer: the order does not matter.
        if (strip + i == 0) {
          atomicAdd(reinterpret_cast<unsigned long long *>(count + tile.segment), (unsigned long long)rows);
        }
      }
      __syncthreads(); // before the runs are used again
    }
  }
}

} // namespace affectron::cuda
