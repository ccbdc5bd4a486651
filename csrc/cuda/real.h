// The value type of common/activation.h on the GPU: one float, with the functions that torch's CUDA kernels call, so
// that activations equal torch's bit for bit. torch lets the compiler fuse products and sums. The users of this file
// are compiled without fusion (-fmad=false), and fma is written where it matters: in gelu_tanh's polynomial. In 1 +
// exp(-x) fusion makes no difference, because the fused factor is a power of two.
#pragma once

#include <cuda_runtime.h>

#include "../common/activation.h"

namespace affectron::cuda {

// 1 / d to 1 ulp, in one instruction. Results under 2^-126 are flushed to zero.
AFFECTRON_DEVICE inline float reciprocal(float d) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  return r;
#else
  return 1.0f / d;
#endif
}

// 2^y to 2 ulp, in one instruction. Results under 2^-126 are flushed to zero.
AFFECTRON_DEVICE inline float power_of_two(float y) {
#ifdef __CUDA_ARCH__
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(y));
  return e;
#else
  const float e = exp2f(y);
  return e < 0x1p-126f ? 0.0f : e;
#endif
}

// x / d, given r = 1 / d to 1 ulp. One Newton step from q = x r: q - (d q - x) r. If x or d is infinite, q is already
// right but the residual d q - x is NaN; fminf makes it FLT_MAX, which leaves q unchanged. Written so that -0 stays -0.
AFFECTRON_DEVICE inline float quotient(float x, float d, float r) {
  float q = x * r;
  float residual = fminf(fmaf(d, q, -x), 3.4028234663852886e38f);
  return fmaf(-residual, r, q);
}

// x / d for d >= 1, exact enough to round to 16 bits as the IEEE quotient does, in 7 instructions without a branch; the
// IEEE division takes 10 and a branch for each element. tests/cuda proves the rounding for every 16-bit x, every d
// within 4 ulp of silu's denominator (2 itself where |x| <= 2^-24) and every reciprocal within 1 ulp (exact for powers
// of 2). Both operands are scaled by a quarter, so that no reciprocal is flushed to zero.
AFFECTRON_DEVICE inline float narrow_quotient(float x, float d) {
  return quotient(x * 0.25f, d * 0.25f, reciprocal(d * 0.25f));
}

// silu(x) for an x of 16 bits and a result that will be rounded to 16 bits: 6 instructions, two of them approximations.
// tests/cuda counts the x whose rounding these may change, because silu(x) is next to a tie: 3 in bf16, 16 in fp16. Of
// the latter, 2 differ from torch's sequence even if both approximations are exact to fp32, because x log2(e) is
// rounded. A quarter of both operands, for the reason above. Infinities, NaN and -0 give the results of
// x / (1 + exp(-x)).
AFFECTRON_DEVICE inline float short_silu(float x) {
  const float e = power_of_two(x * -1.4426950408889634f);
  return x * 0.25f * reciprocal(fmaf(e, 0.25f, 0.25f));
}

// `Narrow`: the value will be rounded to 16 bits.
template <bool Narrow> struct Real {
  float v;
  Real() = default;
  AFFECTRON_DEVICE explicit Real(float value) : v(value) {}
};

template <bool N> AFFECTRON_DEVICE inline Real<N> operator+(Real<N> a, Real<N> b) { return Real<N>(a.v + b.v); }
template <bool N> AFFECTRON_DEVICE inline Real<N> operator-(Real<N> a, Real<N> b) { return Real<N>(a.v - b.v); }
template <bool N> AFFECTRON_DEVICE inline Real<N> operator*(Real<N> a, Real<N> b) { return Real<N>(a.v * b.v); }
template <bool N> AFFECTRON_DEVICE inline Real<N> operator/(Real<N> a, Real<N> b) {
  return Real<N>(N ? narrow_quotient(a.v, b.v) : a.v / b.v);
}
template <bool N> AFFECTRON_DEVICE inline Real<N> operator-(Real<N> a) { return Real<N>(-a.v); }
template <bool N> AFFECTRON_DEVICE inline Real<N> fma(Real<N> a, Real<N> b, Real<N> c) {
  return Real<N>(fmaf(a.v, b.v, c.v));
}
template <bool N> AFFECTRON_DEVICE inline Real<N> min(Real<N> a, Real<N> b) { return Real<N>(a.v < b.v ? a.v : b.v); }
template <bool N> AFFECTRON_DEVICE inline Real<N> max(Real<N> a, Real<N> b) { return Real<N>(a.v > b.v ? a.v : b.v); }
template <bool N> AFFECTRON_DEVICE inline bool operator==(Real<N> a, Real<N> b) { return a.v == b.v; }
template <bool N> AFFECTRON_DEVICE inline bool operator!=(Real<N> a, Real<N> b) { return a.v != b.v; }
template <bool N> AFFECTRON_DEVICE inline Real<N> zero_unless(bool c, Real<N> a) { return Real<N>(c ? a.v : 0.0f); }
template <bool N> AFFECTRON_DEVICE inline Real<N> abs(Real<N> a) { return Real<N>(fabsf(a.v)); }
template <bool N> AFFECTRON_DEVICE inline Real<N> exp(Real<N> a) { return Real<N>(expf(a.v)); }
template <bool N> AFFECTRON_DEVICE inline Real<N> erf(Real<N> a) { return Real<N>(erff(a.v)); }
template <bool N> AFFECTRON_DEVICE inline Real<N> tanh(Real<N> a) { return Real<N>(tanhf(a.v)); }

} // namespace affectron::cuda
