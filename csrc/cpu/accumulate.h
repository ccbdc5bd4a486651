// Statistics of tiles of rows, merged into the accumulators. Shared by glu_stats and neuron_stats, which differ only in
// where the values come from.
//
// One pass: as values are made, their deviations from a pivot and the squares of the deviations are summed in fp32. A
// tile's sums are merged in fp64 (Chan et al. 1979). The pivot is the segment's mean so far. If it is far from the
// tile's mean, digits cancel. That does no harm if the segment had at least as many rows before: moving the mean then
// adds at least half as much to its M2. If it had fewer, the tile's values are read again and measured about the tile's
// own mean. Values that are not finite, and values whose squares leave fp32's range, are measured in fp64.
//
// Each neuron is handled by one thread, tile after tile in the plan's order, and lanes never mix: the result depends on
// the shapes and segments alone, not on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "share.h"
#include "simd.h"

namespace affectron::AFFECTRON_ISA {

// Neurons in a strip: their sums and the rows under way stay in the nearest cache.
constexpr int64_t kStrip = 256;

// Rows whose sums pass through memory once. Adding them up first also leaves less rounding error.
constexpr int kRowsUnderWay = 8;

// A counter of rows as wide as a value, so that a register holds as many counters as values.
template <Dtype D> using Tally = std::conditional_t<D == Dtype::f32, int32_t, int16_t>;

// Sums of a strip of neurons over the current tile.
template <Dtype D> struct Sums {
  alignas(64) float pivot[kStrip];
  alignas(64) float deviations[kStrip]; // from the pivot
  alignas(64) float squares[kStrip];    // of the deviations
  alignas(64) float min[kStrip];
  alignas(64) float max[kStrip];
  alignas(64) Tally<D> active[kStrip]; // rows
};

// x > 0. 16 bits are compared as an integer: positive numbers lie from 1 to infinity, NaN beyond.
template <Dtype D> bool positive(typename Format<D>::type x) {
  if constexpr (D == Dtype::f32) {
    return x > 0.0f;
  } else {
    return uint16_t(x - 1) < (D == Dtype::bf16 ? 0x7f80 : 0x7c00);
  }
}

// Not inlined: GCC 12, if it sees the array of the caller, compiles a loop that takes several times as long.
template <Dtype D>
__attribute__((noinline)) void count_positive(const typename Format<D>::type *const *signs, int rows, int64_t neurons,
                                              Tally<D> *counts) {
  for (int r = 0; r < rows; ++r) {
    const auto *sign = signs[r];
    for (int64_t i = 0; i < neurons; ++i) counts[i] = Tally<D>(counts[i] + positive<D>(sign[i]));
  }
}

// Adds up to kRowsUnderWay rows to a strip's sums. A row is active where `signs` is greater than 0.
template <Dtype D>
void add_rows(const typename Format<D>::type *const *values, const typename Format<D>::type *const *signs, int rows,
              int64_t neurons, Sums<D> &sums) {
  each_vector<D>(neurons, [&](int64_t i, auto load, auto) {
    const Vec pivot = load_float(sums.pivot + i);
    Vec deviations(0.0f), squares(0.0f), low = load_float(sums.min + i), high = load_float(sums.max + i);
    // Without this, neuron_stats takes 1.3 to 1.7 times as long.
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec h = load(values[r] + i), deviation = h - pivot;
      deviations = deviations + deviation;
      squares = fma(deviation, deviation, squares);
      low = min(low, h);
      high = max(high, h);
    }
    store_float(sums.deviations + i, load_float(sums.deviations + i) + deviations);
    store_float(sums.squares + i, load_float(sums.squares + i) + squares);
    store_float(sums.min + i, low);
    store_float(sums.max + i, high);
  });
  count_positive<D>(signs, rows, neurons, sums.active);
}

