// The one file that knows Python: addresses, sizes and strides in, nothing of torch. Arguments have been checked by
// python/affectron/ops before they come here; a wrong one is a bug there, not bad input.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/kernels.h"
#include "cuda/forms.h"
#include "cuda/kernels.h"

namespace py = pybind11;
using namespace affectron;

namespace {

template <class T> T *pointer(uintptr_t address) { return reinterpret_cast<T *>(address); }

Rows rows(uintptr_t data, int64_t stride) { return {pointer<const void>(data), stride}; }

Plan plan(uintptr_t order, uintptr_t tiles, int64_t num_tiles, int64_t num_segments) {
  return {pointer<const int64_t>(order), pointer<const Tile>(tiles), num_tiles, num_segments};
}

// tally [2, S, F] holds active and nonfinite, moments [2, S, F] mean and m2, extrema [2, S, F] min and max.
Stats stats(uintptr_t count, uintptr_t tally, uintptr_t moments, uintptr_t extrema, int64_t size) {
  return {pointer<int64_t>(count),       pointer<int64_t>(tally),         pointer<int64_t>(tally) + size,
          pointer<double>(moments),      pointer<double>(moments) + size, pointer<float>(extrema),
          pointer<float>(extrema) + size};
}

} // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU and CUDA kernels; see csrc/. Called through affectron.ops.";
  m.attr("TILE_ROWS") = kTileRows;
  m.attr("MLP_ROWS") = kMlpRows;
  m.def("isa_levels", &isa_levels);
  m.def("isa_level", &isa_level);
  m.def("set_isa_level", &set_isa_level);

  m.def("glu", [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n,
                  int64_t f, int dtype, int act, int threads) {
    py::gil_scoped_release release;
    kernels().glu({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f}, Dtype(dtype), Act(act),
                  threads);
  });

  m.def("glu_backward",
        [](uintptr_t grad_gate, uintptr_t grad_up, uintptr_t grad, int64_t grad_stride, uintptr_t gate,
           int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n, int64_t f, uintptr_t order, uintptr_t tiles,
           int64_t num_tiles, uintptr_t sums, int64_t num_segments, int dtype, int act, int threads) {
          py::gil_scoped_release release;
          kernels().glu_backward({pointer<void>(grad_gate), f}, {pointer<void>(grad_up), f}, rows(grad, grad_stride),
                                 rows(gate, gate_stride), rows(up, up_stride), {n, f},
                                 plan(order, tiles, num_tiles, num_segments), pointer<float>(sums), Dtype(dtype),
                                 Act(act), threads);
        });

  m.def("glu_stats",
        [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n, int64_t f,
           uintptr_t order, uintptr_t tiles, int64_t num_tiles, uintptr_t count, uintptr_t tally, uintptr_t moments,
           uintptr_t extrema, int64_t num_segments, int dtype, int act, bool product, int threads) {
          py::gil_scoped_release release;
          kernels().glu_stats({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f},
                              plan(order, tiles, num_tiles, num_segments),
                              stats(count, tally, moments, extrema, num_segments * f), Dtype(dtype), Act(act), product,
                              threads);
        });

  m.def("glu_steer", [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n,
                        int64_t f, uintptr_t table, uintptr_t program_rows, int dtype, int act, int threads) {
    py::gil_scoped_release release;
    kernels().glu_steer({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f},
                        {pointer<const float>(table), pointer<const int32_t>(program_rows)}, Dtype(dtype), Act(act),
                        threads);
  });

  m.def("masked_mlp",
        [](uintptr_t out, uintptr_t x, int64_t x_stride, uintptr_t gate, int64_t gate_stride, uintptr_t up,
           int64_t up_stride, uintptr_t down, int64_t down_stride, bool by_neuron, int64_t n, int64_t inputs,
           int64_t neurons, int64_t outputs, uintptr_t table, uintptr_t program_rows, int dtype, int act, int threads) {
          py::gil_scoped_release release;
          kernels().masked_mlp({pointer<void>(out), outputs}, rows(x, x_stride),
                               {rows(gate, gate_stride), rows(up, up_stride), rows(down, down_stride), by_neuron},
                               {n, inputs, neurons, outputs},
                               {pointer<const float>(table), pointer<const int32_t>(program_rows)}, Dtype(dtype),
                               Act(act), threads);
        });

  m.def("neuron_stats", [](uintptr_t h, int64_t h_stride, uintptr_t gate, int64_t gate_stride, int64_t n, int64_t f,
                           uintptr_t order, uintptr_t tiles, int64_t num_tiles, uintptr_t count, uintptr_t tally,
                           uintptr_t moments, uintptr_t extrema, int64_t num_segments, int dtype, int threads) {
    py::gil_scoped_release release;
    kernels().neuron_stats(rows(h, h_stride), rows(gate, gate_stride), {n, f},
                           plan(order, tiles, num_tiles, num_segments),
                           stats(count, tally, moments, extrema, num_segments * f), Dtype(dtype), threads);
  });

