// out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows: see partials.h.
#include "accumulate.h"
#include "kernels.h"
#include "single_pass.h"

namespace affectron::cuda {

namespace {

template <Dtype D, bool Aligned> struct GluSource {
  static constexpr bool aligned = Aligned;
  struct Row {
    Vector gate, up;
  };

  MutableRows out;
  Rows gate, up; // without up, `up` is `gate`, so that no load depends on a condition
  Act act;
  bool gated;
  bool product; // a row is active where h > 0, else where gate > 0

  __device__ Row load(int64_t n, int64_t f, int neurons) const {
    return {cuda::load<Aligned>(at<D, Aligned>(gate, n, f), neurons),
            cuda::load<Aligned>(at<D, Aligned>(up, n, f), neurons)};
  }
  __device__ Vector finish(const Row &row, int64_t n, int64_t f, int neurons) const {
    const Vector values = glu_vector<D>(row.gate, row.up, gated, act);
    store<Aligned>(at<D, Aligned>(out, n, f), values, neurons);
    return values;
  }
  __device__ Vector signs(const Row &row, const Vector &values) const {
    Vector signs;
#pragma unroll
    for (int w = 0; w < 4; ++w) signs.word[w] = product ? values.word[w] : row.gate.word[w];
    return signs;
  }
  __device__ float value(int64_t n, int64_t f) const { return read_one<D>(at<D, Aligned>(out, n, f)); }
};

template <Dtype D, bool Aligned, bool SinglePass>
__global__ void __launch_bounds__(kThreads, Aligned ? (SinglePass ? kSinglePassBlocks : kTwoPassBlocks) : 1)
    glu_stats_kernel(GluSource<D, Aligned> source, Shape shape, Plan plan, int64_t tiles_per_group, Partials partials,
                     int64_t *count) {
  if constexpr (SinglePass) {
    single_pass<D>(source, shape, plan, tiles_per_group, partials, count);
  } else {
    two_passes<D>(source, shape, plan, tiles_per_group, partials, count);
  }
}

} // namespace

int glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
              bool product, void *workspace, Stream stream) {
  if (shape.rows == 0) return cudaSuccess;
  const bool aligned = in_vectors(out.data, out.stride, shape, dtype) &&
                       in_vectors(gate.data, gate.stride, shape, dtype) && in_vectors(up.data, up.stride, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    GluSource<d.value, a.value> source{out,    gate, up.data ? up : gate, kernel_act(act, dtype), up.data != nullptr,
                                       product};
    const auto kernel =
        forms.single_pass ? glu_stats_kernel<d.value, a.value, true> : glu_stats_kernel<d.value, a.value, false>;
    return accumulate_and_merge<d.value>(kernel, make_groups(shape, plan.num_tiles, dtype), shape, plan, stats,
                                         workspace, stream, source);
  });
}

int64_t workspace_size(Shape shape, int64_t num_tiles, int64_t num_segments, Dtype dtype) {
  return kPartialBytes * partial_size(shape, make_groups(shape, num_tiles, dtype), num_segments);
}

} // namespace affectron::cuda
