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

// Consecutive tiles of the plan: a block's share of them.
struct Groups {
  int64_t number;
  int64_t tiles; // in each but the last
};

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

inline cudaLaunchConfig_t launch_config(int64_t grid_x, int64_t grid_y, void *stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(grid_x), unsigned(grid_y));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return config;
}

template <class... P, class... A>
int launch(void (*kernel)(P...), int64_t grid_x, int64_t grid_y, void *stream, A... arguments) {
  const cudaLaunchConfig_t config = launch_config(grid_x, grid_y, stream);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Programmatic dependent launch, from compute capability 9.0 on: the second of two kernels begins while the first one
// ends, so that its launch costs no time of its own. The rules that keep this safe:
// - The first kernel is launched as usual, after everything before it has ended; it calls allow_next().
// - Every thread of the second calls wait_for_previous() before it ends. Before that it reads nothing that the first
//   writes, and writes nothing that the first reads or writes. After it all that the first has written is visible, but
//   to plain loads alone: __ldg is for what nobody writes while the kernel runs, and may be moved before the wait.
// - The second never calls allow_next(). What the stream holds next waits for its end, and so for that of the first: in
//   particular the first kernel of the next call finds the workspace free.
template <class... P, class... A>
int launch_dependent(void (*kernel)(P...), int64_t grid_x, int64_t grid_y, void *stream, A... arguments) {
  cudaLaunchConfig_t config = launch_config(grid_x, grid_y, stream);
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  // Both calls read what the runtime holds: they are cheap, and allowed while a graph is being captured.
  int device = 0, major = 0;
  int status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status != cudaSuccess) return status;
  config.attrs = &overlap;
  config.numAttrs = major >= 9;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// As assembly: CUDA 11.8 has the instructions, but no functions for them.
__device__ inline void allow_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#elif !defined(__CUDACC__)
  cudaGridDependencySynchronize(); // tests/cuda checks the rules
#endif
}

} // namespace affectron::cuda
