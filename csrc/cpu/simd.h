// Vectors of floats: Reg, a register of the instruction set that this file is compiled for; Vec, two of them, the unit
// that kernels work in; and loads and stores that convert from and to the three dtypes. Each kernel source is compiled
// once for each level (CMakeLists.txt). Everything here lies in the level's namespace, so that levels never mix at link
// time.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../common/types.h"

namespace affectron::AFFECTRON_ISA {

#if defined(__AVX512F__)

struct Reg {
  static constexpr int64_t width = 16;
  __m512 v;
  Reg() = default;
  Reg(__m512 value) : v(value) {}
  explicit Reg(float value) : v(_mm512_set1_ps(value)) {}
};
using RegMask = __mmask16;

inline Reg operator+(Reg a, Reg b) { return _mm512_add_ps(a.v, b.v); }
inline Reg operator-(Reg a, Reg b) { return _mm512_sub_ps(a.v, b.v); }
inline Reg operator*(Reg a, Reg b) { return _mm512_mul_ps(a.v, b.v); }
inline Reg operator/(Reg a, Reg b) { return _mm512_div_ps(a.v, b.v); }
inline Reg operator-(Reg a) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(INT32_MIN)));
}
inline RegMask operator<(Reg a, Reg b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline RegMask operator==(Reg a, Reg b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline RegMask operator!=(Reg a, Reg b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ); }
inline Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline Reg min(Reg a, Reg b) { return _mm512_min_ps(a.v, b.v); }
inline Reg max(Reg a, Reg b) { return _mm512_max_ps(a.v, b.v); }
inline Reg abs(Reg a) { return _mm512_abs_ps(a.v); }
inline Reg exp2_below(Reg shifted) {
  __m512i bits = _mm512_add_epi32(_mm512_castps_si512(shifted.v), _mm512_set1_epi32(126));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}
inline Reg select(RegMask m, Reg a, Reg b) { return _mm512_mask_blend_ps(m, b.v, a.v); }
inline Reg zero_unless(RegMask m, Reg a) { return _mm512_maskz_mov_ps(m, a.v); }
inline Reg copysign(Reg magnitude, Reg sign) {
  __m512i bit = _mm512_set1_epi32(INT32_MIN);
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_andnot_si512(bit, _mm512_castps_si512(magnitude.v)),
                                             _mm512_and_si512(bit, _mm512_castps_si512(sign.v))));
}
inline Reg reg_load_float(const float *p) { return _mm512_loadu_ps(p); }
inline void store_float(float *p, Reg a) { _mm512_storeu_ps(p, a.v); }

// Bits rounded to nearest even in the upper halves. A NaN that came from bf16 operands has a zero lower half, so the
// addition cannot carry out of it.
inline __m512i bf16_bits(Reg a) {
  __m512i bits = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}
inline Reg round_bf16(Reg a) {
  return _mm512_castsi512_ps(_mm512_and_si512(bf16_bits(a), _mm512_set1_epi32(0xffff0000u)));
}
inline Reg reg_from_bf16(const uint16_t *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline void to_bf16(uint16_t *p, Reg a, Reg b) {
  const __m512i odd = _mm512_add_epi16(_mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                                                        30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0),
                                       _mm512_set1_epi16(1));
  _mm512_storeu_si512(p, _mm512_permutex2var_epi16(bf16_bits(a), odd, bf16_bits(b)));
}
inline Reg reg_from_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void to_f16(uint16_t *p, Reg a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline Reg round_f16(Reg a) { return _mm512_cvtph_ps(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }

#elif defined(__AVX2__)

struct Reg {
  static constexpr int64_t width = 8;
  __m256 v;
  Reg() = default;
  Reg(__m256 value) : v(value) {}
  explicit Reg(float value) : v(_mm256_set1_ps(value)) {}
};
using RegMask = Reg; // all ones or all zeros in each lane

inline Reg operator+(Reg a, Reg b) { return _mm256_add_ps(a.v, b.v); }
inline Reg operator-(Reg a, Reg b) { return _mm256_sub_ps(a.v, b.v); }
inline Reg operator*(Reg a, Reg b) { return _mm256_mul_ps(a.v, b.v); }
inline Reg operator/(Reg a, Reg b) { return _mm256_div_ps(a.v, b.v); }
inline Reg operator-(Reg a) { return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)); }
inline RegMask operator<(Reg a, Reg b) { return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ); }
inline RegMask operator==(Reg a, Reg b) { return _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ); }
inline RegMask operator!=(Reg a, Reg b) { return _mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ); }
inline Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline Reg min(Reg a, Reg b) { return _mm256_min_ps(a.v, b.v); }
inline Reg max(Reg a, Reg b) { return _mm256_max_ps(a.v, b.v); }
inline Reg abs(Reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
inline Reg exp2_below(Reg shifted) {
  __m256i bits = _mm256_add_epi32(_mm256_castps_si256(shifted.v), _mm256_set1_epi32(126));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}
inline Reg select(RegMask m, Reg a, Reg b) { return _mm256_blendv_ps(b.v, a.v, m.v); }
inline Reg zero_unless(RegMask m, Reg a) { return _mm256_and_ps(m.v, a.v); }
inline Reg copysign(Reg magnitude, Reg sign) {
  __m256 bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v));
}
inline Reg reg_load_float(const float *p) { return _mm256_loadu_ps(p); }
inline void store_float(float *p, Reg a) { _mm256_storeu_ps(p, a.v); }

