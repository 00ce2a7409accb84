// torch.ops.bi_inductor.{mm, bmm, grouped_mm} on CPU tensors: shapes, strides and dtypes to gemm::Problem.
#pragma once

#include <torch/library.h>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "../gemm.h"

namespace bi::torch_bindings {

inline gemm::Dtype matmul_dtype(const at::Tensor& x, const char* op) {
  switch (x.scalar_type()) {
    case at::kFloat: return gemm::Dtype::f32;
    case at::kBFloat16: return gemm::Dtype::bf16;
    case at::kHalf: return gemm::Dtype::f16;
    case at::kDouble: return gemm::Dtype::f64;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "bi_inductor::", op, " has no plan for ", x.scalar_type(),
                                  "; use float32, bfloat16, float16, float64 or an integer dtype");
  }
}

inline void check_split(int64_t split_size, const char* op) {
  TORCH_CHECK_VALUE(split_size > 0 && split_size % 64 == 0, "bi_inductor::", op,
                    ": split_size must be a positive multiple of 64, got ", split_size);
}

namespace matmul_detail {

// The last two (or three) dims of x as [batch][row][col].
inline gemm::Operand operand_of(const at::Tensor& x) {
  const bool batched = x.dim() == 3;
  return {x.const_data_ptr(), batched ? x.stride(0) : 0, x.stride(-2), x.stride(-1)};
}

inline void set_out(gemm::Problem& p, const at::Tensor& out) {
  p.out = out.mutable_data_ptr();
  p.out_batch_stride = out.dim() == 3 ? out.stride(0) : 0;
  p.out_row_stride = out.stride(-2);
}

inline void check_same_dtype(const at::Tensor& a, const at::Tensor& b, const char* op) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "bi_inductor::", op, ": a is ", a.scalar_type(), " and b is ",
              b.scalar_type(), "; convert one of them");
}

// Exact in the ring of the dtype, so that any order gives the same bits; sums wrap as in torch.
template <class I>
void multiply_integers(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  using U = std::make_unsigned_t<I>;
  const auto x = a.accessor<I, 3>(), y = b.accessor<I, 3>();
  auto z = out.accessor<I, 3>();
  for (int64_t batch = 0; batch < x.size(0); batch++)
    for (int64_t m = 0; m < x.size(1); m++)
      for (int64_t k = 0; k < x.size(2); k++) {
        const U factor = static_cast<U>(x[batch][m][k]);
        for (int64_t n = 0; n < y.size(2); n++)
          z[batch][m][n] = static_cast<I>(static_cast<U>(z[batch][m][n]) + factor * static_cast<U>(y[batch][k][n]));
      }
}

inline at::Tensor integer_product(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias,
                                  const at::Scalar& alpha, const at::Scalar& beta) {
  at::Tensor out = at::zeros({a.size(0), a.size(1), b.size(2)}, a.options());
  AT_DISPATCH_INTEGRAL_TYPES(a.scalar_type(), "bi_inductor::mm", [&] { multiply_integers<scalar_t>(a, b, out); });
  if (alpha.toLong() != 1) out.mul_(alpha);
  if (bias.has_value() && beta.toLong() != 0) out.add_(*bias, beta);
  return out;
}

inline at::Tensor product(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias,
                          const at::Scalar& alpha, const at::Scalar& beta, int64_t split_size, bool uniform,
                          const char* op) {
  check_same_dtype(a, b, op);
  check_split(split_size, op);
  TORCH_CHECK(a.size(-1) == b.size(-2), "bi_inductor::", op, ": a is ", a.sizes(), " and b is ", b.sizes(),
              "; the last dim of a must be the dim of b before its last");
  std::vector<int64_t> shape = a.sizes().vec();
  shape.back() = b.size(-1);
  at::Tensor broadcast;
  if (bias.has_value()) {
    check_same_dtype(a, *bias, op);
    broadcast = bias->expand(shape);
  }
  at::Tensor out = at::empty(shape, a.options());
  gemm::Problem p;
  p.dtype = matmul_dtype(a, op);
  p.batch = a.dim() == 3 ? a.size(0) : 1;
  p.m = a.size(-2);
  p.n = b.size(-1);
  p.k = a.size(-1);
  p.a = operand_of(a);
  p.b = operand_of(b);
  if (broadcast.defined()) p.bias = operand_of(broadcast);
  set_out(p, out);
  p.alpha = alpha.toDouble();
  p.beta = beta.toDouble();
  p.split = split_size;
  p.threads = at::get_num_threads();
  p.uniform = uniform;
  gemm::run(p);
  return out;
}

}  // namespace matmul_detail

inline at::Tensor mm(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias,
                     const at::Scalar& alpha, const at::Scalar& beta, int64_t split_size, bool uniform) {
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2, "bi_inductor::mm: expected two matrices, got ", a.sizes(), " and ",
              b.sizes());
  if (at::isIntegralType(a.scalar_type(), false) && a.scalar_type() == b.scalar_type()) {
    TORCH_CHECK(a.size(1) == b.size(0), "bi_inductor::mm: a is ", a.sizes(), " and b is ", b.sizes());
    return matmul_detail::integer_product(a.unsqueeze(0), b.unsqueeze(0), bias, alpha, beta).squeeze(0);
  }
  return matmul_detail::product(a, b, bias, alpha, beta, split_size, uniform, "mm");
}

