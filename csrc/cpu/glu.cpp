// out = act(gate) up, row by row. Rows are independent, so threads take ranges of rows.
#include "level.h"

#include "slice.h"

namespace affectron::AFFECTRON_ISA {

void glu(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, int threads) {
  SliceKernel slice = glu_slice_for<Emit::output>(dtype, act, up.data != nullptr);
  const int64_t size = element_size(dtype);
#pragma omp parallel for num_threads(useful_threads(shape, threads)) schedule(static)
  for (int64_t n = 0; n < shape.rows; ++n) {
    slice({at(gate, n, 0, size), at(up, n, 0, size), at(out, n, 0, size), nullptr, shape.neurons});
  }
}

} // namespace affectron::AFFECTRON_ISA
