// Statistics in two passes over each tile, centred on its mean: one of the two forms between which partials.h chooses.
//
// A block works on each tile in two phases. First by rows: a warp reads whole vectors of a row, writes the output and
// the values to shared memory, and keeps the sums and active counts of its rows. Then by neurons: each thread reads
// down the columns of one word, measures the tile in fp32 about the mean that the sums give, and merges it in fp64.
//
// In 16 bits glu_stats takes 26 instructions an element with the short silu and 37 with torch's sequence, and two
// barriers a tile (sm_90; computed by `python tools/instructions.py`, not measured).
#pragma once

#include "partials.h"

namespace affectron::cuda {

// Neurons of a thread in the second phase.
template <Dtype D> constexpr int kColumns = kStrip<D> / kThreads;

// Shared memory of a block. Each thread uses only its own partials. They are not in registers because the first phase
// needs the registers for its loads.
template <Dtype D> struct Shared {
  Vector values[kTileRows][kWarp];
  Vector sums[kWarps][kStrip<D> / 4];     // floats: of each warp's rows
  uint32_t active[kWarps][kStrip<D> / 4]; // bytes
  Partial partials[kColumns<D>][kThreads];
  double share, weight; // of the tile, see Moments
  float inverse;        // 1 / rows
};

// The tile's mean, the deviations from it and its extremes, in fp32, of the columns of one word.
template <Dtype D, int C> struct Measure {
  float mean[C], residual[C], squares[C], min[C], max[C];

  __device__ Measure(const Shared<D> &tile, int rows, int thread) {
    const auto sums = reinterpret_cast<const float *>(tile.sums);
    const auto words = reinterpret_cast<const uint32_t *>(tile.values);
    float sum[C], more[C];
#pragma unroll
    for (int c = 0; c < C; ++c) {
      sum[c] = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum[c] += sums[w * kStrip<D> + thread * C + c];
      mean[c] = sum[c] * tile.inverse;
      squares[c] = more[c] = residual[c] = 0.0f;
      min[c] = __int_as_float(0x7f800000);
      max[c] = -min[c];
    }
    auto take = [&](int r, float *into) {
      float x[C];
      Format<D>::unpack(words[r * kThreads + thread], x);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const float deviation = x[c] - mean[c];
        into[c] = fmaf(deviation, deviation, into[c]);
        // Sums of 16-bit values are exact where the mean is large beside the spread, so that the mean's rounding error
        // follows from the sum (below). In fp32 it takes the sum of the deviations.
        if constexpr (D == Dtype::f32) residual[c] += deviation;
        min[c] = fminf(min[c], x[c]);
        max[c] = fmaxf(max[c], x[c]);
      }
    };
    int r = 0;
#pragma unroll 2
    for (; r + 2 <= rows; r += 2) {
      take(r, squares);
      take(r + 1, more);
    }
    if (r < rows) take(r, squares);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      squares[c] += more[c];
      if constexpr (D != Dtype::f32) residual[c] = fmaf(-float(rows), mean[c], sum[c]);
    }
  }
};

