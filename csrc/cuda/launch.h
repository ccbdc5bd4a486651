// Choice among a kernel's instances from run-time arguments, and the launch.
#pragma once

#include <type_traits>

#include <cuda_runtime.h>

#include "../common/types.h"

namespace affectron::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xffffffffu; // all lanes of a warp

constexpr int64_t kMaxGridY = 65535;

AFFECTRON_DEVICE inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
AFFECTRON_DEVICE inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A plan's tiles cut into groups of consecutive tiles, one for each block of a strip.
struct Groups {
  int64_t number;
  int64_t tiles; // in each but the last
};

// True if every row can be read in vectors of 16 bytes and addressed by 32-bit factors, and for an absent tensor
// (null, stride 0).
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

// Programmatic dependent launch, from compute capability 9.0 on: the second of two kernels begins while the first ends,
// which hides the time of its launch. The rules that keep this safe:
// - The first kernel is launched as usual, after everything before it has ended; it calls allow_next().
// - Every thread of the second calls wait_for_previous() before it ends. Before the wait it reads nothing that the
// first
//   writes, and writes nothing that the first reads or writes. After the wait it sees all that the first has written,
//   but only by plain loads: __ldg assumes memory that nobody writes while the kernel runs, and may be moved before the
//   wait.
// - The second never calls allow_next(). The next kernel in the stream waits for its end, and so for the end of the
//   first: in particular, the first kernel of the next call finds the workspace free.
template <class... P, class... A>
int launch_dependent(void (*kernel)(P...), int64_t grid_x, int64_t grid_y, void *stream, A... arguments) {
  cudaLaunchConfig_t config = launch_config(grid_x, grid_y, stream);
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  // Both calls only read the runtime's state: they are cheap, and allowed while a graph is captured.
  int device = 0, major = 0;
  int status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status != cudaSuccess) return status;
  config.attrs = &overlap;
  config.numAttrs = major >= 9;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Assembly, because CUDA 11.8 has these instructions but no functions for them.
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
