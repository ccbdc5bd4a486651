// Vector: sixteen bytes of neurons, the unit that every kernel reads, computes and writes: 8 neurons in 16 bits, 4 in
// fp32. Its conversions, loads and stores, and act(gate) up of one vector.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "forms.h"
#include "launch.h"
#include "real.h"

namespace affectron::cuda {

struct alignas(16) Vector {
  uint32_t word[4];
};

// Conversions of one word of a vector, rounded to nearest even. `multiply` rounds the exact products once, and equals
// an fp32 product rounded to 16 bits: fp32 holds the product of two 16-bit numbers exactly, except below 2^-149 in
// bf16. There the exact product is under 255 * 255 * 2^-150, too far from the tie at 2^-134 for fp32's rounding to
// reach it.
template <Dtype D> struct Format {
  using type = uint16_t;
  static constexpr int per_word = 2;
  static __device__ void unpack(uint32_t word, float *x) {
    if constexpr (D == Dtype::bf16) {
      x[0] = __uint_as_float(word << 16);
      x[1] = __uint_as_float(word & 0xffff0000u);
    } else {
      float2 pair = __half22float2(reinterpret_cast<__half2 &>(word));
      x[0] = pair.x;
      x[1] = pair.y;
    }
  }
  static __device__ uint32_t pack(const float *x) {
    if constexpr (D == Dtype::bf16) {
      __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
      return reinterpret_cast<uint32_t &>(pair);
    } else {
      __half2 pair = __floats2half2_rn(x[0], x[1]);
      return reinterpret_cast<uint32_t &>(pair);
    }
  }
  static __device__ uint32_t multiply(uint32_t a, uint32_t b) {
    if constexpr (D == Dtype::bf16) {
      __nv_bfloat162 pair = __hmul2(reinterpret_cast<__nv_bfloat162 &>(a), reinterpret_cast<__nv_bfloat162 &>(b));
      return reinterpret_cast<uint32_t &>(pair);
    } else {
      __half2 pair = __hmul2(reinterpret_cast<__half2 &>(a), reinterpret_cast<__half2 &>(b));
      return reinterpret_cast<uint32_t &>(pair);
    }
  }
};
template <> struct Format<Dtype::f32> {
  using type = float;
  static constexpr int per_word = 1;
  static __device__ void unpack(uint32_t word, float *x) { x[0] = __uint_as_float(word); }
  static __device__ uint32_t pack(const float *x) { return __float_as_uint(x[0]); }
  static __device__ uint32_t multiply(uint32_t a, uint32_t b) {
    return __float_as_uint(__uint_as_float(a) * __uint_as_float(b));
  }
};

// Neurons in a vector.
template <Dtype D> constexpr int kLanes = 4 * Format<D>::per_word;

// Neurons in a strip: those of a warp's vectors, one vector a thread.
template <Dtype D> constexpr int kStrip = kWarp * kLanes<D>;

template <Dtype D> __device__ void unpack(const Vector &from, float *x) {
#pragma unroll
  for (int w = 0; w < 4; ++w) Format<D>::unpack(from.word[w], x + w * Format<D>::per_word);
}

template <Dtype D> __device__ Vector pack(const float *x) {
  Vector to;
#pragma unroll
  for (int w = 0; w < 4; ++w) to.word[w] = Format<D>::pack(x + w * Format<D>::per_word);
  return to;
}

// A single value rounded to D, as bits and as a float.
template <Dtype D> __device__ uint32_t pack_one(float x) {
  const float pair[2] = {x, 0.0f};
  return Format<D>::pack(pair);
}
template <Dtype D> __device__ float rounded(float x) {
  float pair[2];
  Format<D>::unpack(pack_one<D>(x), pair);
  return pair[0];
}

// Address of element (n, f). `Aligned` rows have strides and row numbers below 2^32 (in_vectors): one multiply-add
// gives the 64-bit address, while two 64-bit factors would take ten instructions.
template <Dtype D, bool Aligned, class R> __device__ auto at(const R &rows, int64_t n, int64_t f) {
  using T = std::conditional_t<std::is_same_v<R, Rows>, const typename Format<D>::type, typename Format<D>::type>;
  using Byte = std::conditional_t<std::is_same_v<R, Rows>, const char, char>;
  T *column = static_cast<T *>(rows.data) + f;
  if constexpr (Aligned) {
    const uint64_t offset = uint64_t(uint32_t(n)) * uint32_t(rows.stride * sizeof(T));
    return reinterpret_cast<T *>(reinterpret_cast<Byte *>(column) + offset);
  } else {
    return column + n * rows.stride;
  }
}

// Loads the first `neurons` elements from p on, and zeros for the rest; if `Aligned`, a whole vector from a multiple of
// 16 bytes. Elements that are read once are marked for early eviction, so that those read `Again` (programs, partials,
// the input of an MLP) stay in the cache.
template <bool Aligned, bool Again = false, class T> __device__ Vector load(const T *p, int neurons) {
  constexpr int lanes = 16 / sizeof(T);
  if constexpr (Aligned) {
    const uint4 *from = reinterpret_cast<const uint4 *>(p);
    uint4 bits = Again ? *from : __ldcs(from);
    return {bits.x, bits.y, bits.z, bits.w};
  } else {
    Vector v{};
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      if (i >= neurons) continue;
      if constexpr (sizeof(T) == 4) {
        v.word[i] = __float_as_uint(p[i]);
      } else {
        v.word[i / 2] |= uint32_t(p[i]) << (16 * (i % 2));
      }
    }
    return v;
  }
}

