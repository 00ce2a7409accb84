// Copies an operand of any strides into panels: [panel][vector of k][row in panel][64 bytes].
//
// "Row" means a row of a or a column of b: the extent that is not summed. K is padded with zeros to a whole
// vector, f16 is widened. Packing moves numbers only, so it is free to follow the layout of its source.
#pragma once

#include <algorithm>

#include "gemm_simd.h"

namespace bi::gemm {

struct Panels {
  char* data = nullptr;
  int64_t vectors = 0;   // vectors of k per row
  int64_t rows = 0;      // rows that exist
  int width = 1;         // rows per panel; the last panel of `full == false` is packed at its own height
  bool full = false;     // pad the last panel with zero rows

  int64_t panel_bytes() const { return vectors * width * kVectorBytes; }
  int64_t count() const { return (rows + width - 1) / width; }
  int height(int64_t panel) const {
    return full ? width : static_cast<int>(std::min<int64_t>(width, rows - panel * width));
  }
  char* panel(int64_t index) const { return data + index * panel_bytes(); }
  char* row(int64_t r) const { return panel(r / width) + (r % width) * kVectorBytes; }
  int64_t step(int64_t r) const { return int64_t{height(r / width)} * kVectorBytes; }
};

template <class T>
void pack_row_contiguous(const typename T::Stored* __restrict src, int64_t kc, char* __restrict dst, int64_t step) {
  constexpr int V = kVectorK<T>;
  int64_t k = 0;
  for (; k + V <= kc; k += V, dst += step) T::copy_vector(src + k, dst);
  if (k < kc) {
    typename T::Packed* out = reinterpret_cast<typename T::Packed*>(dst);
    for (int i = 0; i < V; i++) out[i] = k + i < kc ? T::pack(src[k + i]) : typename T::Packed(0);
  }
}

template <class T>
void pack_row_strided(const typename T::Stored* src, int64_t stride, int64_t kc, char* dst, int64_t step) {
  constexpr int V = kVectorK<T>;
  for (int64_t k = 0; k < kc; k += V, dst += step) {
    typename T::Packed* out = reinterpret_cast<typename T::Packed*>(dst);
    for (int i = 0; i < V; i++) out[i] = k + i < kc ? T::pack(src[(k + i) * stride]) : typename T::Packed(0);
  }
}

#if defined(BI_ISA_AVX512)
BI_INLINE void transpose(__m512i (&r)[16]) {  // 16 x 16 words
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

BI_INLINE void transpose(__m512d (&r)[8]) {  // 8 x 8 double words
  __m512d t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < 2; j++) {
    const __m512d a = _mm512_shuffle_f64x2(t[j], t[2 + j], 0x88), b = _mm512_shuffle_f64x2(t[j], t[2 + j], 0xdd);
    const __m512d c = _mm512_shuffle_f64x2(t[4 + j], t[6 + j], 0x88);
    const __m512d d = _mm512_shuffle_f64x2(t[4 + j], t[6 + j], 0xdd);
    r[j] = _mm512_shuffle_f64x2(a, c, 0x88);
    r[2 + j] = _mm512_shuffle_f64x2(b, d, 0x88);
    r[4 + j] = _mm512_shuffle_f64x2(a, c, 0xdd);
    r[6 + j] = _mm512_shuffle_f64x2(b, d, 0xdd);
  }
}

// One vector of k for up to kRows neighbouring rows whose elements lie side by side in memory.
template <class T>
struct Block {
  static constexpr int kRows = 16;
  __m512i r[16];
  BI_INLINE void read(const typename T::Stored* src, int64_t ks, int64_t k_left, int rows) {
    const __mmask16 mask = static_cast<__mmask16>((1u << rows) - 1u);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      const auto* p = src + i * ks;
      r[i] = _mm512_setzero_si512();
      if constexpr (std::is_same_v<T, F32>) {
        if (i < k_left) r[i] = _mm512_maskz_loadu_epi32(mask, p);
      } else {
        if (i < k_left) r[i] = _mm512_castps_si512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)));
      }
    }
    transpose(r);
  }
  BI_INLINE void write(int i, char* dst) const { _mm512_store_si512(dst, r[i]); }
};

