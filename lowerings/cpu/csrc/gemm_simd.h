// Vectors of the matmul family: one panel vector is 64 bytes of consecutive k, in every instruction set.
//
// The lanes of a vector are k, not columns. A dtype fixes how many k a vector holds and what one step does:
//   f32, f16 (widened exactly)  16 k, lane l += a[l] * b[l] by one fma
//   bf16                        32 k, lane l += a[2l+1] * b[2l+1], then a[2l] * b[2l], denormals are zero
//   f64                          8 k, lane l += a[l] * b[l] by one fma
// The bf16 step is what vdpbf16ps computes (checked on 128 M random and adversarial inputs on Zen 4), so
// hosts without that instruction emulate it with two fmas under FTZ and DAZ and get the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(BI_ISA_AVX512) || defined(BI_ISA_AVX2)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define BI_INLINE inline __attribute__((always_inline))

namespace bi::gemm {

constexpr int kVectorBytes = 64;

// Sets the rounding and denormal mode of the calling thread, and restores the caller's on the way out.
class FloatMode {
 public:
  explicit FloatMode(bool flush_denormals) {
#if defined(__x86_64__)
    saved_ = _mm_getcsr();
    _mm_setcsr(flush_denormals ? 0x9fc0u : 0x1f80u);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    const uint64_t mode = flush_denormals ? uint64_t{1} << 24 : 0;
    asm volatile("msr fpcr, %0" ::"r"(mode));
#endif
  }
  ~FloatMode() {
#if defined(__x86_64__)
    _mm_setcsr(saved_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" ::"r"(saved_));
#endif
  }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__x86_64__)
  unsigned saved_ = 0;
#else
  uint64_t saved_ = 0;
#endif
};

// ---- scalar conversions -------------------------------------------------------------------------

BI_INLINE float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

BI_INLINE uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

BI_INLINE float float_of_bf16(uint16_t h) { return float_of_bits(uint32_t{h} << 16); }

BI_INLINE uint16_t bf16_of_float(float x) {  // round to nearest even; a NaN stays a NaN
  const uint32_t bits = bits_of_float(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

BI_INLINE float float_of_f16(uint16_t h) {
#if defined(BI_ISA_AVX512) || defined(BI_ISA_AVX2)
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest >= 0x0400u) return float_of_bits(sign | ((rest + (112u << 10)) << 13));
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
#endif
}

BI_INLINE uint16_t f16_of_float(float x) {
#if defined(BI_ISA_AVX512) || defined(BI_ISA_AVX2)
  return static_cast<uint16_t>(
      _mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
#else
  const uint32_t bits = bits_of_float(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // f16 subnormal: adding 0.5 rounds at bit 2^-24
    const uint32_t sum = bits_of_float(float_of_bits(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
#endif
}

// ---- half of an accumulator: 8 floats or 4 doubles; all instruction sets fold from here ---------

#if defined(BI_ISA_AVX512) || defined(BI_ISA_AVX2)
using HalfF = __m256;
using HalfD = __m256d;

BI_INLINE HalfF add(HalfF x, HalfF y) { return _mm256_add_ps(x, y); }
BI_INLINE HalfD add(HalfD x, HalfD y) { return _mm256_add_pd(x, y); }
BI_INLINE void zero(HalfF& x) { x = _mm256_setzero_ps(); }
BI_INLINE void zero(HalfD& x) { x = _mm256_setzero_pd(); }
BI_INLINE HalfF load_sums(const float* p, HalfF) { return _mm256_loadu_ps(p); }
BI_INLINE HalfD load_sums(const double* p, HalfD) { return _mm256_loadu_pd(p); }
BI_INLINE void store_sums(float* p, HalfF x) { _mm256_storeu_ps(p, x); }
BI_INLINE void store_sums(double* p, HalfD x) { _mm256_storeu_pd(p, x); }

// Sums of eight vectors at once: lane l adds l + 4, then l + 2, then l + 1.
BI_INLINE HalfF fold(const HalfF* v) {
  HalfF q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    q[i] = add(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20), _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
  const HalfF h0 = add(_mm256_shuffle_ps(q[0], q[1], 0x44), _mm256_shuffle_ps(q[0], q[1], 0xee));
  const HalfF h1 = add(_mm256_shuffle_ps(q[2], q[3], 0x44), _mm256_shuffle_ps(q[2], q[3], 0xee));
  return add(_mm256_shuffle_ps(h0, h1, 0x88), _mm256_shuffle_ps(h0, h1, 0xdd));
}

// Sums of four vectors at once: lane l adds l + 2, then l + 1.
BI_INLINE HalfD fold(const HalfD* v) {
  const HalfD q0 = add(_mm256_permute2f128_pd(v[0], v[2], 0x20), _mm256_permute2f128_pd(v[0], v[2], 0x31));
  const HalfD q1 = add(_mm256_permute2f128_pd(v[1], v[3], 0x20), _mm256_permute2f128_pd(v[1], v[3], 0x31));
  return add(_mm256_unpacklo_pd(q0, q1), _mm256_unpackhi_pd(q0, q1));
}

// The sum of one vector, in the same order.
BI_INLINE float fold_one(HalfF v) {
  const __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 y = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
BI_INLINE double fold_one(HalfD v) {
  const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
}
#else
struct HalfF { float v[8]; };
struct HalfD { double v[4]; };

template <class H>
BI_INLINE H add(const H& x, const H& y) {
  H sum;
  for (size_t i = 0; i < sizeof(H) / sizeof(x.v[0]); i++) sum.v[i] = x.v[i] + y.v[i];
  return sum;
}
template <class H>
BI_INLINE void zero(H& x) { x = H{}; }
BI_INLINE HalfF load_half(const float* p) { HalfF x; std::memcpy(&x, p, sizeof x); return x; }
BI_INLINE HalfD load_half(const double* p) { HalfD x; std::memcpy(&x, p, sizeof x); return x; }
BI_INLINE HalfF load_sums(const float* p, const HalfF&) { return load_half(p); }
BI_INLINE HalfD load_sums(const double* p, const HalfD&) { return load_half(p); }
BI_INLINE void store_sums(float* p, const HalfF& x) { std::memcpy(p, &x, sizeof x); }
BI_INLINE void store_sums(double* p, const HalfD& x) { std::memcpy(p, &x, sizeof x); }

BI_INLINE float fold_one(const HalfF& x) {
  return ((x.v[0] + x.v[4]) + (x.v[2] + x.v[6])) + ((x.v[1] + x.v[5]) + (x.v[3] + x.v[7]));
}
BI_INLINE double fold_one(const HalfD& x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }

BI_INLINE HalfF fold(const HalfF* v) {
  HalfF sums;
  for (int i = 0; i < 8; i++) sums.v[i] = fold_one(v[i]);
  return sums;
}
BI_INLINE HalfD fold(const HalfD* v) {
  HalfD sums;
  for (int i = 0; i < 4; i++) sums.v[i] = fold_one(v[i]);
  return sums;
}
#endif

// ---- operands and steps -------------------------------------------------------------------------
// kPasses: how many times a tile walks its panels; each pass covers kVectorBytes / kPasses of a vector.
// Types named F32, Bf16, F64 below give: Reg (accumulator), Operand, load(p, pass), step(acc, a, b), and kTileRows, the
// rows of a register tile of kTileCols columns.

#if defined(BI_ISA_AVX512)
constexpr int kPasses = 1;
constexpr int kTileCols = 5;

BI_INLINE HalfF half_of(__m512 x) {
  return add(_mm512_castps512_ps256(x), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
}
BI_INLINE HalfD half_of(__m512d x) { return add(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1)); }
BI_INLINE __m512 add(__m512 x, __m512 y) { return _mm512_add_ps(x, y); }
BI_INLINE __m512d add(__m512d x, __m512d y) { return _mm512_add_pd(x, y); }
BI_INLINE __m512 load_sums(const float* p, __m512) { return _mm512_loadu_ps(p); }
BI_INLINE void store_sums(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
BI_INLINE void zero(__m512& x) { x = _mm512_setzero_ps(); }
BI_INLINE void zero(__m512d& x) { x = _mm512_setzero_pd(); }

// One level of the tree for two vectors at once: the lanes of x and y that stay, plus those that are added to them.
// A blend and a shuffle instead of two shuffles, as a sum is the same from either side.
BI_INLINE __m512 fold_8(__m512 x, __m512 y) {  // [x | y], 8 lanes each
  return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, x, y), _mm512_shuffle_f32x4(x, y, 0x4e));
}
BI_INLINE __m512 fold_4(__m512 x, __m512 y) {  // [x0 y0 x1 y1], 4 lanes each
  const __m512i crossed = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
  const __m512d low = _mm512_castps_pd(x), high = _mm512_castps_pd(y);
  return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, x, y),
                       _mm512_castpd_ps(_mm512_permutex2var_pd(low, crossed, high)));
}
BI_INLINE __m512 fold_2(__m512 x, __m512 y) {  // in every 4 lanes [x y], 2 lanes each
  const __m512d low = _mm512_castps_pd(x), high = _mm512_castps_pd(y);
  return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, x, y), _mm512_castpd_ps(_mm512_shuffle_pd(low, high, 0x55)));
}
BI_INLINE __m512 fold_1(__m512 x, __m512 y) {  // in every 4 lanes [x0 x1 y0 y1]
  return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xdd));
}

