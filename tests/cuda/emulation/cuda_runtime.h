// Stands where CUDA's header is expected, so that csrc/cuda compiles as plain C++ and runs on a CPU, unchanged: blocks
// one after the other, the threads of a block as fibers that run from barrier to barrier, the whole block's or a warp's
// (where its lanes exchange values). Only what the kernels use.
//
// A launch that may overlap the one before it (programmatic dependent launch) does so in the worst way: the earlier
// grid runs when a thread of the later one first waits for it. Every thread has to wait.
//
// Both orders can be reversed (`emulation::reversed`): a result that depends on them betrays a barrier that is missing.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <setjmp.h>
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
template <class T> T __ldcg(const T *p) { return *p; }
inline void __threadfence() {}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <class T> T atomicAdd(T *p, T value) {
  T before = *p;
  *p += value;
  return before;
}
using std::isfinite;

using cudaStream_t = void *;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute *attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75 };
inline cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}

namespace emulation {

// Of a NaN and a number, the number; -0 is less than 0.
inline float least(float a, float b) { return std::isnan(a) || b < a || (a == b && std::signbit(b)) ? b : a; }
inline float greatest(float a, float b) { return -least(-a, -b); }

inline bool reversed = false;

[[noreturn]] inline void fail(const char *why) {
  std::fprintf(stderr, "emulation: %s\n", why);
  std::abort();
}

constexpr unsigned kLanes = 32;

class Block {
  using Given = std::vector<unsigned>;

public:
  explicit Block(unsigned threads) : fibers_(threads), given_{Given(threads), Given(threads)} {
    for (Fiber &fiber : fibers_) fiber.stack.reset(new char[kStack]);
  }

  // Every thread that may run, up to its next barrier, again and again until all have returned.
  void run(const std::function<void()> &body) {
    for (Fiber &fiber : fibers_) {
      fiber.state = State::runs;
      fiber.begun = false;
    }
    Block *outer = current_; // of a later grid, which waits for this one
    current_ = this;
    body_ = &body;
    const unsigned threads = unsigned(fibers_.size());
    while (count(State::returned, 0, threads) != threads) {
      for (unsigned i = 0; i < threads; ++i) {
        running_ = reversed ? threads - 1 - i : i;
        if (fibers_[running_].state != State::runs) continue;
        threadIdx = dim3(running_, 0, 0);
        resume(fibers_[running_]);
      }
      bool opened = open(State::at_block, 0, threads);
      for (unsigned first = 0; first < threads; first += kLanes) {
        opened |= open(State::at_warp, first, std::min(first + kLanes, threads));
      }
      if (!opened && count(State::returned, 0, threads) != threads) {
        fail("some threads wait at a barrier that others do not come to");
      }
    }
    current_ = outer;
  }

  static void barrier() { current_->wait(State::at_block); }

  // What each lane of the warp gives, as 32 bits; lanes that are not there give 0. By turns in two places, so that
  // nobody gives anew what another has yet to read.
  static std::array<unsigned, kLanes> exchange(unsigned value) {
    Block &block = *current_;
    const unsigned thread = block.running_, first = thread / kLanes * kLanes;
    Given &given = block.given_[block.fibers_[thread].turn ^= 1];
    given[thread] = value;
    block.wait(State::at_warp);
    std::array<unsigned, kLanes> found{};
    std::copy_n(given.begin() + first, std::min<size_t>(kLanes, given.size() - first), found.begin());
    return found;
  }

private:
  static constexpr size_t kStack = 1 << 16;
  enum class State { runs, at_warp, at_block, returned };
  struct Fiber {
    std::unique_ptr<char[]> stack;
    jmp_buf place; // where it waits
    State state;
    bool begun;
    unsigned turn = 0;
  };

