// The gradients of act(gate) up and, where sums are wanted, h times its gradient, and also the gradient of h alone,
// each summed over the rows of each segment.
// Bound by memory: 5 elements moved for about 24 instructions (silu in 16 bits, sm_90), 26 with sums, 27 with those of
// the gradients too, where an H200 has time for 78 (`python tools/instructions.py`; computed, not measured). Beside
// them the sums are read and written once for each segment: 8 bytes a neuron and sum against the 300 that a sentence of
// 30 rows moves in 16 bits.
//
// Without sums a thread takes one vector of two rows, as in glu. With sums it walks the tiles of its block's group, two
// rows at a time: terms of kChain rows are added up in fp32, these chains in fp64, all in registers, and threads
// exchange nothing. The block whose group begins a segment writes the segment's sum. The totals of later groups go to
// the workspace, one row a group, and `add_carried_kernel` adds them in the order of the groups. The groups depend on
// the number of tiles alone: the same shapes and segments give the same bits, on any GPU.
#include "kernels.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

// Operations that `slope` of common/activation.h needs beyond real.h.
template <bool N> AFFECTRON_DEVICE inline bool operator<(Real<N> a, Real<N> b) { return a.v < b.v; }
template <bool N> AFFECTRON_DEVICE inline Real<N> select(bool c, Real<N> a, Real<N> b) { return c ? a : b; }

namespace {

// The activation at x, by a code of kernel_act and with the same bits as activate_values, and its derivative.
template <Act A, bool Narrow> __device__ void differentiate(float x, float &y, float &dy) {
  if constexpr (A == kShortSilu) {
    y = short_silu(x);
    const float s = 0.25f * reciprocal(fmaf(power_of_two(x * -1.4426950408889634f), 0.25f, 0.25f));
    dy = s + y * (1.0f - s);
  } else {
    const Real<Narrow> value = activate<A>(Real<Narrow>(x));
    y = value.v;
    dy = slope<A>(Real<Narrow>(x), value).v;
  }
}

template <Act A, bool Narrow, int N> __device__ void differentiate_each(const float *x, float *y, float *dy) {
#pragma unroll
  for (int i = 0; i < N; ++i) differentiate<A, Narrow>(x[i], y[i], dy[i]);
}

template <Dtype D, int N> __device__ void differentiate_values(const float *x, float *y, float *dy, Act act) {
  constexpr bool narrow = D != Dtype::f32;
  if constexpr (narrow) {
    if (act == kShortSilu) return differentiate_each<kShortSilu, narrow, N>(x, y, dy);
  }
  switch (act) {
  case Act::silu: return differentiate_each<Act::silu, narrow, N>(x, y, dy);
  case Act::gelu: return differentiate_each<Act::gelu, narrow, N>(x, y, dy);
  case Act::gelu_tanh: return differentiate_each<Act::gelu_tanh, narrow, N>(x, y, dy);
  case Act::relu: return differentiate_each<Act::relu, narrow, N>(x, y, dy);
  case Act::relu2: return differentiate_each<Act::relu2, narrow, N>(x, y, dy);
  }
}

template <Dtype D, bool Aligned> struct Backward {
  static constexpr int lanes = kLanes<D>;
  static constexpr int batch = Aligned ? 2 : 1; // rows whose loads are under way together
  struct Row {
    Vector grad, gate, up;
  };

  MutableRows grad_gate, grad_up;
  Rows grad, gate, up;
  Act act;

  __device__ Row load(int64_t n, int64_t f, int neurons) const {
    Row row{};
    row.grad = cuda::load<Aligned>(at<D, Aligned>(grad, n, f), neurons);
    row.gate = cuda::load<Aligned>(at<D, Aligned>(gate, n, f), neurons);
    if (up.data) row.up = cuda::load<Aligned>(at<D, Aligned>(up, n, f), neurons);
    return row;
  }
  // Writes the gradients of a row and adds, where they are not null, h times its gradient to `products` and the
  // gradient alone to `gradients`.
  __device__ void finish(const Row &row, int64_t n, int64_t f, int neurons, float *products, float *gradients) const {
    float x[lanes], dh[lanes], y[lanes], dg[lanes];
    unpack<D>(row.gate, x);
    unpack<D>(row.grad, dh);
    differentiate_values<D, lanes>(x, y, dg, act);
    Vector h = pack<D>(y);
#pragma unroll
    for (int i = 0; i < lanes; ++i) dg[i] *= dh[i];
    if (up.data) {
#pragma unroll
      for (int w = 0; w < 4; ++w) h.word[w] = Format<D>::multiply(h.word[w], row.up.word[w]);
      unpack<D>(row.up, x);
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        dg[i] *= x[i];
        y[i] *= dh[i];
      }
      store<Aligned>(at<D, Aligned>(grad_up, n, f), pack<D>(y), neurons);
    }
    store<Aligned>(at<D, Aligned>(grad_gate, n, f), pack<D>(dg), neurons);
    if (!products) return;
    unpack<D>(h, x);
#pragma unroll
    for (int i = 0; i < lanes; ++i) products[i] = fmaf(x[i], dh[i], products[i]);
    if (!gradients) return;
#pragma unroll
    for (int i = 0; i < lanes; ++i) gradients[i] += dh[i];
  }
};

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads) glu_backward_kernel(Backward<D, Aligned> rows, Shape shape) {
  constexpr int batch = Backward<D, Aligned>::batch;
  const int64_t f = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kLanes<D>;
  if (f >= shape.neurons) return;
  const int neurons = Aligned ? kLanes<D> : int(min(shape.neurons - f, kLanes<D>));
  for (int64_t n = int64_t(blockIdx.y) * batch; n < shape.rows; n += int64_t(gridDim.y) * batch) {
    typename Backward<D, Aligned>::Row row[batch];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      if (n + b < shape.rows) row[b] = rows.load(n + b, f, neurons);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      if (n + b < shape.rows) rows.finish(row[b], n + b, f, neurons, nullptr, nullptr);
    }
  }
}