inline at::Tensor bmm(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias,
                      const at::Scalar& alpha, const at::Scalar& beta, int64_t split_size, bool uniform) {
  TORCH_CHECK(a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0),
              "bi_inductor::bmm: expected two batches of matrices of one length, got ", a.sizes(), " and ", b.sizes());
  if (at::isIntegralType(a.scalar_type(), false) && a.scalar_type() == b.scalar_type()) {
    TORCH_CHECK(a.size(2) == b.size(1), "bi_inductor::bmm: a is ", a.sizes(), " and b is ", b.sizes());
    return matmul_detail::integer_product(a, b, bias, alpha, beta);
  }
  return matmul_detail::product(a, b, bias, alpha, beta, split_size, uniform, "bmm");
}

namespace matmul_detail {

// Ends of the groups: ascending, within [0, extent].
inline std::vector<int64_t> group_ends(const std::optional<at::Tensor>& offs, int64_t extent) {
  TORCH_CHECK(offs.has_value() && offs->dim() == 1 && offs->scalar_type() == at::kInt,
              "bi_inductor::grouped_mm: a 2-d operand needs offs, a 1-d int32 tensor with the end of each group");
  const at::Tensor ends = offs->contiguous();
  const int32_t* data = ends.const_data_ptr<int32_t>();
  std::vector<int64_t> result(data, data + ends.numel());
  int64_t last = 0;
  for (const int64_t end : result) {
    TORCH_CHECK_VALUE(last <= end && end <= extent, "bi_inductor::grouped_mm: offs must ascend within [0, ", extent,
                      "], got ", end, " after ", last);
    last = end;
  }
  return result;
}

inline gemm::Problem group_problem(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out, int64_t split) {
  gemm::Problem p;
  p.dtype = matmul_dtype(a, "grouped_mm");
  p.m = a.size(0);
  p.n = b.size(1);
  p.k = a.size(1);
  p.a = operand_of(a);
  p.b = operand_of(b);
  set_out(p, out);
  p.split = split;
  return p;
}

}  // namespace matmul_detail

// The four forms of torch.nn.functional.grouped_mm; offs cuts the rows of a, the columns of b, or K.
inline at::Tensor grouped_mm(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& offs,
                             const std::optional<at::Tensor>& bias, int64_t split_size) {
  using namespace matmul_detail;
  check_same_dtype(a, b, "grouped_mm");
  check_split(split_size, "grouped_mm");
  TORCH_CHECK((a.dim() == 2 || a.dim() == 3) && (b.dim() == 2 || b.dim() == 3) && a.size(-1) == b.size(-2),
              "bi_inductor::grouped_mm: got a ", a.sizes(), " and b ", b.sizes());
  if (a.dim() == 3 && b.dim() == 3) {
    TORCH_CHECK(!offs.has_value(), "bi_inductor::grouped_mm: offs has no meaning for two 3-d operands");
    return bmm(a, b, bias, 1, 1, split_size, false);
  }
  const int64_t extent = b.dim() == 3 ? a.size(0) : a.dim() == 3 ? b.size(1) : a.size(1);
  const std::vector<int64_t> ends = group_ends(offs, extent);
  const int64_t groups = static_cast<int64_t>(ends.size());
  TORCH_CHECK((a.dim() == 2 || a.size(0) == groups) && (b.dim() == 2 || b.size(0) == groups),
              "bi_inductor::grouped_mm: ", groups, " groups in offs, but a is ", a.sizes(), " and b is ", b.sizes());
  at::Tensor out = a.dim() == 2 && b.dim() == 2 ? at::empty({groups, a.size(0), b.size(1)}, a.options())
                                                : at::empty({a.size(-2), b.size(-1)}, a.options());
  std::vector<gemm::Problem> problems;
  int64_t start = 0;
  for (int64_t g = 0; g < groups; start = ends[g++]) {
    const int64_t length = ends[g] - start;
    if (a.dim() == 2 && b.dim() == 3) {
      problems.push_back(group_problem(a.narrow(0, start, length), b.select(0, g), out.narrow(0, start, length), split_size));
    } else if (a.dim() == 3) {
      problems.push_back(group_problem(a.select(0, g), b.narrow(1, start, length), out.narrow(1, start, length), split_size));
    } else {
      problems.push_back(group_problem(a.narrow(1, start, length), b.narrow(0, start, length), out.select(0, g), split_size));
    }
    if (bias.has_value()) {
      check_same_dtype(a, *bias, "grouped_mm");
      const at::Tensor row = bias->dim() == 2 ? bias->select(0, g) : *bias;
      TORCH_CHECK(row.dim() == 1 && row.size(0) == problems.back().n, "bi_inductor::grouped_mm: bias ", bias->sizes(),
                  " does not fit ", groups, " groups of ", problems.back().n, " columns");
      problems.back().bias = {row.const_data_ptr(), 0, 0, row.stride(0)};
    }
  }
  if (extent > start && out.dim() == 2) out.narrow(a.dim() == 2 ? 0 : 1, start, extent - start).zero_();
  gemm::run_all(problems.data(), groups, at::get_num_threads());
  return out;
}

inline void register_gemm(torch::Library& m) {
  m.impl("mm", &mm);
  m.impl("bmm", &bmm);
  m.impl("grouped_mm", &grouped_mm);
}

}  // namespace bi::torch_bindings
