// out = down . intervention(act(gate x) (up x)) for a few rows, as in decoding, where the time goes into reading the
// weights. Two launches, each weight read once: gate and up with the activation and the intervention, then down, which
// begins while they end (launch.h). A neuron that every row has hard-masked is not computed: its gate and up rows are
// not read. Where down is stored by neuron, its row is not read for a neuron whose h' is 0 in every row.
//
// The result depends neither on the number of SMs nor on anything that the host reads but the shapes: a captured graph
// serves any programs. The shapes fix the order of a sum's terms, and terms that are left out are 0, so that no row's
// bits depend on the masks of other rows. Down's neurons are split among blocks. The last block of a strip to finish
// adds up the partial sums of all splits in the order of the neurons; only the number of finished blocks is added
// atomically.
//
// Floor: the bytes of the weights that are needed (8B shape, bf16: 235 MB and 117 MB, 82 us at 4.3 TB/s). Gate and up
// take 4 instructions a weight for one row, 9 for four, 30 for sixteen (`python tools/instructions.py`, sm_90), where
// an H200 has time for 16 and an H100 for 22 (glu.cu): with sixteen rows arithmetic, not memory, sets the pace. A warp
// has 4 KB under way, an SM 60 KB and more.
#include "kernels.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

namespace {

constexpr int64_t kDownBlocks = 640;     // aimed at: 128 SMs hold them at once
constexpr int64_t kOutputsPerWarp = 2;   // where down is stored by output
constexpr int64_t kWorkspaceAlign = 128; // bytes

// Blocks on an SM: as many as leave each thread enough registers not to spill.
template <int N> constexpr int kResident = N <= 4 ? 4 : 2;

// Vectors of a row of weights that a lane loads before it uses the first.
template <int N> constexpr int kUnderWay = N <= 4 ? 4 : 2;

// Down's neurons split among blocks, where down is stored by neuron. `neurons` in a split are a whole number of ballots
// for each warp.
struct Splits {
  int64_t number, neurons, strips;
};

Splits make_splits(MlpShape shape, Dtype dtype) {
  const int64_t strips = ceil_div(shape.outputs, kWarp * 16 / element_size(dtype));
  const int64_t wanted = max(1, kDownBlocks / max(1, strips));
  const int64_t neurons = max(1, ceil_div(ceil_div(shape.neurons, wanted), kThreads)) * kThreads;
  return {max(1, ceil_div(shape.neurons, neurons)), neurons, strips};
}

// Memory that the two launches share: h', in rows that vectors fit; the partial sums of the splits, [strips, splits, N,
// outputs of a strip]; and the number of finished blocks of each strip, int32 [strips].
struct Workspace {
  MutableRows h;
  float *partial;
  int *finished;
  int64_t bytes;
};

Workspace make_workspace(void *data, MlpShape shape, Dtype dtype, bool by_neuron) {
  auto rounded_up = [](int64_t bytes) { return ceil_div(bytes, kWorkspaceAlign) * kWorkspaceAlign; };
  const int64_t size = element_size(dtype), stride = rounded_up(shape.neurons * size) / size;
  const int64_t h_bytes = shape.rows * stride * size;
  Workspace w{{data, stride}, nullptr, nullptr, h_bytes};
  if (by_neuron) {
    const Splits splits = make_splits(shape, dtype);
    const int64_t sums = splits.strips * splits.number * shape.rows * (kWarp * 16 / size);
    w.partial = reinterpret_cast<float *>(static_cast<char *>(data) + h_bytes);
    w.finished = reinterpret_cast<int *>(w.partial + sums);
    w.bytes = h_bytes + 4 * (sums + splits.strips);
  }
  return w;
}

// The sum of value[m] over the warp's lanes, in lane 32 m / M. Each step hands half of the remaining values to the
// other half of the lanes, so that 32 values take 31 exchanges.
template <int M> __device__ float sum_of_lanes(float (&value)[M]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = kWarp / 2, left = M; half > 0; half /= 2) {
    if (left == 1) {
      value[0] += __shfl_xor_sync(kAll, value[0], half);
      continue;
    }
    left /= 2;
#pragma unroll
    for (int m = 0; m < left; ++m) {
      const float kept = lane & half ? value[m + left] : value[m], sent = lane & half ? value[m] : value[m + left];
      value[m] = kept + __shfl_xor_sync(kAll, sent, half);
    }
  }
  return value[0];
}

