// Sixteen lanes of float or double for the attention kernels, the same bits on AVX-512, AVX2 and plain C++.
// Lanes never meet here except in `sum`, whose tree is part of the plan.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bi::attention {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float widen(BFloat16 x) { return float_of_bits(uint32_t(x.bits) << 16); }
inline float widen(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) return float_of_bits(sign | bits_of_float(float(magnitude) * 0x1p-24f));
  return float_of_bits(sign | ((magnitude << 13) + 0x38000000));
}

template <class T>
T narrow(float x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bits_of_float(x);
  if (std::isnan(x)) return {0x7fc0};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline Half narrow<Half>(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {uint16_t(0x7e00)};
  if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
  if (magnitude < 0x38800000) {  // adding 0.5 leaves the rounded subnormal in the low bits
    const uint32_t sum = bits_of_float(float_of_bits(magnitude) + 0.5f);
    return {uint16_t(sign | (sum - 0x3f000000))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13))};
}

// One native register: the few operations that differ per instruction set.
template <class A>
struct Native;

#if defined(BI_ISA_AVX512)

template <>
struct Native<float> {
  using R = __m512;
  static constexpr int kLanes = 16;
  static R set(float x) { return _mm512_set1_ps(x); }
  static R load(const float *p) { return _mm512_loadu_ps(p); }
  static R load(const BFloat16 *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static R load(const Half *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
  static void store(float *p, R x) { _mm512_storeu_ps(p, x); }
  static R fma(R a, R b, R c) { return _mm512_fmadd_ps(a, b, c); }
  static R add(R a, R b) { return _mm512_add_ps(a, b); }
  static R sub(R a, R b) { return _mm512_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm512_mul_ps(a, b); }
  static R div(R a, R b) { return _mm512_div_ps(a, b); }
  static R max(R a, R b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  static R abs(R a) { return _mm512_abs_ps(a); }
  static R select(uint32_t bits, R a, R b) { return _mm512_mask_mov_ps(b, __mmask16(bits), a); }
  static R unless_negative(R sign, R a, R b) {
    return _mm512_mask_mov_ps(a, _mm512_movepi32_mask(_mm512_castps_si512(sign)), b);
  }
  static R zero_below(R value, R x, R bound) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), value);
  }
  static uint32_t above(R x, R bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_NLE_UQ); }
  static R power_of_two(R shifted) {  // shifted = n + 1.5 * 2^23
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
  }
};

template <>
struct Native<double> {
  using R = __m512d;
  static constexpr int kLanes = 8;
  static R set(double x) { return _mm512_set1_pd(x); }
  static R load(const double *p) { return _mm512_loadu_pd(p); }
  static void store(double *p, R x) { _mm512_storeu_pd(p, x); }
  static R fma(R a, R b, R c) { return _mm512_fmadd_pd(a, b, c); }
  static R add(R a, R b) { return _mm512_add_pd(a, b); }
  static R sub(R a, R b) { return _mm512_sub_pd(a, b); }
  static R mul(R a, R b) { return _mm512_mul_pd(a, b); }
  static R div(R a, R b) { return _mm512_div_pd(a, b); }
  static R max(R a, R b) { return _mm512_max_pd(a, b); }
  static R abs(R a) { return _mm512_abs_pd(a); }
  static R select(uint32_t bits, R a, R b) { return _mm512_mask_mov_pd(b, __mmask8(bits), a); }
  static R unless_negative(R sign, R a, R b) {
    return _mm512_mask_mov_pd(a, _mm512_movepi64_mask(_mm512_castpd_si512(sign)), b);
  }
  static R zero_below(R value, R x, R bound) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, bound, _CMP_NLT_UQ), value);
  }
  static uint32_t above(R x, R bound) { return _mm512_cmp_pd_mask(x, bound, _CMP_NLE_UQ); }
  static R power_of_two(R shifted) {  // shifted = n + 1.5 * 2^52
    const __m512i n = _mm512_slli_epi64(_mm512_castpd_si512(shifted), 52);
    return _mm512_castsi512_pd(_mm512_add_epi64(n, _mm512_set1_epi64(0x3ff0000000000000)));
  }
};

