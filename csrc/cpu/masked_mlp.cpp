// out = down . intervention(act(gate x) (up x)) for a few rows, as in decoding, where the time goes into reading the
// weights. Two passes, each weight read once: gate and up with the activation and the intervention, then down. A neuron
// that every row has hard-masked is not computed: its gate and up rows are not read, nor is its down column where down
// is stored by neuron.
//
// The sizes and the masks alone fix the order of every sum: the same bits for any number of threads.
#include <algorithm>
#include <vector>

#include "level.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

namespace {

// Neurons in a strip, which a thread takes at a time: few enough to share out a small site, enough to fill the vectors.
constexpr int64_t kStrip = 32;
// Neurons whose down columns are added together, so that the outputs' sums are read and written once for all of them.
constexpr int64_t kTogether = 8;

constexpr int64_t whole_vectors(int64_t n) { return (n + Vec::width - 1) / Vec::width * Vec::width; }

inline float sum(Vec v) {
  float lane[Vec::width];
  store_float(lane, v);
  for (int64_t half = Vec::width / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// to[w][r] = weights[w] . x[r] for W rows of weights and R rows of x: floats, with zeros up to a whole vector.
// `next` are the rows of weights that come after and are fetched meanwhile: after a masked neuron the processor itself
// would fetch the wrong rows (half of 1792 neurons masked, 512 inputs, bf16: a fifth less time).
template <Dtype D, int W, int R>
void dots(const typename Format<D>::type *const *weights, const typename Format<D>::type *const *next,
          const float *const *x, int64_t size, float (*to)[R]) {
  Vec total[W][R];
  for (auto &row : total) std::fill(row, row + R, Vec(0.0f));
  auto body = [&](int64_t i, auto load) {
    Vec from[R];
    for (int r = 0; r < R; ++r) from[r] = load_float(x[r] + i);
    for (int w = 0; w < W; ++w) {
      __builtin_prefetch(next[w] + i, 0, 2);
      Vec weight = load(weights[w] + i);
      for (int r = 0; r < R; ++r) total[w][r] = fma(weight, from[r], total[w][r]);
    }
  };
  using T = typename Format<D>::type;
  int64_t i = 0;
  for (; i + Vec::width <= size; i += Vec::width) body(i, [](const T *p) { return Format<D>::load(p); });
  if (int64_t rest = size - i; rest > 0) body(i, [=](const T *p) { return load_part<D>(p, rest); });
  for (int w = 0; w < W; ++w) {
    for (int r = 0; r < R; ++r) to[w][r] = sum(total[w][r]);
  }
}

// to[w * to_stride + n] for W rows of weights and all n rows of x, two rows of x at a time.
template <Dtype D, int W>
void dots_of_rows(const typename Format<D>::type *const *weights, const typename Format<D>::type *const *next,
                  const float *x, int64_t x_stride, int64_t rows, int64_t size, float *to, int64_t to_stride) {
  int64_t n = 0;
  for (; n + 2 <= rows; n += 2) {
    const float *pair[2] = {x + n * x_stride, x + (n + 1) * x_stride};
    float sums[W][2];
    dots<D, W, 2>(weights, next, pair, size, sums);
    for (int w = 0; w < W; ++w) std::copy(sums[w], sums[w] + 2, to + w * to_stride + n);
  }
  if (n < rows) {
    const float *row[1] = {x + n * x_stride};
    float sums[W][1];
    dots<D, W, 1>(weights, next, row, size, sums);
    for (int w = 0; w < W; ++w) to[w * to_stride + n] = sums[w][0];
  }
}

// Neurons that contribute to the output, ascending; `computed` marks those whose h depends on the input.
struct Kept {
  std::vector<int64_t> neuron;
  std::vector<char> computed;
};

// One thread reads the masks in every call: loops without branches, which the compiler vectorises. `all` keeps every
// neuron.
Kept find_kept(const MlpShape &shape, const Programs &programs, bool all) {
  std::vector<const float *> tables;
  bool plain = false; // whether a row has no program
  if (!programs.rows) {
    tables.push_back(programs.table);
  } else {
    for (int64_t n = 0; n < shape.rows; ++n) {
      plain |= programs.rows[n] < 0;
      if (programs.rows[n] >= 0) tables.push_back(programs.table + programs.rows[n] * 4 * shape.neurons);
    }
    std::sort(tables.begin(), tables.end());
    tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
  }
  const int64_t size = shape.neurons;
  std::vector<int32_t> computed(size_t(size), plain), kept(size_t(size), plain || all);
  for (const float *table : tables) {
    const float *scale = table, *damping = table + size, *floor = table + 2 * size, *shift = table + 3 * size;
    for (int64_t f = 0; f < size; ++f) {
      const int32_t masked = hard_masked(scale[f], damping[f], floor[f]);
      computed[size_t(f)] |= 1 - masked;
      kept[size_t(f)] |= (1 - masked) | int32_t(shift[f] != 0.0f);
    }
  }
  Kept result{std::vector<int64_t>(size_t(size)), std::vector<char>(size_t(size))};
  size_t count = 0;
  for (int64_t f = 0; f < size; ++f) {
    result.neuron[count] = f;
    result.computed[count] = char(computed[size_t(f)]);
    count += size_t(kept[size_t(f)]);
  }
  result.neuron.resize(count);
  result.computed.resize(count);
  return result;
}

template <Dtype D> struct Pass {
  using F = Format<D>;
  using T = typename F::type;

  const MlpWeights &weights;
  const MlpShape &shape;
  const Programs &programs;
  const Kept &kept;
  std::vector<float> x; // [N, x_stride], zeros past K
  int64_t x_stride;
  std::vector<float> h; // [N, h_stride], zeros past the kept neurons: the intervened activation, rounded
  int64_t h_stride;

  Pass(Rows from, const MlpWeights &weights, const MlpShape &shape, const Programs &programs, const Kept &kept)
      : weights(weights), shape(shape), programs(programs), kept(kept), x_stride(whole_vectors(shape.inputs)),
        h_stride(whole_vectors(int64_t(kept.neuron.size()))) {
    x.resize(size_t(shape.rows * x_stride));
    h.resize(size_t(shape.rows * h_stride));
    for (int64_t n = 0; n < shape.rows; ++n) {
      const T *row = static_cast<const T *>(at(from, n, 0, sizeof(T)));
      for (int64_t i = 0; i < shape.inputs; i += Vec::width) {
        const int64_t rest = std::min(shape.inputs - i, Vec::width);
        store_float(x.data() + n * x_stride + i, load_part<D>(row + i, rest));
      }
    }
  }

  const T *row_of(Rows rows, int64_t f) const { return static_cast<const T *>(at(rows, f, 0, sizeof(T))); }

  // h' of the kept neurons [first, first + count).
  void activate_strip(int64_t first, int64_t count, SliceKernel slice,
                      void (*intervene)(const float *, const float *, int64_t, void *, int64_t)) {
    float gate[kStrip][kMlpRows], up[kStrip][kMlpRows];
    for (int64_t i = 0; i < count; ++i) {
      if (!kept.computed[size_t(first + i)]) { // h' is the shift, whatever h is
        std::fill(gate[i], gate[i] + kMlpRows, 0.0f);
        std::fill(up[i], up[i] + kMlpRows, 0.0f);
        continue;
      }
      const int64_t f = kept.neuron[size_t(first + i)];
      const T *both[2] = {row_of(weights.gate, f), row_of(weights.up, f)};
      const int64_t after = kept.neuron[size_t(first + std::min(i + 1, count - 1))];
      const T *next[2] = {row_of(weights.gate, after), row_of(weights.up, after)};
      float sums[2][kMlpRows];
      if (weights.up.data) {
        dots_of_rows<D, 2>(both, next, x.data(), x_stride, shape.rows, shape.inputs, sums[0], kMlpRows);
        std::copy(sums[1], sums[1] + shape.rows, up[i]);
      } else {
        dots_of_rows<D, 1>(both, next, x.data(), x_stride, shape.rows, shape.inputs, sums[0], kMlpRows);
      }
      std::copy(sums[0], sums[0] + shape.rows, gate[i]);
    }
    for (int64_t n = 0; n < shape.rows; ++n) {
      alignas(64) T g[kStrip], u[kStrip], out[kStrip];
      alignas(64) float wide[kStrip + Vec::width], table[4][kStrip];
      auto round_to = [&](T *to, const float (*from)[kMlpRows]) {
        for (int64_t i = 0; i < kStrip; ++i) wide[i] = i < count ? from[i][n] : 0.0f;
        for (int64_t i = 0; i < kStrip; i += Vec::width) F::store(to + i, load_float(wide + i));
      };
      round_to(g, gate);
      if (weights.up.data) round_to(u, up);
      float *to = h.data() + n * h_stride + first;
      const int64_t program = programs.rows ? programs.rows[n] : 0;
      slice({g, weights.up.data ? u : nullptr, nullptr, wide, kStrip});
      if (program >= 0) {
        const float *whole = programs.table + program * 4 * shape.neurons;
        for (int64_t i = 0; i < kStrip; ++i) {
          const int64_t f = kept.neuron[size_t(first + std::min(i, count - 1))];
          for (int64_t p = 0; p < 4; ++p) table[p][i] = whole[p * shape.neurons + f];
        }
        intervene(wide, table[0], kStrip, out, kStrip);
        for (int64_t i = 0; i < kStrip; i += Vec::width) store_float(wide + i, F::load(out + i));
      }
      std::copy(wide, wide + count, to);
    }
  }

  // Outputs [first, first + count) where down is stored by neuron: the sum of its rows times h'.
  void down_by_neuron(int64_t first, int64_t count, MutableRows out) const {
    const int64_t width = whole_vectors(count);
    std::vector<float> total(size_t(shape.rows * width));
    const int64_t neurons = int64_t(kept.neuron.size());
    for (int64_t k = 0; k < neurons; k += kTogether) {
      const T *from[kTogether], *next[kTogether];
      for (int64_t i = 0; i < kTogether; ++i) { // past the last neuron the factors are zero
        from[i] = row_of(weights.down, kept.neuron[size_t(std::min(k + i, neurons - 1))]) + first;
        next[i] = row_of(weights.down, kept.neuron[size_t(std::min(k + i + kTogether, neurons - 1))]) + first;
      }
      auto body = [&](int64_t c, auto load) {
        Vec weight[kTogether];
        for (int64_t i = 0; i < kTogether; ++i) {
          __builtin_prefetch(next[i] + c, 0, 2);
          weight[i] = load(from[i] + c);
        }
        for (int64_t n = 0; n < shape.rows; ++n) {
          const float *factor = h.data() + n * h_stride + k;
          Vec part = weight[0] * Vec(factor[0]);
          for (int64_t i = 1; i < kTogether; ++i) part = fma(weight[i], Vec(factor[i]), part);
          float *sums = total.data() + n * width + c;
          store_float(sums, load_float(sums) + part);
        }
      };
      int64_t c = 0;
      for (; c + Vec::width <= count; c += Vec::width) body(c, [](const T *p) { return F::load(p); });
      if (int64_t rest = count - c; rest > 0) body(c, [=](const T *p) { return load_part<D>(p, rest); });
    }
    for (int64_t n = 0; n < shape.rows; ++n) {
      T *to = static_cast<T *>(at(out, n, first, sizeof(T)));
      for (int64_t c = 0; c < count; c += Vec::width) {
        store_part<D>(to + c, load_float(total.data() + n * width + c), std::min(count - c, Vec::width));
      }
    }
  }

  // The W outputs from `first` on where down is stored by output, as torch.nn.Linear does.
  template <int W> void down_by_output(int64_t first, MutableRows out) const {
    const T *from[W];
    for (int w = 0; w < W; ++w) from[w] = row_of(weights.down, first + w);
    float sums[W][kMlpRows];
    dots_of_rows<D, W>(from, from, h.data(), h_stride, shape.rows, shape.neurons, sums[0], kMlpRows);
    for (int64_t n = 0; n < shape.rows; ++n) {
      for (int w = 0; w < W; ++w) {
        store_part<D>(static_cast<T *>(at(out, n, first + w, sizeof(T))), Vec(sums[w][n]), 1);
      }
    }
  }
};

template <Dtype D>
void compute(MutableRows out, Rows x, const MlpWeights &weights, const MlpShape &shape, const Programs &programs,
             Act act, int threads) {
  const Kept kept = find_kept(shape, programs, !weights.by_neuron);
  Pass<D> pass(x, weights, shape, programs, kept);
  SliceKernel slice = glu_slice_for<Emit::floats>(D, act, weights.up.data != nullptr);
  auto intervene = intervene_slice<D>;
  const int64_t neurons = int64_t(kept.neuron.size());
#pragma omp parallel num_threads(useful_threads({shape.neurons, shape.inputs}, threads))
  {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < neurons; first += kStrip) {
      pass.activate_strip(first, std::min(kStrip, neurons - first), slice, intervene);
    }
    // The implicit barrier: h is complete.
    if (weights.by_neuron) {
#pragma omp for schedule(static)
      for (int64_t part = 0; part < threads; ++part) { // one range a thread, to read long stretches of memory
        const int64_t width = whole_vectors((shape.outputs + threads - 1) / threads);
        const int64_t first = part * width, count = std::min(width, shape.outputs - first);
        if (count > 0) pass.down_by_neuron(first, count, out);
      }
    } else {
#pragma omp for schedule(static)
      for (int64_t first = 0; first < shape.outputs; first += 4) {
        if (first + 4 <= shape.outputs) {
          pass.template down_by_output<4>(first, out);
        } else {
          for (int64_t o = first; o < shape.outputs; ++o) pass.template down_by_output<1>(o, out);
        }
      }
    }
  }
}

} // namespace

void masked_mlp(MutableRows out, Rows x, MlpWeights weights, MlpShape shape, Programs programs, Dtype dtype, Act act,
                int threads) {
  if (shape.rows == 0) return;
  with_dtype(dtype, [&](auto d) { compute<d.value>(out, x, weights, shape, programs, act, threads); });
}

} // namespace affectron::AFFECTRON_ISA
