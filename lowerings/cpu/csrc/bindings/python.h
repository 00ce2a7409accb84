// The ops as a Python module, for generated code: what torch.ops does before a kernel runs (schema,
// boxing, dispatch) takes longer than a short row. Schemas and defaults are torch's own; the one op
// with a list of optional tensors, index_put_add, stays with torch.ops.
#pragma once

#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>

#include <array>
#include <string>
#include <utility>

#include "attention.h"
#include "conv.h"
#include "gemm.h"
#include "norm.h"
#include "pool.h"
#include "reduction.h"
#include "scan.h"
#include "scatter.h"

namespace bi::python {
namespace {

/// One Python argument as the C++ type A; get() lives as long as the object.
template <class A> struct Argument;

inline int64_t to_int(PyObject* x) {
  const int64_t value = PyLong_AsLongLong(x);
  if (value == -1 && PyErr_Occurred()) throw python_error();
  return value;
}
inline double to_double(PyObject* x) {
  const double value = PyFloat_AsDouble(x);
  if (value == -1.0 && PyErr_Occurred()) throw python_error();
  return value;
}
inline const at::Tensor& to_tensor(PyObject* x) {
  TORCH_CHECK_TYPE(THPVariable_Check(x), "expected a tensor, got ", Py_TYPE(x)->tp_name);
  return THPVariable_Unpack(x);
}

template <> struct Argument<at::Tensor> {
  const at::Tensor& value;
  explicit Argument(PyObject* x) : value(to_tensor(x)) {}
  const at::Tensor& get() const { return value; }
};
template <> struct Argument<const at::Tensor&> : Argument<at::Tensor> {
  using Argument<at::Tensor>::Argument;
};
template <> struct Argument<int64_t> {
  int64_t value;
  explicit Argument(PyObject* x) : value(to_int(x)) {}
  int64_t get() const { return value; }
};
template <> struct Argument<c10::SymInt> : Argument<int64_t> {
  using Argument<int64_t>::Argument;
  c10::SymInt get() const { return value; }
};
template <> struct Argument<bool> {
  bool value;
  explicit Argument(PyObject* x) : value(PyObject_IsTrue(x) == 1) {}
  bool get() const { return value; }
};
template <> struct Argument<double> {
  double value;
  explicit Argument(PyObject* x) : value(to_double(x)) {}
  double get() const { return value; }
};
template <> struct Argument<const at::Scalar&> {
  at::Scalar value;
  explicit Argument(PyObject* x)
      : value(PyLong_Check(x) ? at::Scalar(to_int(x)) : at::Scalar(to_double(x))) {}
  const at::Scalar& get() const { return value; }
};
template <> struct Argument<at::ScalarType> {
  at::ScalarType value;
  explicit Argument(PyObject* x) {
    TORCH_CHECK_TYPE(THPDtype_Check(x), "expected a dtype, got ", Py_TYPE(x)->tp_name);
    value = reinterpret_cast<THPDtype*>(x)->scalar_type;
  }
  at::ScalarType get() const { return value; }
};
template <class T> struct Argument<std::optional<T>> {
  std::optional<T> value;
  explicit Argument(PyObject* x) {
    if (x != Py_None) value = Argument<T>(x).get();
  }
  const std::optional<T>& get() const { return value; }
};
template <> struct Argument<const std::optional<at::Tensor>&> : Argument<std::optional<at::Tensor>> {
  using Argument<std::optional<at::Tensor>>::Argument;
};
template <> struct Argument<c10::string_view> {
  c10::string_view value;
  explicit Argument(PyObject* x) {
    Py_ssize_t size;
    const char* text = PyUnicode_AsUTF8AndSize(x, &size);
    if (!text) throw python_error();
    value = {text, size_t(size)};
  }
  c10::string_view get() const { return value; }
};
template <> struct Argument<at::IntArrayRef> {
  at::DimVector value;
  explicit Argument(PyObject* x) {
    const THPObjectPtr items(PySequence_Fast(x, "expected a list of integers"));
    if (!items) throw python_error();
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i)
      value.push_back(to_int(PySequence_Fast_GET_ITEM(items.get(), i)));
  }
  at::IntArrayRef get() const { return value; }
};
template <> struct Argument<c10::SymIntArrayRef> : Argument<at::IntArrayRef> {
  using Argument<at::IntArrayRef>::Argument;
  c10::SymIntArrayRef get() const { return c10::fromIntArrayRefSlow(value); }
};

inline PyObject* wrap(at::Tensor&& x) { return THPVariable_Wrap(std::move(x)); }
template <class... T> PyObject* wrap(std::tuple<T...>&& parts) {
  THPObjectPtr made(PyTuple_New(sizeof...(T)));
  if (!made) throw python_error();
  Py_ssize_t i = 0;
  const auto put = [&](at::Tensor& part) { PyTuple_SET_ITEM(made.get(), i++, wrap(std::move(part))); };
  std::apply([&](auto&... part) { (put(part), ...); }, parts);
  return made.release();
}

/// A default of a schema as a new reference. torch's own conversion would take 10 s to compile.
inline PyObject* default_of(const c10::IValue& value) {
  if (value.isNone()) Py_RETURN_NONE;
  if (value.isBool()) return PyBool_FromLong(value.toBool());
  if (value.isInt()) return PyLong_FromLongLong(value.toInt());
  if (value.isDouble()) return PyFloat_FromDouble(value.toDouble());
  TORCH_INTERNAL_ASSERT(false, "no Python value for the default ", value);
}

/// Names and defaults of an op's N arguments; a required one has no default.
template <size_t N> struct Signature {
  std::string name;
  std::array<PyObject*, N> names, defaults;

  explicit Signature(const char* op) : name(std::string("bi_inductor::") + op) {
    const auto& schema = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").schema();
    TORCH_INTERNAL_ASSERT(schema.arguments().size() == N, name);
    for (size_t i = 0; i < N; ++i) {
      const c10::Argument& argument = schema.arguments()[i];
      names[i] = PyUnicode_InternFromString(argument.name().c_str());
      defaults[i] = nullptr;
      if (argument.default_value()) defaults[i] = default_of(*argument.default_value());
    }
  }

  size_t index_of(PyObject* keyword) const {
    for (size_t i = 0; i < N; ++i)
      if (names[i] == keyword) return i;  // generated code spells names as interned constants
    for (size_t i = 0; i < N; ++i)
      if (PyUnicode_Compare(names[i], keyword) == 0) return i;
    TORCH_CHECK_TYPE(false, name, ": unknown argument ", PyUnicode_AsUTF8(keyword));
  }

  /// Every argument, borrowed, in the order of the schema.
  std::array<PyObject*, N> bind(PyObject* const* args, size_t positional, PyObject* keywords) const {
    TORCH_CHECK_TYPE(positional <= N, name, ": at most ", std::to_string(N), " arguments, got ", std::to_string(positional));
    std::array<PyObject*, N> bound = defaults;
    std::copy_n(args, positional, bound.begin());
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < named; ++i)
      bound[index_of(PyTuple_GET_ITEM(keywords, i))] = args[positional + size_t(i)];
    for (size_t i = 0; i < N; ++i)
      TORCH_CHECK_TYPE(bound[i], name, ": argument ", PyUnicode_AsUTF8(names[i]), " is missing");
    return bound;
  }
};

