// The only file that includes Python's headers. The functions take addresses, numbers, and tuples of these for structs;
// nothing of torch. python/affectron/ops has checked the values: a wrong one is a fault of that package.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <type_traits>

#include "cpu/kernels.h"
#include "cuda/forms.h"
#include "cuda/kernels.h"

namespace affectron {

namespace {

// The fields of each struct in the order of its tuple; Stats has a `read` of its own.
auto fields(Rows &to) { return std::tie(to.data, to.stride); }
auto fields(MutableRows &to) { return std::tie(to.data, to.stride); }
auto fields(Shape &to) { return std::tie(to.rows, to.neurons); }
auto fields(Plan &to) { return std::tie(to.order, to.tiles, to.num_tiles, to.num_segments); }
auto fields(Programs &to) { return std::tie(to.table, to.rows); }
auto fields(MlpWeights &to) { return std::tie(to.gate, to.up, to.down, to.by_neuron); }
auto fields(MlpShape &to) { return std::tie(to.rows, to.inputs, to.neurons, to.outputs); }

// read(from, to): take a value from Python; false if `from` is of another type.
template <class T> std::enable_if_t<std::is_arithmetic_v<T> || std::is_enum_v<T>, bool> read(PyObject *from, T &to) {
  const long long number = PyLong_AsLongLong(from);
  to = T(number);
  return number != -1 || !PyErr_Occurred();
}
template <class T> bool read(PyObject *from, T *&to) {
  to = static_cast<T *>(PyLong_AsVoidPtr(from));
  return to || !PyErr_Occurred();
}
template <class T> std::enable_if_t<std::is_class_v<T>, bool> read(PyObject *from, T &to);
template <class... T> bool read_tuple(PyObject *from, T &...to) {
  if (!PyTuple_Check(from) || PyTuple_GET_SIZE(from) != Py_ssize_t(sizeof...(T))) return false;
  Py_ssize_t i = 0;
  return (read(PyTuple_GET_ITEM(from, i++), to) && ...);
}
template <class T> std::enable_if_t<std::is_class_v<T>, bool> read(PyObject *from, T &to) {
  return std::apply([from](auto &...field) { return read_tuple(from, field...); }, fields(to));
}
// tally [2, S, F] holds active and nonfinite, moments [2, S, F] mean and m2, extrema [2, S, F] min and max; the last
// item of the tuple is S F.
bool read(PyObject *from, Stats &to) {
  int64_t size = 0;
  if (!read_tuple(from, to.count, to.active, to.mean, to.min, size)) return false;
  to.nonfinite = to.active + size;
  to.m2 = to.mean + size;
  to.max = to.min + size;
  return true;
}

// An argument of a kernel.
template <class T> struct Value {
  T value{};
};

// A CPU kernel of the level in use, as a function that Python can call.
template <class... A> auto bound(void (*Kernels::*kernel)(A...)) {
  return [kernel](Value<A>... arguments) {
    pybind11::gil_scoped_release release;
    (kernels().*kernel)(arguments.value...);
  };
}

// A function of the CUDA kernels. It keeps Python's lock: two launches of one call follow one another, with none of
// another thread between them.
template <class R, class... A> auto bound(R (*function)(A...)) {
  return [function](Value<A>... arguments) { return function(arguments.value...); };
}

} // namespace

} // namespace affectron

template <class T> struct pybind11::detail::type_caster<affectron::Value<T>> {
  PYBIND11_TYPE_CASTER(affectron::Value<T>, const_name<std::is_class_v<T>>("tuple", "int"));
  bool load(handle source, bool) {
    const bool readable = affectron::read(source.ptr(), value.value);
    if (!readable) PyErr_Clear();
    return readable;
  }
};

