// Prefix of every kernel: types, exact helpers, exp and log made of fma, add, multiply and divide alone.
#include <metal_stdlib>
using namespace metal;
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)

// The same bits on every machine with IEEE fma; about 1 ulp. Coefficients are 1/n!, ln 2 is split so that n * hi is exact.
// exp(0) == 1 and exp(-inf) == +0 exactly; below the normal range it is 0, because Apple GPUs flush subnormals.
inline float bi_exp(float x) {
  float c = x > -87.33654f ? x : -87.33654f;
  c = c < 88.72283f ? c : 88.72283f;
  const float n = rint(c * 1.44269504f);
  const float r = fma(n, -1.42860677e-6f, fma(n, -0.693145752f, c));
  float q = fma(1.98412701e-4f, r, 1.38888892e-3f);
  q = fma(q, r, 8.33333377e-3f);
  q = fma(q, r, 4.16666679e-2f);
  q = fma(q, r, 1.66666672e-1f);
  q = fma(q, r, 0.5f);
  const float p = fma(r * r, q, r) + 1.0f;
  const int e = int(n);
  const int h = e / 2;                                // 2^n in two exact steps: n == 128 is no float
  float y = p * as_type<float>(uint(h + 127) << 23);
  y = y * as_type<float>(uint(e - h + 127) << 23);
  y = x < -87.33654f ? 0.0f : y;
  y = x > 88.72283f ? INFINITY : y;
  return isnan(x) ? x : y;
}

// log(x) of a normal x: x = 2^k (1 + g), log(1 + g) = g - s (g - R), s = g / (2 + g), R = 2/3 s^2 + 2/5 s^4 + ...
inline float bi_log(float x) {
  if (!(x > 0.0f)) return x == 0.0f ? -INFINITY : NAN;
  if (isinf(x)) return x;
  uint u = as_type<uint>(x) + (0x3f800000u - 0x3f3504f3u);   // moves the mantissa into [sqrt(1/2), sqrt(2))
  const float k = float(int(u >> 23) - 127);
  u = (u & 0x007fffffu) + 0x3f3504f3u;
  const float g = as_type<float>(u) - 1.0f;
  const float s = g / (2.0f + g);
  const float z = s * s;
  float w = fma(0.222222224f, z, 0.285714298f);
  w = fma(w, z, 0.400000006f);
  w = fma(w, z, 0.666666687f);
  const float low = fma(k, 1.42860677e-6f, -(s * fma(-z, w, g)));
  const float sum = g + low;
  return fma(k, 0.693145752f, sum);
}

// metal::max may drop a NaN; here it wins.
inline float bi_max(float a, float b) { return (a > b || isnan(a)) ? a : b; }
inline float bi_min(float a, float b) { return (a < b || isnan(a)) ? a : b; }
