// Every CPU kernel with several threads, under ThreadSanitizer: no two threads may touch the same memory, and the bits
// must equal those of one thread. With the argument `fault` two calls share accumulators, which must be reported.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/cpu/kernels.h"

using namespace affectron;

namespace {

// A number of neurons that no strip, vector or number of threads divides; with 70 rows, enough for several threads.
constexpr int64_t kRows = 70, kNeurons = 431, kSegments = 3, kInputs = 75, kOutputs = 83;

// Random values; those in fp16 have exponents from -3 to 0.
std::vector<char> values(int64_t count, Dtype dtype, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<char> bytes(size_t(count * element_size(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t upper = uint16_t(bits >> 16);
    const uint16_t half = uint16_t((bits >> 16 & 0x8000) | ((12 + (bits & 3)) << 10) | (bits >> 8 & 0x3ff));
    if (dtype == Dtype::f32) std::memcpy(bytes.data() + 4 * i, &value, 4);
    if (dtype == Dtype::bf16) std::memcpy(bytes.data() + 2 * i, &upper, 2);
    if (dtype == Dtype::f16) std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
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

  bool operator==(const Accumulators &other) const {
    return count == other.count && active == other.active && nonfinite == other.nonfinite && mean == other.mean &&
           m2 == other.m2 && min == other.min && max == other.max;
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
  bool gated;
  Tiles tiles;
  std::vector<char> gate, up, x, w_gate, w_up, w_down;
  std::vector<float> table;
  std::vector<int32_t> rows;

  Inputs(Dtype dtype, bool gated)
      : dtype(dtype), gated(gated), gate(values(kRows * kNeurons, dtype, 1)), up(values(kRows * kNeurons, dtype, 2)),
        x(values(kMlpRows * kInputs, dtype, 3)), w_gate(values(kNeurons * kInputs, dtype, 4)),
        w_up(values(kNeurons * kInputs, dtype, 5)), w_down(values(kNeurons * kOutputs, dtype, 6)),
        table(2 * 4 * kNeurons), rows(kRows) {
    for (int64_t i = 0; i < 2 * 4 * kNeurons; ++i) {
      table[size_t(i)] = i / kNeurons % 4 == 0 ? float(i % 3) : -0.5f; // a third is masked
    }
    for (int64_t n = 0; n < kRows; ++n) rows[size_t(n)] = int32_t(n % 3) - 1;
  }

  Rows of(const std::vector<char> &from, int64_t stride, bool present = true) const {
    return {present ? from.data() : nullptr, stride};
  }
};

// All bytes that the kernels write, each called once.
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
    run.glu({glu.data(), kNeurons}, gate, up, shape, in.dtype, Act::silu, threads);
    auto backward = [&](std::vector<char> &for_gate, std::vector<char> &for_up, float *to, float *to_gradients) {
      for_gate.resize(size);
      for_up.resize(size);
      run.glu_backward({for_gate.data(), kNeurons}, {for_up.data(), kNeurons}, in.of(in.up, kNeurons), gate, up, shape,
                       in.tiles.plan(), to, to_gradients, in.dtype, Act::silu, threads);
    };
    backward(grad_gate, grad_up, nullptr, nullptr);
    backward(summed_gate, summed_up, sums.data(), gradients.data());
    glu_steer.resize(size);
    run.glu_steer({glu_steer.data(), kNeurons}, gate, up, shape, programs, in.dtype, Act::gelu, threads);
    glu_stats.resize(size);
    run.glu_stats({glu_stats.data(), kNeurons}, gate, up, shape, in.tiles.plan(), (shared ? *shared : fused).stats(),
                  in.dtype, Act::gelu_tanh, false, threads);
    run.neuron_stats(gate, in.of(in.up, kNeurons), shape, in.tiles.plan(), given.stats(), in.dtype, threads);
    for (bool stored_by_neuron : {true, false}) {
      std::vector<char> &out = stored_by_neuron ? by_neuron : by_output;
      out.resize(size_t(kMlpRows * kOutputs * element_size(in.dtype)));
      const MlpWeights weights{in.of(in.w_gate, kInputs), in.of(in.w_up, kInputs, in.gated),
                               in.of(in.w_down, stored_by_neuron ? kOutputs : kNeurons), stored_by_neuron};
      run.masked_mlp({out.data(), kOutputs}, in.of(in.x, kInputs), weights, {kMlpRows, kInputs, kNeurons, kOutputs},
                     programs, in.dtype, Act::silu, threads);
    }
  }

  bool operator==(const Results &other) const {
    return glu == other.glu && glu_stats == other.glu_stats && glu_steer == other.glu_steer &&
           grad_gate == other.grad_gate && grad_up == other.grad_up && grad_gate == summed_gate &&
           grad_up == summed_up && summed_gate == other.summed_gate && summed_up == other.summed_up &&
           sums == other.sums && gradients == other.gradients && by_neuron == other.by_neuron &&
           by_output == other.by_output && fused == other.fused && given == other.given;
  }
};

} // namespace

int main(int argc, char **argv) {
  const bool fault = argc > 1 && std::string(argv[1]) == "fault";
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Inputs inputs(dtype, dtype == Dtype::f32);
    const Results alone(inputs, nullptr, 1);
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