template <auto op> struct Entry;
template <class R, class... A, R (*op)(A...)> struct Entry<op> {
  static constexpr size_t count = sizeof...(A);
  static const Signature<count>*& signature() {
    static const Signature<count>* made = nullptr;
    return made;
  }

  static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t positional, PyObject* keywords) {
    HANDLE_TH_ERRORS
    const auto& known = *signature();
    const auto bound = known.bind(args, size_t(positional), keywords);
    return run(known, bound, std::make_index_sequence<count>{});
    END_HANDLE_TH_ERRORS
  }

 private:
  template <size_t... I>
  static PyObject* run(const Signature<count>& known, const std::array<PyObject*, count>& bound,
                       std::index_sequence<I...>) {
    const std::tuple<Argument<A>...> arguments{Argument<A>(bound[I])...};
    return wrap([&] {
      const pybind11::gil_scoped_release no_gil;
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      RECORD_FUNCTION(known.name, c10::ArrayRef<const c10::IValue>{});
      return op(std::get<I>(arguments).get()...);
    }());
  }
};

template <auto op> PyMethodDef method(const char* name) {
  Entry<op>::signature() = new Signature<Entry<op>::count>(name);
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Entry<op>::call)),
          METH_FASTCALL | METH_KEYWORDS, nullptr};
}

PyObject* make_module() {
  HANDLE_TH_ERRORS
  using namespace torch_bindings;
  static PyMethodDef methods[] = {
      method<&mm>("mm"),
      method<&bmm>("bmm"),
      method<&grouped_mm>("grouped_mm"),
      method<&convolution>("convolution"),
      method<&attention_op>("attention"),
      method<&reduction>("reduction"),
      method<&var_mean_op>("var_mean"),
      method<&softmax_op>("softmax"),
      method<&layer_norm_op>("layer_norm"),
      method<&rms_norm_op>("rms_norm"),
      method<&scan_op>("scan"),
      method<&topk_op>("topk"),
      method<&scatter_add_op>("scatter_add"),
      method<&index_add_op>("index_add"),
      method<&embedding_bag_op>("embedding_bag"),
      method<&avg_pool_op>("avg_pool"),
      {nullptr, nullptr, 0, nullptr}};
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "bi_kernels", nullptr, -1, methods,
                                   nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
  END_HANDLE_TH_ERRORS
}

}  // namespace
}  // namespace bi::python

PyMODINIT_FUNC PyInit_bi_kernels() { return bi::python::make_module(); }
