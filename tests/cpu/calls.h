// Calls of every CPU kernel at odd sizes, for the programs of this folder. The same inputs on every machine: of bits
// drawn by a generator that the standard defines.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace affectron {

// A number of neurons that no strip, vector or number of threads divides; with 70 rows, enough for several threads.
constexpr int64_t kRows = 70, kNeurons = 431, kSegments = 3, kInputs = 75, kOutputs = 83;

// Puts `bits`, those of a float for f32 and bf16, into element i; a 16-bit dtype takes the upper half.
inline void put(std::vector<char> &bytes, int64_t i, Dtype dtype, uint32_t bits) {
  const int64_t size = element_size(dtype);
  if (size == 2) bits >>= 16;
  std::memcpy(bytes.data() + i * size, &bits, size_t(size));
}

// Random values with exponents from -3 to 0.
inline std::vector<char> values(int64_t count, Dtype dtype, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(size_t(count * element_size(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = uint32_t(random()), exponent = bits & 3;
    const bool half = dtype == Dtype::f16;
    const uint32_t mantissa = bits >> 2 & (half ? 0x03ff0000u : 0x007fffffu);
    put(bytes, i, dtype, (bits & 0x80000000u) | (half ? (12 + exponent) << 26 : (124 + exponent) << 23) | mantissa);
  }
  return bytes;
}

// Any bits in every third neuron of an eighth of the rows: NaN, infinity, subnormal and huge values and zeros.
inline void spread_specials(std::vector<char> &bytes, Dtype dtype, unsigned seed) {
  std::mt19937 random(seed);
  const uint32_t infinity = dtype == Dtype::f16 ? 0x7c000000u : 0x7f800000u;
  const uint32_t some[] = {0, infinity, infinity | 0x00400000u, infinity | 0x00010000u, 0x00010000u, infinity - 1};
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t f = 0; f < kNeurons; f += 3) {
      const uint32_t bits = uint32_t(random()), choice = uint32_t(random()) % 64;
      if (choice < 6) put(bytes, n * kNeurons + f, dtype, some[choice] | (bits & 0x80000000u));
      if (choice == 6 || choice == 7) put(bytes, n * kNeurons + f, dtype, bits);
    }
  }
}

struct Accumulators {
  std::vector<int64_t> count = std::vector<int64_t>(kSegments), active = std::vector<int64_t>(kSegments * kNeurons),
                       nonfinite = active;
  std::vector<double> mean = std::vector<double>(kSegments * kNeurons), m2 = mean;
  std::vector<float> min = std::vector<float>(kSegments * kNeurons, HUGE_VALF),
                     max = std::vector<float>(kSegments * kNeurons, -HUGE_VALF);

  Stats stats() {
    return {count.data(), active.data(), nonfinite.data(), mean.data(), m2.data(), min.data(), max.data()};
  }
};

// A plan: the rows of each segment in turn, in tiles of at most kTileRows; every fourth row is not counted.
struct Tiles {
  std::vector<int64_t> order;
  std::vector<Tile> tiles;

  Tiles() {
    for (int64_t segment = -1; segment < kSegments; ++segment) {
      int64_t rows = 0;
      for (int64_t row = segment + 1; row < kRows; row += kSegments + 1, ++rows) {
        if (rows % kTileRows == 0) tiles.push_back({segment, int64_t(order.size()), 0});
        order.push_back(row);
        ++tiles.back().rows;
      }
    }
  }

  Plan plan() const { return {order.data(), tiles.data(), int64_t(tiles.size()), kSegments}; }
};

struct Inputs {
  Dtype dtype;
  Act act;
  bool gated;
  Tiles tiles;
  std::vector<char> gate, up, x, w_gate, w_up, w_down;
  std::vector<float> table;
  std::vector<int32_t> rows;

  Inputs(Dtype dtype, Act act, bool gated, bool specials)
      : dtype(dtype), act(act), gated(gated), gate(values(kRows * kNeurons, dtype, 1)),
        up(values(kRows * kNeurons, dtype, 2)), x(values(kMlpRows * kInputs, dtype, 3)),
        w_gate(values(kNeurons * kInputs, dtype, 4)), w_up(values(kNeurons * kInputs, dtype, 5)),
        w_down(values(kNeurons * kOutputs, dtype, 6)), table(2 * 4 * kNeurons), rows(kRows) {
    if (specials) {
      spread_specials(gate, dtype, 7);
      spread_specials(up, dtype, 8);
    }
    for (int64_t i = 0; i < 2 * 4 * kNeurons; ++i) { // at least a sixth is masked, and as many are neutral
      const float of_program[] = {float(i % 3), i % 2 ? 0.25f : 0.0f, i % 5 ? -HUGE_VALF : 0.0f, i % 7 ? -0.0f : 0.5f};
      table[size_t(i)] = of_program[i / kNeurons % 4];
    }
    for (int64_t n = 0; n < kRows; ++n) rows[size_t(n)] = int32_t(n % 3) - 1;
  }

