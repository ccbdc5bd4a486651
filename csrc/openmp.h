// Threads of the CPU kernels.
#pragma once

namespace affectron {

// True if the CPU kernels run in threads: they were compiled with GCC's OpenMP and torch, which is loaded by then,
// has a runtime for it.
bool openmp();

} // namespace affectron
