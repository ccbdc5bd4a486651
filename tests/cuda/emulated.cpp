// The CUDA kernels on a CPU (see emulation/cuda_runtime.h), behind C functions that a test can call with addresses.
#include "../../csrc/cuda/glu.cu"
#include "../../csrc/cuda/glu_backward.cu"
#include "../../csrc/cuda/glu_stats.cu"
#include "../../csrc/cuda/glu_steer.cu"
#include "../../csrc/cuda/masked_mlp.cu"
#include "../../csrc/cuda/neuron_stats.cu"

using namespace affectron;

namespace {

template <Dtype D> float value_of(uint32_t bits) {
  float pair[2];
  cuda::Format<D>::unpack(bits, pair);
  return pair[0];
}

float moved(float x, int ulps) {
  for (; ulps > 0; --ulps) x = std::nextafter(x, INFINITY);
  for (; ulps < 0; ++ulps) x = std::nextafter(x, -INFINITY);
  return x;
}

template <Dtype D> uint32_t rounded(float value) { return cuda::pack_one<D>(value) & 0xffff; }

// In bits after rounding: the sign of a zero counts, that of a NaN does not.
template <Dtype D> bool equal(float a, float b) {
  return std::isnan(b) ? std::isnan(a) : rounded<D>(a) == rounded<D>(b);
}

// Cases in which silu's quotient rounds unlike the IEEE quotient: every 16-bit x, denominators up to 4 ulp from the
// exact one, and reciprocals up to 1 ulp from theirs.
template <Dtype D> int64_t quotient_mismatches() {
  int64_t wrong = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = value_of<D>(bits);
    if (std::isnan(x)) continue;
    const int ulps = std::fabs(x) > 0x1p-24f ? 4 : 0; // every implementation gives exp(0) = 1
    float d = moved(float(1.0 + std::exp(-double(x))), -ulps);
    for (int i = 0; i < 2 * ulps + 1; ++i, d = std::nextafter(d, INFINITY)) {
      const float r = 1.0f / (d * 0.25f), exact = x / d;
      int exponent;
      const bool exact_reciprocal = std::isinf(d) || std::frexp(d, &exponent) == 0.5f;
      for (float nearby : {std::nextafter(r, 0.0f), r, std::nextafter(r, 8.0f)}) {
        const float ours = cuda::quotient(x * 0.25f, d * 0.25f, exact_reciprocal ? r : nearby);
        wrong += !equal<D>(ours, exact);
      }
    }
  }
  return wrong;
}

// Number of 16-bit x for which the short silu may round unlike x / (1 + exp(-x)), if its power of two is up to `ulps`
// from the exact one and its reciprocal up to half of that. exp(0) = 1 is exact, and so is 1 / d for powers of 2.
template <Dtype D> int64_t short_silus_at_risk(int ulps) {
  int64_t at_risk = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = value_of<D>(bits);
    if (std::isnan(x)) continue;
    const float exact = x / (1.0f + float(std::exp(-double(x))));
    const float e = cuda::power_of_two(x * -1.4426950408889634f);
    const int off = e == 0.0f || e == 1.0f || std::isinf(e) ? 0 : ulps;
    bool differs = !equal<D>(cuda::short_silu(x), exact);
    for (int i = -off; i <= off; ++i) {
      const float d = fmaf(moved(e, i), 0.25f, 0.25f), r = cuda::reciprocal(d);
      int exponent;
      const bool exact_reciprocal = std::isinf(d) || std::frexp(d, &exponent) == 0.5f;
      for (int j = exact_reciprocal ? 0 : -ulps / 2; j <= (exact_reciprocal ? 0 : ulps / 2); ++j) {
        differs |= !equal<D>(x * 0.25f * moved(r, j), exact);
      }
    }
    at_risk += differs;
  }
  return at_risk;
}

