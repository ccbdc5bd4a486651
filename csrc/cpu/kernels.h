// The CPU kernels as the binding sees them. Every kernel source is compiled once for each instruction-set level, in a
// namespace of the level's name; `kernels()` is the table of the level in use.
#pragma once

#include <string>
#include <vector>

#include "../common/types.h"

namespace affectron {

struct Kernels {
  void (*glu)(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, int threads);
  void (*glu_backward)(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape,
                       Plan plan, float *sums, float *gradients, Dtype dtype, Act act, int threads);
  void (*glu_stats)(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
                    bool product, int threads);
  void (*glu_steer)(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Dtype dtype, Act act,
                    int threads);
  void (*masked_mlp)(MutableRows out, Rows x, MlpWeights weights, MlpShape shape, Programs programs, Dtype dtype,
                     Act act, int threads);
  void (*neuron_stats)(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, int threads);
};

std::vector<std::string> isa_levels(); // levels that this machine can run, best last
std::string isa_level();               // the level in use: the best, unless `set_isa_level` chose another
void set_isa_level(const std::string &name);
const Kernels &kernels();

// Threads worth starting: a parallel region costs a few microseconds, which pays from about 16,000 elements on.
inline int useful_threads(Shape shape, int threads) { return shape.rows * shape.neurons < 16384 ? 1 : threads; }

} // namespace affectron