inline Reg reg_from_bf16(const uint16_t *p) {
  // Both halves hold the same eight values: the shuffle then crosses no lane.
  const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  const __m256i shuffle = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 8, 9, -1, -1,
                                           10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(both, shuffle));
}
// Bits rounded to nearest even in the upper halves. A NaN that came from bf16 operands has a zero lower half, so the
// addition cannot carry out of it.
inline __m256i bf16_bits(Reg a) {
  __m256i bits = _mm256_castps_si256(a.v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
inline Reg round_bf16(Reg a) {
  return _mm256_castsi256_ps(_mm256_and_si256(bf16_bits(a), _mm256_set1_epi32(0xffff0000u)));
}
inline void to_bf16(uint16_t *p, Reg a, Reg b) {
  __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(bf16_bits(a), 16), _mm256_srli_epi32(bf16_bits(b), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(packed, 0xd8)); // a, a, b, b
}
inline Reg reg_from_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline void to_f16(uint16_t *p, Reg a) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline Reg round_f16(Reg a) { return _mm256_cvtph_ps(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }

#else // NEON and the portable level, in the vector notation of GCC and Clang; their differences are below

using Floats = float __attribute__((vector_size(16)));
using Bits = uint32_t __attribute__((vector_size(16)));

struct RegBits {
  Bits low, high;
};
// As wide as with AVX2, so that NEON sums in the same order.
struct Reg {
  static constexpr int64_t width = 8;
  Floats low, high;
  Reg() = default;
  Reg(Floats low, Floats high) : low(low), high(high) {}
  Reg(Bits low, Bits high) : low(Floats(low)), high(Floats(high)) {}
  explicit Reg(float value) : low{value, value, value, value}, high(low) {}
};
using RegMask = RegBits; // all ones or all zeros in each lane

inline Reg operator+(Reg a, Reg b) { return {a.low + b.low, a.high + b.high}; }
inline Reg operator-(Reg a, Reg b) { return {a.low - b.low, a.high - b.high}; }
inline Reg operator*(Reg a, Reg b) { return {a.low * b.low, a.high * b.high}; }
inline Reg operator/(Reg a, Reg b) { return {a.low / b.low, a.high / b.high}; }
inline Reg operator-(Reg a) { return {-a.low, -a.high}; }
inline RegMask operator<(Reg a, Reg b) { return {Bits(a.low < b.low), Bits(a.high < b.high)}; }
inline RegMask operator==(Reg a, Reg b) { return {Bits(a.low == b.low), Bits(a.high == b.high)}; }
inline RegMask operator!=(Reg a, Reg b) { return {Bits(a.low != b.low), Bits(a.high != b.high)}; }
inline Bits magnitude_bits(Floats a) { return Bits(a) & 0x7fffffffu; }
inline Bits sign_bits(Floats a) { return Bits(a) & 0x80000000u; }
inline Reg abs(Reg a) { return {magnitude_bits(a.low), magnitude_bits(a.high)}; }
inline Reg copysign(Reg magnitude, Reg sign) {
  return {magnitude_bits(magnitude.low) | sign_bits(sign.low), magnitude_bits(magnitude.high) | sign_bits(sign.high)};
}
inline Reg exp2_below(Reg shifted) { return {(Bits(shifted.low) + 126u) << 23, (Bits(shifted.high) + 126u) << 23}; }
inline Bits select(Bits m, Bits a, Bits b) { return (m & a) | (~m & b); }
inline Reg select(RegMask m, Reg a, Reg b) {
  return {select(m.low, Bits(a.low), Bits(b.low)), select(m.high, Bits(a.high), Bits(b.high))};
}
inline Reg zero_unless(RegMask m, Reg a) { return {m.low & Bits(a.low), m.high & Bits(a.high)}; }
template <class T> inline T load_as(const void *p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
inline Reg reg_load_float(const float *p) { return {load_as<Floats>(p), load_as<Floats>(p + 4)}; }
inline void store_float(float *p, Reg a) { std::memcpy(p, &a, sizeof a); }

// min and max are those of x86: b where either is NaN or both are 0.
#if defined(__aarch64__)

// Clang 14 compiles a choice between x and 0 to fmax, which loses the sign of -0, unless it cannot see the comparison.
inline RegMask hidden(RegMask m) {
  asm("" : "+w"(m.low), "+w"(m.high));
  return m;
}
inline Reg min(Reg a, Reg b) { return select(hidden(a < b), a, b); }
inline Reg max(Reg a, Reg b) { return select(hidden(b < a), a, b); }
inline Reg fma(Reg a, Reg b, Reg c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
inline RegBits load_wide(const uint16_t *p) {
  const uint16x8_t a = vld1q_u16(p);
  return {vmovl_u16(vget_low_u16(a)), vmovl_high_u16(a)};
}
inline void store_narrow(uint16_t *p, RegBits a) { vst1q_u16(p, vmovn_high_u32(vmovn_u32(a.low), a.high)); }
inline Reg reg_from_f16(const uint16_t *p) {
  const float16x8_t a = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a)};
}
inline void to_f16(uint16_t *p, Reg a) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.low), a.high)));
}
inline Reg round_f16(Reg a) { return {vcvt_f32_f16(vcvt_f16_f32(a.low)), vcvt_f32_f16(vcvt_f16_f32(a.high))}; }

