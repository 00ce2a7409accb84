// mm, bmm, grouped_mm: at::Tensor to the torch-free border.
#pragma once

#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../gemm.h"
#include "common.h"

namespace bi::torch_bindings {

inline void check_split_size(int64_t split_size, const char* op) {
  TORCH_CHECK(split_size > 0 && split_size % 64 == 0, "bi_inductor::", op,
              ": split_size must be a positive multiple of 64, got ", split_size);
}

/// a [.., M, K] contiguous along K; anything else is copied.
inline at::Tensor along_depth(const at::Tensor& a) {
  return a.stride(-1) == 1 || a.size(-1) <= 1 ? a : a.contiguous();
}

/// b [.., K, N] contiguous along one of its two matrix dims; anything else is copied.
inline at::Tensor one_unit_stride(const at::Tensor& b) {
  return b.stride(-1) == 1 || b.stride(-2) == 1 ? b : b.contiguous();
}

inline MatrixView matrix(const at::Tensor& x, bool left) {
  const int64_t row = x.stride(-2), column = x.stride(-1);
  if (left) return {x.const_data_ptr(), row, 1};
  // with one row or column torch may report any stride for it
  if (row == 1 || x.size(-2) <= 1) return {x.const_data_ptr(), 1, x.size(-1) <= 1 ? 0 : column};
  return {x.const_data_ptr(), row, 1};
}

inline at::Tensor expanded_bias(const std::optional<at::Tensor>& bias, const at::Tensor& a,
                                at::IntArrayRef sizes, const char* op) {
  if (!bias) return {};
  TORCH_CHECK(bias->dim() <= int64_t(sizes.size()), "bi_inductor::", op, ": bias of shape ",
              bias->sizes(), " does not broadcast to ", sizes);
  return (bias->scalar_type() == a.scalar_type() ? *bias : bias->to(a.scalar_type())).expand(sizes);
}

inline BiasView bias_view(const at::Tensor& bias) {
  if (!bias.defined()) return {};
  return {bias.const_data_ptr(), bias.stride(-2), bias.stride(-1)};
}

/// Integers are exact in any order: torch's own kernel is used.
inline at::Tensor exact_product(const at::Tensor& a, const at::Tensor& b) { return at::matmul(a, b); }

inline at::Tensor mm_op(const at::Tensor& a, const at::Tensor& b,
                        const std::optional<at::Tensor>& bias, const at::Scalar& alpha,
                        const at::Scalar& beta, int64_t split_size) {
  check_split_size(split_size, "mm");
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0),
              "bi_inductor::mm: expected [M, K] @ [K, N], got ", a.sizes(), " @ ", b.sizes());
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "bi_inductor::mm: dtypes differ: ",
              a.scalar_type(), " and ", b.scalar_type());
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  const at::Tensor c = expanded_bias(bias, a, out.sizes(), "mm");
  if (!at::isFloatingType(a.scalar_type())) {
    out = exact_product(a, b);
    if (!alpha.equal(1)) out.mul_(alpha);
    return c.defined() && !beta.equal(0) ? out.add_(c, beta) : out;
  }
  const at::Tensor x = along_depth(a), y = one_unit_stride(b);
  gemm(dtype_of(a.scalar_type(), "mm"), {x.size(0), y.size(1), x.size(1)}, matrix(x, true),
       matrix(y, false), bias_view(c), alpha.toDouble(), beta.toDouble(), out.mutable_data_ptr(),
       out.size(1), split_size, at::get_num_threads());
  return out;
}

inline at::Tensor bmm_op(const at::Tensor& a, const at::Tensor& b,
                         const std::optional<at::Tensor>& bias, const at::Scalar& alpha,
                         const at::Scalar& beta, int64_t split_size) {
  check_split_size(split_size, "bmm");
  TORCH_CHECK(a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(1),
              "bi_inductor::bmm: expected [B, M, K] @ [B, K, N], got ", a.sizes(), " @ ", b.sizes());
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "bi_inductor::bmm: dtypes differ: ",
              a.scalar_type(), " and ", b.scalar_type());
  at::Tensor out = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
  const at::Tensor c = expanded_bias(bias, a, out.sizes(), "bmm");
  if (!at::isFloatingType(a.scalar_type())) {
    out = exact_product(a, b);
    if (!alpha.equal(1)) out.mul_(alpha);
    return c.defined() && !beta.equal(0) ? out.add_(c, beta) : out;
  }
  const at::Tensor x = along_depth(a), y = one_unit_stride(b);
  const BatchSteps steps{x.stride(0), y.stride(0), c.defined() ? c.stride(0) : 0, out.stride(0)};
  batched_gemm(dtype_of(a.scalar_type(), "bmm"), x.size(0), {x.size(1), y.size(2), x.size(2)},
               matrix(x, true), matrix(y, false), bias_view(c), alpha.toDouble(), beta.toDouble(),
               out.mutable_data_ptr(), steps, out.size(2), split_size, at::get_num_threads());
  return out;
}

/// The semantics of torch's grouped_mm: offs holds the cumulative ends of the groups.
inline at::Tensor grouped_mm_op(const at::Tensor& a, const at::Tensor& b,
                                const std::optional<at::Tensor>& offs,
                                const std::optional<at::Tensor>& bias, int64_t split_size) {
  if (a.dim() == 3 && b.dim() == 3) return bmm_op(a, b, bias, 1, 1, split_size);
  TORCH_CHECK(offs.has_value(), "bi_inductor::grouped_mm: offs is needed unless both operands are 3-d");
  TORCH_CHECK(!bias.has_value(), "bi_inductor::grouped_mm: bias is not supported with offs; add it");
  const at::Tensor ends = offs->to(at::kLong).contiguous();
  const int64_t groups = ends.numel(), *end = ends.const_data_ptr<int64_t>();
  const bool cut_rows = a.dim() == 2 && b.dim() == 3, cut_columns = a.dim() == 3 && b.dim() == 2;
  const int64_t extent = cut_rows ? a.size(0) : b.size(-1 - int64_t(!cut_columns));
  at::Tensor out = cut_rows      ? at::zeros({a.size(0), b.size(2)}, a.options())
                   : cut_columns ? at::zeros({a.size(1), b.size(1)}, a.options())
                                 : at::empty({groups, a.size(0), b.size(1)}, a.options());
  for (int64_t g = 0, begin = 0; g < groups; begin = end[g++]) {
    TORCH_CHECK(begin <= end[g] && end[g] <= extent, "bi_inductor::grouped_mm: offs must ascend and stay within ",
                extent, ", got ", end[g], " after ", begin);
    const int64_t n = end[g] - begin;
    if (cut_rows) {
      if (n) out.narrow(0, begin, n).copy_(mm_op(a.narrow(0, begin, n), b.select(0, g), {}, 1, 1, split_size));
    } else if (cut_columns) {
      if (n) out.narrow(1, begin, n).copy_(mm_op(a.select(0, g), b.narrow(1, begin, n), {}, 1, 1, split_size));
    } else {
      out.select(0, g).copy_(mm_op(a.narrow(1, begin, n), b.narrow(0, begin, n), {}, 1, 1, split_size));
    }
  }
  return out;
}

inline void register_gemm(torch::Library& m) {
  m.impl("mm", &mm_op);
  m.impl("bmm", &bmm_op);
  m.impl("grouped_mm", &grouped_mm_op);
}

}  // namespace bi::torch_bindings
