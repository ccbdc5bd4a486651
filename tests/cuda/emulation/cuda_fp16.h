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

template <class F> __half2 each_half(__half2 a, __half2 b, F f) {
  return __floats2half2_rn(f(float(a.x), float(b.x)), f(float(a.y), float(b.y)));
}
inline __half2 __hmin2(__half2 a, __half2 b) { return each_half(a, b, emulation::least); }
inline __half2 __hmax2(__half2 a, __half2 b) { return each_half(a, b, emulation::greatest); }
inline __half2 __hgt2(__half2 a, __half2 b) { return each_half(a, b, std::greater<float>()); }
inline __half2 __hadd2(__half2 a, __half2 b) { return each_half(a, b, std::plus<float>()); }