// Cases in which a packed product is not the fp32 product rounded to 16 bits: all pairs of significands where bf16's
// product is subnormal or nearly so, every value times values that rounding treats specially, and random pairs.
template <Dtype D> int64_t product_mismatches() {
  int64_t wrong = 0;
  auto check = [&](uint32_t a, uint32_t b) {
    const float product = value_of<D>(a) * value_of<D>(b);
    const uint32_t ours = cuda::Format<D>::multiply(a, b) & 0xffff;
    wrong += std::isnan(product) ? !std::isnan(value_of<D>(ours)) : ours != rounded<D>(product);
  };
  if (D == Dtype::bf16) {
    for (uint32_t exponents = 256 - 140; exponents < 256 - 120; ++exponents) { // of a and b, biased by 127 each
      const uint32_t first = exponents / 2 << 7, second = (exponents - exponents / 2) << 7;
      for (uint32_t a = 0; a < 128; ++a) {
        for (uint32_t b = 0; b < 128; ++b) check(first | a, second | b);
      }
    }
  }
  uint32_t random = 1;
  for (uint32_t a = 0; a < 65536; ++a) {
    for (float apart : {0.0f, -0.0f, 1.0f, 0.5f, INFINITY, -INFINITY, NAN, 65504.0f, 0x1p-24f, 0x1p-133f}) {
      check(a, rounded<D>(apart));
    }
    for (int i = 0; i < 32; ++i) {
      random = random * 1664525u + 1013904223u;
      check(a, random >> 16);
    }
  }
  return wrong;
}

} // namespace