// Whole cache lines, 32 columns: where rows are a large power of two apart, a line is gone before a second visit.
template <>
struct Block<Bf16> {
  static constexpr int kRows = 32;
  __m512i r[2][16];  // columns 0-3, 8-11, 16-19, 24-27 and the others
  BI_INLINE void read(const uint16_t* src, int64_t ks, int64_t k_left, int rows) {
    const __mmask32 mask = rows == 32 ? ~__mmask32{0} : (__mmask32{1} << rows) - 1u;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      const uint16_t* p = src + 2 * i * ks;
      __m512i even = _mm512_setzero_si512(), odd = even;
      if (2 * i < k_left) even = _mm512_maskz_loadu_epi16(mask, p);
      if (2 * i + 1 < k_left) odd = _mm512_maskz_loadu_epi16(mask, p + ks);
      r[0][i] = _mm512_unpacklo_epi16(even, odd);
      r[1][i] = _mm512_unpackhi_epi16(even, odd);
    }
    transpose(r[0]);
    transpose(r[1]);
  }
  BI_INLINE void write(int i, char* dst) const { _mm512_store_si512(dst, r[i / 4 % 2][i / 8 * 4 + i % 4]); }
};

template <>
struct Block<F64> {
  static constexpr int kRows = 8;
  __m512d r[8];
  BI_INLINE void read(const double* src, int64_t ks, int64_t k_left, int rows) {
    const __mmask8 mask = static_cast<__mmask8>((1u << rows) - 1u);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
      r[i] = i < k_left ? _mm512_maskz_loadu_pd(mask, src + i * ks) : _mm512_setzero_pd();
    transpose(r);
  }
  BI_INLINE void write(int i, char* dst) const { _mm512_store_pd(dst, r[i]); }
};
#else
template <class T>
struct Block {
  static constexpr int kRows = 8;
  alignas(kVectorBytes) typename T::Packed r[8][kVectorK<T>];
  BI_INLINE void read(const typename T::Stored* src, int64_t ks, int64_t k_left, int rows) {
    for (int k = 0; k < kVectorK<T>; k++)
      for (int i = 0; i < rows; i++) r[i][k] = k < k_left ? T::pack(src[k * ks + i]) : typename T::Packed(0);
  }
  BI_INLINE void write(int i, char* dst) const { std::memcpy(dst, r[i], kVectorBytes); }
};

#if defined(BI_ISA_AVX2)
BI_INLINE void transpose(__m256 (&r)[8]) {  // 8 x 8 words
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    const __m256 *x = t + 4 * i, *y = x + 2;
    r[4 * i] = _mm256_shuffle_ps(x[0], y[0], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(x[0], y[0], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(x[1], y[1], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(x[1], y[1], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256 low = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
    r[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
    r[i] = low;
  }
}

// Eight elements of one k, zeros from `rows` on.
template <class E>
BI_INLINE __m128i load_eight_halves(const E* p, int rows) {
  if (rows == 8) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  alignas(16) E padded[8] = {};
  std::memcpy(padded, p, static_cast<size_t>(rows) * sizeof(E));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(padded));
}

template <class T>
struct WordBlock {
  static constexpr int kRows = 8;
  __m256 r[2][8];  // first and second half of the vector
  BI_INLINE void read(const typename T::Stored* src, int64_t ks, int64_t k_left, int rows) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) r[h][i] = words(src, ks, 8 * h + i, k_left, rows);
      transpose(r[h]);
    }
  }
  BI_INLINE void write(int i, char* dst) const {
    _mm256_store_ps(reinterpret_cast<float*>(dst), r[0][i]);
    _mm256_store_ps(reinterpret_cast<float*>(dst) + 8, r[1][i]);
  }

 private:
  // Word `w` of a vector, for eight rows: one k, or a pair of k of bf16.
  static BI_INLINE __m256 words(const typename T::Stored* src, int64_t ks, int w, int64_t k_left, int rows) {
    if constexpr (std::is_same_v<T, F32>) {
      if (w >= k_left) return _mm256_setzero_ps();
      const float* p = src + w * ks;
      if (rows == 8) return _mm256_loadu_ps(p);
      alignas(32) float padded[8] = {};
      std::memcpy(padded, p, static_cast<size_t>(rows) * sizeof(float));
      return _mm256_load_ps(padded);
    } else if constexpr (std::is_same_v<T, F16>) {
      return w < k_left ? _mm256_cvtph_ps(load_eight_halves(src + w * ks, rows)) : _mm256_setzero_ps();
    } else {
      const uint16_t* p = src + 2 * w * ks;
      const __m128i zeros = _mm_setzero_si128();
      const __m128i even = 2 * w < k_left ? load_eight_halves(p, rows) : zeros;
      const __m128i odd = 2 * w + 1 < k_left ? load_eight_halves(p + ks, rows) : zeros;
      return _mm256_castsi256_ps(_mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd)));
    }
  }
};
template <>
struct Block<F32> : WordBlock<F32> {};
template <>
struct Block<F16> : WordBlock<F16> {};
template <>
struct Block<Bf16> : WordBlock<Bf16> {};
#endif
#endif