#elif defined(BI_ISA_AVX2)

template <>
struct Native<float> {
  using R = __m256;
  static constexpr int kLanes = 8;
  static R set(float x) { return _mm256_set1_ps(x); }
  static R load(const float *p) { return _mm256_loadu_ps(p); }
  static R load(const BFloat16 *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static R load(const Half *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
  static void store(float *p, R x) { _mm256_storeu_ps(p, x); }
  static R fma(R a, R b, R c) { return _mm256_fmadd_ps(a, b, c); }
  static R add(R a, R b) { return _mm256_add_ps(a, b); }
  static R sub(R a, R b) { return _mm256_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm256_mul_ps(a, b); }
  static R div(R a, R b) { return _mm256_div_ps(a, b); }
  static R max(R a, R b) { return _mm256_max_ps(a, b); }
  static R abs(R a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static R select(uint32_t bits, R a, R b) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(int(bits)), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)));
  }
  static R unless_negative(R sign, R a, R b) { return _mm256_blendv_ps(a, b, sign); }
  static R zero_below(R value, R x, R bound) {
    return _mm256_and_ps(value, _mm256_cmp_ps(x, bound, _CMP_NLT_UQ));
  }
  static uint32_t above(R x, R bound) {
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_NLE_UQ)));
  }
  static R power_of_two(R shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
  }
};

template <>
struct Native<double> {
  using R = __m256d;
  static constexpr int kLanes = 4;
  static R set(double x) { return _mm256_set1_pd(x); }
  static R load(const double *p) { return _mm256_loadu_pd(p); }
  static void store(double *p, R x) { _mm256_storeu_pd(p, x); }
  static R fma(R a, R b, R c) { return _mm256_fmadd_pd(a, b, c); }
  static R add(R a, R b) { return _mm256_add_pd(a, b); }
  static R sub(R a, R b) { return _mm256_sub_pd(a, b); }
  static R mul(R a, R b) { return _mm256_mul_pd(a, b); }
  static R div(R a, R b) { return _mm256_div_pd(a, b); }
  static R max(R a, R b) { return _mm256_max_pd(a, b); }
  static R abs(R a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
  static R select(uint32_t bits, R a, R b) {
    const __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(bits), lane);
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, lane)));
  }
  static R unless_negative(R sign, R a, R b) { return _mm256_blendv_pd(a, b, sign); }
  static R zero_below(R value, R x, R bound) {
    return _mm256_and_pd(value, _mm256_cmp_pd(x, bound, _CMP_NLT_UQ));
  }
  static uint32_t above(R x, R bound) {
    return uint32_t(_mm256_movemask_pd(_mm256_cmp_pd(x, bound, _CMP_NLE_UQ)));
  }
  static R power_of_two(R shifted) {
    const __m256i n = _mm256_slli_epi64(_mm256_castpd_si256(shifted), 52);
    return _mm256_castsi256_pd(_mm256_add_epi64(n, _mm256_set1_epi64x(0x3ff0000000000000)));
  }
};

#else