// Short groups, so that blocks are many, but at most 1024, so that adding up the carried totals does not take long.
inline Groups backward_groups(int64_t num_tiles) {
  const int64_t tiles = max(2, ceil_div(num_tiles, 1024));
  return {ceil_div(num_tiles, tiles), tiles};
}

// The segment that continues from the group before, -1 if none does.
__device__ inline int64_t carried_segment(const Plan &plan, int64_t tiles, int64_t group) {
  if (group == 0) return -1;
  const int64_t before = plan.tiles[group * tiles - 1].segment;
  return plan.tiles[group * tiles].segment == before ? before : -1;
}

// Adds a group's total to the sums of its segment; if the segment is carried, `sums` is the workspace, and it is
// written.
template <bool Aligned, int N>
__device__ void add_to_sums(float *sums, const double *total, bool carried, int neurons) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    if constexpr (Aligned) {
      float4 *at = reinterpret_cast<float4 *>(sums + i);
      const float4 old = carried ? float4{0.0f, 0.0f, 0.0f, 0.0f} : *at;
      *at = float4{float(old.x + total[i]), float(old.y + total[i + 1]), float(old.z + total[i + 2]),
                   float(old.w + total[i + 3])};
    } else {
#pragma unroll
      for (int j = i; j < i + 4; ++j) {
        if (j < neurons) sums[j] = float((carried ? 0.0f : sums[j]) + total[j]);
      }
    }
  }
}

// Sums [S, F] and their workspace: of the products and, if `Gradients`, of the gradients of h.
template <bool Gradients> struct Targets {
  static constexpr int count = Gradients ? 2 : 1;
  float *to[count];
  float *workspace[count];
};

