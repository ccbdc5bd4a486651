// out = the intervention of each row's program on act(gate) up. A row without a program equals glu's row.
//
// 27 instructions an element in 16 bits on sm_90, 13 more than glu (38 and 25 with torch's silu; glu.cu gives the
// limits), if the programs cost little: a program is 16 bytes a neuron where a row moves 6. A block therefore takes up
// to 64 rows in the order of their programs, and a thread keeps its neurons' parameters in registers until the program
// changes: each program is read once for those rows, from the L2 cache, which holds all programs (eight of 14336
// neurons: 1.8 MB).
#include "kernels.h"
#include "launch.h"
#include "vector.h"

namespace affectron::cuda {

namespace {

constexpr int64_t kRows = 64, kFewRows = 8; // of a block
constexpr int64_t kFill = 1024;             // blocks that fill a GPU, where 8 rows a block allow as many

// Blocks aimed at, where 8 to 64 rows a block allow as many. The last blocks of a grid do not fill the GPU, and a block
// alone on its SM takes about 0.5 us a row: the fewer rows, the shorter this tail. With programs by row, fewer rows
// also mean that each program is read more often. Computed for 8192 x 14336 on an H100, as a queue of blocks that share
// the bandwidth: of 235 us, the tail and the starts of blocks take 21 with 56 rows a block, 9 with 28, 7 with 14. With
// any mix of eight programs by row, 2, 5 and 9 bytes of programs an element are read from the L2 cache.
constexpr int64_t blocks_aimed_at(const Programs &programs) { return programs.rows ? 4096 : 8192; }

template <Dtype D> struct Parameters {
  float scale[kLanes<D>], damping[kLanes<D>], floor[kLanes<D>], shift[kLanes<D>];
};

template <Dtype D, bool Aligned>
__device__ Parameters<D> read_program(const float *table, int64_t width, int64_t f, int neurons) {
  Parameters<D> p;
  load_floats<Aligned, kLanes<D>>(table + f, neurons, p.scale);
  load_floats<Aligned, kLanes<D>>(table + f + width, neurons, p.damping);
  load_floats<Aligned, kLanes<D>>(table + f + 2 * width, neurons, p.floor);
  load_floats<Aligned, kLanes<D>>(table + f + 3 * width, neurons, p.shift);
  return p;
}

template <Dtype D> __device__ Vector intervene_vector(const Vector &h, const Parameters<D> &p) {
  float x[kLanes<D>];
  unpack<D>(h, x);
#pragma unroll
  for (int i = 0; i < kLanes<D>; ++i) {
    using R = Real<false>;
    x[i] = intervene(R(x[i]), R(p.scale[i]), R(p.damping[i]), R(p.floor[i]), R(p.shift[i])).v;
  }
  return pack<D>(x);
}

template <Dtype D, bool Aligned>
__global__ void __launch_bounds__(kThreads)
    glu_steer_kernel(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Act act, int rows_per_block) {
  constexpr int batch = Aligned ? 2 : 1;
  __shared__ int program_of[kRows]; // in the order of the rows
  __shared__ int sorted[kRows];     // rows of the block, by program
  const int thread = threadIdx.x;
  const int64_t f = (int64_t(blockIdx.x) * kThreads + thread) * kLanes<D>;
  const int neurons = int(max(0, min(shape.neurons - f, kLanes<D>)));
  const bool gated = up.data != nullptr;
  for (int64_t n = int64_t(blockIdx.y) * rows_per_block; n < shape.rows; n += int64_t(gridDim.y) * rows_per_block) {
    const int rows = int(min(shape.rows - n, rows_per_block));
    __syncthreads();
    if (thread < rows) program_of[thread] = programs.rows ? programs.rows[n + thread] : 0;
    __syncthreads();
    if (thread < rows) {
      int rank = thread;
      if (programs.rows) {
        const int program = program_of[thread];
        rank = 0;
        for (int r = 0; r < rows; ++r) rank += program_of[r] < program || (program_of[r] == program && r < thread);
      }
      sorted[rank] = thread;
    }
    __syncthreads();
    if (neurons == 0) continue;

    Parameters<D> parameters;
    int held = -1; // the program of `parameters`
    auto hold = [&](int program) {
      if (program < 0 || program == held) return;
      const float *table = programs.table + program * 4 * shape.neurons;
      parameters = read_program<D, Aligned>(table, shape.neurons, f, neurons);
      held = program;
    };
    hold(program_of[sorted[0]]); // loaded together with the first vectors
    for (int r = 0; r < rows; r += batch) {
      Vector g[batch], u[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (r + b >= rows) continue;
        g[b] = load<Aligned>(at<D, Aligned>(gate, n + sorted[r + b], f), neurons);
        if (gated) u[b] = load<Aligned>(at<D, Aligned>(up, n + sorted[r + b], f), neurons);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (r + b >= rows) continue;
        const int row = sorted[r + b], program = program_of[row];
        Vector h = glu_vector<D>(g[b], u[b], gated, act);
        if (program >= 0) {
          hold(program);
          h = intervene_vector<D>(h, parameters);
        }
        store<Aligned>(at<D, Aligned>(out, n + row, f), h, neurons);
      }
    }
  }
}

} // namespace

int glu_steer(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Dtype dtype, Act act,
              Stream stream) {
  if (shape.rows == 0 || shape.neurons == 0) return cudaSuccess;
  const bool aligned = in_vectors(out.data, out.stride, shape, dtype) &&
                       in_vectors(gate.data, gate.stride, shape, dtype) &&
                       in_vectors(up.data, up.stride, shape, dtype) && in_vectors(programs.table, 0, shape, dtype);
  return with_instance(dtype, aligned, [&](auto d, auto a) {
    const int64_t strips = ceil_div(shape.neurons, kThreads * kLanes<d.value>);
    const int64_t all = shape.rows * strips; // blocks, at one row a block
    const int rows = int(max(1, min(kRows, max(all / blocks_aimed_at(programs), min(kFewRows, all / kFill)))));
    return launch(glu_steer_kernel<d.value, a.value>, strips, min(ceil_div(shape.rows, rows), kMaxGridY), stream, out,
                  gate, up, shape, programs, kernel_act(act, dtype), rows);
  });
}

} // namespace affectron::cuda
