// From run-time arguments to a kernel: the choice among its instances, and the launch itself.
#pragma once

#include <type_traits>

#include <cuda_runtime.h>

#include "../common/types.h"

namespace affectron::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xffffffffu; // lanes of a warp

constexpr int64_t kMaxGridY = 65535;

AFFECTRON_DEVICE inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
AFFECTRON_DEVICE inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every row can be read in vectors of 16 bytes, and addressed by 32-bit factors. An absent tensor (null, stride
// 0) can.
inline bool in_vectors(const void *data, int64_t stride, Shape shape, Dtype dtype) {
  const int64_t size = element_size(dtype), lanes = 16 / size, limit = int64_t(1) << 32;
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % lanes == 0 && shape.neurons % lanes == 0 &&
         stride >= 0 && stride * size < limit && shape.rows < limit;
}

// Calls f(dtype, aligned) with both as compile-time constants.
template <class F> int with_instance(Dtype dtype, bool aligned, F f) {
  auto pick = [&](auto d) { return aligned ? f(d, std::true_type{}) : f(d, std::false_type{}); };
  switch (dtype) {
  case Dtype::f32: return pick(std::integral_constant<Dtype, Dtype::f32>{});
  case Dtype::bf16: return pick(std::integral_constant<Dtype, Dtype::bf16>{});
  case Dtype::f16: return pick(std::integral_constant<Dtype, Dtype::f16>{});
  }
  return cudaErrorInvalidValue;
}

template <class... P, class... A>
int launch(void (*kernel)(P...), int64_t grid_x, int64_t grid_y, void *stream, A... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(grid_x), unsigned(grid_y));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

} // namespace affectron::cuda
