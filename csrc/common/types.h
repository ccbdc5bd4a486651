// Structures, codes and sizes that the CPU kernels, the GPU kernels and Python share. python/affectron/ops/_codes.py
// lists the codes in the same order; bindings.cpp exports kTileRows and kMlpRows.
#pragma once

#include <cstdint>

// Marks a function that GPU kernels call too.
#ifdef __CUDACC__
#define AFFECTRON_DEVICE __host__ __device__
#else
#define AFFECTRON_DEVICE
#endif

namespace affectron {

enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };

enum class Act : int { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3, relu2 = 4 };

AFFECTRON_DEVICE constexpr int64_t element_size(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

struct Shape {
  int64_t rows;
  int64_t neurons;
};

// Rows of neurons in memory: element (n, f) is n * stride + f elements after `data`. A null `data` means absent.
struct Rows {
  const void *data;
  int64_t stride;
};

struct MutableRows {
  void *data;
  int64_t stride;
};

// The accumulators of one site (docs/method.md), all contiguous.
struct Stats {
  int64_t *count;     // [S]
  int64_t *active;    // [S, F]
  int64_t *nonfinite; // [S, F]
  double *mean;       // [S, F]
  double *m2;         // [S, F], sum of squared deviations from the mean
  float *min;         // [S, F]
  float *max;         // [S, F]
};

// Rows that masked_mlp takes at most. With more, the matrix products of a library are faster.
constexpr int64_t kMlpRows = 16;

// Rows in a tile at most.
constexpr int64_t kTileRows = 32;

// Rows whose terms glu_backward adds up in fp32; the sums of such chains are added up in fp64.
constexpr int64_t kChain = 8;

// Rows of one segment, neighbours in a plan's order.
struct Tile {
  int64_t segment; // -1: rows that no segment counts
  int64_t start;   // first position in `order`
  int64_t rows;    // 0: an unused slot
};

// The rows of a call, sorted by segment, in tiles: what ops.SegmentPlan holds.
struct Plan {
  const int64_t *order; // [N], row numbers, grouped by segment
  const Tile *tiles;    // [M], by ascending segment, unused slots last
  int64_t num_tiles;
  int64_t num_segments;
};

// The interventions of a call.
struct Programs {
  const float *table;  // [P, 4, F]: scale, damping, floor and shift of each program
  const int32_t *rows; // [N], the program of each row, -1 for none; null: program 0 in every row
};

// The matrices of a gated MLP; without `up`, of a plain one.
struct MlpWeights {
  Rows gate; // [F, K]
  Rows up;   // [F, K]
  Rows down; // [O, F], or [F, O] where `by_neuron`
  bool by_neuron;
};

struct MlpShape {
  int64_t rows;    // N
  int64_t inputs;  // K
  int64_t neurons; // F
  int64_t outputs; // O
};

} // namespace affectron
