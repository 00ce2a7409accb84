// bi_inductor::avg_pool, one to three spatial dims.
#pragma once

#include <torch/library.h>

#include "../pool.h"
#include "common.h"

namespace bi::torch_bindings {

/// As torch: with ceil_mode the last window must start inside the input or its left padding.
inline int64_t pooled_size(int64_t in, int64_t kernel, int64_t padding, int64_t stride,
                           bool ceil_mode) {
  const int64_t span = in + 2 * padding - kernel;
  const int64_t steps = span + (ceil_mode ? stride - 1 : 0);
  // Floor division: span may be negative.
  const int64_t out = (steps >= 0 ? steps / stride : -((stride - 1 - steps) / stride)) + 1;
  return ceil_mode && (out - 1) * stride >= in + padding ? out - 1 : out;
}

inline at::Tensor avg_pool_op(const at::Tensor& x_in, c10::SymIntArrayRef kernel_sym,
                              c10::SymIntArrayRef stride_sym, c10::SymIntArrayRef padding_sym,
                              bool ceil_mode, bool count_include_pad,
                              std::optional<int64_t> divisor_override) {
  check_floating(x_in, "avg_pool");
  const at::IntArrayRef kernel = C10_AS_INTARRAYREF_SLOW(kernel_sym);
  const at::IntArrayRef stride = C10_AS_INTARRAYREF_SLOW(stride_sym);
  const at::IntArrayRef padding = C10_AS_INTARRAYREF_SLOW(padding_sym);
  const int64_t spatial = static_cast<int64_t>(kernel.size());
  TORCH_CHECK(spatial >= 1 && spatial <= 3 &&
                  (x_in.dim() == spatial + 1 || x_in.dim() == spatial + 2),
              "bi_inductor::avg_pool: expected [N, C, ...] or [C, ...] with 1 to 3 spatial dims as "
              "kernel_size ", kernel, ", got ", x_in.sizes());
  TORCH_CHECK((stride.empty() || stride.size() == kernel.size()) && padding.size() == kernel.size(),
              "bi_inductor::avg_pool: stride ", stride, " and padding ", padding,
              " must have as many entries as kernel_size ", kernel);
  TORCH_CHECK(divisor_override.value_or(1) != 0,
              "bi_inductor::avg_pool: divisor_override must not be zero");
  const at::Tensor x = x_in.contiguous();
  const int64_t leading = x.dim() - spatial;
  PoolShape s{product(x.sizes().slice(0, size_t(leading))),
              {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0},
              count_include_pad, divisor_override.value_or(0)};
  at::DimVector sizes(x.sizes().begin(), x.sizes().begin() + leading);
  for (int64_t i = 0; i < spatial; ++i) {
    const int64_t d = 3 - spatial + i;
    const size_t k = static_cast<size_t>(i);
    s.in[d] = x.size(leading + i);
    s.kernel[d] = kernel[k];
    s.stride[d] = stride.empty() ? kernel[k] : stride[k];
    s.padding[d] = padding[k];
    TORCH_CHECK(s.kernel[d] > 0 && s.stride[d] > 0 && s.padding[d] >= 0 &&
                    2 * s.padding[d] <= s.kernel[d],
                "bi_inductor::avg_pool: kernel_size and stride must be positive and padding at "
                "most half the kernel, got ", kernel, ", ", stride, ", ", padding);
    s.out[d] = pooled_size(s.in[d], s.kernel[d], s.padding[d], s.stride[d], ceil_mode);
    TORCH_CHECK(s.out[d] > 0, "bi_inductor::avg_pool: the input ", x.sizes(),
                " is too small for kernel_size ", kernel);
    sizes.push_back(s.out[d]);
  }
  at::Tensor y = at::empty(sizes, x.options());
  avg_pool(dtype_of(x.scalar_type(), "avg_pool"), x.const_data_ptr(), s, y.mutable_data_ptr(),
           at::get_num_threads());
  return y;
}

inline void register_pool(torch::Library& m) { m.impl("avg_pool", &avg_pool_op); }

}  // namespace bi::torch_bindings
