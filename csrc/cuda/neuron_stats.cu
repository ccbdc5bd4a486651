// Statistics of an activation that something else has computed: see accumulate.h. Reads one element, or two with a
// gate, and writes next to nothing.
#include "accumulate.h"
#include "kernels.h"

namespace affectron::cuda {

namespace {

template <Dtype D, bool Aligned> struct ValueSource {
  static constexpr int batch = Aligned ? 2 : 1;
  struct Row {
    Vector h, gate;
  };

  Rows h;
  Rows gate; // absent: active where h > 0

  __device__ Row load(int64_t n, int64_t f, int neurons) const {
    Row row;
    row.h = cuda::load<Aligned>(at<D, Aligned>(h, n, f), neurons);
    row.gate = gate.data ? cuda::load<Aligned>(at<D, Aligned>(gate, n, f), neurons) : row.h;
    return row;
  }
  __device__ Vector finish(const Row &row, int64_t, int64_t, int, float *values, float *signal) const {
    unpack<D>(row.h, values);
    unpack<D>(row.gate, signal);
    return row.h;
  }
};

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads, Aligned ? kResident : 1)
    neuron_stats_kernel(ValueSource<D, Aligned> source, Shape shape, Plan plan, int64_t tiles_per_group,
                        Partials partials, int64_t *count) {
  accumulate<D>(source, shape, plan, tiles_per_group, partials, count);
}

} // namespace

int neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, void *workspace, Stream stream) {
  if (shape.rows == 0) return cudaSuccess;
  const bool aligned = in_vectors(h.data, h.stride, shape, dtype) && in_vectors(gate.data, gate.stride, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    ValueSource<d.value, a.value> source{h, gate};
    return accumulate_and_merge<d.value>(neuron_stats_kernel<d.value, a.value>, shape, plan, stats, workspace, stream,
                                         source);
  });
}

} // namespace affectron::cuda