// Moves the pivot to the tile's mean and computes the sums again; `load(r, i)` is a vector of row r. The pivot is
// clamped to the extremes, so that it equals the value of a neuron that never changes.
template <Dtype D, class Load> void centre(Sums<D> &sums, int64_t rows, int64_t neurons, Load load) {
  const Vec inverse(1.0f / float(rows));
  for (int64_t i = 0; i < neurons; i += Vec::width) {
    const Vec mean = fma(load_float(sums.deviations + i), inverse, load_float(sums.pivot + i));
    const Vec pivot = min(max(mean, load_float(sums.min + i)), load_float(sums.max + i));
    // Two sums of every other row: shorter chains are faster and leave less rounding error.
    Vec deviations[2] = {Vec(0.0f), Vec(0.0f)}, squares[2] = {Vec(0.0f), Vec(0.0f)};
    for (int64_t r = 0; r < rows; ++r) {
      const Vec deviation = load(r, i) - pivot;
      deviations[r % 2] = deviations[r % 2] + deviation;
      squares[r % 2] = fma(deviation, deviation, squares[r % 2]);
    }
    store_float(sums.pivot + i, pivot);
    store_float(sums.deviations + i, deviations[0] + deviations[1]);
    store_float(sums.squares + i, squares[0] + squares[1]);
  }
}

// Merges one neuron's values in a tile in fp64; values that are not finite are left out.
inline void merge_exactly(const float *column, int64_t rows, int64_t seen, Stats &stats, int64_t at) {
  double sum = 0.0, squares = 0.0;
  int64_t observed = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float x = column[r];
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
    const double deviation = double(column[r]) - mean;
    if (std::isfinite(column[r])) squares += deviation * deviation;
  }
  const double share = double(observed) / double(before + observed);
  const double delta = mean - stats.mean[at];
  stats.mean[at] += delta * share;
  stats.m2[at] += squares + delta * delta * double(before) * share;
}

// Merges a strip's sums into the accumulators. `at`: position of the strip's first neuron in the [S, F] accumulators;
// `seen`: rows the segment had before; `load(r, i)`: a vector of row r from the strip's neuron i on.
template <Dtype D, class Load>
void merge(const Sums<D> &sums, int64_t rows, int64_t neurons, int64_t seen, Stats &stats, int64_t at, Load load) {
  const double share = double(rows) / double(seen + rows);
  const double weight = double(seen) * share;
  const double inverse = 1.0 / double(rows);
  double *mean = stats.mean + at, *m2 = stats.m2 + at;
  float *low = stats.min + at, *high = stats.max + at;
  int64_t *count = stats.active + at, *nonfinite = stats.nonfinite + at;
  // The squares have neither overflowed nor vanished, or are truly 0. Comparisons are false for NaN.
  auto in_range = [&](int64_t i) {
    const bool constant = (sums.min[i] == sums.pivot[i]) & (sums.max[i] == sums.pivot[i]);
    return (sums.squares[i] < 1e30f) & ((sums.squares[i] > 1e-28f) | constant);
  };
  int32_t all_in_range = 1;
  int64_t any_nonfinite = 0;
  for (int64_t i = 0; i < neurons; ++i) all_in_range &= in_range(i);
  for (int64_t i = 0; i < neurons; ++i) any_nonfinite |= nonfinite[i];
  for (int64_t i = 0; i < neurons; ++i) count[i] += sums.active[i];
  auto fast = [&](int64_t i) {
    const double total = sums.deviations[i], shift = total * inverse;
    const double squares = double(sums.squares[i]) - total * shift;
    const double delta = double(sums.pivot[i]) + shift - mean[i];
    mean[i] += delta * share;
    m2[i] += (squares > 0.0 ? squares : 0.0) + delta * delta * weight;
    low[i] = sums.min[i] < low[i] ? sums.min[i] : low[i];
    high[i] = sums.max[i] > high[i] ? sums.max[i] : high[i];
  };
  if (all_in_range && any_nonfinite == 0) {
    for (int64_t i = 0; i < neurons; ++i) fast(i);
  } else {
    for (int64_t i = 0; i < neurons; ++i) {
      if (!in_range(i) || nonfinite[i] != 0) {
        float column[kTileRows + Vec::width - 1];
        for (int64_t r = 0; r < rows; ++r) store_float(column + r, load(r, i));
        merge_exactly(column, rows, seen, stats, at + i);
      } else {
        fast(i);
      }
    }
  }
}

