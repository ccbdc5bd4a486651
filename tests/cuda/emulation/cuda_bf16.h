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
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {bfloat16_bits(x), bfloat16_bits(y)}; }