template <bool Aligned, class T> __device__ void store(T *p, const Vector &v, int neurons) {
  constexpr int lanes = 16 / sizeof(T);
  if constexpr (Aligned) {
#ifdef __CUDA_ARCH__
    // nvcc 13.0 compiles an assignment to four stores of a word.
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.word[0]),
                 "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
#else
    *reinterpret_cast<Vector *>(p) = v;
#endif
  } else {
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      if (i >= neurons) continue;
      if constexpr (sizeof(T) == 4) {
        p[i] = __uint_as_float(v.word[i]);
      } else {
        p[i] = uint16_t(v.word[i / 2] >> (16 * (i % 2)));
      }
    }
  }
}

// Loads floats from p on, for a vector's neurons.
template <bool Aligned, int N> __device__ void load_floats(const float *p, int neurons, float *x) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    if constexpr (Aligned) {
      float4 v = __ldg(reinterpret_cast<const float4 *>(p + i));
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    } else {
      for (int j = i; j < i + 4; ++j) x[j] = j < neurons ? p[j] : 0.0f;
    }
  }
}

// silu has two forms for values that will be rounded to 16 bits: short_silu (real.h), and activate<Act::silu>, torch's
// own sequence. The short form has an activation code of its own, used within the kernels, so that the branch on the
// activation selects it and no kernel is compiled twice. It is kept for a dtype if all 65,536 values equal torch's on a
// GPU, bit for bit.
constexpr Act kShortSilu = Act(5);

// The activation code that a launcher hands to its kernel.
inline Act kernel_act(Act act, Dtype dtype) {
  return act == Act::silu && dtype != Dtype::f32 && forms.short_silu ? kShortSilu : act;
}

template <Act A, bool Narrow, int N> __device__ void activate_each(float *x) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (A == kShortSilu) {
      x[i] = short_silu(x[i]);
    } else {
      x[i] = activate<A>(Real<Narrow>(x[i])).v;
    }
  }
}

// act(x) of N values that will be rounded to D, by a code of kernel_act. The activation is a branch that all threads of
// the grid take alike, once for all N values: a kernel for each activation would be five times as many to compile.
template <Dtype D, int N> __device__ void activate_values(float *x, Act act) {
  constexpr bool narrow = D != Dtype::f32;
  if constexpr (narrow) {
    if (act == kShortSilu) return activate_each<kShortSilu, narrow, N>(x);
  }
  switch (act) {
  case Act::silu: return activate_each<Act::silu, narrow, N>(x);
  case Act::gelu: return activate_each<Act::gelu, narrow, N>(x);
  case Act::gelu_tanh: return activate_each<Act::gelu_tanh, narrow, N>(x);
  case Act::relu: return activate_each<Act::relu, narrow, N>(x);
  case Act::relu2: return activate_each<Act::relu2, narrow, N>(x);
  }
}

// act(gate) up of one vector, rounded after the activation and again after the product.
template <Dtype D> __device__ Vector glu_vector(const Vector &gate, const Vector &up, bool gated, Act act) {
  float x[kLanes<D>];
  unpack<D>(gate, x);
  activate_values<D, kLanes<D>>(x, act);
  Vector h = pack<D>(x);
  if (gated) {
#pragma unroll
    for (int w = 0; w < 4; ++w) h.word[w] = Format<D>::multiply(h.word[w], up.word[w]);
  }
  return h;
}

} // namespace affectron::cuda