// In lane n, weights . x[n] for one or two rows of weights (`second` may be null) and N rows of x. Where x has fewer
// rows, its last is used again.
template <Dtype D, bool Aligned, int N, class T>
__device__ float2 dots(const T *first, const T *second, Rows x, int rows, int64_t size) {
  constexpr int batch = kUnderWay<N>, elements = Aligned ? kLanes<D> : 1,
                step = kWarp * elements; // of a lane, of a warp
  const int lane = threadIdx.x % kWarp;
  float total[2 * N] = {};
  for (int64_t start = lane * elements; start < size; start += batch * step) {
    Vector weights[2][batch] = {};
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int64_t k = start + b * step;
      if (k >= size) continue;
      weights[0][b] = load<Aligned>(first + k, elements);
      if (second) weights[1][b] = load<Aligned>(second + k, elements);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int64_t k = start + b * step;
      if (k >= size) continue;
      float w[2][kLanes<D>];
      unpack<D>(weights[0][b], w[0]);
      unpack<D>(weights[1][b], w[1]);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float from[kLanes<D>];
        unpack<D>(load<Aligned, true>(at<D, Aligned>(x, min(n, rows - 1), k), elements), from);
#pragma unroll
        for (int i = 0; i < elements; ++i) {
          total[n] = fmaf(w[0][i], from[i], total[n]);
          total[N + n] = fmaf(w[1][i], from[i], total[N + n]);
        }
      }
    }
  }
  const float sum = sum_of_lanes(total);
  const int holder = lane % N * (kWarp / (2 * N));
  return {__shfl_sync(kAll, sum, holder), __shfl_sync(kAll, sum, holder + kWarp / 2)};
}

template <Dtype D> __device__ float load_one(Rows from, int64_t n, int64_t f) {
  float x[kLanes<D>];
  unpack<D>(load<false>(at<D, false>(from, n, f), 1), x);
  return x[0];
}

template <Dtype D> __device__ void store_one(MutableRows to, int64_t n, int64_t f, float value) {
  store<false>(at<D, false>(to, n, f), Vector{{pack_one<D>(value)}}, 1);
}

// h'. A warp has one neuron, and its lane n row n.
template <Dtype D, bool Aligned, int N>
__global__ void __launch_bounds__(kThreads, kResident<N>)
    gate_up_kernel(MutableRows h, Rows x, Rows gate, Rows up, MlpShape shape, Programs programs, Act act, int *finished,
                   int64_t strips) {
  allow_next();
  if (blockIdx.x == 0) { // the second launch counts from 0
    for (int64_t s = threadIdx.x; s < strips; s += kThreads) finished[s] = 0;
  }
  const int64_t f = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (f >= shape.neurons) return;
  const int lane = threadIdx.x % kWarp, rows = int(shape.rows);
  int64_t program = -1;
  bool masked = true;
  float scale = 1.0f, damping = 0.0f, floor = 0.0f, shift = 0.0f;
  if (lane < rows) {
    program = programs.rows ? __ldg(programs.rows + lane) : 0;
    masked = program >= 0;
    if (masked) {
      const float *table = programs.table + program * 4 * shape.neurons + f;
      scale = __ldg(table);
      damping = __ldg(table + shape.neurons);
      floor = __ldg(table + 2 * shape.neurons);
      shift = __ldg(table + 3 * shape.neurons);
      masked = hard_masked(scale, damping, floor);
    }
  }
  float value = shift; // h' of a masked neuron, whatever h is
  if (!__all_sync(kAll, masked)) {
    const auto *first = at<D, Aligned>(gate, f, 0);
    const bool gated = up.data != nullptr;
    const float2 sums = dots<D, Aligned, N>(first, gated ? at<D, Aligned>(up, f, 0) : nullptr, x, rows, shape.inputs);
    value = rounded<D>(sums.x);
    activate_values<D, 1>(&value, act);
    value = rounded<D>(value);
    if (gated) value = rounded<D>(value * rounded<D>(sums.y));
    using R = Real<false>;
    if (program >= 0) value = intervene(R(value), R(scale), R(damping), R(floor), R(shift)).v;
  }
  if (lane < rows) store_one<D>(h, lane, f, value);
}