#ifdef AFFECTRON_CUDA
  m.attr("CUDA_BUILT") = true;
  m.attr("CUDA_TOOLKIT") = cuda::toolkit();
  // These keep Python's lock: two launches of one call follow one another, with none of another thread between them.
  m.def("cuda_use_device", &cuda::use_device);
  m.def("cuda_error_name", &cuda::error_name);
  m.def("cuda_error_text", &cuda::error_text);
  // For the tests and benchmarks that decide between two forms of a kernel: see cuda/forms.h.
  py::class_<cuda::Forms>(m, "CudaForms")
      .def_readwrite("short_silu", &cuda::Forms::short_silu)
      .def_readwrite("single_pass", &cuda::Forms::single_pass);
  m.attr("cuda_forms") = py::cast(&cuda::forms, py::return_value_policy::reference);

  m.def("cuda_glu", [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n,
                       int64_t f, int dtype, int act, uintptr_t stream) {
    return cuda::glu({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f}, Dtype(dtype),
                     Act(act), pointer<void>(stream));
  });

  m.def("cuda_backward_workspace_size", &cuda::backward_workspace_size);

  m.def("cuda_glu_backward", [](uintptr_t grad_gate, uintptr_t grad_up, uintptr_t grad, int64_t grad_stride,
                                uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n,
                                int64_t f, uintptr_t order, uintptr_t tiles, int64_t num_tiles, uintptr_t sums,
                                int64_t num_segments, int dtype, int act, uintptr_t workspace, uintptr_t stream) {
    return cuda::glu_backward({pointer<void>(grad_gate), f}, {pointer<void>(grad_up), f}, rows(grad, grad_stride),
                              rows(gate, gate_stride), rows(up, up_stride), {n, f},
                              plan(order, tiles, num_tiles, num_segments), pointer<float>(sums), Dtype(dtype), Act(act),
                              pointer<void>(workspace), pointer<void>(stream));
  });

  m.def("cuda_workspace_size", [](int64_t n, int64_t f, int64_t num_tiles, int64_t num_segments, int dtype) {
    return cuda::workspace_size({n, f}, num_tiles, num_segments, Dtype(dtype));
  });

  m.def("cuda_glu_stats", [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride,
                             int64_t n, int64_t f, uintptr_t order, uintptr_t tiles, int64_t num_tiles, uintptr_t count,
                             uintptr_t tally, uintptr_t moments, uintptr_t extrema, int64_t num_segments, int dtype,
                             int act, bool product, uintptr_t workspace, uintptr_t stream) {
    return cuda::glu_stats({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f},
                           plan(order, tiles, num_tiles, num_segments),
                           stats(count, tally, moments, extrema, num_segments * f), Dtype(dtype), Act(act), product,
                           pointer<void>(workspace), pointer<void>(stream));
  });

  m.def("cuda_glu_steer",
        [](uintptr_t out, uintptr_t gate, int64_t gate_stride, uintptr_t up, int64_t up_stride, int64_t n, int64_t f,
           uintptr_t table, uintptr_t program_rows, int dtype, int act, uintptr_t stream) {
          return cuda::glu_steer({pointer<void>(out), f}, rows(gate, gate_stride), rows(up, up_stride), {n, f},
                                 {pointer<const float>(table), pointer<const int32_t>(program_rows)}, Dtype(dtype),
                                 Act(act), pointer<void>(stream));
        });

  m.def("cuda_mlp_workspace_size",
        [](int64_t n, int64_t inputs, int64_t neurons, int64_t outputs, bool by_neuron, int dtype) {
          return cuda::mlp_workspace_size({n, inputs, neurons, outputs}, Dtype(dtype), by_neuron);
        });

  m.def("cuda_masked_mlp", [](uintptr_t out, uintptr_t x, int64_t x_stride, uintptr_t gate, int64_t gate_stride,
                              uintptr_t up, int64_t up_stride, uintptr_t down, int64_t down_stride, bool by_neuron,
                              int64_t n, int64_t inputs, int64_t neurons, int64_t outputs, uintptr_t table,
                              uintptr_t program_rows, int dtype, int act, uintptr_t workspace, uintptr_t stream) {
    return cuda::masked_mlp({pointer<void>(out), outputs}, rows(x, x_stride),
                            {rows(gate, gate_stride), rows(up, up_stride), rows(down, down_stride), by_neuron},
                            {n, inputs, neurons, outputs},
                            {pointer<const float>(table), pointer<const int32_t>(program_rows)}, Dtype(dtype), Act(act),
                            pointer<void>(workspace), pointer<void>(stream));
  });

  m.def("cuda_neuron_stats",
        [](uintptr_t h, int64_t h_stride, uintptr_t gate, int64_t gate_stride, int64_t n, int64_t f, uintptr_t order,
           uintptr_t tiles, int64_t num_tiles, uintptr_t count, uintptr_t tally, uintptr_t moments, uintptr_t extrema,
           int64_t num_segments, int dtype, uintptr_t workspace, uintptr_t stream) {
          return cuda::neuron_stats(rows(h, h_stride), rows(gate, gate_stride), {n, f},
                                    plan(order, tiles, num_tiles, num_segments),
                                    stats(count, tally, moments, extrema, num_segments * f), Dtype(dtype),
                                    pointer<void>(workspace), pointer<void>(stream));
        });
#else
  m.attr("CUDA_BUILT") = false;
  m.attr("CUDA_TOOLKIT") = 0;
#endif
}
