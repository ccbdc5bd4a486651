// out = the intervention of each row's program on act(gate) up. A row without a program equals glu's row.
#include "level.h"
#include "slice.h"

namespace affectron::AFFECTRON_ISA {

namespace {

// Neurons in a strip: their values stay in the nearest cache between the activation and the intervention.
constexpr int64_t kStrip = 512;

} // namespace

void glu_steer(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Dtype dtype, Act act, int threads) {
  SliceKernel plain = glu_slice_for<Emit::output>(dtype, act, up.data != nullptr);
  SliceKernel floats = glu_slice_for<Emit::floats>(dtype, act, up.data != nullptr);
  auto steer = intervene_slice_for(dtype);
  const int64_t size = element_size(dtype);
#pragma omp parallel for num_threads(useful_threads(shape, threads)) schedule(static)
  for (int64_t n = 0; n < shape.rows; ++n) {
    const int64_t program = programs.rows ? programs.rows[n] : 0;
    if (program < 0) {
      plain({at(gate, n, 0, size), at(up, n, 0, size), at(out, n, 0, size), nullptr, shape.neurons});
      continue;
    }
    const float *table = programs.table + program * 4 * shape.neurons;
    alignas(64) float h[kStrip + Vec::width];
    for (int64_t f = 0; f < shape.neurons; f += kStrip) {
      const int64_t neurons = shape.neurons - f < kStrip ? shape.neurons - f : kStrip;
      floats({at(gate, n, f, size), at(up, n, f, size), nullptr, h, neurons});
      steer(h, table + f, shape.neurons, at(out, n, f, size), neurons);
    }
  }
}

} // namespace affectron::AFFECTRON_ISA
