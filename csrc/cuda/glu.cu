// out = act(gate) up. Bound by memory: 3 elements moved for 14 instructions (short silu in 16 bits, sm_90; 25 with
// torch's sequence; 32 in fp32), counted by `python tools/instructions.py`. The slowest of them, the two MUFU of silu,
// take the time of 16, where an H100 has time for 67 at 3.0 TB/s and an H200 for 47 at 4.3 TB/s (132 SMs of 128 lanes
// at 1.98 GHz, 6 bytes an element; twice that in fp32).
//
// A thread takes one vector of two rows, whose four loads are under way before the first is used: 2 KB a warp, where
// about 20 KB an SM hide the latency of memory.
#include "kernels.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

namespace {

template <bool Aligned> constexpr int kBatch = Aligned ? 2 : 1;

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads) glu_kernel(MutableRows out, Rows gate, Rows up, Shape shape, Act act) {
  const int64_t f = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kLanes<D>;
  if (f >= shape.neurons) return;
  const int neurons = Aligned ? kLanes<D> : int(min(shape.neurons - f, kLanes<D>));
  const bool gated = up.data != nullptr;
  constexpr int batch = kBatch<Aligned>;
  for (int64_t n = int64_t(blockIdx.y) * batch; n < shape.rows; n += int64_t(gridDim.y) * batch) {
    const int rows = int(min(shape.rows - n, batch));
    Vector g[batch], u[batch];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      if (b < rows) g[b] = load<Aligned>(at<D, Aligned>(gate, n + b, f), neurons);
      if (b < rows && gated) u[b] = load<Aligned>(at<D, Aligned>(up, n + b, f), neurons);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      if (b < rows) store<Aligned>(at<D, Aligned>(out, n + b, f), glu_vector<D>(g[b], u[b], gated, act), neurons);
    }
  }
}

} // namespace

int glu(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, Stream stream) {
  if (shape.rows == 0 || shape.neurons == 0) return cudaSuccess;
  const bool aligned = in_vectors(out.data, out.stride, shape, dtype) &&
                       in_vectors(gate.data, gate.stride, shape, dtype) && in_vectors(up.data, up.stride, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    return launch(glu_kernel<d.value, a.value>, ceil_div(shape.neurons, kThreads * kLanes<d.value>),
                  min(ceil_div(shape.rows, kBatch<a.value>), kMaxGridY), stream, out, gate, up, shape,
                  kernel_act(act, dtype));
  });
}

} // namespace affectron::cuda