template <class A>
struct Native {
  using R = A;
  static constexpr int kLanes = 1;
  static R set(A x) { return x; }
  template <class T>
  static R load(const T *p) {
    return widen(*p);
  }
  static void store(A *p, R x) { *p = x; }
  static R fma(R a, R b, R c) { return std::fma(a, b, c); }
  static R add(R a, R b) { return a + b; }
  static R sub(R a, R b) { return a - b; }
  static R mul(R a, R b) { return a * b; }
  static R div(R a, R b) { return a / b; }
  static R max(R a, R b) { return a > b ? a : b; }
  static R abs(R a) { return std::fabs(a); }
  static R select(uint32_t bits, R a, R b) { return bits & 1 ? a : b; }
  static R unless_negative(R sign, R a, R b) { return std::signbit(sign) ? b : a; }
  static R zero_below(R value, R x, R bound) { return x < bound ? A(0) : value; }
  static uint32_t above(R x, R bound) { return !(x <= bound); }
  static R power_of_two(R shifted) {
    using Word = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    constexpr int kMantissa = sizeof(A) == 4 ? 23 : 52;
    constexpr Word kOne = sizeof(A) == 4 ? Word(0x3f800000) : Word(0x3ff0000000000000);
    Word n;
    std::memcpy(&n, &shifted, sizeof n);
    n = (n << kMantissa) + kOne;
    A power;
    std::memcpy(&power, &n, sizeof n);
    return power;
  }
};

#endif

// Sixteen lanes, as 16 / kLanes native registers.
template <class A>
struct Vec {
  using N = Native<A>;
  static constexpr int kParts = 16 / N::kLanes;
  typename N::R part[kParts];

  template <class F>
  static inline __attribute__((always_inline)) Vec each(F f) {
    Vec r;
#pragma GCC unroll 16
    for (int i = 0; i < kParts; i++) r.part[i] = f(i);
    return r;
  }
  static Vec set(A x) {
    return each([&](int) { return N::set(x); });
  }
  template <class T>
  static Vec load(const T *p) {
    return each([&](int i) { return N::load(p + i * N::kLanes); });
  }
  template <class T>
  static Vec load_first(const T *p, int64_t n) {  // zeros beyond n
    if (n >= 16) return load(p);
    T buffer[16] = {};
    std::memcpy(buffer, p, size_t(n) * sizeof(T));
    return load(buffer);
  }
  void store(A *p) const {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; i++) N::store(p + i * N::kLanes, part[i]);
  }
  template <class T>
  void store_first(T *p, int64_t n) const {
    A buffer[16];
    store(buffer);
    if constexpr (std::is_same_v<T, double>) {
      std::memcpy(p, buffer, size_t(n) * sizeof(T));
    } else {
      for (int64_t i = 0; i < n; i++) p[i] = narrow<T>(buffer[i]);
    }
  }
  uint32_t above(A bound) const {
    uint32_t bits = 0;
    for (int i = 0; i < kParts; i++) bits |= N::above(part[i], N::set(bound)) << (i * N::kLanes);
    return bits;
  }
  A sum() const {
    A t[16];
    store(t);
    for (int w = 8; w; w >>= 1)
      for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
  }
  A max() const {
    A t[16], m;
    store(t);
    m = t[0];
    for (int i = 1; i < 16; i++) m = t[i] > m ? t[i] : m;
    return m;
  }
};

#define BI_VEC_BINARY(name)                                               \
  template <class A>                                                      \
  inline Vec<A> name(const Vec<A> &a, const Vec<A> &b) {                  \
    return Vec<A>::each([&](int i) { return Native<A>::name(a.part[i], b.part[i]); }); \
  }
BI_VEC_BINARY(add)
BI_VEC_BINARY(sub)
BI_VEC_BINARY(mul)
BI_VEC_BINARY(div)
BI_VEC_BINARY(max)
#undef BI_VEC_BINARY

template <class A>
inline Vec<A> fma(const Vec<A> &a, const Vec<A> &b, const Vec<A> &c) {
  return Vec<A>::each([&](int i) { return Native<A>::fma(a.part[i], b.part[i], c.part[i]); });
}
template <class A>
inline Vec<A> select(uint32_t bits, const Vec<A> &a, const Vec<A> &b) {
  using N = Native<A>;
  return Vec<A>::each([&](int i) { return N::select(bits >> (i * N::kLanes), a.part[i], b.part[i]); });
}
// fma where `weight` has no sign bit, else `c`: a negative weight marks a masked key.
template <class A>
inline Vec<A> fma_unless_masked(const Vec<A> &weight, const Vec<A> &b, const Vec<A> &c) {
  using N = Native<A>;
  return Vec<A>::each([&](int i) {
    return N::unless_negative(weight.part[i], N::fma(weight.part[i], b.part[i], c.part[i]), c.part[i]);
  });
}