// Sums of sixteen vectors at once: lane l adds l + 8, then l + 4, l + 2, l + 1.
BI_INLINE __m512 fold_16_vectors(const __m512* v) {
  __m512 t[8], q[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) t[i] = fold_8(v[i], v[i + 8]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) q[i] = fold_4(t[i], t[i + 4]);
  return fold_1(fold_2(q[0], q[1]), fold_2(q[2], q[3]));
}

// The same for eight vectors, and for one.
BI_INLINE __m256 fold(const __m512* v) {
  __m512 t[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) t[i] = fold_8(v[i], v[i + 4]);
  const __m512 h = fold_2(fold_4(t[0], t[2]), fold_4(t[1], t[3]));
  const __m512 sums = _mm512_add_ps(h, _mm512_movehdup_ps(h));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  return _mm512_castps512_ps256(_mm512_permutexvar_ps(even, sums));
}
BI_INLINE float fold_one(__m512 x) { return fold_one(half_of(x)); }

// Doubles: lane l adds l + 4, then l + 2, l + 1.
BI_INLINE __m256d fold(const __m512d* v) {
  const HalfD halves[4] = {half_of(v[0]), half_of(v[1]), half_of(v[2]), half_of(v[3])};
  return fold(halves);
}
BI_INLINE double fold_one(__m512d x) { return fold_one(half_of(x)); }

