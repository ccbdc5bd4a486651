// Prints a hash of the bits of every CPU kernel's results, a line each, to compare instruction sets and builds. A NaN
// counts as any other NaN where arithmetic makes it: processors give it different bits. Conversions keep its bits.
#include <cstdio>
#include <limits>

#include "../../csrc/cpu/simd.h"
#include "calls.h"

using namespace affectron;

namespace {

constexpr int64_t kAll = 1 << 16; // values of 16 bits

struct Hash { // FNV-1a
  uint64_t value = 14695981039346656037u;

  void add(const void *bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) value = (value ^ static_cast<const unsigned char *>(bytes)[i]) * 1099511628211u;
  }
};

template <class T> void add_values(Hash &hash, const std::vector<T> &values, Dtype) {
  for (T x : values) {
    if (x != x) x = std::numeric_limits<T>::quiet_NaN();
    hash.add(&x, sizeof x);
  }
}

// Values in a dtype.
void add_values(Hash &hash, const std::vector<char> &bytes, Dtype dtype) {
  const uint32_t infinity = dtype == Dtype::f32 ? 0x7f800000u : dtype == Dtype::bf16 ? 0x7f80 : 0x7c00;
  const size_t size = size_t(element_size(dtype));
  for (size_t i = 0; i < bytes.size(); i += size) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, size);
    if ((bits & (dtype == Dtype::f32 ? 0x7fffffffu : 0x7fffu)) > infinity) bits = infinity + 1;
    hash.add(&bits, sizeof bits);
  }
}

template <class T> void print(const char *name, const std::vector<T> &values, Dtype dtype) {
  Hash hash;
  add_values(hash, values, dtype);
  std::printf("  %s %016llx\n", name, static_cast<unsigned long long>(hash.value));
}

// Every value of a 16-bit dtype; for f32, those of bf16 with other bits below.
std::vector<char> all_values(Dtype dtype) {
  std::mt19937 random(9);
  std::vector<char> bytes(size_t(kAll * element_size(dtype)));
  for (int64_t i = 0; i < kAll; ++i) put(bytes, i, dtype, uint32_t(i) << 16 | (uint32_t(random()) & 0xffffu));
  return bytes;
}

void print_all_values(Dtype dtype, Act act) {
  const std::vector<char> gate = all_values(dtype), grad = values(kAll, dtype, 10);
  std::vector<char> out(gate.size()), grad_gate(gate.size());
  const Rows rows{gate.data(), kAll}, absent{nullptr, 0};
  kernels().glu({out.data(), kAll}, rows, absent, {1, kAll}, dtype, act, 1);
  kernels().glu_backward({grad_gate.data(), kAll}, {nullptr, 0}, {grad.data(), kAll}, rows, absent, {1, kAll}, {},
                         nullptr, nullptr, dtype, act, 1);
  print("glu of all values", out, dtype);
  print("gradient of all values", grad_gate, dtype);
}

// Loads all values of a dtype; stores and rounds floats on, halfway between and next to them.
template <Dtype D> void print_conversions(uint32_t halfway) {
  using Format = AFFECTRON_ISA::Format<D>;
  using AFFECTRON_ISA::Vec;
  typename Format::type from[Vec::width], to[Vec::width];
  uint32_t bits[Vec::width];
  float wide[Vec::width];
  Hash loaded, stored, rounded;
  for (int64_t first = 0; first < kAll; first += Vec::width) {
    for (int64_t i = 0; i < Vec::width; ++i) from[i] = uint16_t(first + i);
    store_float(wide, Format::load(from));
    loaded.add(wide, sizeof wide);
    std::memcpy(bits, wide, sizeof wide);
    for (uint32_t offset : {0u, 1u, halfway - 1, halfway, halfway + 1, 2 * halfway - 1}) {
      for (int64_t i = 0; i < Vec::width; ++i) {
        const uint32_t moved = bits[i] + offset;
        std::memcpy(wide + i, &moved, sizeof moved);
      }
      const Vec value = AFFECTRON_ISA::load_float(wide);
      Format::store(to, value);
      stored.add(to, sizeof to);
      store_float(wide, Format::round(value));
      rounded.add(wide, sizeof wide);
    }
  }
  for (const Hash &hash : {loaded, stored, rounded}) {
    std::printf("conversions of dtype %d %016llx\n", int(D), static_cast<unsigned long long>(hash.value));
  }
}

} // namespace

int main() {
  print_conversions<Dtype::bf16>(0x8000);
  print_conversions<Dtype::f16>(0x1000);
  for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    for (Act act : {Act::silu, Act::gelu, Act::gelu_tanh, Act::relu, Act::relu2}) {
      std::printf("dtype %d, activation %d\n", int(dtype), int(act));
      print_all_values(dtype, act);
      for (bool gated : {false, true}) {
        for (bool specials : {false, true}) {
          std::printf(" %s %s\n", gated ? "gated" : "plain", specials ? "with specials" : "finite");
          Results(Inputs(dtype, act, gated, specials), nullptr, 3).each([&](const char *name, const auto &values) {
            print(name, values, dtype);
          });
        }
      }
    }
  }
}
