// Torch's face of the attention template: checks, broadcasting and strides of at::Tensor.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "../attention.h"

namespace bi::torch_bindings {

inline attention::Type attention_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return attention::Type::kFloat;
    case at::kBFloat16: return attention::Type::kBFloat16;
    case at::kHalf: return attention::Type::kHalf;
    case at::kDouble: return attention::Type::kDouble;
    default:
      TORCH_CHECK_VALUE(false, "bi_inductor::attention: q has dtype ", type,
                        "; convert it to float32, bfloat16, float16 or float64");
  }
}

inline attention::MaskType attention_mask_type(at::ScalarType type) {
  switch (type) {
    case at::kBool: return attention::MaskType::kBool;
    case at::kFloat: return attention::MaskType::kFloat;
    case at::kBFloat16: return attention::MaskType::kBFloat16;
    case at::kHalf: return attention::MaskType::kHalf;
    case at::kDouble: return attention::MaskType::kDouble;
    default:
      TORCH_CHECK_VALUE(false, "bi_inductor::attention: mask has dtype ", type,
                        "; give a bool mask (True keeps) or an additive one of a float dtype");
  }
}

inline void check_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t split_size) {
  TORCH_CHECK_VALUE(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, "bi_inductor::attention: q, k, v have ", q.dim(), ", ",
                    k.dim(), ", ", v.dim(), " dimensions; give all of them 4 [B, H, L, D] or 3 [B, L, D]");
  TORCH_CHECK_VALUE(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
                    "bi_inductor::attention: q, k, v have dtypes ", q.scalar_type(), ", ", k.scalar_type(), ", ",
                    v.scalar_type(), "; convert them to one dtype");
  TORCH_CHECK_VALUE(q.size(0) == k.size(0) && q.size(0) == v.size(0), "bi_inductor::attention: batch sizes ", q.size(0),
                    ", ", k.size(0), ", ", v.size(0), " of q, k, v differ; expand them to one batch");
  TORCH_CHECK_VALUE(k.size(1) == v.size(1) && (k.size(1) == 0 ? q.size(1) == 0 : q.size(1) % k.size(1) == 0),
                    "bi_inductor::attention: ", q.size(1), " query heads over ", k.size(1), " key and ", v.size(1),
                    " value heads; query heads must be a multiple of the others");
  TORCH_CHECK_VALUE(q.size(3) == k.size(3), "bi_inductor::attention: q has ", q.size(3), " features and k ", k.size(3),
                    "; they must agree");
  TORCH_CHECK_VALUE(k.size(2) == v.size(2), "bi_inductor::attention: ", k.size(2), " keys and ", v.size(2),
                    " values; they must agree");
  TORCH_CHECK_VALUE(split_size == attention::kPlannedSplit, "bi_inductor::attention: split_size=", split_size,
                    " is not the ", attention::kPlannedSplit, " this kernel was built for; take it from plans.py");
}

inline attention::Strides attention_strides(const at::Tensor &x) { return {x.stride(0), x.stride(1), x.stride(2)}; }

inline at::Tensor with_dense_features(const at::Tensor &x) {
  return x.size(3) == 1 || x.stride(3) == 1 ? x : x.contiguous();
}

// out [B, H, Lq, Dv], laid out as [B, Lq, H, Dv]; lse [B, H, Lq], float32 (float64 for float64).
inline std::tuple<at::Tensor, at::Tensor> attention_4d(const at::Tensor &q_any, const at::Tensor &k_any,
                                                       const at::Tensor &v_any, const std::optional<at::Tensor> &mask,
                                                       bool is_causal, std::optional<double> scale,
                                                       int64_t split_size) {
  check_attention(q_any, k_any, v_any, split_size);
  const at::Tensor q = with_dense_features(q_any), k = with_dense_features(k_any), v = with_dense_features(v_any);
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), keys = k.size(2);
  const at::Tensor out = at::empty({batch, queries, heads, v.size(3)}, q.options()).transpose(1, 2);
  const at::Tensor lse =
      at::empty({batch, heads, queries}, q.options().dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  attention::Arguments args{};
  args.type = attention_type(q.scalar_type());
  args.q = q.const_data_ptr(), args.k = k.const_data_ptr(), args.v = v.const_data_ptr();
  args.out = out.mutable_data_ptr(), args.lse = lse.mutable_data_ptr();
  args.batch = batch, args.heads = heads, args.kv_heads = k.size(1), args.queries = queries, args.keys = keys;
  args.dim = q.size(3), args.value_dim = v.size(3);
  args.q_strides = attention_strides(q), args.k_strides = attention_strides(k);
  args.v_strides = attention_strides(v), args.out_strides = attention_strides(out);
  args.mask_type = attention::MaskType::kNone;
  at::Tensor wide_mask;
  if (mask.has_value()) {
    args.mask_type = attention_mask_type(mask->scalar_type());
    wide_mask = mask->expand({batch, heads, queries, keys});
    args.mask = wide_mask.const_data_ptr();
    for (int64_t i = 0; i < 4; i++) args.mask_strides[i] = wide_mask.stride(i);
  }
  args.is_causal = is_causal;
  args.scale = scale.value_or(1.0 / std::sqrt(double(q.size(3))));
  args.threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  attention::attention(args);
  return {out, lse};
}

inline std::tuple<at::Tensor, at::Tensor> attention_op(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                                       const std::optional<at::Tensor> &mask, bool is_causal,
                                                       std::optional<double> scale, int64_t split_size) {
  if (q.dim() != 3 || k.dim() != 3 || v.dim() != 3) return attention_4d(q, k, v, mask, is_causal, scale, split_size);
  std::optional<at::Tensor> mask_4d = mask;
  if (mask.has_value() && mask->dim() == 3) mask_4d = mask->unsqueeze(1);
  const auto [out, lse] =
      attention_4d(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), mask_4d, is_causal, scale, split_size);
  return {out.squeeze(1), lse.squeeze(1)};
}

inline void register_attention(torch::Library &m) { m.impl("attention", &attention_op); }

}  // namespace bi::torch_bindings
