// bi_inductor::reduction, var_mean, softmax.
#pragma once

#include <torch/library.h>

#include <cmath>

#include "../reduction.h"
#include "../softmax.h"
#include "common.h"

namespace bi::torch_bindings {

inline Reduce reduce_of(std::string_view kind) {
  constexpr std::pair<std::string_view, Reduce> kinds[] = {
      {"sum", Reduce::sum},       {"mean", Reduce::mean},     {"prod", Reduce::prod},
      {"amax", Reduce::amax},     {"amin", Reduce::amin},     {"any", Reduce::any},
      {"all", Reduce::all},       {"argmax", Reduce::argmax}, {"argmin", Reduce::argmin},
      {"norm", Reduce::norm},     {"sum_squares", Reduce::sum_squares},
      {"mean_squares", Reduce::mean_squares}};
  for (const auto& [name, value] : kinds)
    if (name == kind) return value;
  TORCH_CHECK(false, "bi_inductor::reduction: unknown kind '", kind,
              "'; known: sum mean prod amax amin any all argmax argmin norm sum_squares "
              "mean_squares");
}

inline bool needs_floating(Reduce kind) {
  return kind == Reduce::mean || kind == Reduce::norm || kind == Reduce::sum_squares ||
         kind == Reduce::mean_squares;
}

/// The type of the result, as torch has it, before dtype= is applied.
inline at::ScalarType natural_result(Reduce kind, at::ScalarType x) {
  switch (kind) {
    case Reduce::argmax:
    case Reduce::argmin: return at::kLong;
    case Reduce::any:
    case Reduce::all: return x == at::kByte ? at::kByte : at::kBool;
    case Reduce::sum:
    case Reduce::prod: return at::isIntegralType(x, true) ? at::kLong : x;
    default: return x;
  }
}

/// Where an empty row has no value, torch raises, and so do we.
inline void check_identity(Reduce kind, double p, const RowLayout& layout) {
  if (layout.extent > 0) return;
  const bool norm = kind == Reduce::norm && (p < 0 || std::isinf(p));
  const bool order = kind == Reduce::amax || kind == Reduce::amin || kind == Reduce::argmax ||
                     kind == Reduce::argmin;
  TORCH_CHECK_INDEX(!norm && !order,
                    "bi_inductor::reduction: this kind has no value for an empty extent; expected "
                    "a reduction dim of non-zero size");
}

inline at::Tensor reduction(const at::Tensor& input, c10::string_view kind_name,
                            at::IntArrayRef dims, bool keepdim, double param,
                            std::optional<at::ScalarType> dtype, int64_t lanes) {
  check_lanes(lanes, "reduction");
  check_rank(input, "reduction");
  const Reduce kind = reduce_of(std::string_view(kind_name.data(), kind_name.size()));
  at::Tensor x = input;
  const bool to_float = dtype == at::kFloat && at::isReducedFloatingType(x.scalar_type());
  const bool selects = kind == Reduce::any || kind == Reduce::all || kind == Reduce::argmax ||
                       kind == Reduce::argmin;
  // As torch: dtype= converts the input first. Half to float needs no copy, widening is exact.
  if (dtype && !to_float && !selects && x.scalar_type() != *dtype) x = x.to(*dtype);
  if (needs_floating(kind)) check_floating(x, "reduction");
  const uint32_t mask = dim_mask(dims, x.dim(), "reduction");
  const RowLayout layout = layout_of(x, mask);
  check_identity(kind, param, layout);
  const at::ScalarType natural = natural_result(kind, x.scalar_type());
  const at::ScalarType result = to_float ? at::kFloat : natural;
  at::Tensor y = output(reduced_sizes(x, mask, keepdim), result);
  reduce(kind, param, dtype_of(x.scalar_type(), "reduction"), x.const_data_ptr(), layout,
         dtype_of(result, "reduction"), y.mutable_data_ptr(), at::get_num_threads());
  return dtype && *dtype != result ? y.to(*dtype) : y;
}

inline std::tuple<at::Tensor, at::Tensor> var_mean_op(const at::Tensor& x, at::IntArrayRef dims,
                                                      double correction, bool keepdim,
                                                      int64_t lanes) {
  check_lanes(lanes, "var_mean");
  check_rank(x, "var_mean");
  check_floating(x, "var_mean");
  const uint32_t mask = dim_mask(dims, x.dim(), "var_mean");
  const at::DimVector sizes = reduced_sizes(x, mask, keepdim);
  at::Tensor var = output(sizes, x.scalar_type()), mean = output(sizes, x.scalar_type());
  var_mean(dtype_of(x.scalar_type(), "var_mean"), x.const_data_ptr(), layout_of(x, mask),
           correction, var.mutable_data_ptr(), mean.mutable_data_ptr(), at::get_num_threads());
  return {var, mean};
}

inline at::Tensor softmax_op(const at::Tensor& input, int64_t dim, bool log,
                             std::optional<at::ScalarType> dtype, int64_t lanes) {
  check_lanes(lanes, "softmax");
  check_rank(input, "softmax");
  at::Tensor x = input;
  const bool to_float = dtype == at::kFloat && at::isReducedFloatingType(x.scalar_type());
  if (dtype && !to_float && x.scalar_type() != *dtype) x = x.to(*dtype);
  check_floating(x, "softmax");
  const int64_t d = wrap_dim(dim, x.dim(), "softmax");
  const at::ScalarType result = dtype.value_or(x.scalar_type());
  at::Tensor y = output(x.sizes(), result);
  const int64_t inner = x.dim() ? product(x.sizes().slice(size_t(d) + 1)) : 1;
  softmax(log, dtype_of(x.scalar_type(), "softmax"), x.const_data_ptr(), layout_of(x, 1u << d),
          inner, dtype_of(result, "softmax"), y.mutable_data_ptr(), at::get_num_threads());
  return y;
}

inline void register_reduction(torch::Library& m) {
  m.impl("reduction", &reduction);
  m.impl("var_mean", &var_mean_op);
  m.impl("softmax", &softmax_op);
}

}  // namespace bi::torch_bindings
