// Statistics of every neuron for each segment, for the two kernels that differ only in where the values come from.
//
// The plan's tiles are cut into groups of equally many: how many follows from the shapes alone, so that a large GPU
// holds all blocks at once. A block owns one group and a strip of neurons as wide as a warp's vectors. For each tile it
// works in two phases. First by rows: a warp reads whole vectors of a row, writes the output, leaves the values in
// shared memory, and keeps the sums and active counts of its rows. Then by neurons: each thread reads down the columns
// of one word, measures the tile in fp32 (centred on the mean that the sums give) and merges it in fp64 (Chan et al.
// 1979). At the end of a segment's tiles in the group the result goes to the workspace; `merge_kernel` takes all of
// them from there in the order of the groups. No float is added atomically, and no order depends on which block runs
// when: the same shapes and segments give the same bits, on any GPU.
//
// What that should cost beside glu (bf16, 8192 x 14336, 10 labels; computed, not measured): 11 groups write and read 20
// partial results of 32 bytes a neuron, 18 MB beside 704 MB and mostly within the L2 cache, in a second launch of some
// microseconds. The machine code for sm_90 has about 45 instructions an element where there is time for 41 (glu.cu):
// the arithmetic, not memory, is expected to set the pace, at 1.1 to 1.25 of glu's time. In fp32 there is time for 82.
#pragma once

#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

constexpr int kResident = 5;     // blocks on an SM: with 96 registers a thread, nothing is spilled
constexpr int64_t kBlocks = 640; // aimed at: they find room on 128 SMs at once
constexpr int64_t kMinTiles = 4; // a group: partial results stay few beside what is read
constexpr int64_t kMaxGroups = 1024;

// Neurons of a thread in the second phase.
template <Dtype D> constexpr int kColumns = kStrip<D> / kThreads;

struct Groups {
  int64_t number;
  int64_t tiles; // in each but the last
};

inline Groups make_groups(Shape shape, int64_t num_tiles, Dtype dtype) {
  const int64_t strips = ceil_div(shape.neurons, kWarp * 16 / element_size(dtype));
  const int64_t wanted = max(1, min(kMaxGroups, kBlocks / strips));
  const int64_t tiles = max(kMinTiles, ceil_div(num_tiles, wanted));
  return {ceil_div(num_tiles, tiles), tiles};
}

// Partial results, [slots, F] each. That of segment s in group g is in slot g + s: both ascend along the tiles, so no
// two share one.
struct Partials {
  double *mean, *m2;
  float *min, *max;
  int32_t *active, *nonfinite;
};

constexpr int64_t kPartialBytes = 32;

inline int64_t partial_size(Shape shape, Groups groups, int64_t num_segments) {
  return (groups.number + num_segments) * shape.neurons;
}

inline Partials make_partials(void *workspace, int64_t size) {
  Partials p;
  p.mean = static_cast<double *>(workspace);
  p.m2 = p.mean + size;
  p.min = reinterpret_cast<float *>(p.m2 + size);
  p.max = p.min + size;
  p.active = reinterpret_cast<int32_t *>(p.max + size);
  p.nonfinite = p.active + size;
  return p;
}

// A set of observations of one neuron, merged in fp64.
struct Moments {
  double mean, m2;

  // `share`: the added set's part of all observations; `weight`: that times the number before.
  __device__ void merge(double other_mean, double other_m2, double share, double weight) {
    const double delta = other_mean - mean;
    mean = ::fma(delta, share, mean);
    m2 += ::fma(delta * delta, weight, other_m2);
  }
};

// What one thread has seen of one neuron in the current segment of its group.
struct alignas(16) Run {
  Moments moments;
  float min, max;
  int32_t active, nonfinite;
};

__device__ inline Run empty_run() {
  const float infinity = __int_as_float(0x7f800000);
  return {{0.0, 0.0}, infinity, -infinity, 0, 0};
}

// Shared memory of a block. The runs are each thread's own: in registers they would lie idle through the first phase,
// which needs them for its loads.
template <Dtype D> struct Shared {
  Vector values[kTileRows][kWarp];
  Vector sums[kWarps][kStrip<D> / 4];     // floats: of each warp's rows
  uint32_t active[kWarps][kStrip<D> / 4]; // bytes
  Run runs[kColumns<D>][kThreads];
  double share, weight; // of the tile, see Moments
  float inverse;        // 1 / rows
};