#else

inline Reg min(Reg a, Reg b) { return {a.low < b.low ? a.low : b.low, a.high < b.high ? a.high : b.high}; }
inline Reg max(Reg a, Reg b) { return {a.low > b.low ? a.low : b.low, a.high > b.high ? a.high : b.high}; }
// Not std::fma, a slow library call without a fused instruction. A product and a sum are within 1 ulp of it.
inline Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
// Conversions of eight values together: GCC 12 compiles those of four one by one.
using Words = uint16_t __attribute__((vector_size(16)));
using WideWords = uint32_t __attribute__((vector_size(32)));
inline RegBits load_wide(const uint16_t *p) {
  const WideWords wide = __builtin_convertvector(load_as<Words>(p), WideWords);
  return load_as<RegBits>(&wide);
}
inline void store_narrow(uint16_t *p, RegBits a) {
  WideWords wide;
  std::memcpy(&wide, &a, sizeof a);
  const Words words = __builtin_convertvector(wide, Words);
  std::memcpy(p, &words, sizeof words);
}
inline Floats float_of_half(Bits half) {
  const Bits sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
  // The exponent is too small by 112: a multiplication by 2^112 corrects it, for subnormal halves too.
  const Bits finite = Bits(Floats(rest) * 0x1p112f), special = rest | 0x70000000u;
  return Floats(sign | select(Bits(Floats(rest) < 0x1p-96f), finite, special));
}
inline Bits half_of_float(Floats a) {
  const Bits rest = magnitude_bits(a);
  const Floats size = Floats(rest);
  // A subnormal half: adding 0.5 aligns its last bit with the float's, and rounds.
  const Bits subnormal = Bits(size + 0.5f) - 0x3f000000u;
  const Bits normal = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  const Bits finite = select(Bits(size < 0x1p-14f), subnormal, normal);
  const Bits special = 0x7c00u | (Bits(size != size) & 0x0200u); // 65520 and more round to infinity
  return (sign_bits(a) >> 16) | select(Bits(size < 65520.0f), finite, special);
}
inline Reg reg_from_f16(const uint16_t *p) {
  const RegBits half = load_wide(p);
  return {float_of_half(half.low), float_of_half(half.high)};
}
inline void to_f16(uint16_t *p, Reg a) { store_narrow(p, {half_of_float(a.low), half_of_float(a.high)}); }
inline Reg round_f16(Reg a) { return {float_of_half(half_of_float(a.low)), float_of_half(half_of_float(a.high))}; }

