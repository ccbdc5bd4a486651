// Choice between two forms of a kernel, until a GPU has decided. `make gpu` compares and times both, and docs/gpu.md
// says which result keeps which form. The other form is then deleted, and its line here with it.
#pragma once

namespace affectron::cuda {

struct Forms {
  bool short_silu = true;  // vector.h: kept for a dtype if all its 65,536 values equal torch's, bit for bit
  bool single_pass = true; // statistics: single_pass.h instead of accumulate.h, kept if glu_stats is faster with it
};

inline Forms forms;

} // namespace affectron::cuda
