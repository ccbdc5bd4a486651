// Statistics of one tile of rows over one block of neurons, merged into the accumulators. Shared by glu_stats and
// neuron_stats, which differ only in where the values come from.
//
// A tile is measured in fp32 by a centred two-pass and merged in fp64 (Chan et al. 1979). Each neuron is handled by
// one thread, tile after tile in the plan's order, and lanes never mix: the result depends on the shapes and segments
// alone, not on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "share.h"
#include "simd.h"

namespace affectron::AFFECTRON_ISA {

// Neurons at a time: 32 rows of them as floats are 32 KB, which stay in the nearest caches between the passes.
constexpr int64_t kBlock = 256;

struct TileStats {
  alignas(64) float mean[kBlock];     // of the tile, rounded to fp32
  alignas(64) float residual[kBlock]; // sum of h - mean: what the rounding left
  alignas(64) float squares[kBlock];  // sum of (h - mean)^2
  alignas(64) float min[kBlock];
  alignas(64) float max[kBlock];
};

inline void measure(const float *h, int64_t rows, int64_t neurons, TileStats &tile) {
  const Vec inverse(1.0f / float(rows));
  for (int64_t i = 0; i < neurons; i += Vec::width) {
    const float *column = h + i;
    Vec first = load_float(column);
    Vec sum = first, low = first, high = first;
    for (int64_t r = 1; r < rows; ++r) {
      Vec x = load_float(column + r * kBlock);
      sum = sum + x;
      low = min(low, x);
      high = max(high, x);
    }
    Vec mean = sum * inverse;
    // Two partial sums each: shorter chains, which is faster and leaves less of the rounding error.
    Vec residual[2] = {Vec(0.0f), Vec(0.0f)}, squares[2] = {residual[0], residual[0]};
    auto deviate = [&](int64_t r, int k) {
      Vec deviation = load_float(column + r * kBlock) - mean;
      residual[k] = residual[k] + deviation;
      squares[k] = fma(deviation, deviation, squares[k]);
    };
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      deviate(r, 0);
      deviate(r + 1, 1);
    }
    if (r < rows) deviate(r, 0);
    store_float(tile.mean + i, mean);
    store_float(tile.residual + i, residual[0] + residual[1]);
    store_float(tile.squares + i, squares[0] + squares[1]);
    store_float(tile.min + i, low);
    store_float(tile.max + i, high);
  }
}

// One neuron in fp64, non-finite values left out: for columns whose squares leave the range of fp32 or that hold a
// NaN or an infinity, and for neurons that have held one before.
inline void merge_exactly(const float *column, int64_t rows, int64_t seen, Stats &stats, int64_t at) {
  double sum = 0.0, squares = 0.0;
  int64_t observed = 0;
  for (int64_t r = 0; r < rows; ++r) {
    float x = column[r * kBlock];
    if (!std::isfinite(x)) continue;
    ++observed;
    sum += x;
    stats.min[at] = std::min(stats.min[at], x);
    stats.max[at] = std::max(stats.max[at], x);
  }
  const int64_t before = seen - stats.nonfinite[at];
  stats.nonfinite[at] += rows - observed;
  if (observed == 0) return;
  const double mean = sum / double(observed);
  for (int64_t r = 0; r < rows; ++r) {
    double deviation = double(column[r * kBlock]) - mean;
    if (std::isfinite(column[r * kBlock])) squares += deviation * deviation;
  }
  const double share = double(observed) / double(before + observed);
  const double delta = mean - stats.mean[at];
  stats.mean[at] += delta * share;
  stats.m2[at] += squares + delta * delta * double(before) * share;
}

// `at`: position of the block's first neuron in the [S, F] accumulators; `seen`: rows the segment had before.
inline void merge(const float *h, const int32_t *active, int64_t rows, int64_t neurons, int64_t seen,
                  const TileStats &tile, Stats &stats, int64_t at) {
  const double share = double(rows) / double(seen + rows);
  const double weight = double(seen) * share;
  const double inverse = 1.0 / double(rows);
  double *mean = stats.mean + at, *m2 = stats.m2 + at;
  float *low = stats.min + at, *high = stats.max + at;
  int64_t *count = stats.active + at, *nonfinite = stats.nonfinite + at;
  int32_t exceptional = 0;
  alignas(64) int32_t exact[kBlock];
  for (int64_t i = 0; i < neurons; ++i) {
    // In range: squares neither overflow nor vanish. Comparisons are false for NaN. All equal: no squares to lose.
    bool in_range = (tile.squares[i] < 1e30f) & ((tile.squares[i] > 1e-28f) | (tile.min[i] == tile.max[i]));
    exact[i] = !in_range | (nonfinite[i] != 0);
    exceptional |= exact[i];
  }
  for (int64_t i = 0; i < neurons; ++i) count[i] += active[i];
  auto fast = [&](int64_t i) {
    const double residual = tile.residual[i];
    const double squares = double(tile.squares[i]) - residual * residual * inverse;
    const double delta = double(tile.mean[i]) + residual * inverse - mean[i];
    mean[i] += delta * share;
    m2[i] += (squares > 0.0 ? squares : 0.0) + delta * delta * weight;
    low[i] = tile.min[i] < low[i] ? tile.min[i] : low[i];
    high[i] = tile.max[i] > high[i] ? tile.max[i] : high[i];
  };
  if (!exceptional) {
    for (int64_t i = 0; i < neurons; ++i) fast(i);
  } else {
    for (int64_t i = 0; i < neurons; ++i) {
      if (exact[i]) {
        merge_exactly(h + i, rows, seen, stats, at + i);
      } else {
        fast(i);
      }
    }
  }
}

// Runs `fill(n, f, neurons, h, active)` over every row n of every tile and block of neurons from f on, and merges the
// tiles that belong to a segment. `fill` leaves a row's values in h and adds to active; for a row of no segment h is
// null and only its output is wanted.
template <class Fill> void accumulate(Shape shape, const Plan &plan, Stats stats, int threads, Fill fill) {
  share_neurons(shape, threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> seen(stats.count, stats.count + plan.num_segments);
    std::vector<float> h(size_t(kTileRows * kBlock));
    TileStats tile_stats;
    alignas(64) int32_t active[kBlock];
    for (int64_t t = 0; t < plan.num_tiles; ++t) {
      const Tile tile = plan.tiles[t];
      const int64_t *order = plan.order + tile.start;
      for (int64_t f = begin; f < end; f += kBlock) {
        const int64_t neurons = std::min(kBlock, end - f);
        if (tile.segment < 0) {
          for (int64_t r = 0; r < tile.rows; ++r) fill(order[r], f, neurons, nullptr, nullptr);
        } else if (tile.rows > 0) {
          std::fill(active, active + kBlock, 0);
          for (int64_t r = 0; r < tile.rows; ++r) fill(order[r], f, neurons, h.data() + r * kBlock, active);
          measure(h.data(), tile.rows, neurons, tile_stats);
          merge(h.data(), active, tile.rows, neurons, seen[size_t(tile.segment)], tile_stats, stats,
                tile.segment * shape.neurons + f);
        }
      }
      if (tile.segment >= 0) seen[size_t(tile.segment)] += tile.rows;
    }
  });
  for (int64_t t = 0; t < plan.num_tiles; ++t) {
    if (plan.tiles[t].segment >= 0) stats.count[plan.tiles[t].segment] += plan.tiles[t].rows;
  }
}

} // namespace affectron::AFFECTRON_ISA
