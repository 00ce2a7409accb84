// Compiles Metal Shading Language text as CUDA with NVRTC: threads, simdgroups and barriers are then a real GPU's. Tests only.
// NVRTC has no standard headers and vector types of its own: what types.h needs is named here, Metal's names are macros.
#pragma once
#define MSL_INLINE __forceinline__
#define __builtin_clz __clz
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif
using int32_t = int;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
namespace std {
using ::memcpy;
template <bool, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <class T, class U> constexpr bool is_same_v = false;
template <class T> constexpr bool is_same_v<T, T> = true;
template <class T, class... U> constexpr bool is_one_of_v = (is_same_v<T, U> || ...);
template <class T> constexpr bool is_integral_v =
    is_one_of_v<T, bool, char, signed char, unsigned char, short, unsigned short, int, unsigned, long, unsigned long>;
template <class T> constexpr bool is_arithmetic_v = is_integral_v<T> || is_one_of_v<T, float, double>;
}  // namespace std

#include "types.h"

namespace metal {
// The compiler's own functions may contract or approximate; these intrinsics round to nearest.
namespace precise { MSL_INLINE float sqrt(float x) { return __fsqrt_rn(x); } }
MSL_INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
template <int N> MSL_INLINE vec<float, N> fma(vec<float, N> a, vec<float, N> b, vec<float, N> c) {
  for (int i = 0; i < N; i++) c.v[i] = __fmaf_rn(a.v[i], b.v[i], c.v[i]);
  return c;
}
MSL_INLINE float rint(float x) { return ::rintf(x); }
MSL_INLINE bool isnan(float x) { return x != x; }
MSL_INLINE bool isinf(float x) { return x == INFINITY || x == -INFINITY; }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>> MSL_INLINE T min(T a, T b) { return b < a ? b : a; }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>> MSL_INLINE T max(T a, T b) { return a < b ? b : a; }

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
MSL_INLINE void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL_INLINE void simdgroup_barrier(mem_flags) { __syncwarp(); }

template <class T> MSL_INLINE T simd_shuffle_xor(T value, unsigned short n) { return __shfl_xor_sync(0xffffffffu, value, n); }
template <class T, int N> MSL_INLINE vec<T, N> simd_shuffle_xor(vec<T, N> value, unsigned short n) {
  for (int i = 0; i < N; i++) value.v[i] = __shfl_xor_sync(0xffffffffu, value.v[i], n);
  return value;
}

// The map from lanes to elements of msl.h, and its first order: one fma chain, k ascending.
template <class T, int R, int C> struct simdgroup_matrix {
  float e[2];
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(float s) : e{s, s} {}
};
MSL_INLINE int matrix_row() { return int(threadIdx.x % 32 / 4); }
MSL_INLINE int matrix_column() { return int(threadIdx.x % 4 * 2); }
template <class T> MSL_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, unsigned long stride) {
  for (int i = 0; i < 2; i++) m.e[i] = float(p[matrix_row() * stride + matrix_column() + i]);
}
template <class T> MSL_INLINE void simdgroup_store(simdgroup_matrix<T, 8, 8> m, T* p, unsigned long stride) {
  for (int i = 0; i < 2; i++) p[matrix_row() * stride + matrix_column() + i] = T(m.e[i]);
}
template <class T>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<float, 8, 8>& d, simdgroup_matrix<T, 8, 8> a,
                                              simdgroup_matrix<T, 8, 8> b, simdgroup_matrix<float, 8, 8> c) {
  for (int k = 0; k < 8; k++) {
    const float left = __shfl_sync(0xffffffffu, a.e[k & 1], matrix_row() * 4 + k / 2);
    const float right[2] = {__shfl_sync(0xffffffffu, b.e[0], k * 4 + matrix_column() / 2),
                            __shfl_sync(0xffffffffu, b.e[1], k * 4 + matrix_column() / 2)};
    for (int i = 0; i < 2; i++) c.e[i] = __fmaf_rn(left, right[i], c.e[i]);
  }
  d = c;
}
typedef vec<int, 2> int2;
typedef vec<float, 4> float4;
typedef vec<uint, 3> uint3;
}  // namespace metal
using metal::as_type;

// NVRTC declares functions and types of these names at global scope
#define int2 metal::int2
#define float4 metal::float4
#define uint3 metal::uint3
#define fma metal::fma
#define rint metal::rint
#define isnan metal::isnan
#define isinf metal::isinf
#define min metal::min
#define max metal::max
#define device
#define constant const
#define thread
#define threadgroup
