// The functions of GCC's OpenMP that the CPU kernels call, passed on to the runtime that torch has loaded.
//
// The module is not linked with a runtime: torch brings its own, under a name that differs between platforms and
// releases (libgomp.so.1, libgomp-<hash>.so.1.0.0), and threads of two runtimes would compete for the cores. A kernel
// that comes to need more of OpenMP does not link.
#include "openmp.h"

#ifdef AFFECTRON_OPENMP
#include <dlfcn.h>

namespace affectron {

namespace {

struct Runtime {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
  void (*barrier)() = nullptr;
  int (*thread)() = nullptr;
  int (*threads)() = nullptr;

  Runtime() {
    void *torch = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY); // and what it was linked with
    if (!torch) return;
    find(torch, "omp_get_thread_num", thread);
    find(torch, "omp_get_num_threads", threads);
    find(torch, "GOMP_barrier", barrier);
    if (thread && threads && barrier) find(torch, "GOMP_parallel", parallel);
    dlclose(torch);
  }
  template <class F> static void find(void *library, const char *name, F *&function) {
    function = reinterpret_cast<F *>(dlsym(library, name));
  }
};

// Looked for at the first call of a kernel, when torch has made the tensors.
const Runtime &runtime() {
  static const Runtime found;
  return found;
}

} // namespace

bool openmp() { return runtime().parallel; }

} // namespace affectron

extern "C" {
void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
  if (const auto parallel = affectron::runtime().parallel) {
    parallel(body, data, threads, flags);
  } else {
    body(data);
  }
}
void GOMP_barrier() {
  if (affectron::openmp()) affectron::runtime().barrier();
}
int omp_get_thread_num() { return affectron::openmp() ? affectron::runtime().thread() : 0; }
int omp_get_num_threads() { return affectron::openmp() ? affectron::runtime().threads() : 1; }
}
#else

bool affectron::openmp() { return false; }

#endif
