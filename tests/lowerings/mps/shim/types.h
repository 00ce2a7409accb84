// Metal's scalar and vector types for a C++ compiler: half and bfloat round to nearest even after every operation.
// Shared by msl.h (g++, clang) and msl_cuda.h (NVRTC); both bring MSL_INLINE and the standard names used here.
#pragma once

namespace msl {
MSL_INLINE uint32_t bits_of(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
MSL_INLINE float float_of(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline float from_half(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u;
  uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
  if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  if (!mantissa) return float_of(sign);
  const int shift = __builtin_clz(mantissa) - 21;
  return float_of(sign | uint32_t(113 - shift) << 23 | (mantissa << shift & 0x3ffu) << 13);
}
inline uint16_t to_half(float f) {                    // integers only, so that flush-to-zero cannot touch it
  const uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  if (a >= 0x7f800000u) return uint16_t(sign | (a > 0x7f800000u ? 0x7e00u : 0x7c00u));
  if (a >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
  if (a >= 0x38800000u) return uint16_t(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
  if (a < 0x33000000u) return uint16_t(sign);
  const int shift = 126 - int(a >> 23);
  const uint32_t m = (a & 0x7fffffu) | 0x800000u, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
  const uint32_t q = m >> shift;
  return uint16_t(sign | (q + (rest > half || (rest == half && (q & 1u)))));
}
MSL_INLINE float from_bfloat(uint16_t b) { return float_of(uint32_t(b) << 16); }
inline uint16_t to_bfloat(float f) {
  const uint32_t u = bits_of(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 0x40u);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
}  // namespace msl

// ---- types ----------------------------------------------------------------------------------------------------------
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

// One fp32 operation and one rounding is the correctly rounded 16-bit result: fp32 has more than 2 * 11 + 2 bits.
#define MSL_SMALL_FLOAT(NAME, TO, FROM)                                                               \
  struct NAME {                                                                                       \
    uint16_t storage;                                                                                 \
    NAME() = default;                                                                                 \
    template <class U, class = std::enable_if_t<std::is_arithmetic_v<U>>>                             \
    NAME(U v) : storage(TO(float(v))) {}                                                              \
    operator float() const { return FROM(storage); }                                                  \
  };                                                                                                  \
  MSL_INLINE NAME operator+(NAME a, NAME b) { return NAME(float(a) + float(b)); }                     \
  MSL_INLINE NAME operator-(NAME a, NAME b) { return NAME(float(a) - float(b)); }                     \
  MSL_INLINE NAME operator*(NAME a, NAME b) { return NAME(float(a) * float(b)); }                     \
  MSL_INLINE NAME operator/(NAME a, NAME b) { return NAME(float(a) / float(b)); }                     \
  MSL_INLINE NAME operator-(NAME a) { return NAME(-float(a)); }
MSL_SMALL_FLOAT(half, msl::to_half, msl::from_half)
MSL_SMALL_FLOAT(bfloat, msl::to_bfloat, msl::from_bfloat)

namespace metal {
template <class T, int N> struct vec;
#define MSL_VECTOR(N, CAPACITY, MEMBERS, INIT, ...)                                                   \
  template <class T> struct vec<T, N> {                                                               \
    union { struct { T MEMBERS; }; T v[CAPACITY]; };                                                  \
    vec() = default;                                                                                  \
    vec(T s) { for (T& e : v) e = s; }                                                                \
    vec(__VA_ARGS__) : v INIT {}                                                                      \
    T& operator[](int i) { return v[i]; }                                                             \
    const T& operator[](int i) const { return v[i]; }                                                 \
  };
#define MSL_M2 x, y
#define MSL_M3 x, y, z
#define MSL_M4 x, y, z, w
#define MSL_I2 {a, b}
#define MSL_I3 {a, b, c, T()}
#define MSL_I4 {a, b, c, d}
MSL_VECTOR(2, 2, MSL_M2, MSL_I2, T a, T b)
MSL_VECTOR(3, 4, MSL_M3, MSL_I3, T a, T b, T c)       // a three-vector takes the room of four, as in Metal
MSL_VECTOR(4, 4, MSL_M4, MSL_I4, T a, T b, T c, T d)
#define MSL_OPERATOR(OP)                                                                              \
  template <class T, int N> MSL_INLINE vec<T, N> operator OP(vec<T, N> a, vec<T, N> b) {              \
    for (int i = 0; i < N; i++) a.v[i] = a.v[i] OP b.v[i];                                            \
    return a;                                                                                         \
  }
MSL_OPERATOR(+) MSL_OPERATOR(-) MSL_OPERATOR(*) MSL_OPERATOR(/)

template <class T, class U> MSL_INLINE T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs equal sizes");
  T t;
  std::memcpy(&t, &u, sizeof t);
  return t;
}
}  // namespace metal

namespace msl {                                        // kernel attributes such as [[thread_position_in_grid]]
template <class T> struct position { static T get(const uint32_t* v) { return T(v[0]); } };
template <class T> struct position<metal::vec<T, 2>> {
  static metal::vec<T, 2> get(const uint32_t* v) { return metal::vec<T, 2>(T(v[0]), T(v[1])); }
};
template <class T> struct position<metal::vec<T, 3>> {
  static metal::vec<T, 3> get(const uint32_t* v) { return metal::vec<T, 3>(T(v[0]), T(v[1]), T(v[2])); }
};
}  // namespace msl