#endif

inline Reg reg_from_bf16(const uint16_t *p) {
  const RegBits wide = load_wide(p);
  return {wide.low << 16, wide.high << 16};
}
// Bits rounded to nearest even in the upper halves. A NaN that came from bf16 operands has a zero lower half, so the
// addition cannot carry out of it.
inline Bits bf16_bits(Floats a) { return Bits(a) + (((Bits(a) >> 16) & 1u) + 0x7fffu); }
inline Reg round_bf16(Reg a) { return {bf16_bits(a.low) & 0xffff0000u, bf16_bits(a.high) & 0xffff0000u}; }
inline void to_bf16(uint16_t *p, Reg a, Reg b) {
  store_narrow(p, {bf16_bits(a.low) >> 16, bf16_bits(a.high) >> 16});
  store_narrow(p + Reg::width, {bf16_bits(b.low) >> 16, bf16_bits(b.high) >> 16});
}

#endif

// Two registers that take every operation together. An activation is a long chain of dependent instructions; that of
// the second register runs in the gaps of the first (SwiGLU in bf16: 13 % less time on AVX2).
struct Vec {
  static constexpr int64_t width = 2 * Reg::width;
  Reg a, b;
  Vec() = default;
  Vec(Reg first, Reg second) : a(first), b(second) {}
  explicit Vec(float value) : a(value), b(value) {}
};
struct Mask {
  RegMask a, b;
};