  static void enter() {
    (*current_->body_)();
    current_->fibers_[current_->running_].state = State::returned;
    _longjmp(current_->scheduler_, 1);
  }
  // A new stack comes from makecontext; after that a jump is enough, which asks nothing of the system.
  void resume(Fiber &fiber) {
    if (_setjmp(scheduler_)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, &Block::enter, 0);
    setcontext(&context);
    fail("a thread did not start");
  }
  unsigned count(State state, unsigned first, unsigned end) const {
    unsigned found = 0;
    for (unsigned i = first; i < end; ++i) found += fibers_[i].state == state;
    return found;
  }
  // Lets the threads [first, end) go on where all of them wait at the same barrier.
  bool open(State barrier, unsigned first, unsigned end) {
    if (count(barrier, first, end) != end - first) return false;
    for (unsigned i = first; i < end; ++i) fibers_[i].state = State::runs;
    return true;
  }
  void wait(State barrier) {
    const unsigned thread = running_;
    fibers_[thread].state = barrier;
    if (_setjmp(fibers_[thread].place) == 0) _longjmp(scheduler_, 1);
    threadIdx = dim3(thread, 0, 0);
  }

  inline static Block *current_ = nullptr;
  std::vector<Fiber> fibers_;
  Given given_[2];
  jmp_buf scheduler_;
  const std::function<void()> *body_ = nullptr;
  unsigned running_ = 0;
};

} // namespace emulation

inline void __syncthreads() { emulation::Block::barrier(); }

inline void __syncwarp() { emulation::Block::exchange(0); }

template <class T> T __shfl_sync(unsigned, T value, int lane) { // word by word
  std::array<unsigned, sizeof(T) / sizeof(unsigned)> words;
  std::memcpy(&words, &value, sizeof value);
  for (unsigned &word : words) word = emulation::Block::exchange(word)[unsigned(lane)];
  std::memcpy(&value, &words, sizeof value);
  return value;
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return __shfl_sync(mask, value, int(threadIdx.x % emulation::kLanes) ^ lanes);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned bits = 0;
  for (unsigned given : emulation::Block::exchange(value)) bits = bits >> 1 | given << 31;
  return bits;
}
inline bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == mask; }

namespace emulation {

inline std::function<void()> pending; // the last launch
inline std::vector<bool> waited;      // whether each thread of the block has waited for it

// Runs what is pending, perhaps from a thread of a later grid.
inline void finish() {
  if (const auto launch = std::exchange(pending, nullptr)) {
    const auto outer = std::make_tuple(gridDim, blockDim, blockIdx, threadIdx, waited);
    launch();
    std::tie(gridDim, blockDim, blockIdx, threadIdx, waited) = outer;
  }
}

inline void run(const cudaLaunchConfig_t &config, const std::function<void()> &body) {
  Block block(config.blockDim.x);
  const uint64_t blocks = uint64_t(config.gridDim.x) * config.gridDim.y;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t which = reversed ? blocks - 1 - i : i;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    blockIdx = dim3(unsigned(which % gridDim.x), unsigned(which / gridDim.x), 0);
    waited.assign(blockDim.x, false);
    block.run(body);
    const bool all = std::count(waited.begin(), waited.end(), true) == blockDim.x;
    if (config.numAttrs && !all) fail("a thread has not waited for the launch before");
  }
}

} // namespace emulation

inline void cudaGridDependencySynchronize() {
  emulation::finish();
  emulation::waited[threadIdx.x] = true;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...arguments) {
  const dim3 grid = config->gridDim;
  if (grid.x == 0 || grid.x > 2147483647u || grid.y == 0 || grid.y > 65535u || config->blockDim.x > 1024u) {
    return cudaErrorInvalidConfiguration;
  }
  auto launch = [=, config = *config] { emulation::run(config, [=] { kernel(arguments...); }); };
  if (config->numAttrs) {
    launch();
  } else {
    emulation::finish();
    emulation::pending = launch;
  }
  return cudaSuccess;
}

// Waits for all that was launched.
inline cudaError_t cudaDeviceSynchronize() {
  emulation::finish();
  return cudaSuccess;
}
