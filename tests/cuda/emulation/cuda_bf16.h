// See cuda_runtime.h.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat162 {
  uint16_t x, y;
};

inline uint16_t bfloat16_bits(float value) { // to nearest even
  const unsigned bits = __float_as_uint(value);
  if (std::isnan(value)) return 0x7fff;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float bfloat16_value(uint16_t bits) { return __uint_as_float(unsigned(bits) << 16); }

// The exact product, rounded once to nearest even: 16 bits, which fp64 holds.
inline uint16_t bfloat16_product(uint16_t a, uint16_t b) {
  const double product = double(bfloat16_value(a)) * double(bfloat16_value(b));
  if (!std::isfinite(product) || product == 0) return bfloat16_bits(float(product));
  const int last = std::max(std::ilogb(product) - 7, -133); // the exponent of the result's last bit
  return bfloat16_bits(float(std::ldexp(std::nearbyint(std::ldexp(product, -last)), last)));
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {bfloat16_product(a.x, b.x), bfloat16_product(a.y, b.y)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {bfloat16_bits(x), bfloat16_bits(y)}; }

// Element by element: `min` and `max` are the number where the other is a NaN, and -0 is less than 0.
template <class F> __nv_bfloat162 each_bfloat16(__nv_bfloat162 a, __nv_bfloat162 b, F f) {
  auto real = [](uint16_t bits) { return __uint_as_float(unsigned(bits) << 16); };
  return __floats2bfloat162_rn(f(real(a.x), real(b.x)), f(real(a.y), real(b.y)));
}
inline __nv_bfloat162 __hmin2(__nv_bfloat162 a, __nv_bfloat162 b) { return each_bfloat16(a, b, emulation::least); }
inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) { return each_bfloat16(a, b, emulation::greatest); }
inline __nv_bfloat162 __hgt2(__nv_bfloat162 a, __nv_bfloat162 b) { return each_bfloat16(a, b, std::greater<float>()); }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return each_bfloat16(a, b, std::plus<float>()); }
