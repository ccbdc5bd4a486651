// Every CPU kernel with several threads, under ThreadSanitizer: no two threads may touch the same memory, and the bits
// must equal those of one thread. With the argument `fault` two calls share accumulators, which must be reported.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "calls.h"

using namespace affectron;

int main(int argc, char **argv) {
  const bool fault = argc > 1 && std::string(argv[1]) == "fault";
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Inputs inputs(dtype, dtype == Dtype::f32 ? Act::silu : Act::gelu_tanh, dtype == Dtype::f32, false);
    const Results alone(inputs, nullptr, 1);
    if (alone.grad_gate != alone.summed_gate || alone.grad_up != alone.summed_up) {
      std::fprintf(stderr, "dtype %d: sums change the gradients\n", int(dtype));
      return EXIT_FAILURE;
    }
    // Two callers at once, each with its own team of threads, while another thread sets the level.
    Accumulators shared;
    bool same[2];
    auto call = [&](int caller) { same[caller] = Results(inputs, fault ? &shared : nullptr, 3) == alone; };
    std::thread other(call, 1), choice([] { set_isa_level(isa_levels().back()); });
    call(0);
    other.join();
    choice.join();
    if (!fault && !(same[0] && same[1])) {
      std::fprintf(stderr, "dtype %d: three threads do not give the bits of one\n", int(dtype));
      return EXIT_FAILURE;
    }
  }
  std::puts("every kernel gives the bits of one thread");
  return EXIT_SUCCESS;
}
