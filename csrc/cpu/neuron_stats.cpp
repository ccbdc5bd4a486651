// Statistics of an activation that is already computed.
#include "accumulate.h"

namespace affectron::AFFECTRON_ISA {

void neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, int threads) {
  const Rows signs = gate.data ? gate : h;
  with_dtype(dtype, [&](auto d) { accumulate<d.value>(h, signs, shape, plan, stats, threads, [](auto...) {}); });
}

} // namespace affectron::AFFECTRON_ISA
