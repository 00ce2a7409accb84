// The vector layer of the CPU kernels: V16 (16 floats) and V8d (8 doubles) with the same bits on
// AVX-512, AVX2 and plain C++. Element-wise IEEE operations, one rounding each; no libm.
//
//   load(p), load(p, n)      n < width: the other lanes are +0; bf16 and f16 widen exactly
//   store(p, v), store(p, v, n)   bf16 and f16 round to nearest even
//   + - * / fma sqrt abs     as IEEE
//   max_second, min_second   x86 rule: the second operand if either is NaN or both are equal
//   max_nan, min_nan         a NaN on either side wins
//   less equal is_nan any select select_first    masks
//   lanes_from<w>(v)         lane i holds v[i + w] for i < w (other lanes: unspecified)
//   exp, log, log1p          own polynomials; errors are stated below
#pragma once

#include <cstdint>

#include "half.h"
#include "parallel.h"

#if defined(BI_ISA_AVX512)
#include "simd_avx512.h"
#elif defined(BI_ISA_AVX2)
#include "simd_avx2.h"
#elif defined(BI_ISA_PORTABLE)
#include "simd_portable.h"
#else
#error "define one of BI_ISA_AVX512, BI_ISA_AVX2, BI_ISA_PORTABLE"
#endif

namespace bi {

template <class T> struct vector_of {
  using type = V16;
};
template <> struct vector_of<double> {
  using type = V8d;
};
/// The vector that rows of storage type T are computed in.
template <class T> using vec_t = typename vector_of<T>::type;
/// The accumulator type of storage type T: float for halves, T itself otherwise.
template <class T> using acc_t = typename vec_t<T>::scalar;

template <class V> inline V max_nan(V a, V b) { return select(is_nan(a), a, max_second(a, b)); }
template <class V> inline V min_nan(V a, V b) { return select(is_nan(a), a, min_second(a, b)); }

template <class V> struct fp_format;
template <> struct fp_format<V16> {
  using uint = uint32_t;
  static constexpr int mantissa = 23;
  static constexpr uint32_t bias = 127;
  static constexpr float round = 0x1.8p23f;       // x + round - round: nearest even integer
  static constexpr float integer = 0x1p23f;       // or-ing a small integer in gives integer + it
  static constexpr uint32_t integer_bits = 0x4B000000u;
  static constexpr uint32_t sqrt_half = 0x3F3504F3u, one = 0x3F800000u;
  static constexpr float min_normal = 0x1p-126f, up = 0x1p23f, up_exponent = 23.0f;
};
template <> struct fp_format<V8d> {
  using uint = uint64_t;
  static constexpr int mantissa = 52;
  static constexpr uint64_t bias = 1023;
  static constexpr double round = 0x1.8p52;
  static constexpr double integer = 0x1p52;
  static constexpr uint64_t integer_bits = 0x4330000000000000u;
  static constexpr uint64_t sqrt_half = 0x3FE6A09E667F3BCDu, one = 0x3FF0000000000000u;
  static constexpr double min_normal = 0x1p-1022, up = 0x1p52, up_exponent = 52.0;
};

#if !defined(BI_ISA_AVX512)
template <class V> inline V power_of_two(V n) {
  using F = fp_format<V>;
  return from_bits(shift_left<F::mantissa>(add(bits(n + V(F::round)), F::bias)));
}
/// p * 2^n for integral n with one rounding (as vscalef): two steps, the first one exact.
template <class V> inline V scale_by_power(V p, V n) {
  using F = fp_format<V>;
  const V half = fma(n, V(0.5f), V(F::round)) - V(F::round);
  return p * power_of_two(half) * power_of_two(n - half);
}
template <> inline V8d scale_by_power(V8d p, V8d n) {
  using F = fp_format<V8d>;
  const V8d half = fma(n, V8d(0.5), V8d(F::round)) - V8d(F::round);
  return p * power_of_two(half) * power_of_two(n - half);
}
#endif

template <class V> inline V polynomial(V, V acc) { return acc; }
/// Horner with fma: ((acc * x + c0) * x + c1) ...
template <class V, class... C> inline V polynomial(V x, V acc, typename V::scalar c, C... rest) {
  return polynomial(x, fma(acc, x, V(c)), rest...);
}

/// e^x for x <= 0 or NaN, -inf included; gradual underflow. Max error 1.01 ulp.
inline V16 exp_nonpositive(V16 x) {
  x = max_second(V16(-104.0f), x);  // keeps NaN
  const V16 magic(fp_format<V16>::round);
  const V16 n = fma(x, V16(0x1.715476p+0f), magic) - magic;
  V16 r = fma(n, V16(-0x1.62e430p-1f), x);
  r = fma(n, V16(0x1.05c610p-29f), r);
  const V16 p = polynomial(r, V16(1.9875691500e-4f), 1.3981999507e-3f, 8.3334519073e-3f,
                           4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f);
  return scale_by_power(fma(r * r, p, r) + V16(1.0f), n);
}
inline V16 exp(V16 x) { return exp_nonpositive(min_second(V16(89.0f), x)); }

inline V8d exp_nonpositive(V8d x) {
  x = max_second(V8d(-746.0), x);
  const V8d magic(fp_format<V8d>::round);
  const V8d n = fma(x, V8d(0x1.71547652b82fep+0), magic) - magic;
  V8d r = fma(n, V8d(-0x1.62e42fefa39efp-1), x);
  r = fma(n, V8d(-0x1.abc9e3b39803fp-56), r);
  const V8d p = polynomial(r, V8d(1.0 / 6227020800.0), 1.0 / 479001600.0, 1.0 / 39916800.0,
                           1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0,
                           1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5);
  return scale_by_power(fma(r * r, p, r) + V8d(1.0), n);
}
inline V8d exp(V8d x) { return exp_nonpositive(min_second(V8d(710.0), x)); }

/// x = m * 2^e with m in [sqrt(1/2), sqrt(2)), for positive finite x (denormals too).
template <class V> inline V split_exponent(V x, V& exponent) {
  using F = fp_format<V>;
  const auto tiny = less(x, V(F::min_normal));
  x = select(tiny, x * V(F::up), x);
  const auto shifted = add(bits(x), F::one - F::sqrt_half);
  const V biased = from_bits(bit_or(shift_right<F::mantissa>(shifted), F::integer_bits));
  exponent = biased - V(F::integer + static_cast<typename V::scalar>(F::bias));
  exponent = select(tiny, exponent - V(F::up_exponent), exponent);
  const auto fraction = bit_and(shifted, (typename F::uint{1} << F::mantissa) - 1);
  return from_bits(add(fraction, F::sqrt_half));
}

/// 0 gives -inf, negative gives NaN, +inf and NaN give themselves.
template <class V> inline V log_special(V x, V result) {
  using S = typename V::scalar;
  const V inf(static_cast<S>(__builtin_inf())), zero(static_cast<S>(0));
  result = select(less(x, inf), result, x + x);
  result = select(equal(x, zero), zero - inf, result);
  return select(less(x, zero), V(static_cast<S>(__builtin_nan(""))), result);
}

inline V16 log(V16 x) {
  V16 e;
  const V16 f = split_exponent(x, e) - V16(1.0f);
  const V16 z = f * f;
  const V16 p = polynomial(f, V16(7.0376836292e-2f), -1.1514610310e-1f, 1.1676998740e-1f,
                           -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                           2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
  V16 y = fma(e, V16(-2.12194440e-4f), f * z * p);
  y = fma(z, V16(-0.5f), y);
  return log_special(x, fma(e, V16(0.693359375f), f + y));
}

inline V8d log(V8d x) {
  V8d e;
  const V8d f = split_exponent(x, e) - V8d(1.0);
  const V8d s = f / (f + V8d(2.0)), z = s * s, half_square = V8d(0.5) * f * f;
  const V8d r = z * polynomial(z, V8d(1.479819860511658591e-1), 1.531383769920937332e-1,
                               1.818357216161805012e-1, 2.222219843214978396e-1,
                               2.857142874366239149e-1, 3.999999999940941908e-1,
                               6.666666666666735130e-1);
  const V8d small = fma(s, half_square + r, e * V8d(1.90821492927058770002e-10));
  const V8d high = e * V8d(6.93147180369123816490e-1);
  return log_special(x, high - ((half_square - small) - f));
}

/// log(1 + x) for x in [0, 1]: the rounding of 1 + x is put back to first order.
template <class V> inline V log1p(V x) {
  const V one(static_cast<typename V::scalar>(1));
  const V u = one + x;
  return log(u) + (x - (u - one)) / u;
}

}  // namespace bi
