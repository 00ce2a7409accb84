// Few rows of a times a row-major b: rows of b stream past accumulators that stay in cache, one per lane.
//
// Here a vector holds neighbouring columns and the lane of the plan is an array index, so that b needs no
// transpose: the fma chains and the tree over lanes are the ones of the register tile.
#pragma once

#include <algorithm>

#include "gemm_simd.h"

namespace bi::gemm {

constexpr int64_t kStreamRows = 4;

// Columns of one pass: 64 KB of accumulators; a single row gains more from longer runs of memory.
inline int64_t stream_cols(int64_t rows) { return rows == 1 ? 2048 : std::max<int64_t>(1024 / rows / 64 * 64, 128); }

template <class T>
struct StreamArgs {
  const char* a;  // packed rows: 64 byte vectors of k
  int64_t a_row_bytes;
  const typename T::Stored* b;  // [kc][cols], rows b_stride apart
  int64_t b_stride;
  int64_t kc, cols;
  int64_t width;            // row length of lanes and totals, a multiple of 64
  typename T::Sum* lanes;   // [rows][kLanes][width]
  typename T::Sum* totals;  // [rows][width]
  bool first;
};

#if defined(BI_ISA_AVX512)
BI_INLINE __mmask64 mask_of(int64_t count, int most) {
  return count >= most ? ~__mmask64{0} >> (64 - most) : (__mmask64{1} << count) - 1;
}

// kVectors registers of `kStep` neighbouring columns, for the k of one lane.
template <class T>
struct Columns {
  static constexpr int kStep = 16, kVectors = 1, kRowsPerLane = 1;
  __m512 v[1];
  BI_INLINE void load(const typename T::Stored* p, int64_t, int64_t k_left, int64_t cols) {
    const auto mask = static_cast<__mmask16>(k_left > 0 ? mask_of(cols, 16) : 0);
    if constexpr (std::is_same_v<T, F32>) {
      v[0] = _mm512_maskz_loadu_ps(mask, p);
    } else {
      v[0] = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
    }
  }
  static BI_INLINE __m512 broadcast(const char* a) { return _mm512_set1_ps(*reinterpret_cast<const float*>(a)); }
};

template <>
struct Columns<Bf16> {
  static constexpr int kStep = 32, kVectors = 2, kRowsPerLane = 2;
  __m512i v[2];
  BI_INLINE void load(const uint16_t* p, int64_t stride, int64_t k_left, int64_t cols) {
    const auto mask = static_cast<__mmask32>(mask_of(cols, 32));
    const __m512i even = _mm512_maskz_loadu_epi16(k_left > 0 ? mask : 0, p);
    const __m512i odd = _mm512_maskz_loadu_epi16(k_left > 1 ? mask : 0, p + stride);
    v[0] = _mm512_unpacklo_epi16(even, odd);  // columns 0-3, 8-11, 16-19, 24-27
    v[1] = _mm512_unpackhi_epi16(even, odd);
  }
  static BI_INLINE __m512i broadcast(const char* a) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
};

template <>
struct Columns<F64> {
  static constexpr int kStep = 8, kVectors = 1, kRowsPerLane = 1;
  __m512d v[1];
  BI_INLINE void load(const double* p, int64_t, int64_t k_left, int64_t cols) {
    v[0] = _mm512_maskz_loadu_pd(static_cast<__mmask8>(k_left > 0 ? mask_of(cols, 8) : 0), p);
  }
  static BI_INLINE __m512d broadcast(const char* a) { return _mm512_set1_pd(*reinterpret_cast<const double*>(a)); }
};

// DEPTH vectors of k (each kLanes lanes) for ROWS rows: DEPTH rows of b per load and store of an accumulator.
template <class T, int ROWS, int DEPTH>
void stream_depth(const StreamArgs<T>& s, int64_t v0, bool first) {
  using C = Columns<T>;
  constexpr int L = kLanes<T>, W = static_cast<int>(kVectorBytes / sizeof(typename T::Sum));
  constexpr int kPerVector = kVectorK<T>;
  for (int lane = 0; lane < L; lane++) {
    const int64_t k = v0 * kPerVector + lane * C::kRowsPerLane;
    const auto* b = s.b + k * s.b_stride;
    // Rows of the next lane, or of lane 0 of the next vectors: they are far apart in memory.
    const int64_t ahead = (lane + 1 < L ? C::kRowsPerLane : DEPTH * kPerVector - lane * C::kRowsPerLane) * s.b_stride;
    typename T::Operand a[ROWS][DEPTH];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
      for (int d = 0; d < DEPTH; d++)
        a[i][d] = C::broadcast(s.a + i * s.a_row_bytes + (v0 + d) * kVectorBytes + lane * 4 * (16 / L));
    const auto columns = [&](int64_t j, int64_t left) __attribute__((always_inline)) {
      typename T::Reg acc[ROWS][C::kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int q = 0; q < C::kVectors; q++) {
          typename T::Sum* p = s.lanes + (i * L + lane) * s.width + j + q * W;
          if (first) zero(acc[i][q]);
          else if constexpr (L == 16) acc[i][q] = _mm512_load_ps(p);
          else acc[i][q] = _mm512_load_pd(p);
        }
#pragma GCC unroll 8
      for (int d = 0; d < DEPTH; d++) {
        C w;
        const int64_t k_left = DEPTH == 1 ? s.kc - k : 2;  // only the last vector of k can be partial
        const auto* p = b + d * kPerVector * s.b_stride + j;
        for (int row = 0; row < C::kRowsPerLane; row++) __builtin_prefetch(p + ahead + row * s.b_stride, 0, 2);
        w.load(p, s.b_stride, k_left, left);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
          for (int q = 0; q < C::kVectors; q++) acc[i][q] = T::step(acc[i][q], a[i][d], w.v[q]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int q = 0; q < C::kVectors; q++) {
          typename T::Sum* p = s.lanes + (i * L + lane) * s.width + j + q * W;
          if constexpr (L == 16) _mm512_store_ps(p, acc[i][q]);
          else _mm512_store_pd(p, acc[i][q]);
        }
    };
    int64_t j = 0;
    for (; j + C::kStep <= s.cols; j += C::kStep) columns(j, C::kStep);
    if (j < s.cols) columns(j, s.cols - j);
  }
}

// Restores the column order that unpacklo and unpackhi of 16-bit elements left, for 32 columns.
BI_INLINE void store_ordered(float* p, const float* lo_hi) {
  const __m512 lo = _mm512_load_ps(lo_hi), hi = _mm512_load_ps(lo_hi + 16);
  const __m512 a = _mm512_shuffle_f32x4(lo, hi, 0x44), b = _mm512_shuffle_f32x4(lo, hi, 0xee);
  _mm512_store_ps(p, _mm512_shuffle_f32x4(a, a, 0xd8));
  _mm512_store_ps(p + 16, _mm512_shuffle_f32x4(b, b, 0xd8));
}

template <class T, int ROWS>
void stream_rows(const StreamArgs<T>& s) {
  constexpr int kDepth = ROWS <= 2 ? 8 : 4;
  const int64_t whole = s.kc / kVectorK<T>, vectors = (s.kc + kVectorK<T> - 1) / kVectorK<T>;
  int64_t v = 0;
  for (; v + kDepth <= whole; v += kDepth) stream_depth<T, ROWS, kDepth>(s, v, v == 0);
  for (; v < vectors; v++) stream_depth<T, ROWS, 1>(s, v, v == 0);
}
#else
template <class T>
BI_INLINE typename T::Sum multiply_add(const char* a, const typename T::Stored* b, int64_t stride, int64_t k_left,
                                       typename T::Sum acc) {
  const auto* packed = reinterpret_cast<const typename T::Packed*>(a);
  if constexpr (std::is_same_v<T, Bf16>) {
    acc = std::fma(float_of_bf16(packed[1]), k_left > 1 ? float_of_bf16(b[stride]) : 0.0f, acc);
    return std::fma(float_of_bf16(packed[0]), float_of_bf16(b[0]), acc);
  } else {
    return std::fma(packed[0], T::widen(b[0]), acc);
  }
}

template <class T, int ROWS>
void stream_rows(const StreamArgs<T>& s) {
  constexpr int L = kLanes<T>, kPerLane = kVectorK<T> / L;
  const int64_t vectors = (s.kc + kVectorK<T> - 1) / kVectorK<T>;
  std::fill(s.lanes, s.lanes + ROWS * L * s.width, typename T::Sum(0));
  for (int64_t v = 0; v < vectors; v++)
    for (int lane = 0; lane < L; lane++)
      for (int i = 0; i < ROWS; i++) {
        const int64_t k = v * kVectorK<T> + lane * kPerLane, left = s.kc - k;
        const char* a = s.a + i * s.a_row_bytes + v * kVectorBytes + lane * (kVectorBytes / L);
        typename T::Sum* acc = s.lanes + (i * L + lane) * s.width;
        const auto* b = s.b + k * s.b_stride;
        if (left <= 0) {
          for (int64_t j = 0; j < s.cols; j++) acc[j] = acc[j] + typename T::Sum(0);
        } else if (left >= kPerLane) {
          for (int64_t j = 0; j < s.cols; j++) acc[j] = multiply_add<T>(a, b + j, s.b_stride, kPerLane, acc[j]);
        } else {
          for (int64_t j = 0; j < s.cols; j++) acc[j] = multiply_add<T>(a, b + j, s.b_stride, left, acc[j]);
        }
      }
}
#endif

// The tree over lanes, for every column of every row.
template <class T, int ROWS>
void stream_fold(const StreamArgs<T>& s) {
  using Sum = typename T::Sum;
  constexpr int L = kLanes<T>;
  constexpr int kGroup = 32;
  for (int i = 0; i < ROWS; i++) {
    Sum* total = s.totals + i * s.width;
    for (int64_t j = 0; j < s.cols; j += kGroup) {
      alignas(64) Sum t[L][kGroup];
      for (int lane = 0; lane < L; lane++)
        for (int c = 0; c < kGroup; c++) t[lane][c] = s.lanes[(i * L + lane) * s.width + j + c];
      for (int half = L / 2; half >= 1; half /= 2)
        for (int lane = 0; lane < half; lane++)
          for (int c = 0; c < kGroup; c++) t[lane][c] = t[lane][c] + t[lane + half][c];
#if defined(BI_ISA_AVX512)
      if constexpr (std::is_same_v<T, Bf16>) store_ordered(t[0], t[0]);
#endif
      for (int c = 0; c < kGroup; c++) total[j + c] = s.first ? t[0][c] : total[j + c] + t[0][c];
    }
  }
}

template <class T, int ROWS>
void stream_run(const StreamArgs<T>& s) {
  stream_rows<T, ROWS>(s);
  stream_fold<T, ROWS>(s);
}

// One chunk of K for 1 to kStreamRows rows.
template <class T>
void stream_chunk(int rows, const StreamArgs<T>& s) {
  using Function = void (*)(const StreamArgs<T>&);
  constexpr Function table[] = {stream_run<T, 1>, stream_run<T, 2>, stream_run<T, 3>, stream_run<T, 4>};
  table[rows - 1](s);
}

}  // namespace bi::gemm
