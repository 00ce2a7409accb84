// AVX-512 (F, BW, DQ, VL): one register per vector. Included by simd.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bi {

struct V16 {
  using scalar = float;
  static constexpr int width = 16;
  __m512 v;
  V16() : v(_mm512_setzero_ps()) {}
  V16(__m512 x) : v(x) {}
  explicit V16(float x) : v(_mm512_set1_ps(x)) {}
};

struct V8d {
  using scalar = double;
  static constexpr int width = 8;
  __m512d v;
  V8d() : v(_mm512_setzero_pd()) {}
  V8d(__m512d x) : v(x) {}
  explicit V8d(double x) : v(_mm512_set1_pd(x)) {}
};

using M16 = __mmask16;
struct M8 {
  __mmask8 m;
};
struct I16 {
  __m512i v;
};
struct I8 {
  __m512i v;
};

inline __mmask16 tail16(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline __mmask8 tail8(int n) { return static_cast<__mmask8>((1u << n) - 1u); }

// ---- V16
inline V16 operator+(V16 a, V16 b) { return _mm512_add_ps(a.v, b.v); }
inline V16 operator-(V16 a, V16 b) { return _mm512_sub_ps(a.v, b.v); }
inline V16 operator*(V16 a, V16 b) { return _mm512_mul_ps(a.v, b.v); }
inline V16 operator/(V16 a, V16 b) { return _mm512_div_ps(a.v, b.v); }
inline V16 fma(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline V16 sqrt(V16 a) { return _mm512_sqrt_ps(a.v); }
inline V16 abs(V16 a) { return _mm512_abs_ps(a.v); }
inline V16 max_second(V16 a, V16 b) { return _mm512_max_ps(a.v, b.v); }
inline V16 min_second(V16 a, V16 b) { return _mm512_min_ps(a.v, b.v); }
inline M16 less(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline M16 equal(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline M16 is_nan(V16 a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }
inline V16 select(M16 m, V16 a, V16 b) { return _mm512_mask_blend_ps(m, b.v, a.v); }
inline bool any(M16 m) { return m != 0; }
inline V16 scale_by_power(V16 p, V16 n) { return _mm512_scalef_ps(p.v, n.v); }

inline V16 load(const float* p) { return _mm512_loadu_ps(p); }
inline V16 load(const float* p, int n) { return _mm512_maskz_loadu_ps(tail16(n), p); }
inline void store(float* p, V16 a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, V16 a, int n) { _mm512_mask_storeu_ps(p, tail16(n), a.v); }
inline V16 select_first(int n, V16 a, V16 b) { return select(tail16(n), a, b); }

inline I16 bits(V16 a) { return {_mm512_castps_si512(a.v)}; }
inline V16 from_bits(I16 a) { return _mm512_castsi512_ps(a.v); }
inline I16 add(I16 a, uint32_t c) { return {_mm512_add_epi32(a.v, _mm512_set1_epi32(int(c)))}; }
inline I16 bit_and(I16 a, uint32_t c) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi32(int(c)))};
}
inline I16 bit_or(I16 a, uint32_t c) { return {_mm512_or_si512(a.v, _mm512_set1_epi32(int(c)))}; }
template <int k> inline I16 shift_right(I16 a) { return {_mm512_srli_epi32(a.v, k)}; }
template <int k> inline I16 shift_left(I16 a) { return {_mm512_slli_epi32(a.v, k)}; }

template <int w> inline V16 lanes_from(V16 a) {
  if constexpr (w == 8) return _mm512_shuffle_f32x4(a.v, a.v, 0x4E);
  if constexpr (w == 4) return _mm512_shuffle_f32x4(a.v, a.v, 0xB1);
  if constexpr (w == 2) return _mm512_permute_ps(a.v, 0x4E);
  return _mm512_permute_ps(a.v, 0xB1);
}
inline float first(V16 a) { return _mm512_cvtss_f32(a.v); }

inline V16 widen_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
// Round to nearest even in integers: vcvtneps2bf16 would flush denormals.
inline __m256i narrow_bf16(V16 a) {
  const __m512i x = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __m512i y = _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), is_nan(a),
                                          _mm512_set1_epi32(0x7FC0));
  return _mm512_cvtepi32_epi16(y);
}
inline V16 load(const bf16* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline V16 load(const bf16* p, int n) {
  return widen_bf16(_mm256_maskz_loadu_epi16(tail16(n), p));
}
inline void store(bf16* p, V16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a));
}
inline void store(bf16* p, V16 a, int n) {
  _mm256_mask_storeu_epi16(p, tail16(n), narrow_bf16(a));
}
inline V16 load(const f16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline V16 load(const f16* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(tail16(n), p));
}
inline __m256i narrow_f16(V16 a) {
  return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store(f16* p, V16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(a));
}
inline void store(f16* p, V16 a, int n) { _mm256_mask_storeu_epi16(p, tail16(n), narrow_f16(a)); }

