// Choice of the kernels' instruction-set level: the best that this machine can run, or one chosen by name.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "level.h"

#ifdef AFFECTRON_X86_LEVELS
#include <cpuid.h>
#endif

namespace affectron {

namespace {

#define AFFECTRON_TABLE(level)                                                                                         \
  Kernels {                                                                                                            \
    level::glu, level::glu_backward, level::glu_stats, level::glu_steer, level::masked_mlp, level::neuron_stats        \
  }

struct Level {
  std::string name;
  Kernels kernels;
};

#ifdef AFFECTRON_X86_LEVELS
// Tells if a bit of register ecx is set: __builtin_cpu_supports of Clang 14 knows neither f16c nor lzcnt.
bool has_feature(unsigned leaf, unsigned bit) {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(leaf, &eax, &ebx, &ecx, &edx) && (ecx >> bit & 1);
}
#endif

std::vector<Level> find_levels() {
#ifdef AFFECTRON_NEON_LEVEL
  std::vector<Level> levels{{"neon", AFFECTRON_TABLE(neon)}};
#else
  std::vector<Level> levels{{"baseline", AFFECTRON_TABLE(baseline)}};
#endif
#ifdef AFFECTRON_X86_LEVELS
  __builtin_cpu_init();
  const bool f16c = has_feature(1, 29), lzcnt = has_feature(0x80000001, 5);
  // The features of -march=x86-64-v3 and -v4 that the kernels use.
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && lzcnt;
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl");
  if (avx2) levels.push_back({"avx2", AFFECTRON_TABLE(avx2)});
  if (avx512) levels.push_back({"avx512", AFFECTRON_TABLE(avx512)});
#endif
  return levels;
}

const std::vector<Level> &levels() {
  static const std::vector<Level> available = find_levels();
  return available;
}

std::atomic<const Level *> chosen{nullptr};

const Level &current() {
  const Level *level = chosen.load(std::memory_order_relaxed);
  return level ? *level : levels().back();
}

} // namespace

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (const Level &level : levels()) names.push_back(level.name);
  return names;
}

std::string isa_level() { return current().name; }

void set_isa_level(const std::string &name) {
  for (const Level &level : levels()) {
    if (level.name == name) {
      chosen.store(&level, std::memory_order_relaxed);
      return;
    }
  }
  throw std::invalid_argument("instruction-set level '" + name + "' is not one that this machine can run");
}

const Kernels &kernels() { return current().kernels; }

} // namespace affectron
