// Statistics in one pass about a pivot: one of the two forms between which partials.h chooses.
//
// A warp owns every fourth tile of its block's group, and each lane a vector of the strip's neurons. As values are
// made, the lane sums their deviations from a pivot and the squares of the deviations in fp32. The pivot is 0 in a
// segment's first tile, then the mean so far. At the tile's end the sums give mean and M2, which are merged in fp64
// into the warp's partial. If the mean is far from the pivot, digits cancel. In the first tile, and where the squares
// leave fp32's range or a value is not finite, the lane then reads the neuron's values again and measures them in fp64.
// In a later tile the cancellation does no harm: moving the mean adds at least half as much to the partial's M2, since
// the partial has at least as many rows as a tile. No thread waits and no value passes through shared memory until the
// segment ends, when the block merges its warps' partials in their order.
//
// An element takes glu_stats 18 instructions in 16 bits with the short silu and 38 in fp32, neuron_stats 8 and 11; in
// 16 bits a tile's end adds 1.6, and a neuron that is measured again costs 35 a row (sm_90; computed by `python
// tools/instructions.py`, not measured). At most half of the squares may cancel: then M2 of a partial is wrong by at
// most 7e-7 of itself in fp32 and 5e-7 in 16 bits; with three quarters it would be 1.6e-6 (emulated, 50,000 neurons of
// each of several means).
#pragma once

#include "partials.h"

namespace affectron::cuda {

constexpr int kRowsUnderWay = 4; // that a lane loads before it uses the first

// Shared memory of a block: the partials of its threads, and the rows that each warp's partials have seen.
template <Dtype D> struct WarpPartials {
  Partial of[kLanes<D>][kThreads];
  int64_t seen[kWarps];
};

// Operations on both 16-bit values of a word at once, or on its 32-bit value. Of a NaN and a number, `min` and `max`
// give the number.
template <Dtype D> struct Packed {
  using Pair = std::conditional_t<D == Dtype::bf16, __nv_bfloat162, __half2>;
  static __device__ Pair pair(uint32_t word) { return reinterpret_cast<Pair &>(word); }
  static __device__ uint32_t word(Pair pair) { return reinterpret_cast<uint32_t &>(pair); }

  static __device__ uint32_t min(uint32_t a, uint32_t b) { return word(__hmin2(pair(a), pair(b))); }
  static __device__ uint32_t max(uint32_t a, uint32_t b) { return word(__hmax2(pair(a), pair(b))); }
  // Adds 1 where `sign` is positive; NaN is not. Exact up to 256.
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

// Sums of a lane's neurons over the current tile.
template <Dtype D> struct Sums {
  static constexpr int lanes = kLanes<D>, per_word = Format<D>::per_word;
  float pivot[lanes], deviations[lanes], squares[lanes]; // sums of the deviations from the pivot and of their squares
  Vector min, max, active;

  __device__ Sums(const WarpPartials<D> &partials, int thread) {
    const float infinity = __int_as_float(0x7f800000), ends[4] = {infinity, infinity, -infinity, -infinity};
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      pivot[i] = float(partials.of[i][thread].moments.mean);
      deviations[i] = squares[i] = 0.0f;
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      min.word[w] = Format<D>::pack(ends);
      max.word[w] = Format<D>::pack(ends + 2);
      active.word[w] = 0;
    }
  }

  // Adds N rows, which are summed by themselves first: that leaves less rounding error.
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
        deviations[i] += s;
        squares[i] += q;
      }
    }
  }

  // Merges the tile into the partials of `thread`. Returns a bit for each neuron that fp32 cannot measure: these are
  // not merged.
  __device__ unsigned merge(int rows, int64_t seen, WarpPartials<D> &partials, int thread) const {
    const double inverse = 1.0 / double(rows);
    const double share = double(rows) / double(seen + rows), weight = double(seen) * share;
    const float half = 0.5f * float(rows);
    float low[lanes], high[lanes], number[lanes];
    unpack<D>(min, low);
    unpack<D>(max, high);
    unpack<D>(active, number);
    unsigned inexact = 0;
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      Partial partial = partials.of[i][thread];
      partial.active += int(number[i]);
      // At most half of the squares cancels, and they have neither overflowed nor vanished, or are truly 0. Comparisons
      // are false for NaN.
      const bool accurate = seen > 0 || deviations[i] * deviations[i] <= half * squares[i];
      const bool constant = low[i] == pivot[i] && high[i] == pivot[i];
      if (accurate && squares[i] < 1e30f && (squares[i] > 1e-28f || constant) && partial.nonfinite == 0) {
        const double total = deviations[i], shift = total * inverse;
        partial.moments.merge(double(pivot[i]) + shift, ::fma(-total, shift, double(squares[i])), share, weight);
        partial.min = fminf(partial.min, low[i]);
        partial.max = fmaxf(partial.max, high[i]);
      } else {
        inexact |= 1u << i;
      }
      partials.of[i][thread] = partial;
    }
    return inexact;
  }
};

