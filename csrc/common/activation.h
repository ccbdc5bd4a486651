// Activation functions and the intervention, written once for both value types: a SIMD vector on the CPU (cpu/simd.h)
// and a float on the GPU (cuda/real.h). exp, erf and tanh below serve the CPU. The GPU's value type overloads them with
// the functions that torch's CUDA kernels call.
#pragma once

#include "types.h"

namespace affectron {

// exp(x) to about 1 ulp: x = q ln 2 + s with |s| <= ln2 / 2, a polynomial in s, then a scaling by 2^q.
// The reduction constants and the polynomial are those of SLEEF's expf (u10), which torch's CPU kernels call, so
// that silu agrees with torch bit for bit on processors with FMA. Results under 2^-126 become zero.
template <class V> inline V exp(V x) {
  x = min(V(89.5f), max(V(-87.6f), x)); // keeps q in [-126, 129]; in this order a NaN passes
  // A sum with 1.5 * 2^23 has no fraction bits: its lowest bits are q, rounded to nearest even.
  V shifted = x * V(1.442695040888963407359924681001892137426645954152985934135449406931f) + V(12582912.0f);
  V q = shifted - V(12582912.0f);
  V s = fma(q, V(-0.693145751953125f), x);
  s = fma(q, V(-1.428606765330187045e-06f), s);
  V p = fma(V(0.000198527617612853646278381f), s, V(0.00139304355252534151077271f));
  p = fma(p, s, V(0.00833336077630519866943359f));
  p = fma(p, s, V(0.0416664853692054748535156f));
  p = fma(p, s, V(0.166666671633720397949219f));
  p = fma(p, s, V(0.5f));
  p = V(1.0f) + fma(s * s, p, s);
  // 2^q in two factors, 2^(q-1) and 2, because q reaches 128 where exp(x) is still finite.
  V half = p * exp2_below(shifted);
  return half + half;
}

// erf(x) to about 1e-7 absolute: x times a polynomial in x^2 up to |x| = 1, and 1 - exp(polynomial in |x|) beyond.
// Coefficients: minimax fits, to 1.2e-9 relative and 1.0e-9 absolute before rounding to fp32.
template <class V> inline V erf(V x) {
  V z = x * x;
  V near = fma(V(7.853860734030604e-05f), z, V(-0.0008010193705558777f));
  near = fma(near, z, V(0.005188327748328447f));
  near = fma(near, z, V(-0.026853812858462334f));
  near = fma(near, z, V(0.1128358542919159f));
  near = fma(near, z, V(-0.3761262595653534f));
  near = fma(near, z, V(1.1283791065216064f)) * x;
  V t = min(V(4.0f), abs(x)); // erf(4) rounds to 1
  V far = fma(V(0.00018557407020125538f), t, V(-0.002939607948064804f));
  far = fma(far, t, V(0.02180531993508339f));
  far = fma(far, t, V(-0.10303737223148346f));
  far = fma(far, t, V(-0.6382256746292114f));
  far = fma(far, t, V(-1.1270400285720825f));
  far = V(1.0f) - exp(fma(far, t, V(-0.00035371878766454756f)));
  return select(abs(x) < V(1.0f), near, copysign(far, x));
}

template <class V> inline V tanh(V y) { return V(1.0f) - V(2.0f) / (V(1.0f) + exp(y + y)); }

template <Act A, class V> AFFECTRON_DEVICE inline V activate(V x) {
  if constexpr (A == Act::silu) {
    return x / (V(1.0f) + exp(-x));
  } else if constexpr (A == Act::gelu) {
    return x * V(0.5f) * (V(1.0f) + erf(x * V(0.70710678118654752440f)));
  } else if constexpr (A == Act::gelu_tanh) {
    // With 1 + tanh(y), although x / (1 + exp(-2 y)) is more exact far below zero: the result must equal the eager
    // model's, which loses those digits too.
    V y = V(0.79788456080286535588f) * fma(V(0.044715f), x * x * x, x);
    return V(0.5f) * x * (V(1.0f) + tanh(y));
  } else if constexpr (A == Act::relu) {
    return max(V(0.0f), x); // in this order a NaN passes
  } else {
    V y = max(V(0.0f), x);
    return y * y;
  }
}

// The derivative of the activation at x, where its value is `y`.
template <Act A, class V> AFFECTRON_DEVICE inline V slope(V x, V y) {
  if constexpr (A == Act::silu) {
    V s = V(1.0f) / (V(1.0f) + exp(-x));
    return s + y * (V(1.0f) - s);
  } else if constexpr (A == Act::gelu) {
    V cdf = V(0.5f) * (V(1.0f) + erf(x * V(0.70710678118654752440f)));
    return cdf + x * exp(V(-0.5f) * x * x) * V(0.39894228040143267794f);
  } else if constexpr (A == Act::gelu_tanh) {
    // gelu_tanh is x s, with s the logistic function of 2 u. In this form no digits are lost far below zero.
    V u = V(0.79788456080286535588f) * fma(V(0.044715f), x * x * x, x);
    V s = V(1.0f) / (V(1.0f) + exp(-(u + u)));
    return s + x * s * (V(1.0f) - s) * V(1.5957691216057307117f) * fma(V(0.134145f), x * x, V(1.0f));
  } else if constexpr (A == Act::relu) {
    return select(V(0.0f) < x, V(1.0f), V(0.0f));
  } else {
    return max(V(0.0f), x + x);
  }
}

// The intervention of docs/method.md: h' = h max(scale - damping |h|, floor) + shift. In the factor, the maximum,
// damping |h| counts as 0 where damping is 0 or h is NaN. Where the factor is 0 so is the product, whatever h is. So a
// neutral neuron (1, 0, -inf, -0) returns h bit for bit, and a masked neuron (below) its shift, even if h is not
// finite. Product and sum are not fused, so that every backend rounds alike.
template <class V> AFFECTRON_DEVICE inline V intervene(V h, V scale, V damping, V floor, V shift) {
  V damped = damping * abs(h);
  V factor = max(scale - zero_unless(damped == damped, damped), floor);
  return zero_unless(factor != V(0.0f), h * factor) + shift;
}

// True if that factor is 0 for every h, so that h' = shift and h need not be computed. Without branches, so that the
// compiler vectorises loops of it.
AFFECTRON_DEVICE inline bool hard_masked(float scale, float damping, float floor) {
  const bool zero = (scale > floor ? scale : floor) == 0.0f;
  return zero & ((damping == 0.0f) | ((damping > 0.0f) & (floor == 0.0f)));
}

} // namespace affectron
