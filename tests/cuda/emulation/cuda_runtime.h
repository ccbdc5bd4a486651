// Stands where CUDA's header is expected, so that csrc/cuda compiles as plain C++ and runs on a CPU, unchanged: blocks
// one after the other, the threads of a block as fibers that run from barrier to barrier. Only what the kernels use.
//
// Both orders can be reversed (`emulation::reversed`): a result that depends on them betrays a barrier that is missing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <ucontext.h>

#define __host__
#define __device__
#define __global__
#define __shared__ static // blocks run one at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

template <class To, class From> To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline float __int_as_float(int bits) { return bits_as<float>(bits); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T atomicAdd(T *p, T value) {
  T before = *p;
  *p += value;
  return before;
}
using std::isfinite;

using cudaStream_t = void *;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

namespace emulation {

inline bool reversed = false;

class Block {
public:
  explicit Block(unsigned threads) : fibers_(threads) {
    for (Fiber &fiber : fibers_) fiber.stack.reset(new char[kStack]);
  }

  // Every thread up to its next barrier, again and again until all have returned.
  void run(const std::function<void()> &body) {
    for (Fiber &fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
      fiber.context.uc_link = &scheduler_;
      fiber.done = false;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    current_ = this;
    body_ = &body;
    for (size_t left = fibers_.size(); left;) {
      size_t returned = 0;
      for (size_t i = 0; i < fibers_.size(); ++i) {
        running_ = reversed ? fibers_.size() - 1 - i : i;
        Fiber &fiber = fibers_[running_];
        if (fiber.done) continue;
        threadIdx = dim3(unsigned(running_), 0, 0);
        swapcontext(&scheduler_, &fiber.context);
        returned += fiber.done;
      }
      if (returned != 0 && returned != left) fail("some threads of a block returned while others wait at a barrier");
      left -= returned;
    }
  }

  static void barrier() {
    Block &block = *current_;
    const size_t thread = block.running_;
    swapcontext(&block.fibers_[thread].context, &block.scheduler_);
    threadIdx = dim3(unsigned(thread), 0, 0);
  }

private:
  static constexpr size_t kStack = 1 << 16;
  struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    bool done;
  };

  static void enter() {
    (*current_->body_)();
    current_->fibers_[current_->running_].done = true;
  }
  [[noreturn]] static void fail(const char *why) {
    std::fprintf(stderr, "emulation: %s\n", why);
    std::abort();
  }

  inline static Block *current_ = nullptr;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
  const std::function<void()> *body_ = nullptr;
  size_t running_ = 0;
};

} // namespace emulation

inline void __syncthreads() { emulation::Block::barrier(); }

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...arguments) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (gridDim.x == 0 || gridDim.x > 2147483647u || gridDim.y == 0 || gridDim.y > 65535u || blockDim.x > 1024u) {
    return cudaErrorInvalidConfiguration;
  }
  emulation::Block block(blockDim.x);
  const std::function<void()> body = [&] { kernel(arguments...); };
  const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t which = emulation::reversed ? blocks - 1 - i : i;
    blockIdx = dim3(unsigned(which % gridDim.x), unsigned(which / gridDim.x), 0);
    block.run(body);
  }
  return cudaSuccess;
}
