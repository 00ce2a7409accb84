// The attention plan as plain loops over one row after another, and a C face of the kernel for ctypes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"

namespace {

template <class A>
struct Exp;
template <>
struct Exp<float> {
  using Word = uint32_t;
  static constexpr int kMantissa = 23, kDegree = 6;
  static constexpr float kShift = 0x1.8p23f, kLowest = -87, kHigh = 0x1.62e4p-1f, kLow = 0x1.7f7d1cp-20f;
  static float coefficient(int i) {
    constexpr float c[] = {1, 1, 0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2352p-10f};
    return c[i];
  }
};
template <>
struct Exp<double> {
  using Word = uint64_t;
  static constexpr int kMantissa = 52, kDegree = 13;
  static constexpr double kShift = 0x1.8p52, kLowest = -708, kHigh = 0x1.62e42fefa38p-1, kLow = 0x1.ef35793c7673p-45;
  static double coefficient(int i) {
    double factorial = 1;
    for (int k = 2; k <= i; k++) factorial *= k;
    return 1 / factorial;
  }
};

template <class A>
A exponential(A x) {
  using E = Exp<A>;
  if (x < E::kLowest) return 0;
  if (std::isnan(x)) return x;
  const A n = std::fma(x, A(1.44269504088896340736), E::kShift) - E::kShift;
  const A r = std::fma(n, -E::kLow, std::fma(n, -E::kHigh, x));
  A p = E::coefficient(E::kDegree);
  for (int i = E::kDegree - 1; i >= 0; i--) p = std::fma(p, r, E::coefficient(i));
  return std::ldexp(p, int(n));
}

// keep and bias hold one value per key of the row.
template <class A>
void reference_row(const A *q, const A *k, const A *v, const uint8_t *keep, const A *bias, int64_t keys, int64_t dim,
                   int64_t value_dim, A scale, int64_t split, A *out) {
  int64_t start = 0;
  while (start < keys && !keep[start]) start++;
  for (int64_t d = 0; d < value_dim; d++) out[d] = 0;
  if (start == keys) return;
  std::vector<A> s(static_cast<size_t>(keys));
  A m = -INFINITY, lanes[16] = {};
  for (int64_t j = start; j < keys; j++) {
    if (!keep[j]) continue;
    A chain = 0;
    for (int64_t d = 0; d < dim; d++) chain = std::fma(q[d], k[j * dim + d], chain);
    s[size_t(j)] = chain * scale;
    if (bias) s[size_t(j)] += bias[j];
    m = s[size_t(j)] > m ? s[size_t(j)] : m;
  }
  for (int64_t j = start; j < keys; j++)
    if (keep[j]) lanes[(j - start) % 16] += s[size_t(j)] = exponential(s[size_t(j)] - m);
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) lanes[i] += lanes[i + w];
  for (int64_t d = 0; d < value_dim; d++) {
    A total = 0;
    for (int64_t from = start; from < keys; from += split) {
      A chain = 0;
      for (int64_t j = from; j < std::min(keys, from + split); j++)
        if (keep[j]) chain = std::fma(s[size_t(j)], v[j * value_dim + d], chain);
      total += chain;
    }
    out[d] = total / lanes[0];
  }
}

}  // namespace

extern "C" {
void run_attention(const bi::attention::Arguments *args) { bi::attention::attention(*args); }
void reference_row_float(const float *q, const float *k, const float *v, const uint8_t *keep, const float *bias,
                         int64_t keys, int64_t dim, int64_t value_dim, double scale, float *out) {
  reference_row(q, k, v, keep, bias, keys, dim, value_dim, float(scale), 512, out);
}
void reference_row_double(const double *q, const double *k, const double *v, const uint8_t *keep, const double *bias,
                          int64_t keys, int64_t dim, int64_t value_dim, double scale, double *out) {
  reference_row(q, k, v, keep, bias, keys, dim, value_dim, scale, 512, out);
}
}
