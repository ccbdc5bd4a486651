// Choice between two forms of a kernel, until a GPU has decided. `make gpu` compares and times both, and docs/gpu.md
// says which result keeps which form. The other form is then deleted, and its line here with it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace affectron::cuda {

struct Forms {
  bool short_silu = true;  // vector.h: kept for a dtype if all its 65,536 values equal torch's, bit for bit
  bool single_pass = true; // statistics: single_pass.h instead of accumulate.h, kept if glu_stats is faster with it
};

inline Forms forms;

// Chooses whether the form `name` runs, and returns the choice before. Called by tests and benchmarks.
inline bool exchange_form(const std::string &name, bool chosen) {
  if (name == "short_silu") return std::exchange(forms.short_silu, chosen);
  if (name == "single_pass") return std::exchange(forms.single_pass, chosen);
  throw std::invalid_argument("no form of a CUDA kernel is named '" + name + "'");
}

} // namespace affectron::cuda
