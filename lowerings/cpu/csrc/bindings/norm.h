// bi_inductor::layer_norm and rms_norm.
#pragma once

#include <torch/library.h>

#include "../norm.h"
#include "common.h"

namespace bi::torch_bindings {

/// The trailing dims of x must be `shape`; they are reduced.
inline uint32_t trailing_mask(const at::Tensor& x, at::IntArrayRef shape, const char* op) {
  const size_t rank = static_cast<size_t>(x.dim());
  const bool fits = !shape.empty() && shape.size() <= rank &&
                    x.sizes().slice(rank - shape.size()) == shape;
  TORCH_CHECK(fits, "bi_inductor::", op, ": the input of shape ", x.sizes(),
              " does not end in normalized_shape ", shape);
  return ((1u << shape.size()) - 1) << (rank - shape.size());
}

/// A weight or bias as contiguous memory, or null.
inline const void* parameter_data(const std::optional<at::Tensor>& given, at::IntArrayRef shape,
                                  at::ScalarType x, at::ScalarType weight, at::Tensor& holder,
                                  const char* op) {
  if (!given || !given->defined()) return nullptr;
  TORCH_CHECK(given->sizes() == shape, "bi_inductor::", op, ": expected parameters of shape ",
              shape, ", got ", given->sizes());
  const at::ScalarType type = given->scalar_type();
  const bool widened = type == at::kFloat && at::isReducedFloatingType(x);
  TORCH_CHECK(type == weight && (type == x || widened), "bi_inductor::", op,
              ": parameters must have the input's dtype ", x,
              " or, for a half input, all be float32; got ", type);
  holder = given->contiguous();
  return holder.const_data_ptr();
}

/// Runs both norms: allocates, fills NormArguments, calls `kernel`. Returns out, mean, rstd.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> run_norm(
    const at::Tensor& x, at::IntArrayRef shape, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, double eps, bool with_mean, const char* op) {
  check_rank(x, op);
  check_floating(x, op);
  const uint32_t mask = trailing_mask(x, shape, op);
  const RowLayout layout = layout_of(x, mask);
  const at::ScalarType type = x.scalar_type();
  const at::ScalarType weight_type = weight && weight->defined() ? weight->scalar_type()
                                     : bias && bias->defined()   ? bias->scalar_type()
                                                                 : type;
  at::Tensor keep_weight, keep_bias, mean;
  NormArguments a{};
  a.weight = parameter_data(weight, shape, type, weight_type, keep_weight, op);
  a.bias = parameter_data(bias, shape, type, weight_type, keep_bias, op);
  // layer_norm: as ATen on the CPU, statistics follow the parameters; rms_norm: never halves.
  const bool halves = at::isReducedFloatingType(type);
  const at::ScalarType statistics = with_mean ? weight_type : halves ? at::kFloat : type;
  const at::DimVector sizes = reduced_sizes(x, mask, true);
  at::Tensor out = output(x.sizes(), type);
  at::Tensor rstd = output(sizes, statistics);
  if (with_mean) mean = output(sizes, statistics);
  a.type = dtype_of(type, op);
  a.x = x.const_data_ptr();
  a.layout = &layout;
  a.weight_type = dtype_of(weight_type, op);
  a.eps = eps;
  a.out = out.mutable_data_ptr();
  a.statistics_type = dtype_of(statistics, op);
  a.mean = with_mean ? mean.mutable_data_ptr() : nullptr;
  a.rstd = rstd.mutable_data_ptr();
  (with_mean ? layer_norm : rms_norm)(a, at::get_num_threads());
  return {std::move(out), std::move(mean), std::move(rstd)};
}

inline std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_op(
    const at::Tensor& x, c10::SymIntArrayRef shape, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, double eps, int64_t lanes) {
  check_lanes(lanes, "layer_norm");
  return run_norm(x, C10_AS_INTARRAYREF_SLOW(shape), weight, bias, eps, true, "layer_norm");
}

inline std::tuple<at::Tensor, at::Tensor> rms_norm_op(const at::Tensor& x,
                                                      c10::SymIntArrayRef shape,
                                                      const std::optional<at::Tensor>& weight,
                                                      double eps, int64_t lanes) {
  check_lanes(lanes, "rms_norm");
  auto [out, mean, rstd] =
      run_norm(x, C10_AS_INTARRAYREF_SLOW(shape), weight, {}, eps, false, "rms_norm");
  return {std::move(out), std::move(rstd)};
}

inline void register_norm(torch::Library& m) {
  m.impl("layer_norm", &layer_norm_op);
  m.impl("rms_norm", &rms_norm_op);
}

}  // namespace bi::torch_bindings
