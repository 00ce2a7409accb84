// Attention template of the CPU: arguments and entry point, free of torch.
//
// Plan of one query row (everything that decides its bits). Keys count from `start`, the first key the row keeps:
//   s_j = scale * chain_d fma(q_d, k_jd, acc) from +0, plus the additive mask;   m = max_j s_j
//   p_j = exp(s_j - m) by an own polynomial;   l = 16 lanes by (j - start) % 16, added by the tree 8, 4, 2, 1
//   o_d = chains fma(p_j, v_jd, acc) from +0 over chunks of split_size keys, chunk sums added in ascending order
//   out = o_d / l, rounded once;   lse = m + log(l)
// Half types are widened exactly and p stays in the accumulation type (float; double for double). Masked keys inside
// the row keep their position and add nothing, whatever K and V hold there. Nothing else may enter: not Lq, not the
// keys outside [start, last kept key], not the batch, the heads, the strides, the threads or the instruction set.
//
// A key is masked by False, or by an additive value at or below the most negative bfloat16 (-65504 in a float16 mask):
// models write finfo.min for -inf, and such a key has weight 0 anyway. A row without keys gives out = 0 and lse = 0, as
// torch does for bool masks and -inf.
#pragma once

#include <cstdint>

namespace bi::attention {

enum class Type { kFloat, kBFloat16, kHalf, kDouble };
enum class MaskType { kNone, kBool, kFloat, kBFloat16, kHalf, kDouble };

constexpr int64_t kPlannedSplit = 512;  // keys per chunk; lowerings/cpu/plans.py names the same number

struct Strides {
  int64_t batch, head, row;  // in elements; the last dimension of q, k, v and out is contiguous
};

struct Arguments {
  Type type;
  const void *q, *k, *v;
  void *out;  // [B, H, Lq, Dv] by strides
  void *lse;  // [B, H, Lq] contiguous: double for double, else float
  int64_t batch, heads, kv_heads, queries, keys, dim, value_dim;
  Strides q_strides, k_strides, v_strides, out_strides;
  MaskType mask_type;
  const void *mask;
  int64_t mask_strides[4];  // batch, head, query, key; 0 where broadcast
  bool is_causal;           // query i keeps keys j <= i
  double scale;
  int threads;
};

void attention(const Arguments &args);

}  // namespace bi::attention