// Column in its strip of a lane's element i. Lanes have whole vectors if `Aligned`, else every 32nd column, so that the
// reads of a warp are neighbours.
template <Dtype D, bool Aligned> __device__ int column(int i) {
  const int lane = threadIdx.x % kWarp;
  return Aligned ? lane * kLanes<D> + i : i * kWarp + lane;
}

// Adds up the totals of the block's warps in their order and calls emit(n, column of the strip, sum).
template <Dtype D, bool Aligned, int N, class Emit>
__device__ void add_warps(const float (&total)[N][kLanes<D>], Emit emit) {
  constexpr int together = N < 4 ? N : 4, strip = kStrip<D>;
  __shared__ float sums[kWarps][together * strip];
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int first = 0; first < N; first += together) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < together; ++n) {
#pragma unroll
      for (int i = 0; i < kLanes<D>; ++i) {
        sums[warp][n * strip + column<D, Aligned>(i)] = total[first + n][i];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < together * strip; i += kThreads) {
      float sum = sums[0][i];
      for (int w = 1; w < kWarps; ++w) sum += sums[w][i];
      emit(first + i / strip, i % strip, sum);
    }
  }
}

// A block has a strip of outputs and one split of the neurons, each of its warps a quarter of the split.
template <Dtype D, bool Aligned, int N>
__global__ void __launch_bounds__(kThreads, kResident<N>)
    down_by_neuron_kernel(MutableRows out, Rows down, Rows h, MlpShape shape, Splits splits, float *partial,
                          int *finished) {
  constexpr int lanes = kLanes<D>, strip = kStrip<D>, batch = !Aligned ? 1 : N <= 4 ? 8 : 2;
  wait_for_previous(); // which writes h and `finished`
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, rows = int(shape.rows);
  const int64_t o = int64_t(blockIdx.x) * strip, outputs = shape.outputs - o; // from the strip's first to the last
  float total[N][lanes] = {};

  const int64_t share = splits.neurons / kWarps, begin = blockIdx.y * splits.neurons + warp * share;
  for (int64_t first = begin; first < min(begin + share, shape.neurons); first += kWarp) {
    // A lane loads the factors of one neuron. The warp then takes the neurons with a factor other than 0 in turn.
    const int64_t f = first + lane;
    float factor[N] = {};
    bool any = false;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (f >= shape.neurons || n >= rows) continue;
      factor[n] = load_one<D>(h, n, f);
      any |= factor[n] != 0.0f;
    }
    unsigned left = __ballot_sync(kAll, any);
    while (left) {
      int from[batch];
      Vector weights[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        from[b] = __ffs(left) - 1; // -1: no neuron is left
        left &= left - 1;
        if (Aligned && from[b] >= 0 && column<D, true>(0) < outputs) {
          weights[b] = load<true>(at<D, true>(down, first + from[b], o + column<D, true>(0)), lanes);
        }
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (from[b] < 0) continue;
        float w[lanes];
        if constexpr (Aligned) {
          unpack<D>(weights[b], w);
        } else {
          for (int i = 0; i < lanes; ++i) {
            const int64_t c = column<D, false>(i);
            w[i] = c < outputs ? load_one<D>(down, first + from[b], o + c) : 0.0f;
          }
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const float x = __shfl_sync(kAll, factor[n], from[b]);
#pragma unroll
          for (int i = 0; i < lanes; ++i) total[n][i] = fmaf(w[i], x, total[n][i]);
        }
      }
    }
  }

  float *sums = partial + int64_t(blockIdx.x) * splits.number * rows * strip;
  add_warps<D, Aligned, N>(total, [&](int n, int column, float sum) {
    if (n < rows) sums[(int64_t(blockIdx.y) * rows + n) * strip + column] = sum;
  });

  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished + blockIdx.x, 1) == splits.number - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();

#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int i = 0; i < lanes; ++i) total[n][i] = 0.0f;
  }
  const int64_t per_warp = (splits.number + kWarps - 1) / kWarps;
#pragma unroll(N <= 4 ? 4 : 1)
  for (int64_t s = warp * per_warp; s < min((warp + 1) * per_warp, splits.number); ++s) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (n >= rows) continue;
      const float *from = sums + (s * rows + n) * strip + column<D, true>(0);
