// The only file that includes Python's headers. The functions take addresses, numbers, and tuples of these for structs;
// nothing of torch. python/affectron/ops has checked the values: a wrong one is a fault of that package.
//
// Python's stable ABI alone is used, so that one binary serves every Python from 3.10 on.
#include <Python.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "cuda/forms.h"
#include "cuda/kernels.h"
#include "openmp.h"

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
bool read(PyObject *from, std::string &to) {
  const char *text = PyUnicode_Check(from) ? PyUnicode_AsUTF8AndSize(from, nullptr) : nullptr;
  if (text) to = text;
  return text;
}
template <class T> std::enable_if_t<std::is_class_v<T>, bool> read(PyObject *from, T &to);
template <class... T> bool read_tuple(PyObject *from, T &...to) {
  if (!PyTuple_Check(from) || PyTuple_Size(from) != Py_ssize_t(sizeof...(T))) return false;
  Py_ssize_t i = 0;
  return (read(PyTuple_GetItem(from, i++), to) && ...);
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

// Takes the arguments of a call from Python, in their order; raises TypeError and returns false if it cannot.
template <class... T> bool read_arguments(PyObject *const *from, Py_ssize_t count, std::tuple<T...> &to) {
  if (count != Py_ssize_t(sizeof...(T))) {
    PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", int(sizeof...(T)), count);
    return false;
  }
  Py_ssize_t read_so_far = 0;
  const bool readable =
      std::apply([&](T &...value) { return (read(from[read_so_far++], value) && ...); }, to); // stops at the first
  if (!readable) PyErr_Format(PyExc_TypeError, "argument %zd has the wrong type", read_so_far);
  return readable;
}

template <class T> std::enable_if_t<std::is_integral_v<T>, PyObject *> to_python(T number) {
  return std::is_same_v<T, bool> ? PyBool_FromLong(number) : PyLong_FromLongLong(number);
}
PyObject *to_python(const char *text) { return PyUnicode_FromString(text); }
PyObject *to_python(const std::string &text) { return to_python(text.c_str()); }
PyObject *to_python(const std::vector<std::string> &texts) {
  PyObject *list = PyList_New(0);
  for (const std::string &text : texts) {
    PyObject *item = to_python(text);
    PyList_Append(list, item);
    Py_DecRef(item);
  }
  return list;
}

// Lets other threads of Python run until its end.
struct Unlocked {
  PyThreadState *state = PyEval_SaveThread();
  ~Unlocked() { PyEval_RestoreThread(state); }
};

// Calls a CPU kernel of the level in use.
template <class... A> PyObject *call(void (*Kernels::*kernel)(A...), PyObject *const *from, Py_ssize_t count) {
  std::tuple<A...> arguments{};
  if (!read_arguments(from, count, arguments)) return nullptr;
  {
    Unlocked unlocked;
    std::apply(kernels().*kernel, arguments);
  }
  return Py_NewRef(Py_None);
}

// Calls any other function, the CUDA kernels too. Python's lock is kept: two launches of one call follow one another,
// with none of another thread between them.
template <class R, class... A> PyObject *call(R (*function)(A...), PyObject *const *from, Py_ssize_t count) {
  std::tuple<std::decay_t<A>...> arguments{};
  if (!read_arguments(from, count, arguments)) return nullptr;
  if constexpr (std::is_void_v<R>) {
    std::apply(function, arguments);
    return Py_NewRef(Py_None);
  } else {
    return to_python(std::apply(function, arguments));
  }
}

// F as Python calls it. An exception of C++ becomes one of Python.
template <auto F> PyObject *method(PyObject *, PyObject *const *from, Py_ssize_t count) {
  try {
    return call(F, from, count);
  } catch (const std::bad_alloc &) {
    return PyErr_NoMemory();
  } catch (const std::invalid_argument &error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception &error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// F by its name, with the parameters that Python shows; python/affectron/_native.pyi has their types.
template <auto F> PyMethodDef define(const char *name, const char *signature) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(method<F>)), METH_FASTCALL, signature};
}
#define AFFECTRON_DEFINE(name, function, parameters) define<function>(#name, #name "(" parameters ")\n--\n\n")