// ---- V8d
inline V8d operator+(V8d a, V8d b) { return _mm512_add_pd(a.v, b.v); }
inline V8d operator-(V8d a, V8d b) { return _mm512_sub_pd(a.v, b.v); }
inline V8d operator*(V8d a, V8d b) { return _mm512_mul_pd(a.v, b.v); }
inline V8d operator/(V8d a, V8d b) { return _mm512_div_pd(a.v, b.v); }
inline V8d fma(V8d a, V8d b, V8d c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
inline V8d sqrt(V8d a) { return _mm512_sqrt_pd(a.v); }
inline V8d abs(V8d a) { return _mm512_abs_pd(a.v); }
inline V8d max_second(V8d a, V8d b) { return _mm512_max_pd(a.v, b.v); }
inline V8d min_second(V8d a, V8d b) { return _mm512_min_pd(a.v, b.v); }
inline M8 less(V8d a, V8d b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M8 equal(V8d a, V8d b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline M8 is_nan(V8d a) { return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline V8d select(M8 m, V8d a, V8d b) { return _mm512_mask_blend_pd(m.m, b.v, a.v); }
inline bool any(M8 m) { return m.m != 0; }
inline V8d scale_by_power(V8d p, V8d n) { return _mm512_scalef_pd(p.v, n.v); }

inline V8d load(const double* p) { return _mm512_loadu_pd(p); }
inline V8d load(const double* p, int n) { return _mm512_maskz_loadu_pd(tail8(n), p); }
inline void store(double* p, V8d a) { _mm512_storeu_pd(p, a.v); }
inline void store(double* p, V8d a, int n) { _mm512_mask_storeu_pd(p, tail8(n), a.v); }
inline V8d select_first(int n, V8d a, V8d b) { return select(M8{tail8(n)}, a, b); }

inline I8 bits(V8d a) { return {_mm512_castpd_si512(a.v)}; }
inline V8d from_bits(I8 a) { return _mm512_castsi512_pd(a.v); }
inline I8 add(I8 a, uint64_t c) {
  return {_mm512_add_epi64(a.v, _mm512_set1_epi64(static_cast<long long>(c)))};
}
inline I8 bit_and(I8 a, uint64_t c) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi64(static_cast<long long>(c)))};
}
inline I8 bit_or(I8 a, uint64_t c) {
  return {_mm512_or_si512(a.v, _mm512_set1_epi64(static_cast<long long>(c)))};
}
template <int k> inline I8 shift_right(I8 a) { return {_mm512_srli_epi64(a.v, k)}; }
template <int k> inline I8 shift_left(I8 a) { return {_mm512_slli_epi64(a.v, k)}; }

template <int w> inline V8d lanes_from(V8d a) {
  if constexpr (w == 4) return _mm512_shuffle_f64x2(a.v, a.v, 0x4E);
  if constexpr (w == 2) return _mm512_shuffle_f64x2(a.v, a.v, 0xB1);
  return _mm512_permute_pd(a.v, 0x55);
}
inline double first(V8d a) { return _mm512_cvtsd_f64(a.v); }

}  // namespace bi
