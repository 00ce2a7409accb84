// Which keys a query row keeps, its additive mask, and its softmax.
#pragma once

#include <algorithm>
#include <bit>

#include "attention.h"
#include "attention_simd.h"

namespace bi::attention {

// The keys [start, end) of one row: both are kept ones, and `dense` says that all between are. Empty: start = end = 0.
struct Span {
  int64_t start = 0, end = 0;
  bool dense = true;
};

inline const void *mask_row(const Arguments &args, int64_t b, int64_t h, int64_t i) {
  constexpr int64_t kBytes[] = {0, 1, 4, 2, 2, 8};
  const int64_t at = b * args.mask_strides[0] + h * args.mask_strides[1] + i * args.mask_strides[2];
  return static_cast<const char *>(args.mask) + at * kBytes[int(args.mask_type)];
}

// Sixteen additive mask values from key j on (n of them exist) in the accumulation type.
template <class A, class M>
inline Vec<A> load_bias(const M *mask, int64_t stride, int64_t j, int64_t n) {
  if constexpr (std::is_same_v<A, float> && !std::is_same_v<M, double>)
    if (stride == 1 && n >= 16) return Vec<A>::load(mask + j);
  A buffer[16] = {};
  for (int64_t t = 0; t < std::min<int64_t>(n, 16); t++) buffer[t] = A(widen(mask[(j + t) * stride]));
  return Vec<A>::load(buffer);
}

template <class A>
Vec<A> bias_of(const Arguments &args, const void *mask, int64_t j, int64_t n) {
  const int64_t stride = args.mask_strides[3];
  switch (args.mask_type) {
    case MaskType::kFloat: return load_bias<A>(static_cast<const float *>(mask), stride, j, n);
    case MaskType::kBFloat16: return load_bias<A>(static_cast<const BFloat16 *>(mask), stride, j, n);
    case MaskType::kHalf: return load_bias<A>(static_cast<const Half *>(mask), stride, j, n);
    default: return load_bias<A>(static_cast<const double *>(mask), stride, j, n);
  }
}

inline uint32_t kept_by_bool(const uint8_t *mask, int64_t stride, int64_t n) {
  uint32_t bits = 0;
#if defined(__SSE2__)
  if (stride == 1 && n >= 16) {
    const __m128i zero = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)mask), _mm_setzero_si128());
    return ~uint32_t(_mm_movemask_epi8(zero)) & 0xffff;
  }
#endif
  for (int64_t t = 0; t < std::min<int64_t>(n, 16); t++) bits |= uint32_t(mask[t * stride] != 0) << t;
  return bits;
}

// Fills `bits` (one per key, 16 to a word, two words of zeros behind) unless there is no mask.
template <class A>
Span span_of_row(const Arguments &args, const void *mask, int64_t i, uint16_t *bits) {
  const int64_t n = args.is_causal ? std::min(args.keys, i + 1) : args.keys;
  if (args.mask_type == MaskType::kNone) return {0, n, true};
  const A lowest = args.mask_type == MaskType::kHalf ? A(-65504) : A(-0x1.fep127);
  const int64_t words = (n + 15) / 16;
  int64_t first = -1, last = -1, count = 0;
  for (int64_t w = 0; w < words; w++) {
    const int64_t left = n - w * 16;
    const auto *bools = static_cast<const uint8_t *>(mask) + w * 16 * args.mask_strides[3];
    uint32_t kept = args.mask_type == MaskType::kBool ? kept_by_bool(bools, args.mask_strides[3], left)
                                                      : bias_of<A>(args, mask, w * 16, left).above(lowest);
    if (left < 16) kept &= (1u << left) - 1;
    bits[w] = uint16_t(kept);
    if (kept == 0) continue;
    if (first < 0) first = w * 16 + std::countr_zero(kept);
    last = w * 16 + 31 - std::countl_zero(kept);
    count += std::popcount(kept);
  }
  bits[words] = bits[words + 1] = 0;
  if (first < 0) return {};
  return {first, last + 1, count == last + 1 - first};
}

// Sixteen bits from key j on.
inline uint32_t kept_from(const uint16_t *bits, int64_t j) {
  const uint32_t two = uint32_t(bits[j / 16]) | uint32_t(bits[j / 16 + 1]) << 16;
  return two >> (j % 16) & 0xffff;
}

// Scores of one row to weights in place; `scores` is indexed by key and may be read and written 16 beyond span.end.
// Masked keys of [low, high) become -1, a weight that fma_unless_masked leaves out. Returns l; lse through the pointer.
template <class A>
A weights_of_row(const Arguments &args, const void *mask, const uint16_t *bits, Span span, int64_t low, int64_t high,
                 A *scores, A *lse) {
  using V = Vec<A>;
  const V none = V::set(A(-INFINITY)), masked = V::set(A(-1)), zero = V::set(A(0));
  const bool additive = args.mask_type > MaskType::kBool;
  V top = none;
  const auto kept_at = [&](int64_t j) {
    const int64_t left = span.end - j;
    const uint32_t kept = span.dense ? 0xffff : kept_from(bits, j);
    return left < 16 ? kept & ((1u << left) - 1) : kept;
  };
  int64_t j = span.start;
  if (span.dense && !additive) {
    V even = none;
    for (; j + 32 <= span.end; j += 32) {
      top = max(V::load(scores + j), top);
      even = max(V::load(scores + j + 16), even);
    }
    top = max(top, even);
  }
  for (; j < span.end; j += 16) {
    V s = V::load(scores + j);
    if (additive) {
      // Beyond span.end lie keys of other rows' interest only: their scores are not used by this row.
      s = add(s, bias_of<A>(args, mask, j, args.keys - j));
      s.store(scores + j);
    }
    top = max(select(kept_at(j), s, none), top);
  }
  const V m = V::set(top.max());
  V sum = zero;
  j = span.start;
  if (span.dense)
    for (; j + 16 <= span.end; j += 16) {
      const V p = exp(sub(V::load(scores + j), m));
      p.store(scores + j);
      sum = add(sum, p);
    }
  for (; j < span.end; j += 16) {
    const uint32_t kept = kept_at(j);
    const V p = exp(sub(V::load(scores + j), m));
    select(kept, p, masked).store(scores + j);
    sum = add(sum, select(kept, p, zero));
  }
  std::fill(scores + std::min(low, span.start), scores + span.start, A(-1));
  std::fill(scores + span.end, scores + std::max(high, span.end), A(-1));
  const A l = sum.sum();
  *lse = A(double(top.max()) + log(double(l)));
  return l;
}

}  // namespace bi::attention