// `Source` makes a row's values: `load(n, f, neurons)` starts reading a vector; `finish` turns the result into values
// and writes the output, if any; a row is active where `signs` is positive; `value` reads one of the values again.
template <Dtype D, class Source>
__device__ void single_pass(const Source &source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                            int64_t *count) {
  constexpr int lanes = kLanes<D>;
  using RowNumber = std::conditional_t<Source::aligned, uint32_t, int64_t>;
  __shared__ WarpPartials<D> held;
  allow_next();
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t strip = int64_t(blockIdx.x) * kStrip<D>;
  // A lane past the last neuron computes the strip's first vector again; its partials are not used.
  const int64_t f = strip + (strip + lane * lanes < shape.neurons ? lane * lanes : 0);
  const int neurons = int(min(shape.neurons - f, lanes));
  const int64_t first = int64_t(blockIdx.y) * tiles_per_group;
  const int64_t last = min(first + tiles_per_group, plan.num_tiles);

#pragma unroll
  for (int i = 0; i < lanes; ++i) held.of[i][thread] = empty_partial();
  int64_t seen = 0; // rows of the segment so far, in this warp's tiles
  for (int64_t t = first; t < last; ++t) {
    const Tile tile = plan.tiles[t];
    if (t % kWarps == warp && tile.rows > 0) {
      const int rows = int(tile.rows);
      const RowNumber row_number = lane < rows ? RowNumber(plan.order[tile.start + lane]) : 0;
      Sums<D> sums(held, thread);
      auto take = [&](int r, auto batch) {
        constexpr int N = batch.value;
        typename Source::Row row[N];
        RowNumber n[N];
        Vector h[N], signs[N];
#pragma unroll
        for (int b = 0; b < N; ++b) {
          n[b] = __shfl_sync(kAll, row_number, r + b);
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
        for (unsigned inexact = sums.merge(rows, seen, held, thread); inexact != 0; inexact &= inexact - 1) {
          const int i = __ffs(int(inexact)) - 1;
          auto value = [&](int r) { return source.value(plan.order[tile.start + r], f + i); };
          merge_exactly(value, rows, seen, held.of[i][thread]);
        }
        seen += rows;
      }
    }

    const bool counted = tile.segment >= 0 && tile.rows > 0;
    if (counted && (t + 1 == last || plan.tiles[t + 1].segment != tile.segment)) {
      if (lane == 0) held.seen[warp] = seen;
      seen = 0;
      __syncthreads();
      for (int i = thread; i < kStrip<D>; i += kThreads) {
        Partial total = empty_partial();
        int64_t rows = 0;
        for (int w = 0; w < kWarps; ++w) {
          Partial &partial = held.of[i % lanes][w * kWarp + i / lanes];
          total.merge(partial, rows, held.seen[w]);
          rows += held.seen[w];
          partial = empty_partial();
        }
        if (strip + i < shape.neurons) {
          partials.write((int64_t(blockIdx.y) + tile.segment) * shape.neurons + strip + i, total);
        }
        // Integers: the order of these additions does not matter.
        if (strip + i == 0) {
          atomicAdd(reinterpret_cast<unsigned long long *>(count + tile.segment), (unsigned long long)rows);
        }
      }
      __syncthreads(); // before the partials are used again
    }
  }
}

} // namespace affectron::cuda