// Down the columns of one word: everything of the tile that `Moments` wants, in fp32.
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
        // Sums of 16-bit values are exact where the mean is large beside the spread: what its rounding left is known
        // without adding up deviations. In fp32 it is not.
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

// One neuron of a tile in fp64, non-finite values left out: for columns whose squares leave the range of fp32 or that
// hold a NaN or an infinity, and for neurons that have held one before.
template <Dtype D>
__device__ void merge_exactly(const Shared<D> &tile, int rows, int64_t seen, int thread, int column, Run &run) {
  const auto words = reinterpret_cast<const uint32_t *>(tile.values);
  auto value = [&](int r) {
    float x[Format<D>::per_word];
    Format<D>::unpack(words[r * kThreads + thread], x);
    return Format<D>::per_word == 2 && column ? x[Format<D>::per_word - 1] : x[0];
  };
  double sum = 0.0, squares = 0.0;
  int observed = 0;
  for (int r = 0; r < rows; ++r) {
    const float x = value(r);
    if (!isfinite(x)) continue;
    ++observed;
    sum += x;
    run.min = fminf(run.min, x);
    run.max = fmaxf(run.max, x);
  }
  const double before = double(seen - run.nonfinite);
  run.nonfinite += rows - observed;
  if (observed == 0) return;
  const double mean = sum / observed;
  for (int r = 0; r < rows; ++r) {
    const float x = value(r);
    if (isfinite(x)) squares = ::fma(x - mean, x - mean, squares);
  }
  const double share = observed / (before + observed);
  run.moments.merge(mean, squares, share, before * share);
}

// `Source` says how a row's values come about: `load(n, f, neurons)` starts reading a vector, and `finish` turns what
// it returned into the values, the signal whose sign says active, and the output where there is one.
template <Dtype D, class Source>
__device__ void accumulate(const Source &source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                           int64_t *count) {
  constexpr int lanes = kLanes<D>;
  constexpr int C = kColumns<D>;
  constexpr int batch = Source::batch;
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
  for (int c = 0; c < C; ++c) shared.runs[c][thread] = empty_run();
  int64_t seen = 0; // rows of the segment so far, in this group
  for (int64_t t = first; t < last; ++t) {
    const Tile tile = plan.tiles[t];
    const bool counted = tile.segment >= 0 && tile.rows > 0;
    const int rows = int(tile.rows);

    float sums[lanes] = {};
    uint32_t active[lanes / 4] = {}; // a byte a neuron: a warp has 8 rows of a tile
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
        float h[lanes], signal[lanes];
        shared.values[r + b * kWarps][lane] = source.finish(row[b], n[b], f, neurons, h, signal);
#pragma unroll
        for (int i = 0; i < lanes; ++i) {
          sums[i] += h[i];
          if (signal[i] > 0.0f) active[i / 4] += 1u << (8 * (i % 4));
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
        Run run = shared.runs[c][thread];
        for (int w = 0; w < kWarps; ++w) run.active += bytes[w * kStrip<D> + thread * C + c];
        // In range: squares neither overflow nor vanish. Comparisons are false for NaN. All equal: nothing to lose.
        const float squares = measure.squares[c];
        const bool in_range = squares < 1e30f && (squares > 1e-28f || measure.min[c] == measure.max[c]);
        if (in_range && run.nonfinite == 0) {
          const double residual = measure.residual[c], shift = residual * shared.inverse;
          const double m2 = ::fma(-residual, shift, double(squares));
          run.moments.merge(double(measure.mean[c]) + shift, m2 > 0.0 ? m2 : 0.0, shared.share, shared.weight);
          run.min = fminf(run.min, measure.min[c]);
          run.max = fmaxf(run.max, measure.max[c]);
        } else {
          merge_exactly(shared, rows, seen, thread, c, run);
        }
        shared.runs[c][thread] = run;
      }
      seen += rows;
      if (t + 1 == last || plan.tiles[t + 1].segment != tile.segment) {
        const int64_t slot = (int64_t(blockIdx.y) + tile.segment) * shape.neurons + column;
#pragma unroll
        for (int c = 0; c < C; ++c) {
          if (c >= columns) break;
          const Run run = shared.runs[c][thread];
          partials.mean[slot + c] = run.moments.mean;
          partials.m2[slot + c] = run.moments.m2;
          partials.min[slot + c] = run.min;
          partials.max[slot + c] = run.max;
          partials.active[slot + c] = run.active;
          partials.nonfinite[slot + c] = run.nonfinite;
          shared.runs[c][thread] = empty_run();
        }
        // An integer: the order does not matter.
        if (strip == 0 && thread == 0) {
          atomicAdd(reinterpret_cast<unsigned long long *>(count + tile.segment), (unsigned long long)seen);
        }
        seen = 0;
      }
      __syncthreads(); // before the next tile's values come
    }
  }
}

