// Shared by the statistics kernels: the plan's tiles cut into groups, a partial (the statistics of one segment in one
// group), and the launch that merges the partials.
//
// A block walks one group for a strip of neurons as wide as a warp's vectors. At the end of a segment's tiles in the
// group it writes a partial to the workspace; `merge_kernel` merges the partials in the order of the groups. The number
// of groups depends on the shapes alone, such that a large GPU holds all blocks at once. No float is added atomically,
// and no order depends on which block runs first: the same shapes and segments give the same bits, on any GPU.
//
// A block measures a tile in one of two forms: accumulate.h in two passes, centred on the tile's mean, single_pass.h in
// one, about a pivot. `forms.single_pass` chooses. If `make gpu` finds glu_stats faster in a single pass, accumulate.h
// is deleted, else single_pass.h.
//
// Cost beyond glu (bf16, 8192 x 14336, 10 labels; computed, not measured): 9 groups (11 in two passes) write and read
// 18 partials (20) of 32 bytes a neuron, 17 MB (18) against 704 MB and mostly within the L2 cache, in a second launch
// of some microseconds.
#pragma once

#include "forms.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

constexpr int kTwoPassBlocks = 5; // on an SM: as many as registers allow without spilling
constexpr int kSinglePassBlocks = 4;
constexpr int64_t kSms = 128;    // SMs that the blocks fill at once
constexpr int64_t kMinTiles = 4; // in a group, so that partials are small against the values read
constexpr int64_t kMaxGroups = 1024;

inline Groups make_groups(Shape shape, int64_t num_tiles, Dtype dtype) {
  const int64_t strips = ceil_div(shape.neurons, kWarp * 16 / element_size(dtype));
  const int64_t blocks = kSms * (forms.single_pass ? kSinglePassBlocks : kTwoPassBlocks);
  const int64_t wanted = max(1, min(kMaxGroups, blocks / strips));
  const int64_t tiles = max(kMinTiles, ceil_div(num_tiles, wanted));
  return {ceil_div(num_tiles, tiles), tiles};
}

// Mean and squared deviations of a set of observations of one neuron; sets are merged in fp64 (Chan et al. 1979).
struct Moments {
  double mean, m2;

  // `share`: the added set's part of all observations; `weight`: that times the number before.
  __device__ void merge(double other_mean, double other_m2, double share, double weight) {
    const double delta = other_mean - mean;
    mean = ::fma(delta, share, mean);
    m2 += ::fma(delta * delta, weight, other_m2);
  }
  // Merges `added` observations, which may be 0, into the `before` that this set has.
  __device__ void merge(const Moments &other, int64_t before, int64_t added) {
    if (added == 0) return;
    const double share = double(added) / double(before + added);
    merge(other.mean, other.m2, share, double(before) * share);
  }
};

// The statistics of one neuron over the rows of one segment in one group.
struct alignas(16) Partial {
  Moments moments;
  float min, max;
  int32_t active, nonfinite;

  // Merges the statistics of `added` rows into those of `seen` rows.
  __device__ void merge(const Partial &other, int64_t seen, int64_t added) {
    moments.merge(other.moments, seen - nonfinite, added - other.nonfinite);
    min = fminf(min, other.min);
    max = fmaxf(max, other.max);
    active += other.active;
    nonfinite += other.nonfinite;
  }
};

__device__ inline Partial empty_partial() {
  const float infinity = __int_as_float(0x7f800000);
  return {{0.0, 0.0}, infinity, -infinity, 0, 0};
}

// Reads a single element.
template <Dtype D, class T> __device__ float read_one(const T *p) {
  if constexpr (D == Dtype::f32) {
    return *p;
  } else {
    float pair[2];
    Format<D>::unpack(*p, pair);
    return pair[0];
  }
}

// Merges one neuron's values in a tile into its partial in fp64; `value(r)` is that of row r, and values that are not
// finite are left out. For columns whose squares leave the range of fp32 or that hold a NaN or an infinity, and for
// neurons that have held one before.
template <class Value> __device__ void merge_exactly(Value value, int rows, int64_t seen, Partial &partial) {
  Partial tile = empty_partial();
  double sum = 0.0;
#pragma unroll 4 // four reads under way
  for (int r = 0; r < rows; ++r) {
    const float x = value(r);
    const bool finite = isfinite(x);
    tile.nonfinite += !finite;
    sum += finite ? double(x) : 0.0;
    tile.min = fminf(tile.min, finite ? x : tile.min);
    tile.max = fmaxf(tile.max, finite ? x : tile.max);
  }
  tile.moments.mean = sum / double(max(1, rows - tile.nonfinite));
#pragma unroll 4
  for (int r = 0; r < rows; ++r) {
    const float x = value(r);
    const double deviation = isfinite(x) ? double(x) - tile.moments.mean : 0.0;
    tile.moments.m2 = ::fma(deviation, deviation, tile.moments.m2);
  }
  partial.merge(tile, seen, rows);
}

// The workspace: arrays [slots, F]. The partial of segment s in group g is in slot g + s. Both numbers ascend along the
// tiles, so that no two partials share a slot.
struct Partials {
  double *mean, *m2;
  float *min, *max;
  int32_t *active, *nonfinite;

  __device__ void write(int64_t at, const Partial &partial) const {
    mean[at] = partial.moments.mean;
    m2[at] = partial.moments.m2;
    min[at] = partial.min;
    max[at] = partial.max;
    active[at] = partial.active;
    nonfinite[at] = partial.nonfinite;
  }
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

// Merges the partials of one segment into the accumulators, group after group; a thread for each neuron. `count`
// includes this call's rows already.
template <int> // a template, so that two sources may define it
__global__ void __launch_bounds__(kThreads)
    merge_kernel(Shape shape, Plan plan, Groups groups, Partials partials, Stats stats) {
  __shared__ int rows_of[kMaxGroups]; // the segment's rows in each group
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
    wait_for_previous(); // the kernel before writes all that is read below; the plan is older
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
      moments.merge({partials.mean[slot], partials.m2[slot]}, observed, added);
      observed += added;
      low = fminf(low, partials.min[slot]);
      high = fmaxf(high, partials.max[slot]);
      active += partials.active[slot];
      nonfinite += left_out;
    }
    stats.mean[at] = moments.mean;
    stats.m2[at] = moments.m2;
    stats.min[at] = low;
    stats.max[at] = high;
    stats.active[at] = active;
    stats.nonfinite[at] = nonfinite;
  }
}

// Enqueues `kernel`, which writes the partials, and their merge.
template <Dtype D, class Kernel, class... A>
int accumulate_and_merge(Kernel kernel, Groups groups, Shape shape, Plan plan, Stats stats, void *workspace,
                         void *stream, A... arguments) {
  const Partials partials = make_partials(workspace, partial_size(shape, groups, plan.num_segments));
  int status = launch(kernel, ceil_div(shape.neurons, kStrip<D>), groups.number, stream, arguments..., shape, plan,
                      groups.tiles, partials, stats.count);
  if (status != cudaSuccess) return status;
  return launch_dependent(merge_kernel<0>, ceil_div(shape.neurons, kThreads), min(plan.num_segments, kMaxGridY), stream,
                          shape, plan, groups, partials, stats);
}

} // namespace affectron::cuda
