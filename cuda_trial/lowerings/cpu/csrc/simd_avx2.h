// AVX2 + FMA + F16C: two registers per vector. Included by simd.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace bi {

struct V16 {
  using scalar = float;
  static constexpr int width = 16;
  __m256 lo, hi;
  V16() : lo(_mm256_setzero_ps()), hi(_mm256_setzero_ps()) {}
  V16(__m256 l, __m256 h) : lo(l), hi(h) {}
  explicit V16(float x) : lo(_mm256_set1_ps(x)), hi(lo) {}
};

struct V8d {
  using scalar = double;
  static constexpr int width = 8;
  __m256d lo, hi;
  V8d() : lo(_mm256_setzero_pd()), hi(_mm256_setzero_pd()) {}
  V8d(__m256d l, __m256d h) : lo(l), hi(h) {}
  explicit V8d(double x) : lo(_mm256_set1_pd(x)), hi(lo) {}
};

struct M16 {
  __m256 lo, hi;
};
struct M8 {
  __m256d lo, hi;
};
struct I16 {
  __m256i lo, hi;
};
struct I8 {
  __m256i lo, hi;
};

// Lane i of the result is all ones where i < n (n may be negative or past the end).
inline __m256i first32(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i first64(int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

// ---- V16
inline V16 operator+(V16 a, V16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline V16 operator-(V16 a, V16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline V16 operator*(V16 a, V16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline V16 operator/(V16 a, V16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline V16 fma(V16 a, V16 b, V16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline V16 sqrt(V16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline V16 abs(V16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline V16 max_second(V16 a, V16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline V16 min_second(V16 a, V16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline M16 less(V16 a, V16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
inline M16 equal(V16 a, V16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
inline M16 is_nan(V16 a) {
  return {_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
inline V16 select(M16 m, V16 a, V16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
inline bool any(M16 m) { return (_mm256_movemask_ps(m.lo) | _mm256_movemask_ps(m.hi)) != 0; }

inline V16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline V16 load(const float* p, int n) {
  return {_mm256_maskload_ps(p, first32(n)), _mm256_maskload_ps(p + 8, first32(n - 8))};
}
inline void store(float* p, V16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store(float* p, V16 a, int n) {
  _mm256_maskstore_ps(p, first32(n), a.lo);
  _mm256_maskstore_ps(p + 8, first32(n - 8), a.hi);
}
inline V16 select_first(int n, V16 a, V16 b) {
  return select(M16{_mm256_castsi256_ps(first32(n)), _mm256_castsi256_ps(first32(n - 8))}, a, b);
}

inline I16 bits(V16 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline V16 from_bits(I16 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline I16 add(I16 a, uint32_t c) {
  const __m256i k = _mm256_set1_epi32(int(c));
  return {_mm256_add_epi32(a.lo, k), _mm256_add_epi32(a.hi, k)};
}
inline I16 bit_and(I16 a, uint32_t c) {
  const __m256i k = _mm256_set1_epi32(int(c));
  return {_mm256_and_si256(a.lo, k), _mm256_and_si256(a.hi, k)};
}
inline I16 bit_or(I16 a, uint32_t c) {
  const __m256i k = _mm256_set1_epi32(int(c));
  return {_mm256_or_si256(a.lo, k), _mm256_or_si256(a.hi, k)};
}
template <int k> inline I16 shift_right(I16 a) {
  return {_mm256_srli_epi32(a.lo, k), _mm256_srli_epi32(a.hi, k)};
}
template <int k> inline I16 shift_left(I16 a) {
  return {_mm256_slli_epi32(a.lo, k), _mm256_slli_epi32(a.hi, k)};
}

template <int w> inline V16 lanes_from(V16 a) {
  if constexpr (w == 8) return {a.hi, a.lo};
  if constexpr (w == 4) return {_mm256_permute2f128_ps(a.lo, a.lo, 0x01), a.hi};
  if constexpr (w == 2) return {_mm256_permute_ps(a.lo, 0x4E), a.hi};
  return {_mm256_permute_ps(a.lo, 0xB1), a.hi};
}
inline float first(V16 a) { return _mm256_cvtss_f32(a.lo); }

inline __m256 widen_bf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline __m128i narrow_bf16(__m256 a) {
  const __m256i x = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i y =
      _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7FC0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
}
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store128(void* p, __m128i a) { _mm_storeu_si128(static_cast<__m128i*>(p), a); }

inline V16 load(const bf16* p) { return {widen_bf16(load128(p)), widen_bf16(load128(p + 8))}; }
inline void store(bf16* p, V16 a) {
  store128(p, narrow_bf16(a.lo));
  store128(p + 8, narrow_bf16(a.hi));
}
inline V16 load(const f16* p) {
  return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))};
}
inline void store(f16* p, V16 a) {
  store128(p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  store128(p + 8, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
template <class H> inline V16 load_half_tail(const H* p, int n) {
  H tail[16] = {};
  std::memcpy(tail, p, sizeof(H) * static_cast<size_t>(n));
  return load(tail);
}
template <class H> inline void store_half_tail(H* p, V16 a, int n) {
  H tail[16];
  store(tail, a);
  std::memcpy(p, tail, sizeof(H) * static_cast<size_t>(n));
}
inline V16 load(const bf16* p, int n) { return load_half_tail(p, n); }
inline V16 load(const f16* p, int n) { return load_half_tail(p, n); }
inline void store(bf16* p, V16 a, int n) { store_half_tail(p, a, n); }
inline void store(f16* p, V16 a, int n) { store_half_tail(p, a, n); }

// ---- V8d
inline V8d operator+(V8d a, V8d b) {
  return {_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)};
}
inline V8d operator-(V8d a, V8d b) {
  return {_mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi)};
}
inline V8d operator*(V8d a, V8d b) {
  return {_mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)};
}
inline V8d operator/(V8d a, V8d b) {
  return {_mm256_div_pd(a.lo, b.lo), _mm256_div_pd(a.hi, b.hi)};
}
inline V8d fma(V8d a, V8d b, V8d c) {
  return {_mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi)};
}
inline V8d sqrt(V8d a) { return {_mm256_sqrt_pd(a.lo), _mm256_sqrt_pd(a.hi)}; }
inline V8d abs(V8d a) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_andnot_pd(sign, a.lo), _mm256_andnot_pd(sign, a.hi)};
}
inline V8d max_second(V8d a, V8d b) {
  return {_mm256_max_pd(a.lo, b.lo), _mm256_max_pd(a.hi, b.hi)};
}
inline V8d min_second(V8d a, V8d b) {
  return {_mm256_min_pd(a.lo, b.lo), _mm256_min_pd(a.hi, b.hi)};
}
inline M8 less(V8d a, V8d b) {
  return {_mm256_cmp_pd(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_pd(a.hi, b.hi, _CMP_LT_OQ)};
}
inline M8 equal(V8d a, V8d b) {
  return {_mm256_cmp_pd(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_pd(a.hi, b.hi, _CMP_EQ_OQ)};
}
inline M8 is_nan(V8d a) {
  return {_mm256_cmp_pd(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_pd(a.hi, a.hi, _CMP_UNORD_Q)};
}
inline V8d select(M8 m, V8d a, V8d b) {
  return {_mm256_blendv_pd(b.lo, a.lo, m.lo), _mm256_blendv_pd(b.hi, a.hi, m.hi)};
}
inline bool any(M8 m) { return (_mm256_movemask_pd(m.lo) | _mm256_movemask_pd(m.hi)) != 0; }

inline V8d load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline V8d load(const double* p, int n) {
  return {_mm256_maskload_pd(p, first64(n)), _mm256_maskload_pd(p + 4, first64(n - 4))};
}
inline void store(double* p, V8d a) {
  _mm256_storeu_pd(p, a.lo);
  _mm256_storeu_pd(p + 4, a.hi);
}
inline void store(double* p, V8d a, int n) {
  _mm256_maskstore_pd(p, first64(n), a.lo);
  _mm256_maskstore_pd(p + 4, first64(n - 4), a.hi);
}
inline V8d select_first(int n, V8d a, V8d b) {
  return select(M8{_mm256_castsi256_pd(first64(n)), _mm256_castsi256_pd(first64(n - 4))}, a, b);
}

inline I8 bits(V8d a) { return {_mm256_castpd_si256(a.lo), _mm256_castpd_si256(a.hi)}; }
inline V8d from_bits(I8 a) { return {_mm256_castsi256_pd(a.lo), _mm256_castsi256_pd(a.hi)}; }
inline I8 add(I8 a, uint64_t c) {
  const __m256i k = _mm256_set1_epi64x(static_cast<long long>(c));
  return {_mm256_add_epi64(a.lo, k), _mm256_add_epi64(a.hi, k)};
}
inline I8 bit_and(I8 a, uint64_t c) {
  const __m256i k = _mm256_set1_epi64x(static_cast<long long>(c));
  return {_mm256_and_si256(a.lo, k), _mm256_and_si256(a.hi, k)};
}
inline I8 bit_or(I8 a, uint64_t c) {
  const __m256i k = _mm256_set1_epi64x(static_cast<long long>(c));
  return {_mm256_or_si256(a.lo, k), _mm256_or_si256(a.hi, k)};
}
template <int k> inline I8 shift_right(I8 a) {
  return {_mm256_srli_epi64(a.lo, k), _mm256_srli_epi64(a.hi, k)};
}
template <int k> inline I8 shift_left(I8 a) {
  return {_mm256_slli_epi64(a.lo, k), _mm256_slli_epi64(a.hi, k)};
}

template <int w> inline V8d lanes_from(V8d a) {
  if constexpr (w == 4) return {a.hi, a.lo};
  if constexpr (w == 2) return {_mm256_permute2f128_pd(a.lo, a.lo, 0x01), a.hi};
  return {_mm256_permute_pd(a.lo, 0x5), a.hi};
}
inline double first(V8d a) { return _mm256_cvtsd_f64(a.lo); }

}  // namespace bi
