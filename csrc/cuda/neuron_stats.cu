// Statistics of an activation that is already computed: see partials.h. Reads one element, or two with a gate, and
// writes only partials.
#include "accumulate.h"
#include "kernels.h"
#include "single_pass.h"

namespace affectron::cuda {

namespace {

template <Dtype D, bool Aligned> struct ValueSource {
  static constexpr bool aligned = Aligned;
  struct Row {
    Vector h, gate;
  };

  Rows h, gate; // without gate, `gate` is `h`, so that no load depends on a condition

  __device__ Row load(int64_t n, int64_t f, int neurons) const {
    return {cuda::load<Aligned>(at<D, Aligned>(h, n, f), neurons),
            cuda::load<Aligned>(at<D, Aligned>(gate, n, f), neurons)};
  }
  __device__ Vector finish(const Row &row, int64_t, int64_t, int) const { return row.h; }
  __device__ Vector signs(const Row &row, const Vector &) const { return row.gate; }
  __device__ float value(int64_t n, int64_t f) const { return read_one<D>(at<D, Aligned>(h, n, f)); }
};

template <Dtype D, bool Aligned, bool SinglePass>
__global__ void __launch_bounds__(kThreads, Aligned ? (SinglePass ? kSinglePassBlocks : kTwoPassBlocks) : 1)
    neuron_stats_kernel(ValueSource<D, Aligned> source, Shape shape, Plan plan, int64_t tiles_per_group,
                        Partials partials, int64_t *count) {
  if constexpr (SinglePass) {
    single_pass<D>(source, shape, plan, tiles_per_group, partials, count);
  } else {
    two_passes<D>(source, shape, plan, tiles_per_group, partials, count);
  }
}

} // namespace

int neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, void *workspace, Stream stream) {
  if (shape.rows == 0) return cudaSuccess;
  const bool aligned = in_vectors(h.data, h.stride, shape, dtype) && in_vectors(gate.data, gate.stride, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    ValueSource<d.value, a.value> source{h, gate.data ? gate : h};
    const auto kernel =
        forms.single_pass ? neuron_stats_kernel<d.value, a.value, true> : neuron_stats_kernel<d.value, a.value, false>;
    return accumulate_and_merge<d.value>(kernel, make_groups(shape, plan.num_tiles, dtype), shape, plan, stats,
                                         workspace, stream, source);
  });
}

} // namespace affectron::cuda
