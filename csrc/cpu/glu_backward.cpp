// The gradients of act(gate) up and, where sums are wanted, h times its gradient, and also the gradient of h alone,
// each summed over the rows of each segment.
//
// Without sums rows are independent, so threads take ranges of rows. With sums threads take ranges of neurons and walk
// the plan's tiles in order: one thread writes each sum, and the order of its terms depends on the plan alone. Terms of
// up to kChain rows, a chain, are summed in fp32, and chains in fp64.
#include <algorithm>
#include <vector>

#include "share.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

namespace {

// What a slice adds to its chains.
enum class Terms {
  none,
  products, // h times its gradient, to `products`
  both,     // and the gradient of h, to `gradients`
};

// The chains have room for whole vectors past the end.
struct BackwardSlice {
  void *grad_gate;
  void *grad_up;
  const void *grad;
  const void *gate;
  const void *up;
  float *products;
  float *gradients;
  int64_t neurons;
};

template <Dtype D, Act A, bool Gated, Terms Summed> void backward_slice(const BackwardSlice &s) {
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
    if constexpr (Summed != Terms::none) store_float(s.products + i, fma(h, dh, load_float(s.products + i)));
    if constexpr (Summed == Terms::both) store_float(s.gradients + i, load_float(s.gradients + i) + dh);
  });
}

using BackwardKernel = void (*)(const BackwardSlice &);

template <Terms Summed> BackwardKernel backward_slice_for(Dtype dtype, Act act, bool gated) {
  return with_codes(dtype, act, [gated](auto d, auto a) -> BackwardKernel {
    return gated ? backward_slice<d.value, a.value, true, Summed> : backward_slice<d.value, a.value, false, Summed>;
  });
}

// The terms of one segment, for a thread's range of neurons.
struct RunningSum {
  float *sums; // [S, F], from the range's first neuron on
  std::vector<float> chain;
  std::vector<double> total;

  RunningSum(float *sums, int64_t neurons) : sums(sums), chain(size_t(neurons + Vec::width)), total(size_t(neurons)) {}

  void end_chain() {
    for (size_t i = 0; i < total.size(); ++i) total[i] += double(chain[i]);
    std::fill(chain.begin(), chain.end(), 0.0f);
  }
  void end_segment(int64_t offset) {
    for (size_t i = 0; i < total.size(); ++i) {
      float &sum = sums[offset + int64_t(i)];
      sum = float(double(sum) + total[i]);
      total[i] = 0.0;
    }
  }
};

} // namespace

void glu_backward(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape, Plan plan,
                  float *sums, float *gradients, Dtype dtype, Act act, int threads) {
  const bool gated = up.data != nullptr;
  const BackwardKernel plain = backward_slice_for<Terms::none>(dtype, act, gated);
  const BackwardKernel summed = gradients ? backward_slice_for<Terms::both>(dtype, act, gated)
                                          : backward_slice_for<Terms::products>(dtype, act, gated);
  const int64_t size = element_size(dtype);
  auto backward_row = [&](BackwardKernel slice, int64_t n, int64_t f, int64_t neurons, float *products = nullptr,
                          float *of_gradients = nullptr) {
    slice({at(grad_gate, n, f, size), at(grad_up, n, f, size), at(grad, n, f, size), at(gate, n, f, size),
           at(up, n, f, size), products, of_gradients, neurons});
  };
  if (!sums) {
#pragma omp parallel for num_threads(useful_threads(shape, threads)) schedule(static)
    for (int64_t n = 0; n < shape.rows; ++n) backward_row(plain, n, 0, shape.neurons);
    return;
  }
  share_neurons(shape, threads, [&](int64_t begin, int64_t end) {
    const int64_t neurons = end - begin;
    std::vector<RunningSum> running;
    running.emplace_back(sums + begin, neurons);
    if (gradients) running.emplace_back(gradients + begin, neurons);
    for (int64_t t = 0; t < plan.num_tiles; ++t) {
      const Tile tile = plan.tiles[t];
      const int64_t *order = plan.order + tile.start;
      if (tile.segment < 0) {
        for (int64_t r = 0; r < tile.rows; ++r) backward_row(plain, order[r], begin, neurons);
        continue;
      }
      for (int64_t first = 0; first < tile.rows; first += kChain) {
        for (int64_t r = first; r < std::min(tile.rows, first + kChain); ++r) {
          backward_row(summed, order[r], begin, neurons, running.front().chain.data(), running.back().chain.data());
        }
        for (RunningSum &sum : running) sum.end_chain();
      }
      if (t + 1 == plan.num_tiles || plan.tiles[t + 1].segment != tile.segment) {
        for (RunningSum &sum : running) sum.end_segment(tile.segment * shape.neurons);
      }
    }
  });
}

} // namespace affectron::AFFECTRON_ISA