namespace affectron {

PYBIND11_MODULE(_native, m) {
  using namespace pybind11::literals;
  m.doc() = "CPU and CUDA kernels; see csrc/. Called through affectron.ops.";
  m.attr("TILE_ROWS") = kTileRows;
  m.attr("MLP_ROWS") = kMlpRows;
  m.def("isa_levels", &isa_levels);
  m.def("isa_level", &isa_level);
  m.def("set_isa_level", &set_isa_level, "name"_a);

  m.def("glu", bound(&Kernels::glu), "out"_a, "gate"_a, "up"_a, "shape"_a, "dtype"_a, "act"_a, "threads"_a);
  m.def("glu_backward", bound(&Kernels::glu_backward), "grad_gate"_a, "grad_up"_a, "grad"_a, "gate"_a, "up"_a,
        "shape"_a, "plan"_a, "sums"_a, "gradients"_a, "dtype"_a, "act"_a, "threads"_a);
  m.def("glu_stats", bound(&Kernels::glu_stats), "out"_a, "gate"_a, "up"_a, "shape"_a, "plan"_a, "stats"_a, "dtype"_a,
        "act"_a, "product"_a, "threads"_a);
  m.def("glu_steer", bound(&Kernels::glu_steer), "out"_a, "gate"_a, "up"_a, "shape"_a, "programs"_a, "dtype"_a, "act"_a,
        "threads"_a);
  m.def("masked_mlp", bound(&Kernels::masked_mlp), "out"_a, "x"_a, "weights"_a, "shape"_a, "programs"_a, "dtype"_a,
        "act"_a, "threads"_a);
  m.def("neuron_stats", bound(&Kernels::neuron_stats), "h"_a, "gate"_a, "shape"_a, "plan"_a, "stats"_a, "dtype"_a,
        "threads"_a);

#ifdef AFFECTRON_CUDA
  m.attr("CUDA_BUILT") = true;
  m.attr("CUDA_TOOLKIT") = cuda::toolkit();
  m.def("cuda_use_device", &cuda::use_device, "device"_a);
  m.def("cuda_error_name", &cuda::error_name, "status"_a);
  m.def("cuda_error_text", &cuda::error_text, "status"_a);
  // For the tests and benchmarks that decide between two forms of a kernel: see cuda/forms.h.
  pybind11::class_<cuda::Forms>(m, "CudaForms")
      .def_readwrite("short_silu", &cuda::Forms::short_silu)
      .def_readwrite("single_pass", &cuda::Forms::single_pass);
  m.attr("cuda_forms") = pybind11::cast(&cuda::forms, pybind11::return_value_policy::reference);

  m.def("cuda_workspace_size", bound(&cuda::workspace_size), "shape"_a, "num_tiles"_a, "num_segments"_a, "dtype"_a);
  m.def("cuda_backward_workspace_size", bound(&cuda::backward_workspace_size), "neurons"_a, "num_tiles"_a, "sums"_a);
  m.def("cuda_mlp_workspace_size", bound(&cuda::mlp_workspace_size), "shape"_a, "dtype"_a, "by_neuron"_a);
  m.def("cuda_glu", bound(&cuda::glu), "out"_a, "gate"_a, "up"_a, "shape"_a, "dtype"_a, "act"_a, "stream"_a);
  m.def("cuda_glu_backward", bound(&cuda::glu_backward), "grad_gate"_a, "grad_up"_a, "grad"_a, "gate"_a, "up"_a,
        "shape"_a, "plan"_a, "sums"_a, "gradients"_a, "dtype"_a, "act"_a, "workspace"_a, "stream"_a);
  m.def("cuda_glu_stats", bound(&cuda::glu_stats), "out"_a, "gate"_a, "up"_a, "shape"_a, "plan"_a, "stats"_a, "dtype"_a,
        "act"_a, "product"_a, "workspace"_a, "stream"_a);
  m.def("cuda_glu_steer", bound(&cuda::glu_steer), "out"_a, "gate"_a, "up"_a, "shape"_a, "programs"_a, "dtype"_a,
        "act"_a, "stream"_a);
  m.def("cuda_masked_mlp", bound(&cuda::masked_mlp), "out"_a, "x"_a, "weights"_a, "shape"_a, "programs"_a, "dtype"_a,
        "act"_a, "workspace"_a, "stream"_a);
  m.def("cuda_neuron_stats", bound(&cuda::neuron_stats), "h"_a, "gate"_a, "shape"_a, "plan"_a, "stats"_a, "dtype"_a,
        "workspace"_a, "stream"_a);
#else
  m.attr("CUDA_BUILT") = false;
  m.attr("CUDA_TOOLKIT") = 0;
#endif
}

} // namespace affectron