struct StepF32 {
  static constexpr int kTileRows = 5;
  using Reg = __m512;
  using Operand = __m512;
  static BI_INLINE Operand load(const void* p, int) { return _mm512_loadu_ps(p); }
  static BI_INLINE Operand load_f16(const void* p, int) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) { return _mm512_fmadd_ps(a, b, acc); }
};

struct StepBf16 {
  static constexpr int kTileRows = 5;
  using Reg = __m512;
  using Operand = __m512i;
  static BI_INLINE Operand load(const void* p, int) { return _mm512_loadu_si512(p); }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) {
#if defined(BI_HAS_BF16_DOT)
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
#else
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, odd)),
                          _mm512_castsi512_ps(_mm512_and_si512(b, odd)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                           _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), acc);
#endif
  }
};

struct StepF64 {
  static constexpr int kTileRows = 5;
  using Reg = __m512d;
  using Operand = __m512d;
  static BI_INLINE Operand load(const void* p, int) { return _mm512_loadu_pd(p); }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) { return _mm512_fmadd_pd(a, b, acc); }
};

#elif defined(BI_ISA_AVX2)
constexpr int kPasses = 2;  // 16 registers: half of the lanes at a time, 4 x 3 accumulators, 3 x 3 beside emulated dots
constexpr int kTileCols = 3;