inline Vec operator+(Vec x, Vec y) { return {x.a + y.a, x.b + y.b}; }
inline Vec operator-(Vec x, Vec y) { return {x.a - y.a, x.b - y.b}; }
inline Vec operator*(Vec x, Vec y) { return {x.a * y.a, x.b * y.b}; }
inline Vec operator/(Vec x, Vec y) { return {x.a / y.a, x.b / y.b}; }
inline Vec operator-(Vec x) { return {-x.a, -x.b}; }
inline Mask operator<(Vec x, Vec y) { return {x.a < y.a, x.b < y.b}; }
inline Mask operator==(Vec x, Vec y) { return {x.a == y.a, x.b == y.b}; }
inline Mask operator!=(Vec x, Vec y) { return {x.a != y.a, x.b != y.b}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
inline Vec min(Vec x, Vec y) { return {min(x.a, y.a), min(x.b, y.b)}; }
inline Vec max(Vec x, Vec y) { return {max(x.a, y.a), max(x.b, y.b)}; }
inline Vec abs(Vec x) { return {abs(x.a), abs(x.b)}; }
// 2^(q-1), with q in the lowest bits of `shifted` (common/activation.h). The shift makes q - 1 + 127 the exponent and
// drops all bits above it.
inline Vec exp2_below(Vec shifted) { return {exp2_below(shifted.a), exp2_below(shifted.b)}; }
inline Vec select(Mask m, Vec x, Vec y) { return {select(m.a, x.a, y.a), select(m.b, x.b, y.b)}; }
inline Vec zero_unless(Mask m, Vec x) { return {zero_unless(m.a, x.a), zero_unless(m.b, x.b)}; }
inline Vec copysign(Vec x, Vec sign) { return {copysign(x.a, sign.a), copysign(x.b, sign.b)}; }
inline Vec load_float(const float *p) { return {reg_load_float(p), reg_load_float(p + Reg::width)}; }
inline void store_float(float *p, Vec x) {
  store_float(p, x.a);
  store_float(p + Reg::width, x.b);
}
inline Vec from_bf16(const uint16_t *p) { return {reg_from_bf16(p), reg_from_bf16(p + Reg::width)}; }
inline Vec round_bf16(Vec x) { return {round_bf16(x.a), round_bf16(x.b)}; }
inline void to_bf16(uint16_t *p, Vec x) { to_bf16(p, x.a, x.b); }
inline Vec from_f16(const uint16_t *p) { return {reg_from_f16(p), reg_from_f16(p + Reg::width)}; }
inline Vec round_f16(Vec x) { return {round_f16(x.a), round_f16(x.b)}; }
inline void to_f16(uint16_t *p, Vec x) {
  to_f16(p, x.a);
  to_f16(p + Reg::width, x.b);
}

// Storage type and conversions of each dtype; `store` rounds.
template <Dtype D> struct Format;
template <> struct Format<Dtype::f32> {
  using type = float;
  static Vec load(const float *p) { return load_float(p); }
  static Vec round(Vec a) { return a; }
  static void store(float *p, Vec a) { store_float(p, a); }
};
template <> struct Format<Dtype::bf16> {
  using type = uint16_t;
  static Vec load(const uint16_t *p) { return from_bf16(p); }
  static Vec round(Vec a) { return round_bf16(a); }
  static void store(uint16_t *p, Vec a) { to_bf16(p, a); }
};
template <> struct Format<Dtype::f16> {
  using type = uint16_t;
  static Vec load(const uint16_t *p) { return from_f16(p); }
  static Vec round(Vec a) { return round_f16(a); }
  static void store(uint16_t *p, Vec a) { to_f16(p, a); }
};

// Loads the first n elements; the other lanes are zero.
template <Dtype D> inline Vec load_part(const typename Format<D>::type *p, int64_t n) {
  typename Format<D>::type buffer[Vec::width] = {};
  std::memcpy(buffer, p, size_t(n) * sizeof *p);
  return Format<D>::load(buffer);
}
template <Dtype D> inline void store_part(typename Format<D>::type *p, Vec a, int64_t n) {
  typename Format<D>::type buffer[Vec::width];
  Format<D>::store(buffer, a);
  std::memcpy(p, buffer, size_t(n) * sizeof *p);
}

// Fetches the vector at element i into the nearest cache; with Write, also takes it from the caches of other cores.
template <Dtype D, bool Write = false> inline void fetch(const void *row, int64_t i) {
  using T = typename Format<D>::type;
  constexpr int64_t bytes = Vec::width * sizeof(T);
  const char *vector = reinterpret_cast<const char *>(static_cast<const T *>(row) + i);
  __builtin_prefetch(vector, Write);
  if constexpr (bytes > 64) __builtin_prefetch(vector + 64, Write);
}

// Fetches n elements that will be written into the nearest cache.
template <class T> inline void fetch_to_change(const T *p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(p + i, 1);
}

// Calls body(i, load, store) for each vector of n elements, which begins at element i. The last may be a part.
template <Dtype D, class Body> inline __attribute__((always_inline)) void each_vector(int64_t n, Body body) {
  using T = typename Format<D>::type;
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) {
    body(i, [](const T *p) { return Format<D>::load(p); }, [](T *p, Vec a) { Format<D>::store(p, a); });
  }
  if (int64_t rest = n - i; rest > 0) {
    body(i, [=](const T *p) { return load_part<D>(p, rest); }, [=](T *p, Vec a) { store_part<D>(p, a, rest); });
  }
}

// Calls f(dtype) with the dtype as a compile-time constant.
template <class F> auto with_dtype(Dtype dtype, F f) {
  switch (dtype) {
  case Dtype::f32: return f(std::integral_constant<Dtype, Dtype::f32>{});
  case Dtype::bf16: return f(std::integral_constant<Dtype, Dtype::bf16>{});
  case Dtype::f16: return f(std::integral_constant<Dtype, Dtype::f16>{});
  }
  throw std::invalid_argument("unknown dtype code");
}

} // namespace affectron::AFFECTRON_ISA
