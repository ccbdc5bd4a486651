// act(gate) up over a slice of one row, the loop that every GLU kernel runs, with what it leaves behind as a template
// parameter; and the intervention on such a slice. Rounding follows the eager model: once after the activation, once
// after the product.
#pragma once

#include <stdexcept>

#include "../common/activation.h"
#include "simd.h"

namespace affectron::AFFECTRON_ISA {

enum class Emit {
  output,  // h in the model's dtype
  counted, // that, h as floats for the statistics, and the number of active rows of each neuron
  floats,  // h as floats only
};

// What a slice reads and writes. `h` and `active` have room for whole vectors past the end.
struct Slice {
  const void *gate;
  const void *up;
  void *out;
  float *h;
  int32_t *active;
  int64_t neurons;
  bool product; // active where h > 0; else where gate > 0
};

template <Dtype D, Act A, bool Gated, Emit E> void glu_slice(const Slice &s) {
  using F = Format<D>;
  using T = typename F::type;
  const T *gate = static_cast<const T *>(s.gate);
  const T *up = static_cast<const T *>(s.up);
  T *out = static_cast<T *>(s.out);
  auto body = [&](int64_t i, auto load, auto store) {
    Vec g = load(gate + i);
    Vec h = F::round(activate<A>(g));
    if constexpr (Gated) h = F::round(h * load(up + i));
    if constexpr (E != Emit::floats) store(out + i, h);
    if constexpr (E != Emit::output) store_float(s.h + i, h);
    if constexpr (E == Emit::counted) add_mask(s.active + i, Vec(0.0f) < (s.product ? h : g));
  };
  int64_t i = 0;
  for (; i + Vec::width <= s.neurons; i += Vec::width) {
    body(i, [](const T *p) { return F::load(p); }, [](T *p, Vec a) { F::store(p, a); });
  }
  if (int64_t rest = s.neurons - i; rest > 0) {
    body(i, [=](const T *p) { return load_part<D>(p, rest); }, [=](T *p, Vec a) { store_part<D>(p, a, rest); });
  }
}

using SliceKernel = void (*)(const Slice &);

// f(dtype, act) with both as compile-time constants.
template <class F> auto with_codes(Dtype dtype, Act act, F f) {
  auto with_dtype = [&](auto d) {
    switch (act) {
    case Act::silu: return f(d, std::integral_constant<Act, Act::silu>{});
    case Act::gelu: return f(d, std::integral_constant<Act, Act::gelu>{});
    case Act::gelu_tanh: return f(d, std::integral_constant<Act, Act::gelu_tanh>{});
    case Act::relu: return f(d, std::integral_constant<Act, Act::relu>{});
    case Act::relu2: return f(d, std::integral_constant<Act, Act::relu2>{});
    }
    throw std::invalid_argument("unknown activation code");
  };
  switch (dtype) {
  case Dtype::f32: return with_dtype(std::integral_constant<Dtype, Dtype::f32>{});
  case Dtype::bf16: return with_dtype(std::integral_constant<Dtype, Dtype::bf16>{});
  case Dtype::f16: return with_dtype(std::integral_constant<Dtype, Dtype::f16>{});
  }
  throw std::invalid_argument("unknown dtype code");
}

template <Emit E> SliceKernel glu_slice_for(Dtype dtype, Act act, bool gated) {
  return with_codes(dtype, act, [gated](auto d, auto a) -> SliceKernel {
    return gated ? glu_slice<d.value, a.value, true, E> : glu_slice<d.value, a.value, false, E>;
  });
}

// The intervention on a slice of h, with a table [4, width] that begins at the slice's first neuron.
template <Dtype D> void intervene_slice(const float *h, const float *table, int64_t width, void *out, int64_t neurons) {
  using F = Format<D>;
  using T = typename F::type;
  const float *scale = table, *damping = table + width, *floor = table + 2 * width, *shift = table + 3 * width;
  T *to = static_cast<T *>(out);
  int64_t i = 0;
  for (; i + Vec::width <= neurons; i += Vec::width) {
    F::store(to + i, F::round(intervene(load_float(h + i), load_float(scale + i), load_float(damping + i),
                                        load_float(floor + i), load_float(shift + i))));
  }
  if (int64_t rest = neurons - i; rest > 0) {
    auto part = [rest](const float *p) { return load_part<Dtype::f32>(p, rest); };
    store_part<D>(
        to + i, F::round(intervene(part(h + i), part(scale + i), part(damping + i), part(floor + i), part(shift + i))),
        rest);
  }
}

inline auto intervene_slice_for(Dtype dtype) {
  switch (dtype) {
  case Dtype::f32: return intervene_slice<Dtype::f32>;
  case Dtype::bf16: return intervene_slice<Dtype::bf16>;
  case Dtype::f16: return intervene_slice<Dtype::f16>;
  }
  throw std::invalid_argument("unknown dtype code");
}

} // namespace affectron::AFFECTRON_ISA