BI_INLINE const char* half_at(const void* p, int pass) { return static_cast<const char*>(p) + 32 * pass; }

struct StepF32 {
  static constexpr int kTileRows = 4;
  using Reg = __m256;
  using Operand = __m256;
  static BI_INLINE Operand load(const void* p, int pass) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(half_at(p, pass)));
  }
  static BI_INLINE Operand load_f16(const void* p, int pass) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p) + pass));
  }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) { return _mm256_fmadd_ps(a, b, acc); }
};

struct StepBf16 {
  static constexpr int kTileRows = 3;
  using Reg = __m256;
  using Operand = __m256i;
  static BI_INLINE Operand load(const void* p, int pass) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half_at(p, pass)));
  }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) {
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, odd)),
                          _mm256_castsi256_ps(_mm256_and_si256(b, odd)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                           _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), acc);
  }
};

struct StepF64 {
  static constexpr int kTileRows = 4;
  using Reg = __m256d;
  using Operand = __m256d;
  static BI_INLINE Operand load(const void* p, int pass) {
    return _mm256_loadu_pd(reinterpret_cast<const double*>(half_at(p, pass)));
  }
  static BI_INLINE Reg step(Reg acc, Operand a, Operand b) { return _mm256_fmadd_pd(a, b, acc); }
};

#else
constexpr int kPasses = 2;
constexpr int kTileCols = 2;

struct StepF32 {
  static constexpr int kTileRows = 2;
  using Reg = HalfF;
  using Operand = HalfF;
  static BI_INLINE Operand load(const void* p, int pass) { return load_half(static_cast<const float*>(p) + 8 * pass); }
  static BI_INLINE Operand load_f16(const void* p, int pass) {
    Operand x;
    for (int i = 0; i < 8; i++) x.v[i] = float_of_f16(static_cast<const uint16_t*>(p)[8 * pass + i]);
    return x;
  }
  static BI_INLINE Reg step(Reg acc, const Operand& a, const Operand& b) {
    for (int i = 0; i < 8; i++) acc.v[i] = std::fma(a.v[i], b.v[i], acc.v[i]);
    return acc;
  }
};

struct StepBf16 {
  static constexpr int kTileRows = 2;
  struct Operand { float even[8], odd[8]; };
  using Reg = HalfF;
  static BI_INLINE Operand load(const void* p, int pass) {
    Operand x;
    const uint16_t* h = static_cast<const uint16_t*>(p) + 16 * pass;
    for (int i = 0; i < 8; i++) x.even[i] = float_of_bf16(h[2 * i]), x.odd[i] = float_of_bf16(h[2 * i + 1]);
    return x;
  }
  static BI_INLINE Reg step(Reg acc, const Operand& a, const Operand& b) {
    for (int i = 0; i < 8; i++) acc.v[i] = std::fma(a.even[i], b.even[i], std::fma(a.odd[i], b.odd[i], acc.v[i]));
    return acc;
  }
};

struct StepF64 {
  static constexpr int kTileRows = 2;
  using Reg = HalfD;
  using Operand = HalfD;
  static BI_INLINE Operand load(const void* p, int pass) { return load_half(static_cast<const double*>(p) + 4 * pass); }
  static BI_INLINE Reg step(Reg acc, const Operand& a, const Operand& b) {
    for (int i = 0; i < 4; i++) acc.v[i] = std::fma(a.v[i], b.v[i], acc.v[i]);
    return acc;
  }
};
#endif