#pragma unroll
      for (int i = 0; i < lanes; i += 4) {
        const float4 v = __ldcg(reinterpret_cast<const float4 *>(from + i));
        total[n][i] += v.x, total[n][i + 1] += v.y, total[n][i + 2] += v.z, total[n][i + 3] += v.w;
      }
    }
  }
  add_warps<D, true, N>(total, [&](int n, int column, float sum) {
    if (n < rows && column < outputs) store_one<D>(out, n, o + column, sum);
  });
}

// A warp has two outputs.
template <Dtype D, bool Aligned, int N>
__global__ void __launch_bounds__(kThreads, kResident<N>)
    down_by_output_kernel(MutableRows out, Rows down, Rows h, MlpShape shape) {
  wait_for_previous(); // which writes h
  const int64_t o = (int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp) * kOutputsPerWarp;
  if (o >= shape.outputs) return;
  const int lane = threadIdx.x % kWarp, rows = int(shape.rows);
  const bool two = o + 1 < shape.outputs;
  const auto *first = at<D, Aligned>(down, o, 0);
  const float2 sums =
      dots<D, Aligned, N>(first, two ? at<D, Aligned>(down, o + 1, 0) : nullptr, h, rows, shape.neurons);
  if (lane >= rows) return;
  store_one<D>(out, lane, o, sums.x);
  if (two) store_one<D>(out, lane, o + 1, sums.y);
}

// Calls f with the number of rows that a kernel is compiled for. Without `Aligned` elements are read one by one, and
// the arithmetic of absent rows does not matter beside that.
template <bool Aligned, class F> int with_rows(int64_t rows, F f) {
  if constexpr (Aligned) {
    if (rows == 1) return f(std::integral_constant<int, 1>{});
    if (rows <= 4) return f(std::integral_constant<int, 4>{});
  }
  return f(std::integral_constant<int, int(kMlpRows)>{});
}

} // namespace

int masked_mlp(MutableRows out, Rows x, MlpWeights weights, MlpShape shape, Programs programs, Dtype dtype, Act act,
               void *workspace, Stream stream) {
  if (shape.rows == 0 || shape.outputs == 0) return cudaSuccess;
  const Workspace w = make_workspace(workspace, shape, dtype, weights.by_neuron);
  const Splits splits = make_splits(shape, dtype);
  const Shape inputs{shape.neurons, shape.inputs};
  const bool aligned = in_vectors(x.data, x.stride, {shape.rows, shape.inputs}, dtype) &&
                       in_vectors(weights.gate.data, weights.gate.stride, inputs, dtype) &&
                       in_vectors(weights.up.data, weights.up.stride, inputs, dtype);
  const int status = with_instance(dtype, aligned, [&](auto d, auto a) {
    return with_rows<a.value>(shape.rows, [&](auto n) {
      return launch(gate_up_kernel<d.value, a.value, n.value>, max(1, ceil_div(shape.neurons, kWarps)), 1, stream, w.h,
                    x, weights.gate, weights.up, shape, programs, kernel_act(act, dtype), w.finished,
                    weights.by_neuron ? splits.strips : 0);
    });
  });
  if (status != cudaSuccess) return status;

  const Rows h{w.h.data, w.h.stride};
  const Shape down = weights.by_neuron ? Shape{shape.neurons, shape.outputs} : Shape{shape.outputs, shape.neurons};
  const bool vectors = in_vectors(weights.down.data, weights.down.stride, down, dtype);
  return with_instance(dtype, vectors, [&](auto d, auto a) {
    return with_rows<a.value>(shape.rows, [&](auto n) {
      if (weights.by_neuron) {
        return launch_dependent(down_by_neuron_kernel<d.value, a.value, n.value>, splits.strips, splits.number, stream,
                                out, weights.down, h, shape, splits, w.partial, w.finished);
      }
      return launch_dependent(down_by_output_kernel<d.value, a.value, n.value>,
                              ceil_div(shape.outputs, kWarps * kOutputsPerWarp), 1, stream, out, weights.down, h,
                              shape);
    });
  });
}

int64_t mlp_workspace_size(MlpShape shape, Dtype dtype, bool by_neuron) {
  return make_workspace(nullptr, shape, dtype, by_neuron).bytes;
}

} // namespace affectron::cuda