PyMethodDef methods[] = {
    AFFECTRON_DEFINE(isa_levels, &isa_levels, ""),
    AFFECTRON_DEFINE(isa_level, &isa_level, ""),
    AFFECTRON_DEFINE(set_isa_level, &set_isa_level, "name, /"),
    AFFECTRON_DEFINE(openmp, &openmp, ""),
    AFFECTRON_DEFINE(glu, &Kernels::glu, "out, gate, up, shape, dtype, act, threads, /"),
    AFFECTRON_DEFINE(glu_backward, &Kernels::glu_backward,
                     "grad_gate, grad_up, grad, gate, up, shape, plan, sums, gradients, dtype, act, threads, /"),
    AFFECTRON_DEFINE(glu_stats, &Kernels::glu_stats,
                     "out, gate, up, shape, plan, stats, dtype, act, product, threads, /"),
    AFFECTRON_DEFINE(glu_steer, &Kernels::glu_steer, "out, gate, up, shape, programs, dtype, act, threads, /"),
    AFFECTRON_DEFINE(masked_mlp, &Kernels::masked_mlp, "out, x, weights, shape, programs, dtype, act, threads, /"),
    AFFECTRON_DEFINE(neuron_stats, &Kernels::neuron_stats, "h, gate, shape, plan, stats, dtype, threads, /"),
#ifdef AFFECTRON_CUDA
    AFFECTRON_DEFINE(cuda_use_device, &cuda::use_device, "device, /"),
    AFFECTRON_DEFINE(cuda_error_name, &cuda::error_name, "status, /"),
    AFFECTRON_DEFINE(cuda_error_text, &cuda::error_text, "status, /"),
    AFFECTRON_DEFINE(cuda_exchange_form, &cuda::exchange_form, "name, chosen, /"),
    AFFECTRON_DEFINE(cuda_workspace_size, &cuda::workspace_size, "shape, num_tiles, num_segments, dtype, /"),
    AFFECTRON_DEFINE(cuda_backward_workspace_size, &cuda::backward_workspace_size, "neurons, num_tiles, sums, /"),
    AFFECTRON_DEFINE(cuda_mlp_workspace_size, &cuda::mlp_workspace_size, "shape, dtype, by_neuron, /"),
    AFFECTRON_DEFINE(cuda_glu, &cuda::glu, "out, gate, up, shape, dtype, act, stream, /"),
    AFFECTRON_DEFINE(cuda_glu_backward, &cuda::glu_backward,
                     "grad_gate, grad_up, grad, gate, up, shape, plan, sums, gradients, dtype, act, workspace, stream, "
                     "/"),
    AFFECTRON_DEFINE(cuda_glu_stats, &cuda::glu_stats,
                     "out, gate, up, shape, plan, stats, dtype, act, product, workspace, stream, /"),
    AFFECTRON_DEFINE(cuda_glu_steer, &cuda::glu_steer, "out, gate, up, shape, programs, dtype, act, stream, /"),
    AFFECTRON_DEFINE(cuda_masked_mlp, &cuda::masked_mlp,
                     "out, x, weights, shape, programs, dtype, act, workspace, stream, /"),
    AFFECTRON_DEFINE(cuda_neuron_stats, &cuda::neuron_stats,
                     "h, gate, shape, plan, stats, dtype, workspace, stream, /"),
#endif
    {},
};

int add_constants(PyObject *module) {
#ifdef AFFECTRON_CUDA
  PyObject *const built = Py_True;
  const int toolkit = cuda::toolkit();
#else
  PyObject *const built = Py_False;
  const int toolkit = 0;
#endif
  const bool failed = PyModule_AddIntConstant(module, "TILE_ROWS", kTileRows) ||
                      PyModule_AddIntConstant(module, "MLP_ROWS", kMlpRows) ||
                      PyModule_AddObjectRef(module, "CUDA_BUILT", built) ||
                      PyModule_AddIntConstant(module, "CUDA_TOOLKIT", toolkit);
  return failed ? -1 : 0;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void *>(add_constants)}, {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_native",
                          "CPU and CUDA kernels; see csrc/. Called through affectron.ops.",
                          0,
                          methods,
                          slots,
                          nullptr,
                          nullptr,
                          nullptr};

} // namespace

} // namespace affectron

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&affectron::definition); }
