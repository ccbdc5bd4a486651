// out = act(gate) up. Bound by memory: 3 elements moved for about 25 instructions (silu in 16 bits), where an H200 has
// time for 41 at 4.3 TB/s (132 SMs of 128 lanes at 1.755 GHz, 6 bytes an element).
//
// A thread takes one vector of kBatch rows: both loads of all of them are under way before the first is used, which is
// 4 KB a warp.
#include "kernels.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

namespace {

constexpr int kBatch = 4;

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads) glu_kernel(MutableRows out, Rows gate, Rows up, Shape shape, Act act) {
  const int64_t f = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kLanes<D>;
  if (f >= shape.neurons) return;
  const int neurons = Aligned ? kLanes<D> : int(min(shape.neurons - f, kLanes<D>));
  const bool gated = up.data != nullptr;
  for (int64_t n = int64_t(blockIdx.y) * kBatch; n < shape.rows; n += int64_t(gridDim.y) * kBatch) {
    const auto from_gate = at<D>(gate, n, f), from_up = at<D>(up, n, f);
    const auto to = at<D>(out, n, f);
    const int rows = int(min(shape.rows - n, kBatch));
    Vector g[kBatch], u[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (b < rows) g[b] = load<Aligned>(from_gate + b * gate.stride, neurons);
      if (b < rows && gated) u[b] = load<Aligned>(from_up + b * up.stride, neurons);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (b < rows) store<Aligned>(to + b * out.stride, glu_vector<D>(g[b], u[b], gated, act), neurons);
    }
  }
}

} // namespace

int glu(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, Stream stream) {
  if (shape.rows == 0) return cudaSuccess;
  const bool aligned = in_vectors(out.data, out.stride, shape.neurons, dtype) &&
                       in_vectors(gate.data, gate.stride, shape.neurons, dtype) &&
                       in_vectors(up.data, up.stride, shape.neurons, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    return launch(glu_kernel<d.value, a.value>, ceil_div(shape.neurons, kThreads * kLanes<d.value>),
                  min(ceil_div(shape.rows, kBatch), kMaxGridY), stream, out, gate, up, shape, act);
  });
}

} // namespace affectron::cuda
