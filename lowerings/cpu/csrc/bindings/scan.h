// bi_inductor::scan and topk: ops along one dim that keep its elements apart.
#pragma once

#include <torch/library.h>

#include "../scan.h"
#include "../topk.h"
#include "common.h"

namespace bi::torch_bindings {

inline Scan scan_of(std::string_view kind) {
  if (kind == "cumsum") return Scan::cumsum;
  if (kind == "cumprod") return Scan::cumprod;
  TORCH_CHECK(kind == "logcumsumexp", "bi_inductor::scan: unknown kind '", kind,
              "'; known: cumsum cumprod logcumsumexp");
  return Scan::logcumsumexp;
}

inline at::Tensor scan_op(const at::Tensor& input, c10::string_view kind_name, int64_t dim,
                          std::optional<at::ScalarType> dtype) {
  const Scan kind = scan_of(std::string_view(kind_name.data(), kind_name.size()));
  const bool integral = at::isIntegralType(dtype.value_or(input.scalar_type()), true);
  const at::ScalarType type = integral ? at::kLong : dtype.value_or(input.scalar_type());
  // As torch: dtype= converts the input first; integers run in int64 and wrap around.
  at::Tensor x = dtype ? input.to(*dtype).to(type) : input.to(type);
  if (kind == Scan::logcumsumexp) check_floating(x, "scan");
  x = x.contiguous();
  const int64_t d = wrap_dim(dim, x.dim(), "scan");
  const size_t at = static_cast<size_t>(d);
  const int64_t n = x.dim() ? x.size(d) : 1;
  const int64_t outer = x.dim() ? product(x.sizes().slice(0, at)) : 1;
  const int64_t inner = x.dim() ? product(x.sizes().slice(at + 1)) : 1;
  at::Tensor y = output(x.sizes(), type);
  scan(kind, dtype_of(type, "scan"), x.const_data_ptr(), outer, n, inner, y.mutable_data_ptr(),
       at::get_num_threads());
  return dtype && integral ? y.to(*dtype) : y;
}

inline std::tuple<at::Tensor, at::Tensor> topk_op(const at::Tensor& input, c10::SymInt k_sym,
                                                  int64_t dim, bool largest, bool /*sorted*/) {
  const int64_t d = wrap_dim(dim, input.dim(), "topk"), k = k_sym.expect_int();
  const bool last = input.dim() == 0 || d == input.dim() - 1;
  const at::Tensor x = (last ? input : input.transpose(d, -1)).contiguous();
  const int64_t n = x.dim() ? x.size(-1) : 1;
  TORCH_CHECK(k >= 0 && k <= n, "bi_inductor::topk: k must be between 0 and the size ", n,
              " of dim ", dim, ", got ", k);
  at::DimVector sizes(x.sizes().begin(), x.sizes().end());
  if (!sizes.empty()) sizes.back() = k;
  at::Tensor values = output(sizes, x.scalar_type());
  at::Tensor indices = output(sizes, at::kLong);
  topk(dtype_of(x.scalar_type(), "topk"), x.const_data_ptr(), n ? x.numel() / n : 0, n, k, largest,
       values.mutable_data_ptr(), indices.mutable_data_ptr<int64_t>(), at::get_num_threads());
  if (last) return {values, indices};
  return {values.transpose(d, -1).contiguous(), indices.transpose(d, -1).contiguous()};
}

inline void register_scan(torch::Library& m) {
  m.impl("scan", &scan_op);
  m.impl("topk", &topk_op);
}

}  // namespace bi::torch_bindings
