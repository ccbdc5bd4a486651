// The gradients of act(gate) up and, where sums are wanted, h times its gradient summed over the rows of each segment.
//
// Without sums rows are independent, so threads take ranges of rows. With sums threads take ranges of neurons and walk
// the plan's tiles in order: one thread writes each sum, and the order of its terms depends on the plan alone. Products
// of up to kChain rows, a chain, are summed in fp32, and chains in fp64.
#include <algorithm>
#include <vector>

#include "share.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

namespace {

// h times its gradient is added to `chain`, which has room for whole vectors past the end.
struct BackwardSlice {
  void *grad_gate;
  void *grad_up;
  const void *grad;
  const void *gate;
  const void *up;
  float *chain;
  int64_t neurons;
};

template <Dtype D, Act A, bool Gated, bool Summed> void backward_slice(const BackwardSlice &s) {
  using F = Format<D>;
  using T = typename F::type;
  const T *grad = static_cast<const T *>(s.grad);
  const T *gate = static_cast<const T *>(s.gate);
  const T *up = static_cast<const T *>(s.up);
  T *grad_gate = static_cast<T *>(s.grad_gate);
  T *grad_up = static_cast<T *>(s.grad_up);
  each_vector<D>(s.neurons, [&](int64_t i, auto load, auto store) {
    Vec g = load(gate + i), dh = load(grad + i);
    Vec y = activate<A>(g), dg = dh * slope<A>(g, y);
    Vec h = F::round(y);
    if constexpr (Gated) {
      Vec u = load(up + i);
      dg = dg * u;
      h = F::round(h * u);
      store(grad_up + i, dh * y);
    }
    store(grad_gate + i, dg);
    if constexpr (Summed) store_float(s.chain + i, fma(h, dh, load_float(s.chain + i)));
  });
}

using BackwardKernel = void (*)(const BackwardSlice &);

template <bool Summed> BackwardKernel backward_slice_for(Dtype dtype, Act act, bool gated) {
  return with_codes(dtype, act, [gated](auto d, auto a) -> BackwardKernel {
    return gated ? backward_slice<d.value, a.value, true, Summed> : backward_slice<d.value, a.value, false, Summed>;
  });
}

} // namespace

void glu_backward(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape, Plan plan,
                  float *sums, Dtype dtype, Act act, int threads) {
  const BackwardKernel plain = backward_slice_for<false>(dtype, act, up.data != nullptr);
  const BackwardKernel summed = backward_slice_for<true>(dtype, act, up.data != nullptr);
  const int64_t size = element_size(dtype);
  auto backward_row = [&](BackwardKernel slice, int64_t n, int64_t f, int64_t neurons, float *chain) {
    slice({at(grad_gate, n, f, size), at(grad_up, n, f, size), at(grad, n, f, size), at(gate, n, f, size),
           at(up, n, f, size), chain, neurons});
  };
  if (!sums) {
#pragma omp parallel for num_threads(useful_threads(shape, threads)) schedule(static)
    for (int64_t n = 0; n < shape.rows; ++n) backward_row(plain, n, 0, shape.neurons, nullptr);
    return;
  }
  share_neurons(shape, threads, [&](int64_t begin, int64_t end) {
    const int64_t neurons = end - begin;
    std::vector<float> chain(size_t(neurons + Vec::width));
    std::vector<double> total(size_t(neurons), 0.0);
    for (int64_t t = 0; t < plan.num_tiles; ++t) {
      const Tile tile = plan.tiles[t];
      const int64_t *order = plan.order + tile.start;
      if (tile.segment < 0) {
        for (int64_t r = 0; r < tile.rows; ++r) backward_row(plain, order[r], begin, neurons, nullptr);
        continue;
      }
      for (int64_t first = 0; first < tile.rows; first += kChain) {
        std::fill(chain.begin(), chain.end(), 0.0f);
        for (int64_t r = first; r < std::min(tile.rows, first + kChain); ++r) {
          backward_row(summed, order[r], begin, neurons, chain.data());
        }
        for (int64_t i = 0; i < neurons; ++i) total[size_t(i)] += double(chain[size_t(i)]);
      }
      if (t + 1 == plan.num_tiles || plan.tiles[t + 1].segment != tile.segment) {
        float *to = sums + tile.segment * shape.neurons + begin;
        for (int64_t i = 0; i < neurons; ++i) {
          to[i] = float(double(to[i]) + total[size_t(i)]);
          total[size_t(i)] = 0.0;
        }
      }
    }
  });
}

} // namespace affectron::AFFECTRON_ISA