// Rows outermost: the panels of one block of rows stay in L1 while k runs.
template <class T>
void pack_transposed(const typename T::Stored* src, int64_t ks, int64_t kc, const Panels& panels) {
  constexpr int V = kVectorK<T>, R = Block<T>::kRows;
  for (int64_t r = 0; r < panels.rows; r += R) {
    const int rows = static_cast<int>(std::min<int64_t>(R, panels.rows - r));
    char* to[R];
    int64_t step[R];
    for (int i = 0; i < rows; i++) to[i] = panels.row(r + i), step[i] = panels.step(r + i);
    for (int64_t k = 0; k < kc; k += V) {
      Block<T> block;
      if (rows == R && kc - k >= V) {
        block.read(src + k * ks + r, ks, V, R);
      } else {
        block.read(src + k * ks + r, ks, kc - k, rows);
      }
#pragma GCC unroll 32
      for (int i = 0; i < R; i++) {
        if (i >= rows) break;
        block.write(i, to[i]);
        to[i] += step[i];
      }
    }
  }
}

// Columns of b that pack_staged holds at a time: one long run per row of b, which is one page and a few lines.
constexpr int64_t kStagedCols = 160;

// The same through a copy of a few rows. In a wide b, rows lie whole pages apart: reading them in long runs saves
// page walks, and lines of many rows in one cache set no longer evict each other. row_at(k): columns of row k.
template <class T, class RowAt>
void pack_staged(const RowAt& row_at, int64_t kc, const Panels& panels) {
  using Stored = typename T::Stored;
  constexpr int V = kVectorK<T>, R = Block<T>::kRows, kAhead = 16;
  constexpr int64_t kStride = kStagedCols + 64 / sizeof(Stored);
  alignas(64) Stored stage[V * kStride];
  int32_t offset[kStagedCols];
  for (int64_t c = 0; c < panels.rows; c++) offset[c] = static_cast<int32_t>(panels.row(c) - panels.data);
  const int64_t bytes = panels.rows * static_cast<int64_t>(sizeof(Stored));
  char* out = panels.data;
  for (int64_t k = 0; k < kc; k += V, out += panels.width * kVectorBytes) {
    const int64_t left = std::min<int64_t>(V, kc - k);
    for (int64_t i = 0; i < left; i++) {
      const Stored* row = row_at(k + i);
      const char* ahead = reinterpret_cast<const char*>(row_at(std::min(k + i + kAhead, kc - 1)));
      for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
      std::memcpy(stage + i * kStride, row, static_cast<size_t>(bytes));
    }
    for (int64_t c = 0; c < panels.rows; c += R) {
      const int cols = static_cast<int>(std::min<int64_t>(R, panels.rows - c));
      Block<T> block;
      if (cols == R && left == V) {
        block.read(stage + c, kStride, V, R);
#pragma GCC unroll 32
        for (int i = 0; i < R; i++) block.write(i, out + offset[c + i]);
      } else {
        block.read(stage + c, kStride, left, cols);
#pragma GCC unroll 32
        for (int i = 0; i < R; i++)
          if (i < cols) block.write(i, out + offset[c + i]);
      }
    }
  }
}

inline void pad_last_panel(const Panels& panels) {
  if (!panels.full) return;
  for (int64_t r = panels.rows; r < panels.count() * panels.width; r++)
    for (int64_t v = 0; v < panels.vectors; v++) std::memset(panels.row(r) + v * panels.step(r), 0, kVectorBytes);
}

// Packs rows x kc elements at src; strides in elements. panels.vectors must hold kc.
template <class T>
void pack(const typename T::Stored* src, int64_t row_stride, int64_t k_stride, int64_t kc, const Panels& panels) {
  pad_last_panel(panels);
  if (row_stride == 1 && k_stride != 1 && panels.rows > 1) {
    if (panels.full && panels.rows <= kStagedCols)
      return pack_staged<T>([&](int64_t k) { return src + k * k_stride; }, kc, panels);
    return pack_transposed<T>(src, k_stride, kc, panels);
  }
  for (int64_t r = 0; r < panels.rows; r++) {
    if (k_stride == 1) {
      pack_row_contiguous<T>(src + r * row_stride, kc, panels.row(r), panels.step(r));
    } else {
      pack_row_strided<T>(src + r * row_stride, k_stride, kc, panels.row(r), panels.step(r));
    }
  }
}

}  // namespace bi::gemm
