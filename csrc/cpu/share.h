// Neurons shared out among threads, for kernels in which one thread writes each sum.
#pragma once

#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "level.h"

namespace affectron::AFFECTRON_ISA {

// Calls f(begin, end) in each thread, with its range of neurons. Ranges meet at multiples of 64 neurons, so that no two
// threads write to one cache line.
template <class F> void share_neurons(Shape shape, int threads, F f) {
  const int64_t units = (shape.neurons + 63) / 64;
  threads = int(std::max<int64_t>(1, std::min<int64_t>(useful_threads(shape, threads), units)));
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
#else
    const int64_t thread = 0, team = 1;
#endif
    f(64 * (units * thread / team), std::min(shape.neurons, 64 * (units * (thread + 1) / team)));
  }
}

} // namespace affectron::AFFECTRON_ISA
