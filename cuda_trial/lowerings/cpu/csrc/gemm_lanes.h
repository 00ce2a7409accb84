// What one instruction step of a matmul is for each storage type: loads of kStep elements along K, the multiply-add
// of a step, and the fold of lanes.
#pragma once

#include <cstring>

#include "simd.h"

namespace bi {

/// float and f16: 16 lanes, one fma; double: 8 lanes.
template <class T> struct Lanes {
  using Acc = vec_t<T>;
  using Reg = Acc;
  static constexpr int kStep = Acc::width;
  static constexpr bool kFlushDenormals = false;
  static Reg read(const T* p) { return load(p); }
  static Reg read(const T* p, int n) { return load(p, n); }
  static Acc madd(Acc acc, Reg a, Reg b) { return fma(a, b, acc); }
};

#if defined(BI_HAS_BF16_DOT)
template <> struct Lanes<bf16> {
  using Acc = V16;
  using Reg = __m512i;
  static constexpr int kStep = 32;
  static constexpr bool kFlushDenormals = true;
  static Reg read(const bf16* p) { return _mm512_loadu_si512(p); }
  static Reg read(const bf16* p, int n) {
    return _mm512_maskz_loadu_epi16(n >= 32 ? ~0u : (1u << n) - 1u, p);
  }
  static Acc madd(Acc acc, Reg a, Reg b) {
    return _mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#else
/// vdpbf16ps in two steps: a product of two bf16 is exact, so each half is one fma (0 of 3.2e7 values differ on
/// Zen 4, tests/lowerings/test_matmul.py holds the builds to each other).
template <> struct Lanes<bf16> {
  using Acc = V16;
  struct Reg {
    V16 even, odd;
  };
  static constexpr int kStep = 32;
  static constexpr bool kFlushDenormals = true;
  static Reg read(const bf16* p) {
#if defined(BI_ISA_AVX512)
    const __m512i x = _mm512_loadu_si512(p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xFFFF0000u))))};
#else
    float even[16], odd[16];
    for (int i = 0; i < 16; ++i) even[i] = widen(p[2 * i]), odd[i] = widen(p[2 * i + 1]);
    return {load(even), load(odd)};
#endif
  }
  static Reg read(const bf16* p, int n) {
    bf16 padded[32] = {};
    std::memcpy(padded, p, sizeof(bf16) * static_cast<size_t>(n));
    return read(padded);
  }
  static Acc madd(Acc acc, Reg a, Reg b) { return fma(a.even, b.even, fma(a.odd, b.odd, acc)); }
};
#endif

/// t[i] += t[i + w] for w = width / 2 ... 1.
template <class V> inline typename V::scalar fold_lanes(V t) {
  if constexpr (V::width == 16) t = t + lanes_from<8>(t);
  t = t + lanes_from<4>(t);
  t = t + lanes_from<2>(t);
  t = t + lanes_from<1>(t);
  return first(t);
}

/// out[i] = fold_lanes(acc[i]) for n <= 16 accumulators.
template <class V> inline void fold_many(const V* acc, int n, typename V::scalar* out) {
  for (int i = 0; i < n; ++i) out[i] = fold_lanes(acc[i]);
}

#if defined(BI_ISA_AVX512)
template <int low, int high> inline __m512 add_quarters(__m512 x, __m512 y) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, low), _mm512_shuffle_f32x4(x, y, high));
}
/// Sixteen trees at once by transposing: 45 instructions instead of 8 each, the same sums.
inline V16 fold_sixteen(const V16* t) {
  __m512 half[8], quarter[4], pair[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    // vectors in the order that leaves result i in lane i
    const int x = 2 * i, lx = 4 * (x % 4) + x / 4, ly = 4 * ((x + 1) % 4) + (x + 1) / 4;
    half[i] = add_quarters<0x44, 0xEE>(t[lx].v, t[ly].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) quarter[i] = add_quarters<0x88, 0xDD>(half[2 * i], half[2 * i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d x = _mm512_castps_pd(quarter[2 * i]), y = _mm512_castps_pd(quarter[2 * i + 1]);
    pair[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x88),
                       _mm512_shuffle_ps(pair[0], pair[1], 0xDD));
}
template <> inline void fold_many<V16>(const V16* acc, int n, float* out) {
  if (n < 4) {
    for (int i = 0; i < n; ++i) out[i] = fold_lanes(acc[i]);
    return;
  }
  V16 all[16];
  for (int i = 0; i < 16; ++i) all[i] = i < n ? acc[i] : V16();
  store(out, fold_sixteen(all), n);
}
#endif

}  // namespace bi
