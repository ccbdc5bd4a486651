// Statistics of an activation that something else has computed: the fallback for an unknown MLP, and an oracle.
#include <stdexcept>

#include "accumulate.h"
#include "simd.h"

namespace affectron::AFFECTRON_ISA {

namespace {

template <Dtype D> void read_slice(const void *values, const void *gates, float *h, int32_t *active, int64_t neurons) {
  using F = Format<D>;
  using T = typename F::type;
  const T *from = static_cast<const T *>(values), *gate = static_cast<const T *>(gates);
  auto body = [&](int64_t i, auto load) {
    Vec x = load(from + i);
    store_float(h + i, x);
    add_mask(active + i, Vec(0.0f) < (gate ? load(gate + i) : x));
  };
  int64_t i = 0;
  for (; i + Vec::width <= neurons; i += Vec::width) body(i, [](const T *p) { return F::load(p); });
  if (int64_t rest = neurons - i; rest > 0) body(i, [rest](const T *p) { return load_part<D>(p, rest); });
}

auto read_slice_for(Dtype dtype) {
  switch (dtype) {
  case Dtype::f32: return read_slice<Dtype::f32>;
  case Dtype::bf16: return read_slice<Dtype::bf16>;
  case Dtype::f16: return read_slice<Dtype::f16>;
  }
  throw std::invalid_argument("unknown dtype code");
}

} // namespace

void neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, int threads) {
  auto read = read_slice_for(dtype);
  const int64_t size = element_size(dtype);
  accumulate(shape, plan, stats, threads, [&](int64_t n, int64_t f, int64_t neurons, float *values, int32_t *active) {
    if (values) read(at(h, n, f, size), at(gate, n, f, size), values, active, neurons);
  });
}

} // namespace affectron::AFFECTRON_ISA