  Rows of(const std::vector<char> &from, int64_t stride, bool present = true) const {
    return {present ? from.data() : nullptr, stride};
  }
};

// All that the kernels write, each called once; `each` names it.
struct Results {
  std::vector<char> glu, grad_gate, grad_up, summed_gate, summed_up, glu_stats, glu_steer, by_neuron, by_output;
  std::vector<float> sums = std::vector<float>(kSegments * kNeurons), gradients = sums;
  Accumulators fused, given;

  Results(const Inputs &in, Accumulators *shared, int threads) {
    const Kernels &run = kernels();
    const size_t size = size_t(kRows * kNeurons * element_size(in.dtype));
    const Shape shape{kRows, kNeurons};
    const Rows gate = in.of(in.gate, kNeurons), up = in.of(in.up, kNeurons, in.gated);
    const Programs programs{in.table.data(), in.rows.data()};
    glu.resize(size);
    run.glu({glu.data(), kNeurons}, gate, up, shape, in.dtype, in.act, threads);
    auto backward = [&](std::vector<char> &for_gate, std::vector<char> &for_up, float *to, float *to_gradients) {
      for_gate.resize(size);
      for_up.resize(size);
      run.glu_backward({for_gate.data(), kNeurons}, {for_up.data(), kNeurons}, in.of(in.up, kNeurons), gate, up, shape,
                       in.tiles.plan(), to, to_gradients, in.dtype, in.act, threads);
    };
    backward(grad_gate, grad_up, nullptr, nullptr);
    backward(summed_gate, summed_up, sums.data(), gradients.data());
    glu_steer.resize(size);
    run.glu_steer({glu_steer.data(), kNeurons}, gate, up, shape, programs, in.dtype, in.act, threads);
    glu_stats.resize(size);
    run.glu_stats({glu_stats.data(), kNeurons}, gate, up, shape, in.tiles.plan(), (shared ? *shared : fused).stats(),
                  in.dtype, in.act, false, threads);
    run.neuron_stats(gate, in.of(in.up, kNeurons), shape, in.tiles.plan(), given.stats(), in.dtype, threads);
    for (bool stored_by_neuron : {true, false}) {
      std::vector<char> &out = stored_by_neuron ? by_neuron : by_output;
      out.resize(size_t(kMlpRows * kOutputs * element_size(in.dtype)));
      const MlpWeights weights{in.of(in.w_gate, kInputs), in.of(in.w_up, kInputs, in.gated),
                               in.of(in.w_down, stored_by_neuron ? kOutputs : kNeurons), stored_by_neuron};
      run.masked_mlp({out.data(), kOutputs}, in.of(in.x, kInputs), weights, {kMlpRows, kInputs, kNeurons, kOutputs},
                     programs, in.dtype, in.act, threads);
    }
  }

  // Calls f(name, vector) for each, those in the dtype of the inputs as bytes.
  template <class F> void each(F f) const {
    f("glu", glu);
    f("grad_gate", grad_gate);
    f("grad_up", grad_up);
    f("summed_gate", summed_gate);
    f("summed_up", summed_up);
    f("sums", sums);
    f("gradients", gradients);
    f("glu_stats", glu_stats);
    f("glu_steer", glu_steer);
    f("by_neuron", by_neuron);
    f("by_output", by_output);
    for (const Accumulators *stats : {&fused, &given}) {
      f("count", stats->count);
      f("active", stats->active);
      f("nonfinite", stats->nonfinite);
      f("mean", stats->mean);
      f("m2", stats->m2);
      f("min", stats->min);
      f("max", stats->max);
    }
  }

  bool operator==(const Results &other) const {
    std::vector<std::vector<char>> bytes[2];
    for (const Results *results : {this, &other}) {
      results->each([&, to = &bytes[results != this]](const char *, const auto &vector) {
        const char *first = reinterpret_cast<const char *>(vector.data());
        to->emplace_back(first, first + vector.size() * sizeof vector[0]);
      });
    }
    return bytes[0] == bytes[1];
  }
};

} // namespace affectron