// ---- dtypes -------------------------------------------------------------------------------------
// Stored: element in memory; Packed: element of a panel (f16 is widened when packed); Sum: accumulator.

struct F32 : StepF32 {
  using Stored = float;
  using Packed = float;
  using Sum = float;
  using Half = HalfF;
  static constexpr bool kFlush = false;
  static BI_INLINE Operand load_stored(const Stored* p, int pass) { return load(p, pass); }
  static BI_INLINE void copy_vector(const Stored* p, void* dst) { std::memcpy(dst, p, kVectorBytes); }
  static BI_INLINE Packed pack(Stored x) { return x; }
  static BI_INLINE Sum widen(Stored x) { return x; }
  static BI_INLINE Stored round(Sum x) { return x; }
  static BI_INLINE void round_row(const Sum* __restrict from, Stored* __restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = round(from[i]);
  }
};

struct F16 : StepF32 {
  using Stored = uint16_t;
  using Packed = float;
  using Sum = float;
  using Half = HalfF;
  static constexpr bool kFlush = false;
  static BI_INLINE Operand load_stored(const Stored* p, int pass) { return load_f16(p, pass); }
  static BI_INLINE void copy_vector(const Stored* p, void* dst) {
    for (int pass = 0; pass < kPasses; pass++) {
      const Operand x = load_f16(p, pass);
      std::memcpy(static_cast<char*>(dst) + pass * sizeof x, &x, sizeof x);
    }
  }
  static BI_INLINE Packed pack(Stored x) { return float_of_f16(x); }
  static BI_INLINE Sum widen(Stored x) { return float_of_f16(x); }
  static BI_INLINE Stored round(Sum x) { return f16_of_float(x); }
  static BI_INLINE void round_row(const Sum* __restrict from, Stored* __restrict to, int64_t count) {
    int64_t i = 0;
#if defined(BI_ISA_AVX512)
    for (; i + 16 <= count; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; i++) to[i] = round(from[i]);
  }
};

struct Bf16 : StepBf16 {
  using Stored = uint16_t;
  using Packed = uint16_t;
  using Sum = float;
  using Half = HalfF;
  static constexpr bool kFlush = true;
  static BI_INLINE Operand load_stored(const Stored* p, int pass) { return load(p, pass); }
  static BI_INLINE void copy_vector(const Stored* p, void* dst) { std::memcpy(dst, p, kVectorBytes); }
  static BI_INLINE Packed pack(Stored x) { return x; }
  static BI_INLINE Sum widen(Stored x) { return float_of_bf16(x); }
  static BI_INLINE Stored round(Sum x) { return bf16_of_float(x); }
  static BI_INLINE void round_row(const Sum* __restrict from, Stored* __restrict to, int64_t count) {
    int64_t i = 0;
#if defined(BI_HAS_BF16_DOT)
    for (; i + 16 <= count; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#endif
    for (; i < count; i++) to[i] = round(from[i]);
  }
};

struct F64 : StepF64 {
  using Stored = double;
  using Packed = double;
  using Sum = double;
  using Half = HalfD;
  static constexpr bool kFlush = false;
  static BI_INLINE Operand load_stored(const Stored* p, int pass) { return load(p, pass); }
  static BI_INLINE void copy_vector(const Stored* p, void* dst) { std::memcpy(dst, p, kVectorBytes); }
  static BI_INLINE Packed pack(Stored x) { return x; }
  static BI_INLINE Sum widen(Stored x) { return x; }
  static BI_INLINE Stored round(Sum x) { return x; }
  static BI_INLINE void round_row(const Sum* __restrict from, Stored* __restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = round(from[i]);
  }
};

// k in one panel vector, and lanes (accumulators per output element) of a dtype.
template <class T>
constexpr int kVectorK = kVectorBytes / static_cast<int>(sizeof(typename T::Packed));
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(typename T::Sum));

}  // namespace bi::gemm
