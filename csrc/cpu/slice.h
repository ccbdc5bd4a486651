// act(gate) up over a slice of one row, the loop that every GLU kernel runs, and the intervention on such a slice.
// Rounding follows the eager model: once after the activation, once after the product.
#pragma once

#include "../common/activation.h"
#include "simd.h"

namespace affectron::AFFECTRON_ISA {

// Output of the loop.
enum class Emit {
  output,  // `out`, h in the model's dtype
  fetched, // `out`, and fetches the memory of the slice `next`
  floats,  // `h`, h as floats
};

// `h` has room for whole vectors past the end.
struct Slice {
  const void *gate;
  const void *up;
  void *out;
  float *h;
  int64_t neurons;
  const Slice *next = nullptr;
};

template <Dtype D, Act A, bool Gated, Emit E> void glu_slice(const Slice &s) {
  using T = typename Format<D>::type;
  const T *gate = static_cast<const T *>(s.gate);
  const T *up = static_cast<const T *>(s.up);
  T *out = static_cast<T *>(s.out);
  each_vector<D>(s.neurons, [&](int64_t i, auto load, auto store) {
    if constexpr (E == Emit::fetched) {
      fetch<D>(s.next->gate, i);
      if constexpr (Gated) fetch<D>(s.next->up, i);
      fetch<D, true>(s.next->out, i);
    }
    Vec h = activate<A>(load(gate + i));
    if constexpr (Gated) h = Format<D>::round(h) * load(up + i);
    if constexpr (E == Emit::floats) {
      store_float(s.h + i, Format<D>::round(h));
    } else {
      store(out + i, h);
    }
  });
}

using SliceKernel = void (*)(const Slice &);

// Calls f(dtype, act) with both as compile-time constants.
template <class F> auto with_codes(Dtype dtype, Act act, F f) {
  return with_dtype(dtype, [&](auto d) {
    switch (act) {
    case Act::silu: return f(d, std::integral_constant<Act, Act::silu>{});
    case Act::gelu: return f(d, std::integral_constant<Act, Act::gelu>{});
    case Act::gelu_tanh: return f(d, std::integral_constant<Act, Act::gelu_tanh>{});
    case Act::relu: return f(d, std::integral_constant<Act, Act::relu>{});
    case Act::relu2: return f(d, std::integral_constant<Act, Act::relu2>{});
    }
    throw std::invalid_argument("unknown activation code");
  });
}

template <Emit E> SliceKernel glu_slice_for(Dtype dtype, Act act, bool gated) {
  return with_codes(dtype, act, [gated](auto d, auto a) -> SliceKernel {
    return gated ? glu_slice<d.value, a.value, true, E> : glu_slice<d.value, a.value, false, E>;
  });
}

// The intervention on a slice of h. `table` [4, width] begins at the slice's first neuron.
template <Dtype D> void intervene_slice(const float *h, const float *table, int64_t width, void *out, int64_t neurons) {
  const float *scale = table, *damping = table + width, *floor = table + 2 * width, *shift = table + 3 * width;
  auto *to = static_cast<typename Format<D>::type *>(out);
  int64_t i = 0;
  for (; i + Vec::width <= neurons; i += Vec::width) {
    Format<D>::store(to + i, intervene(load_float(h + i), load_float(scale + i), load_float(damping + i),
                                       load_float(floor + i), load_float(shift + i)));
  }
  if (int64_t rest = neurons - i; rest > 0) {
    auto part = [rest](const float *p) { return load_part<Dtype::f32>(p, rest); };
    store_part<D>(to + i, intervene(part(h + i), part(scale + i), part(damping + i), part(floor + i), part(shift + i)),
                  rest);
  }
}

inline auto intervene_slice_for(Dtype dtype) {
  return with_dtype(dtype, [](auto d) { return &intervene_slice<d.value>; });
}

} // namespace affectron::AFFECTRON_ISA