template <Dtype D, class Source>
__device__ void two_passes(const Source &source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                           int64_t *count) {
  constexpr int lanes = kLanes<D>;
  constexpr int C = kColumns<D>;
  constexpr int batch = Source::aligned ? 2 : 1;
  __shared__ Shared<D> shared;
  allow_next();
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t strip = int64_t(blockIdx.x) * kStrip<D>;
  const int64_t f = strip + lane * lanes, column = strip + thread * C;
  const int neurons = int(max(0, min(shape.neurons - f, lanes)));
  const int columns = int(max(0, min(shape.neurons - column, C)));
  const int64_t first = int64_t(blockIdx.y) * tiles_per_group;
  const int64_t last = min(first + tiles_per_group, plan.num_tiles);

#pragma unroll
  for (int c = 0; c < C; ++c) shared.partials[c][thread] = empty_partial();
  int64_t seen = 0; // rows of the segment so far, in this group
  for (int64_t t = first; t < last; ++t) {
    const Tile tile = plan.tiles[t];
    const bool counted = tile.segment >= 0 && tile.rows > 0;
    const int rows = int(tile.rows);

    float sums[lanes] = {};
    uint32_t active[lanes / 4] = {}; // a byte a neuron: a warp counts at most 8 rows of a tile
    for (int r = warp; r < rows && neurons > 0; r += batch * kWarps) {
      typename Source::Row row[batch];
      int64_t n[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (r + b * kWarps < rows) n[b] = plan.order[tile.start + r + b * kWarps];
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (r + b * kWarps < rows) row[b] = source.load(n[b], f, neurons);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (r + b * kWarps >= rows) continue;
        float h[lanes], sign[lanes];
        const Vector values = source.finish(row[b], n[b], f, neurons);
        shared.values[r + b * kWarps][lane] = values;
        unpack<D>(values, h);
        unpack<D>(source.signs(row[b], values), sign);
#pragma unroll
        for (int i = 0; i < lanes; ++i) {
          sums[i] += h[i];
          if (sign[i] > 0.0f) active[i / 4] += 1u << (8 * (i % 4));
        }
      }
    }

    if (counted) {
#pragma unroll
      for (int i = 0; i < lanes; i += 4) {
        shared.sums[warp][(lane * lanes + i) / 4] = pack<Dtype::f32>(sums + i);
        shared.active[warp][(lane * lanes + i) / 4] = active[i / 4];
      }
      if (thread == 0) {
        shared.inverse = 1.0f / float(rows);
        shared.share = double(rows) / double(seen + rows);
        shared.weight = double(seen) * shared.share;
      }
      __syncthreads();
      const Measure<D, C> measure(shared, rows, thread);
      const auto bytes = reinterpret_cast<const uint8_t *>(shared.active);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        Partial partial = shared.partials[c][thread];
        for (int w = 0; w < kWarps; ++w) partial.active += bytes[w * kStrip<D> + thread * C + c];
        // In range: the squares have neither overflowed nor vanished, or all values are equal. False for NaN.
        const float squares = measure.squares[c];
        const bool in_range = squares < 1e30f && (squares > 1e-28f || measure.min[c] == measure.max[c]);
        if (in_range && partial.nonfinite == 0) {
          const double residual = measure.residual[c], shift = residual * shared.inverse;
          const double m2 = ::fma(-residual, shift, double(squares));
          partial.moments.merge(double(measure.mean[c]) + shift, m2 > 0.0 ? m2 : 0.0, shared.share, shared.weight);
          partial.min = fminf(partial.min, measure.min[c]);
          partial.max = fmaxf(partial.max, measure.max[c]);
        } else {
          const auto words = reinterpret_cast<const uint32_t *>(shared.values);
          auto value = [&](int r) {
            float x[C];
            Format<D>::unpack(words[r * kThreads + thread], x);
            return x[c];
          };
          merge_exactly(value, rows, seen, partial);
        }
        shared.partials[c][thread] = partial;
      }
      seen += rows;
      if (t + 1 == last || plan.tiles[t + 1].segment != tile.segment) {
        const int64_t slot = (int64_t(blockIdx.y) + tile.segment) * shape.neurons + column;
#pragma unroll
        for (int c = 0; c < C; ++c) {
          if (c >= columns) break;
          partials.write(slot + c, shared.partials[c][thread]);
          shared.partials[c][thread] = empty_partial();
        }
        // Integers: the order of these additions does not matter.
        if (strip == 0 && thread == 0) {
          atomicAdd(reinterpret_cast<unsigned long long *>(count + tile.segment), (unsigned long long)seen);
        }
        seen = 0;
      }
      __syncthreads(); // before the next tile's values replace these
    }
  }
}

} // namespace affectron::cuda