template <Dtype D, bool Aligned, bool Gradients>
__global__ void __launch_bounds__(kThreads)
    glu_attribution_kernel(Backward<D, Aligned> rows, Shape shape, Plan plan, int64_t tiles_per_group,
                           Targets<Gradients> targets) {
  constexpr int batch = Backward<D, Aligned>::batch, lanes = kLanes<D>, count = Targets<Gradients>::count;
  const int64_t f = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * lanes;
  if (f >= shape.neurons) return;
  const int neurons = Aligned ? lanes : int(min(shape.neurons - f, lanes));
  const int64_t group = blockIdx.y, first = group * tiles_per_group,
                last = min(first + tiles_per_group, plan.num_tiles);
  const int64_t carried = carried_segment(plan, tiles_per_group, group);
  double total[count][lanes] = {};
  for (int64_t t = first; t < last; ++t) {
    const Tile tile = plan.tiles[t];
    const int64_t *order = plan.order + tile.start;
    const int number = int(tile.rows);
    for (int start = 0; start < number; start += int(kChain)) {
      float chain[count][lanes] = {};
      const int end = int(min(number, start + kChain));
      for (int r = start; r < end; r += batch) {
        typename Backward<D, Aligned>::Row row[batch];
        int64_t n[batch];
#pragma unroll
        for (int b = 0; b < batch; ++b) {
          if (r + b < end) n[b] = order[r + b];
        }
#pragma unroll
        for (int b = 0; b < batch; ++b) {
          if (r + b < end) row[b] = rows.load(n[b], f, neurons);
        }
#pragma unroll
        for (int b = 0; b < batch; ++b) {
          if (r + b >= end) continue;
          rows.finish(row[b], n[b], f, neurons, chain[0], Gradients ? chain[count - 1] : nullptr);
        }
      }
#pragma unroll
      for (int s = 0; s < count; ++s) {
#pragma unroll
        for (int i = 0; i < lanes; ++i) total[s][i] += double(chain[s][i]);
      }
    }
    if (t + 1 == last || plan.tiles[t + 1].segment != tile.segment) {
      const bool goes_on = tile.segment == carried;
#pragma unroll
      for (int s = 0; s < count; ++s) {
        float *to =
            goes_on ? targets.workspace[s] + group * shape.neurons : targets.to[s] + tile.segment * shape.neurons;
        if (tile.segment >= 0) add_to_sums<Aligned, lanes>(to + f, total[s], goes_on, neurons);
#pragma unroll
        for (int i = 0; i < lanes; ++i) total[s][i] = 0.0;
      }
    }
  }
}

// Adds to a segment's sum the totals of the groups after its first, in order. The block of the first of these groups
// adds them all.
template <int> // a template, so that only a launch compiles it
__global__ void __launch_bounds__(kThreads)
    add_carried_kernel(Shape shape, Plan plan, Groups groups, float *sums, const float *workspace) {
  const int64_t f = int64_t(blockIdx.x) * kThreads + threadIdx.x, first = int64_t(blockIdx.y) + 1;
  const int64_t segment = carried_segment(plan, groups.tiles, first);
  if (f >= shape.neurons || segment < 0 || carried_segment(plan, groups.tiles, first - 1) == segment) return;
  double total = sums[segment * shape.neurons + f];
  for (int64_t group = first; group < groups.number && plan.tiles[group * groups.tiles].segment == segment; ++group) {
    total += double(workspace[group * shape.neurons + f]);
  }
  sums[segment * shape.neurons + f] = float(total);
}

} // namespace

int glu_backward(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape, Plan plan,
                 float *sums, float *gradients, Dtype dtype, Act act, void *workspace, Stream stream) {
  if (shape.rows == 0 || shape.neurons == 0) return cudaSuccess;
  auto fits = [&](const auto &rows) { return in_vectors(rows.data, rows.stride, shape, dtype); };
  auto fit = [](const float *to) { return reinterpret_cast<uintptr_t>(to) % 16 == 0; };
  const bool aligned =
      fits(grad_gate) && fits(grad_up) && fits(grad) && fits(gate) && fits(up) && fit(sums) && fit(gradients);
  return with_instance(dtype, aligned, [&](auto d, auto a) -> int {
    const Backward<d.value, a.value> rows{grad_gate, grad_up, grad, gate, up, kernel_act(act, dtype)};
    const int64_t blocks = ceil_div(shape.neurons, kThreads * kLanes<d.value>);
    if (!sums) {
      return launch(glu_backward_kernel<d.value, a.value>, blocks, min(ceil_div(shape.rows, rows.batch), kMaxGridY),
                    stream, rows, shape);
    }
    const Groups groups = backward_groups(plan.num_tiles);
    float *const carried = static_cast<float *>(workspace);
    auto attribute = [&](auto targets) -> int {
      constexpr bool both = decltype(targets)::count == 2;
      int status = launch(glu_attribution_kernel<d.value, a.value, both>, blocks, groups.number, stream, rows, shape,
                          plan, groups.tiles, targets);
      for (int s = 0; s < targets.count && status == cudaSuccess && groups.number > 1; ++s) {
        status = launch(add_carried_kernel<0>, ceil_div(shape.neurons, kThreads), groups.number - 1, stream, shape,
                        plan, groups, targets.to[s], targets.workspace[s]);
      }
      return status;
    };
    if (!gradients) return attribute(Targets<false>{{sums}, {carried}});
    return attribute(Targets<true>{{sums, gradients}, {carried, carried + groups.number * shape.neurons}});
  });
}

int64_t backward_workspace_size(int64_t neurons, int64_t num_tiles, int sums) {
  return sums * backward_groups(num_tiles).number * neurons * int64_t(sizeof(float));
}

} // namespace affectron::cuda
