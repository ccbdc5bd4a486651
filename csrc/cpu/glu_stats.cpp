// out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows.
#include "accumulate.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

void glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
               bool product, int threads) {
  SliceKernel plain = glu_slice_for<Emit::output>(dtype, act, up.data != nullptr);
  SliceKernel counted = glu_slice_for<Emit::counted>(dtype, act, up.data != nullptr);
  const int64_t size = element_size(dtype);
  accumulate(shape, plan, stats, threads, [&](int64_t n, int64_t f, int64_t neurons, float *h, int32_t *active) {
    SliceKernel slice = h ? counted : plain;
    slice({at(gate, n, f, size), at(up, n, f, size), at(out, n, f, size), h, active, neurons, product});
  });
}

} // namespace affectron::AFFECTRON_ISA
