// Kernels of which two forms stand side by side until a GPU has decided between them. The values here are the choice;
// `make gpu` compares and times both, and docs/gpu.md says which result keeps which. Then the other form goes, and its
// line here with it.
#pragma once

namespace affectron::cuda {

struct Forms {
  bool short_silu = true;  // vector.h: kept for bf16, for fp16, if all its 65,536 values are torch's, bit for bit
  bool single_pass = true; // statistics: single_pass.h instead of accumulate.h, kept if glu_stats is faster with it
};

inline Forms forms;

} // namespace affectron::cuda