// Merges every tile that belongs to a segment. `fill(n, f, neurons, next_n, next_f)` writes the values of row n, from
// the neuron f on, to `values`, and is called for rows of no segment too. It may fetch the row next_n from next_f on,
// which will be filled some rows later: a strip is too short for the processor to predict that. A row is active where
// `signs` is greater than 0.
template <Dtype D, class Fill>
void accumulate(Rows values, Rows signs, Shape shape, const Plan &plan, Stats stats, int threads, Fill fill) {
  using F = Format<D>;
  using T = typename F::type;
  auto element = [](Rows rows, int64_t n, int64_t f) { return static_cast<const T *>(at(rows, n, f, sizeof(T))); };
  share_neurons(shape, threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> seen(stats.count, stats.count + plan.num_segments);
    Sums<D> sums;
    for (int64_t t = 0; t < plan.num_tiles; ++t) {
      const Tile tile = plan.tiles[t];
      const int64_t *order = plan.order + tile.start, rows = tile.rows;
      if (rows == 0) continue;
      for (int64_t f = begin; f < end; f += kStrip) {
        const int64_t neurons = std::min(kStrip, end - f);
        auto fill_row = [&](int64_t r) {
          const int64_t next = r + kRowsUnderWay;
          if (next < rows || f + kStrip >= end) {
            fill(order[r], f, neurons, order[std::min(next, rows - 1)], f);
          } else {
            fill(order[r], f, neurons, order[std::min(next - rows, rows - 1)], f + kStrip);
          }
        };
        if (tile.segment < 0) {
          for (int64_t r = 0; r < rows; ++r) fill_row(r);
          continue;
        }
        const int64_t first = tile.segment * shape.neurons + f, before = seen[size_t(tile.segment)];
        // Fetch the accumulators, which merge will change, while the rows are measured.
        fetch_to_change(stats.m2 + first, neurons);
        fetch_to_change(stats.min + first, neurons);
        fetch_to_change(stats.max + first, neurons);
        fetch_to_change(stats.active + first, neurons);
        fetch_to_change(stats.nonfinite + first, neurons);
        for (int64_t i = 0; i < kStrip; ++i) {
          sums.pivot[i] = i < neurons ? float(stats.mean[first + i]) : 0.0f;
          sums.deviations[i] = sums.squares[i] = 0.0f;
          sums.active[i] = 0;
          sums.min[i] = std::numeric_limits<float>::infinity();
          sums.max[i] = -sums.min[i];
        }
        for (int64_t r = 0; r < rows;) {
          const int size = int(std::min<int64_t>(kRowsUnderWay, rows - r));
          const T *value[kRowsUnderWay], *sign[kRowsUnderWay];
          for (int k = 0; k < size; ++k) {
            fill_row(r + k);
            value[k] = element(values, order[r + k], f);
            sign[k] = element(signs, order[r + k], f);
          }
          add_rows<D>(value, sign, size, neurons, sums);
          r += size;
        }
        auto load = [&](int64_t r, int64_t i) {
          const T *from = element(values, order[r], f + i);
          return i + Vec::width <= neurons ? F::load(from) : load_part<D>(from, neurons - i);
        };
        if (before < rows) centre(sums, rows, neurons, load);
        merge(sums, rows, neurons, before, stats, first, load);
      }
      if (tile.segment >= 0) seen[size_t(tile.segment)] += rows;
    }
  });
  for (int64_t t = 0; t < plan.num_tiles; ++t) {
    if (plan.tiles[t].segment >= 0) stats.count[plan.tiles[t].segment] += plan.tiles[t].rows;
  }
}

} // namespace affectron::AFFECTRON_ISA
