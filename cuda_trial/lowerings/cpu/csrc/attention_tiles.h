// Micro-kernels: scores of MR rows against NV*16 packed keys, and weighted sums of V for MR rows and NV*16 columns.
// MR, NV, packing and prefetching are schedule: each accumulator sees its own chain whatever they are.
#pragma once

#include "attention_simd.h"

namespace bi::attention {

// Registers: 6 x 4 vectors on AVX-512, 6 x 1 (two ymm each) on AVX2; double takes twice the room.
template <class A>
#if defined(BI_ISA_AVX512)
constexpr int kMaxVectors = sizeof(A) == 4 ? 4 : 2;
#else
constexpr int kMaxVectors = 1;
#endif
constexpr int kMaxRows = 6;

// Calls f with the number of rows as a constant, in groups of 6, 4, 3, 2, 1.
template <class F>
inline void for_row_groups(int64_t rows, F f) {
  int64_t r = 0;
  for (; rows - r >= 6; r += 6) f.template operator()<6>(r);
  for (; rows - r >= 4; r += 4) f.template operator()<4>(r);
  if (rows - r == 3) f.template operator()<3>(r);
  if (rows - r == 2) f.template operator()<2>(r);
  if (rows - r == 1) f.template operator()<1>(r);
}

template <class F>
inline void with_vectors(int64_t n, F f) {
  if (n == 4) f.template operator()<4>();
  if (n == 3) f.template operator()<3>();
  if (n == 2) f.template operator()<2>();
  if (n == 1) f.template operator()<1>();
}

// s[r][0 .. 16*NV) = scale * chain over d; packed is [NV][dim][16].
template <class A, int MR, int NV>
void score_tile(const A *q, int64_t dim, const A *packed, A scale, A *s, int64_t s_stride) {
  using V = Vec<A>;
  V acc[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) acc[r][c] = V::set(A(0));
  for (int64_t d = 0; d < dim; d++) {
    V keys[NV];
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) keys[c] = V::load(packed + (c * dim + d) * 16);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      const V x = V::set(q[r * dim + d]);
#pragma GCC unroll 4
      for (int c = 0; c < NV; c++) acc[r][c] = fma(x, keys[c], acc[r][c]);
    }
  }
  const V by = V::set(scale);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) mul(acc[r][c], by).store(s + r * s_stride + c * 16);
}

// acc[r] += weights[r][j] * v[j] for j in [j0, j1) ascending, over NV*16 columns (`tail` of the last 16 exist).
template <class A, class T, int MR, int NV, bool MASKED, bool TAIL>
void value_tile(const A *weights, int64_t w_stride, const T *v, int64_t v_stride, int64_t tail, int64_t j0, int64_t j1,
                A *sums, int64_t sums_stride) {
  using V = Vec<A>;
  V acc[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) acc[r][c] = V::load(sums + r * sums_stride + c * 16);
  for (int64_t j = j0; j < j1; j++) {
    const T *row = v + j * v_stride;
    V values[NV];
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) {
      values[c] = TAIL && c == NV - 1 ? V::load_first(row + c * 16, tail) : V::load(row + c * 16);
      if constexpr (MR <= 4) __builtin_prefetch(row + 16 * v_stride + c * 16);
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      const V p = V::set(weights[r * w_stride + j]);
#pragma GCC unroll 4
      for (int c = 0; c < NV; c++)
        acc[r][c] = MASKED ? fma_unless_masked(p, values[c], acc[r][c]) : fma(p, values[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int c = 0; c < NV; c++) acc[r][c].store(sums + r * sums_stride + c * 16);
}

// ---- K into panels [16 keys]: packed[d][16] ----

#if defined(BI_ISA_AVX512)
#define BI_TRANSPOSE16 1
// r[d] = word d of sixteen rows.
inline __attribute__((always_inline)) void transpose16(const float *const *rows, int64_t at, __m512 *r) {
#pragma GCC unroll 4
  for (int g = 0; g < 4; g++) {
    __m512 p[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(rows[i] + at + 4 * g));
      x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_loadu_ps(rows[4 + i] + at + 4 * g));
      x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_loadu_ps(rows[8 + i] + at + 4 * g));
      p[i] = _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_loadu_ps(rows[12 + i] + at + 4 * g));
    }
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(p[0], p[1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(p[0], p[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(p[2], p[3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(p[2], p[3]));
    r[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
}
// The two halves of a word of pairs, widened: dimension 2d and 2d + 1.
inline __m512 low_of_pair(__m512 x, BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16));
}
inline __m512 high_of_pair(__m512 x, BFloat16) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(int(0xffff0000))));
}
inline __m512 low_of_pair(__m512 x, Half) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_castps_si512(x)));
}
inline __m512 high_of_pair(__m512 x, Half) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16)));
}

// Calls f(d, keys) for each leading dimension d that the registers can transpose; returns the first one left.
template <class T, class F>
inline __attribute__((always_inline)) int64_t for_transposed(const T *const *rows, int64_t dim, F f) {
  constexpr int64_t kPerWord = 4 / sizeof(T);
  const auto *words = reinterpret_cast<const float *const *>(rows);
  int64_t w = 0;
  for (; (w + 16) * kPerWord <= dim; w += 16) {
    __m512 r[16];
    transpose16(words, w, r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      if constexpr (kPerWord == 1) {
        f(w + i, Vec<float>{{r[i]}});
      } else {
        f((w + i) * 2, Vec<float>{{low_of_pair(r[i], T{})}});
        f((w + i) * 2 + 1, Vec<float>{{high_of_pair(r[i], T{})}});
      }
    }
  }
  return w * kPerWord;
}
#else
#define BI_TRANSPOSE16 0
#endif

// Sixteen keys from key j on; those beyond `keys` repeat the last one, so that nothing is read out of bounds.
template <class A, class T>
void pack_panel(const T *k, int64_t k_stride, int64_t j, int64_t keys, int64_t dim, A *packed) {
  const T *rows[16];
  for (int64_t t = 0; t < 16; t++) rows[t] = k + std::min(j + t, keys - 1) * k_stride;
  int64_t d = 0;
#if BI_TRANSPOSE16
  if constexpr (std::is_same_v<A, float>)
    d = for_transposed(rows, dim, [&](int64_t at, Vec<float> x) { x.store(packed + at * 16); });
#endif
  for (; d < dim; d++)
    for (int t = 0; t < 16; t++) packed[d * 16 + t] = widen(rows[t][d]);
}

#if BI_TRANSPOSE16
// Scores of MR rows and sixteen keys without a packed copy, for dims that the registers can transpose.
template <class T, int MR>
void score_direct(const float *q, int64_t dim, const T *k, int64_t k_stride, int64_t j, int64_t keys, float scale,
                  float *s, int64_t s_stride) {
  const T *rows[16];
  for (int64_t t = 0; t < 16; t++) {
    rows[t] = k + std::min(j + t, keys - 1) * k_stride;
    const char *next = reinterpret_cast<const char *>(rows[t] + 16 * k_stride);
    for (int64_t byte = 0; byte < dim * int64_t(sizeof(T)); byte += 64) __builtin_prefetch(next + byte);
  }
  Vec<float> acc[MR];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) acc[r] = Vec<float>::set(0);
  for_transposed(rows, dim, [&](int64_t d, Vec<float> x) {
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) acc[r] = fma(Vec<float>::set(q[r * dim + d]), x, acc[r]);
  });
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) mul(acc[r], Vec<float>::set(scale)).store(s + r * s_stride);
}
#endif

}  // namespace bi::attention