template <class A>
struct ExpConstants;
// Degree 6, fitted on [-ln2/2, ln2/2] for relative error (3e-9) with the first two coefficients 1.
template <>
struct ExpConstants<float> {
  static constexpr float kShift = 0x1.8p23f, kLowest = -87.0f;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kPoly[] = {0x1.6a2352p-10f, 0x1.123a6cp-7f, 0x1.5558f4p-5f,
                                    0x1.555490p-3f,  0x1.fffffcp-2f, 1.0f, 1.0f};
};
// Taylor to degree 13: 4e-18 on the same interval.
template <>
struct ExpConstants<double> {
  static constexpr double kShift = 0x1.8p52, kLowest = -708.0;
  static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  static constexpr double kPoly[] = {1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0,
                                     1 / 40320.0,      1 / 5040.0,      1 / 720.0,      1 / 120.0,     1 / 24.0,
                                     1 / 6.0,          0.5,             1.0,            1.0};
};

// exp of x <= 0, never with a sign bit; 0 below kLowest (so no subnormal weights), NaN for NaN, exp(0) = 1.
template <class A>
inline Vec<A> exp(const Vec<A> &x) {
  using N = Native<A>;
  using C = ExpConstants<A>;
  return Vec<A>::each([&](int i) {
    const auto v = x.part[i];
    const auto shifted = N::fma(v, N::set(A(1.44269504088896340736)), N::set(C::kShift));
    const auto n = N::sub(shifted, N::set(C::kShift));
    const auto r = N::fma(n, N::set(-C::kLn2Low), N::fma(n, N::set(-C::kLn2High), v));
    auto p = N::set(C::kPoly[0]);
#pragma GCC unroll 16
    for (size_t c = 1; c < sizeof(C::kPoly) / sizeof(A); c++) p = N::fma(p, r, N::set(C::kPoly[c]));
    return N::abs(N::zero_below(N::mul(p, N::power_of_two(shifted)), v, N::set(C::kLowest)));
  });
}

// Natural logarithm of x >= 0 in plain double arithmetic: the same bits wherever IEEE holds.
inline double log(double x) {
  if (!(x > 0) || std::isinf(x)) return x == 0 ? -INFINITY : x;
  int exponent;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752) m *= 2, exponent--;
  const double z = (m - 1) / (m + 1), z2 = z * z;
  double series = 1.0 / 23;
  for (int odd = 21; odd > 0; odd -= 2) series = series * z2 + 1.0 / odd;
  return exponent * 0.69314718055994530942 + 2 * z * series;
}

// Rounding to nearest and subnormals kept, whatever the calling thread was set to; the old state comes back.
class FloatState {
 public:
  FloatState() : saved_(read()) { write(kDefault); }
  ~FloatState() { write(saved_); }
  FloatState(const FloatState &) = delete;
  FloatState &operator=(const FloatState &) = delete;

 private:
#if defined(__SSE2__)
  using State = unsigned;
  static constexpr State kDefault = 0x1f80;
  static State read() { return _mm_getcsr(); }
  static void write(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__)
  using State = uint64_t;
  static constexpr State kDefault = 0;
  static State read() {
    State state;
    asm volatile("mrs %0, fpcr" : "=r"(state));
    return state;
  }
  static void write(State state) { asm volatile("msr fpcr, %0" : : "r"(state)); }
#else
#error "bi_inductor: no way known to set the float environment of this processor; add it to FloatState"
#endif
  State saved_;
};

}  // namespace bi::attention