extern "C" {

void reverse_order(int reversed) { emulation::reversed = reversed; }
void use_single_pass(int chosen) { cuda::forms.single_pass = chosen; }
void synchronize() { cudaDeviceSynchronize(); }
void use_short_silu(int chosen) { cuda::forms.short_silu = chosen; }

int glu(void *out, const void *gate, int64_t gate_stride, const void *up, int64_t up_stride, int64_t n, int64_t f,
        int dtype, int act) {
  return cuda::glu({out, f}, {gate, gate_stride}, {up, up_stride}, {n, f}, Dtype(dtype), Act(act), nullptr);
}

int64_t backward_workspace_size(int64_t f, int64_t num_tiles, int sums) {
  return cuda::backward_workspace_size(f, num_tiles, sums);
}

int glu_backward(void *grad_gate, void *grad_up, const void *grad, int64_t grad_stride, const void *gate,
                 int64_t gate_stride, const void *up, int64_t up_stride, int64_t n, int64_t f, const int64_t *order,
                 const Tile *tiles, int64_t num_tiles, float *sums, float *gradients, int64_t num_segments, int dtype,
                 int act, void *workspace) {
  return cuda::glu_backward({grad_gate, f}, {grad_up, f}, {grad, grad_stride}, {gate, gate_stride}, {up, up_stride},
                            {n, f}, {order, tiles, num_tiles, num_segments}, sums, gradients, Dtype(dtype), Act(act),
                            workspace, nullptr);
}

int64_t workspace_size(int64_t n, int64_t f, int64_t num_tiles, int64_t num_segments, int dtype) {
  return cuda::workspace_size({n, f}, num_tiles, num_segments, Dtype(dtype));
}

int glu_stats(void *out, const void *gate, int64_t gate_stride, const void *up, int64_t up_stride, int64_t n, int64_t f,
              const int64_t *order, const Tile *tiles, int64_t num_tiles, int64_t *count, int64_t *tally,
              double *moments, float *extrema, int64_t num_segments, void *workspace, int dtype, int act, int product) {
  const int64_t size = num_segments * f;
  return cuda::glu_stats({out, f}, {gate, gate_stride}, {up, up_stride}, {n, f},
                         {order, tiles, num_tiles, num_segments},
                         {count, tally, tally + size, moments, moments + size, extrema, extrema + size}, Dtype(dtype),
                         Act(act), product, workspace, nullptr);
}

int glu_steer(void *out, const void *gate, int64_t gate_stride, const void *up, int64_t up_stride, int64_t n, int64_t f,
              const float *table, const int32_t *rows, int dtype, int act) {
  return cuda::glu_steer({out, f}, {gate, gate_stride}, {up, up_stride}, {n, f}, {table, rows}, Dtype(dtype), Act(act),
                         nullptr);
}

int64_t mlp_workspace_size(int64_t n, int64_t inputs, int64_t neurons, int64_t outputs, int dtype, int by_neuron) {
  return cuda::mlp_workspace_size({n, inputs, neurons, outputs}, Dtype(dtype), by_neuron);
}

int masked_mlp(void *out, const void *x, int64_t x_stride, const void *gate, int64_t gate_stride, const void *up,
               int64_t up_stride, const void *down, int64_t down_stride, int by_neuron, int64_t n, int64_t inputs,
               int64_t neurons, int64_t outputs, const float *table, const int32_t *rows, int dtype, int act,
               void *workspace) {
  return cuda::masked_mlp({out, outputs}, {x, x_stride},
                          {{gate, gate_stride}, {up, up_stride}, {down, down_stride}, by_neuron != 0},
                          {n, inputs, neurons, outputs}, {table, rows}, Dtype(dtype), Act(act), workspace, nullptr);
}

int neuron_stats(const void *h, int64_t h_stride, const void *gate, int64_t gate_stride, int64_t n, int64_t f,
                 const int64_t *order, const Tile *tiles, int64_t num_tiles, int64_t *count, int64_t *tally,
                 double *moments, float *extrema, int64_t num_segments, void *workspace, int dtype) {
  const int64_t size = num_segments * f;
  return cuda::neuron_stats({h, h_stride}, {gate, gate_stride}, {n, f}, {order, tiles, num_tiles, num_segments},
                            {count, tally, tally + size, moments, moments + size, extrema, extrema + size},
                            Dtype(dtype), workspace, nullptr);
}

// The same with all tiles in one group: as where rows are wide, and each group has many tiles.
int neuron_stats_in_one_group(const void *h, int64_t h_stride, const void *gate, int64_t gate_stride, int64_t n,
                              int64_t f, const int64_t *order, const Tile *tiles, int64_t num_tiles, int64_t *count,
                              int64_t *tally, double *moments, float *extrema, int64_t num_segments, void *workspace,
                              int dtype) {
  const int64_t size = num_segments * f;
  const Stats stats{count, tally, tally + size, moments, moments + size, extrema, extrema + size};
  const Rows values{h, h_stride}, signs{gate ? gate : h, gate ? gate_stride : h_stride};
  return cuda::with_instance(Dtype(dtype), false, [&](auto d, auto a) {
    const auto kernel = cuda::forms.single_pass ? cuda::neuron_stats_kernel<d.value, a.value, true>
                                                : cuda::neuron_stats_kernel<d.value, a.value, false>;
    return cuda::accumulate_and_merge<d.value>(kernel, cuda::Groups{1, num_tiles}, Shape{n, f},
                                               Plan{order, tiles, num_tiles, num_segments}, stats, workspace, nullptr,
                                               cuda::ValueSource<d.value, a.value>{values, signs});
  });
}

int64_t quotient_mismatches(int dtype) {
  return Dtype(dtype) == Dtype::bf16 ? quotient_mismatches<Dtype::bf16>() : quotient_mismatches<Dtype::f16>();
}
int64_t short_silus_at_risk(int dtype, int ulps) {
  return Dtype(dtype) == Dtype::bf16 ? short_silus_at_risk<Dtype::bf16>(ulps) : short_silus_at_risk<Dtype::f16>(ulps);
}
int64_t product_mismatches(int dtype) {
  return Dtype(dtype) == Dtype::bf16 ? product_mismatches<Dtype::bf16>() : product_mismatches<Dtype::f16>();
}

} // extern "C"
