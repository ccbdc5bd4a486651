// Declarations of one instruction-set level's kernels, and the address arithmetic they share.
#pragma once

#include "kernels.h"

namespace affectron {

inline const void *at(Rows rows, int64_t n, int64_t f, int64_t size) {
  return rows.data ? static_cast<const char *>(rows.data) + (n * rows.stride + f) * size : nullptr;
}
inline void *at(MutableRows rows, int64_t n, int64_t f, int64_t size) {
  return rows.data ? static_cast<char *>(rows.data) + (n * rows.stride + f) * size : nullptr;
}

#define AFFECTRON_DECLARE_LEVEL(level)                                                                                 \
  namespace level {                                                                                                    \
  void glu(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, int threads);                       \
  void glu_backward(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape, Plan plan, \
                    float *sums, float *gradients, Dtype dtype, Act act, int threads);                                 \
  void glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,       \
                 bool product, int threads);                                                                           \
  void glu_steer(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Dtype dtype, Act act,            \
                 int threads);                                                                                         \
  void masked_mlp(MutableRows out, Rows x, MlpWeights weights, MlpShape shape, Programs programs, Dtype dtype,         \
                  Act act, int threads);                                                                               \
  void neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, int threads);                 \
  }

AFFECTRON_DECLARE_LEVEL(baseline)
AFFECTRON_DECLARE_LEVEL(avx2)
AFFECTRON_DECLARE_LEVEL(avx512)
AFFECTRON_DECLARE_LEVEL(neon)

} // namespace affectron
