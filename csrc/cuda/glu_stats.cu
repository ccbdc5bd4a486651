// out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows: see accumulate.h.
#include "accumulate.h"
#include "kernels.h"

namespace affectron::cuda {

namespace {

template <Dtype D, bool Aligned> struct GluSource {
  static constexpr int batch = Aligned ? 2 : 1;
  struct Row {
    Vector gate, up;
  };

  MutableRows out;
  Rows gate, up;
  Act act;
  bool product; // active where h > 0; else where gate > 0

  __device__ Row load(int64_t n, int64_t f, int neurons) const {
    Row row{};
    row.gate = cuda::load<Aligned>(at<D, Aligned>(gate, n, f), neurons);
    if (up.data) row.up = cuda::load<Aligned>(at<D, Aligned>(up, n, f), neurons);
    return row;
  }
  __device__ Vector finish(const Row &row, int64_t n, int64_t f, int neurons, float *h, float *signal) const {
    const Vector values = glu_vector<D>(row.gate, row.up, up.data != nullptr, act);
    store<Aligned>(at<D, Aligned>(out, n, f), values, neurons);
    unpack<D>(values, h);
    Vector signs;
#pragma unroll
    for (int w = 0; w < 4; ++w) signs.word[w] = product ? values.word[w] : row.gate.word[w];
    unpack<D>(signs, signal);
    return values;
  }
};

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads, Aligned ? kResident : 1)
    glu_stats_kernel(GluSource<D, Aligned> source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                     int64_t *count) {
  accumulate<D>(source, shape, plan, tiles_per_group, partials, count);
}

} // namespace

int glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
              bool product, void *workspace, Stream stream) {
  if (shape.rows == 0) return cudaSuccess;
  const bool aligned = in_vectors(out.data, out.stride, shape, dtype) &&
                       in_vectors(gate.data, gate.stride, shape, dtype) && in_vectors(up.data, up.stride, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    GluSource<d.value, a.value> source{out, gate, up, kernel_act(act, dtype), product};
    return accumulate_and_merge<d.value>(glu_stats_kernel<d.value, a.value>, shape, plan, stats, workspace, stream,
                                         source);
  });
}

int64_t workspace_size(Shape shape, int64_t num_tiles, int64_t num_segments, Dtype dtype) {
  return kPartialBytes * partial_size(shape, make_groups(shape, num_tiles, dtype), num_segments);
}

} // namespace affectron::cuda