// The partial results of one segment, group after group, into the accumulators; a thread for each neuron. `count` holds
// this batch's rows already.
template <int> // a template only so that two sources may hold it
__global__ void __launch_bounds__(kThreads)
    merge_kernel(Shape shape, Plan plan, Groups groups, Partials partials, Stats stats) {
  __shared__ int rows_of[kMaxGroups]; // the segment's, in each group
  const int64_t f = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t segment = blockIdx.y; segment < plan.num_segments; segment += gridDim.y) {
    __syncthreads();
    for (int g = threadIdx.x; g < groups.number; g += kThreads) rows_of[g] = 0;
    __syncthreads();
    for (int64_t t = threadIdx.x; t < plan.num_tiles; t += kThreads) {
      const Tile tile = plan.tiles[t];
      if (tile.segment == segment && tile.rows > 0) atomicAdd(&rows_of[int(t) / int(groups.tiles)], int(tile.rows));
    }
    __syncthreads();
    wait_for_previous(); // the plan is older; all else that is read is of the kernel before
    int64_t total = 0;
    for (int g = 0; g < groups.number; ++g) total += rows_of[g];
    if (total == 0 || f >= shape.neurons) continue;

    const int64_t at = segment * shape.neurons + f;
    Moments moments{stats.mean[at], stats.m2[at]};
    float low = stats.min[at], high = stats.max[at];
    int64_t active = stats.active[at], nonfinite = stats.nonfinite[at];
    int64_t observed = stats.count[segment] - total - nonfinite;
#pragma unroll 1
    for (int g = 0; g < groups.number; ++g) {
      if (rows_of[g] == 0) continue;
      const int64_t slot = (g + segment) * shape.neurons + f;
      const int left_out = partials.nonfinite[slot], added = rows_of[g] - left_out;
      active += partials.active[slot];
      nonfinite += left_out;
      if (added == 0) continue;
      low = fminf(low, partials.min[slot]);
      high = fmaxf(high, partials.max[slot]);
      const double share = double(added) / double(observed + added);
      moments.merge(partials.mean[slot], partials.m2[slot], share, double(observed) * share);
      observed += added;
    }
    stats.mean[at] = moments.mean;
    stats.m2[at] = moments.m2;
    stats.min[at] = low;
    stats.max[at] = high;
    stats.active[at] = active;
    stats.nonfinite[at] = nonfinite;
  }
}

// Enqueues `kernel`, an instance of `accumulate`, and the merge.
template <Dtype D, class Kernel, class... A>
int accumulate_and_merge(Kernel kernel, Shape shape, Plan plan, Stats stats, void *workspace, void *stream,
                         A... arguments) {
  const Groups groups = make_groups(shape, plan.num_tiles, D);
  const Partials partials = make_partials(workspace, partial_size(shape, groups, plan.num_segments));
  int status = launch(kernel, ceil_div(shape.neurons, kStrip<D>), groups.number, stream, arguments..., shape, plan,
                      groups.tiles, partials, stats.count);
  if (status != cudaSuccess) return status;
  return launch_dependent(merge_kernel<0>, ceil_div(shape.neurons, kThreads), min(plan.num_segments, kMaxGridY), stream,
                          shape, plan, groups, partials, stats);
}

} // namespace affectron::cuda
