// See cuda_runtime.h. The compiler's own half type rounds to nearest even.
#pragma once

#include "cuda_runtime.h"

struct __half2 {
  _Float16 x, y;
};

// The exact product, rounded once: 22 bits, which fp64 holds.
inline __half2 __hmul2(__half2 a, __half2 b) {
  return {_Float16(double(a.x) * double(b.x)), _Float16(double(a.y) * double(b.y))};
}
inline __half2 __floats2half2_rn(float x, float y) { return {_Float16(x), _Float16(y)}; }
inline float2 __half22float2(__half2 pair) { return {float(pair.x), float(pair.y)}; }
