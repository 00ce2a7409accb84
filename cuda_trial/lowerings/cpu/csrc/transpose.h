// Out-of-place transposes of blocks, for operands that are not contiguous along K.
#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace bi {

#if defined(BI_ISA_AVX512)
/// 16 x 16 32-bit elements: in[i * in_step + j] -> out[j * out_step + i].
inline void transpose_block(const float* in, int64_t in_step, float* out, int64_t out_step) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(in + i * in_step);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(t[4 * i + j]), y = _mm512_castps_pd(t[4 * i + j + 2]);
      r[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      r[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xDD);
    const __m512 c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xDD);
    _mm512_storeu_ps(out + j * out_step, _mm512_shuffle_f32x4(a, c, 0x88));
    _mm512_storeu_ps(out + (4 + j) * out_step, _mm512_shuffle_f32x4(b, d, 0x88));
    _mm512_storeu_ps(out + (8 + j) * out_step, _mm512_shuffle_f32x4(a, c, 0xDD));
    _mm512_storeu_ps(out + (12 + j) * out_step, _mm512_shuffle_f32x4(b, d, 0xDD));
  }
}
#endif

/// out[j * out_step + i] = in[i * in_step + j] for i < rows, j < columns.
template <class T>
void transpose(const T* in, int64_t in_step, int64_t rows, int64_t columns, T* out,
               int64_t out_step) {
  constexpr int64_t block = 16;
  for (int64_t i = 0; i < rows; i += block) {
    const int64_t ie = std::min(rows, i + block);
    for (int64_t j = 0; j < columns; j += block) {
      const int64_t je = std::min(columns, j + block);
#if defined(BI_ISA_AVX512)
      if constexpr (std::is_same_v<T, float>) {
        if (ie - i == block && je - j == block) {
          transpose_block(in + i * in_step + j, in_step, out + j * out_step + i, out_step);
          continue;
        }
      }
#endif
      for (int64_t q = j; q < je; ++q)
        for (int64_t p = i; p < ie; ++p) out[q * out_step + p] = in[p * in_step + q];
    }
  }
}

}  // namespace bi
