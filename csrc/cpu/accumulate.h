// Statistics of tiles of rows, merged into the accumulators. Shared by glu_stats and neuron_stats, which differ only in
// where the values come from.
//
// One pass: as values are made, their deviations from a pivot and the squares of these are summed in fp32; a tile's
// sums are merged in fp64 (Chan et al. 1979). The pivot is the segment's mean so far. Where that is far from the tile's
// mean digits cancel, which does no harm as long as the segment had as many rows before: the mean that moves then adds
// at least half as much to its M2. While it has fewer, the tile is read again from where its values were left, and
// measured about its own mean. Values whose squares leave fp32's range and those that are not finite are measured in
// fp64.
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

// Neurons at a time: what is known of them and the rows under way stay in the nearest cache.
constexpr int64_t kBlock = 256;

// Rows at a time: their sums pass through memory once. That also leaves less rounding error than one by one.
constexpr int kRowsUnderWay = 8;

// A counter of rows as wide as a value: a register holds as many of either.
template <Dtype D> using Tally = std::conditional_t<D == Dtype::f32, int32_t, int16_t>;

// What is known of a block of neurons in the current tile.
template <Dtype D> struct Sums {
  alignas(64) float pivot[kBlock];
  alignas(64) float deviations[kBlock]; // from the pivot
  alignas(64) float squares[kBlock];    // of the deviations
  alignas(64) float min[kBlock];
  alignas(64) float max[kBlock];
  alignas(64) Tally<D> active[kBlock]; // rows
};

// Whether x > 0. Of 16 bits no float need be made: as integers, those above 0 lie from 1 to infinity, NaN beyond.
template <Dtype D> bool positive(typename Format<D>::type x) {
  if constexpr (D == Dtype::f32) {
    return x > 0.0f;
  } else {
    return uint16_t(x - 1) < (D == Dtype::bf16 ? 0x7f80 : 0x7c00);
  }
}

// Not inlined: where GCC 12 knows the array it makes of this a loop that takes several times as long.
template <Dtype D>
__attribute__((noinline)) void count_positive(const typename Format<D>::type *const *signs, int rows, int64_t neurons,
                                              Tally<D> *counts) {
  for (int r = 0; r < rows; ++r) {
    const auto *sign = signs[r];
    for (int64_t i = 0; i < neurons; ++i) counts[i] = Tally<D>(counts[i] + positive<D>(sign[i]));
  }
}

// Adds the block's neurons in up to kRowsUnderWay rows: their values, and what is greater than 0 where they are active.
template <Dtype D>
void count(const typename Format<D>::type *const *values, const typename Format<D>::type *const *signs, int rows,
           int64_t neurons, Sums<D> &sums) {
  each_vector<D>(neurons, [&](int64_t i, auto load, auto) {
    const Vec pivot = load_float(sums.pivot + i);
    Vec deviations(0.0f), squares(0.0f), low = load_float(sums.min + i), high = load_float(sums.max + i);
    // As a plain loop neuron_stats takes 1.3 to 1.7 times as long.
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

// Puts the pivot at the tile's mean and sums again: `load(r, i)` is a vector of row r. A mean lies between the
// extremes, and so the pivot of a neuron that never changes is its value.
template <Dtype D, class Load> void center(Sums<D> &sums, int64_t rows, int64_t neurons, Load load) {
  const Vec inverse(1.0f / float(rows));
  for (int64_t i = 0; i < neurons; i += Vec::width) {
    const Vec mean = fma(load_float(sums.deviations + i), inverse, load_float(sums.pivot + i));
    const Vec pivot = min(max(mean, load_float(sums.min + i)), load_float(sums.max + i));
    // Two partial sums each: shorter chains, which is faster and leaves less of the rounding error.
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

// One neuron in fp64, non-finite values left out.
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

// `at`: position of the block's first neuron in the [S, F] accumulators; `seen`: rows the segment had before;
// `load(r, i)`: a vector of row r from the block's neuron i on.
template <Dtype D, class Load>
void merge(const Sums<D> &sums, int64_t rows, int64_t neurons, int64_t seen, Stats &stats, int64_t at, Load load) {
  const double share = double(rows) / double(seen + rows);
  const double weight = double(seen) * share;
  const double inverse = 1.0 / double(rows);
  double *mean = stats.mean + at, *m2 = stats.m2 + at;
  float *low = stats.min + at, *high = stats.max + at;
  int64_t *count = stats.active + at, *nonfinite = stats.nonfinite + at;
  // The squares neither overflow nor vanish, unless there are none. Comparisons are false for NaN.
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

// Merges every tile that belongs to a segment. `fill(n, f, neurons, next_n, next_f)` leaves the values of row n from
// the neuron f on in `values`, and is called for rows of no segment too. It may fetch what will be filled some rows
// later: a block is too short for the processor to see the next one coming. Active is what is greater than 0 in
// `signs`.
template <Dtype D, class Fill>
void accumulate(Rows values, Rows signs, Shape shape, const Plan &plan, Stats stats, int threads, Fill fill) {
  using F = Format<D>;
  using T = typename F::type;
  auto place = [](Rows rows, int64_t n, int64_t f) { return static_cast<const T *>(at(rows, n, f, sizeof(T))); };
  share_neurons(shape, threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> seen(stats.count, stats.count + plan.num_segments);
    Sums<D> sums;
    for (int64_t t = 0; t < plan.num_tiles; ++t) {
      const Tile tile = plan.tiles[t];
      const int64_t *order = plan.order + tile.start, rows = tile.rows;
      if (rows == 0) continue;
      for (int64_t f = begin; f < end; f += kBlock) {
        const int64_t neurons = std::min(kBlock, end - f);
        auto fill_row = [&](int64_t r) {
          const int64_t next = r + kRowsUnderWay;
          if (next < rows || f + kBlock >= end) {
            fill(order[r], f, neurons, order[std::min(next, rows - 1)], f);
          } else {
            fill(order[r], f, neurons, order[std::min(next - rows, rows - 1)], f + kBlock);
          }
        };
        if (tile.segment < 0) {
          for (int64_t r = 0; r < rows; ++r) fill_row(r);
          continue;
        }
        const int64_t first = tile.segment * shape.neurons + f, before = seen[size_t(tile.segment)];
        // What merge will change comes from farther caches while the rows are measured.
        fetch_to_change(stats.m2 + first, neurons);
        fetch_to_change(stats.min + first, neurons);
        fetch_to_change(stats.max + first, neurons);
        fetch_to_change(stats.active + first, neurons);
        fetch_to_change(stats.nonfinite + first, neurons);
        for (int64_t i = 0; i < kBlock; ++i) {
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
            value[k] = place(values, order[r + k], f);
            sign[k] = place(signs, order[r + k], f);
          }
          count<D>(value, sign, size, neurons, sums);
          r += size;
        }
        auto load = [&](int64_t r, int64_t i) {
          const T *from = place(values, order[r], f + i);
          return i + Vec::width <= neurons ? F::load(from) : load_part<D>(from, neurons - i);
        };
        if (before < rows) center(sums, rows, neurons, load);
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
