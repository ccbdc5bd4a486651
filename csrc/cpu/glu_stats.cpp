// out = act(gate) up and, in the same pass, the statistics of every neuron for each segment of rows.
#include "accumulate.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

void glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
               bool product, int threads) {
  const SliceKernel kernel = glu_slice_for<Emit::fetched>(dtype, act, up.data != nullptr);
  const int64_t size = element_size(dtype);
  const Rows h{out.data, out.stride};
  auto slice = [&](int64_t n, int64_t f, int64_t neurons) -> Slice {
    return {at(gate, n, f, size), at(up, n, f, size), at(out, n, f, size), nullptr, neurons};
  };
  auto fill = [&](int64_t n, int64_t f, int64_t neurons, int64_t next_n, int64_t next_f) {
    const Slice next = slice(next_n, next_f, neurons);
    Slice now = slice(n, f, neurons);
    now.next = &next;
    kernel(now);
  };
  with_dtype(dtype, [&](auto d) { accumulate<d.value>(h, product ? h : gate, shape, plan, stats, threads, fill); });
}

} // namespace affectron::AFFECTRON_ISA
