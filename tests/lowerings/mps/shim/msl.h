// Compiles Metal Shading Language text as C++17 and runs it on a CPU. Tests only, never shipped.
//
// Modelled: scalar and vector types (half and bfloat round to nearest even after every operation), fma, precise::sqrt,
// threadgroup memory (poisoned, limited), barriers, simdgroup shuffles with an active mask, simdgroup_matrix 8x8.
// Left open by Metal and therefore a parameter of the launch: thread order, simd_sum tree, order inside one 8x8x8 step.
// Not modelled: the GPU's memory model, Apple's compiler (contraction, registers), speed.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

#define MSL_INLINE inline __attribute__((always_inline))
#define MSL_SITE int site = __builtin_LINE()

// ---- runtime: every GPU thread is a fiber; fibers.cpp schedules them ------------------------------------------------
namespace msl {
constexpr unsigned SIMD_WIDTH = 32, MAX_THREADS = 1024, SLOT_BYTES = 64;
enum State : uint8_t { RUNNING, AT_SIMD_OP, AT_SIMD_BARRIER, AT_BARRIER, DONE };
struct Fiber {
  void* stack_pointer;
  unsigned char* stack;
  State state;
  int site;                       // source line of the wait: immune to inlining and unrolling
  uint32_t index, lane, simdgroup;
  uint32_t active;                // lanes that took part in the last simdgroup operation
  uint32_t in_grid[3], in_group[3];
  alignas(16) unsigned char sent[SLOT_BYTES], received[SLOT_BYTES];
};
struct Group {                    // the threadgroup that runs now
  Fiber fibers[MAX_THREADS];
  unsigned size = 0;
  uint32_t position[3], groups[3], threads[3], grid[3];
  unsigned char* arena = nullptr;
  size_t used = 0, limit = 0;
  const void* keys[64];
  void* addresses[64];
  unsigned variables = 0;
  int sum_order = 0, mma_order = 0;
  char error[512] = {0};
  void* scheduler = nullptr;
};
extern thread_local Group* group;
extern thread_local Fiber* self;
void wait(State state, int site);
void fail(const char* format, ...);
void* threadgroup_variable(const void* key, size_t bytes, size_t align);

// All lanes of a simdgroup that wait at the same line take part; a lane outside of them reads as garbage.
template <class T> MSL_INLINE uint32_t exchange(const T& value, int site) {
  static_assert(sizeof(T) <= SLOT_BYTES, "value too large for a simdgroup operation");
  std::memcpy(self->sent, &value, sizeof(T));
  wait(AT_SIMD_OP, site);
  return self->active;
}
template <class T> MSL_INLINE T peer(unsigned lane) {
  T value;
  std::memset(&value, 0xFF, sizeof(T));
  if (lane < SIMD_WIDTH && (self->active >> lane & 1u))
    std::memcpy(&value, group->fibers[self->simdgroup * SIMD_WIDTH + lane].received, sizeof(T));
  return value;
}
template <class T> MSL_INLINE T& variable(const void* key) {
  return *static_cast<T*>(threadgroup_variable(key, sizeof(T), alignof(T)));
}
template <class T> struct argument;
template <class T> struct argument<T*> {
  static T* get(void* p) { return static_cast<T*>(p); }
  static constexpr int size = sizeof(T), reference = 0;
};
template <class T> struct argument<T&> {
  static T& get(void* p) { return *static_cast<T*>(p); }
  static constexpr int size = sizeof(T), reference = 1;
};
using kernel_function = void (*)(void** buffers);

}  // namespace msl

#include "types.h"

namespace metal {
// ---- arithmetic -----------------------------------------------------------------------------------------------------
namespace precise { MSL_INLINE float sqrt(float x) { return std::sqrt(x); } }
MSL_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <int N> MSL_INLINE vec<float, N> fma(vec<float, N> a, vec<float, N> b, vec<float, N> c) {
  for (int i = 0; i < N; i++) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}
MSL_INLINE float rint(float x) { return std::nearbyint(x); }
MSL_INLINE float fabs(float x) { return std::fabs(x); }
MSL_INLINE bool isnan(float x) { return std::isnan(x); }
MSL_INLINE bool isinf(float x) { return std::isinf(x); }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>> MSL_INLINE T min(T a, T b) { return b < a ? b : a; }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>> MSL_INLINE T max(T a, T b) { return a < b ? b : a; }

// ---- barriers and simdgroup operations ------------------------------------------------------------------------------
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
MSL_INLINE void threadgroup_barrier(mem_flags, MSL_SITE) { msl::wait(msl::AT_BARRIER, site); }
MSL_INLINE void simdgroup_barrier(mem_flags, MSL_SITE) { msl::wait(msl::AT_SIMD_BARRIER, site); }

template <class T> constexpr bool can_shuffle = sizeof(T) <= 4 && !std::is_same_v<T, bfloat>;
template <class T, int N> constexpr bool can_shuffle<vec<T, N>> = can_shuffle<T>;
#define MSL_SHUFFLE(NAME, LANE)                                                                       \
  template <class T> MSL_INLINE T NAME(T value, ushort n, MSL_SITE) {                                 \
    static_assert(can_shuffle<T>, "Metal shuffles neither 64-bit types nor bfloat");                  \
    msl::exchange(value, site);                                                                       \
    return msl::peer<T>(LANE);                                                                        \
  }
MSL_SHUFFLE(simd_shuffle_xor, msl::self->lane ^ n)
MSL_SHUFFLE(simd_shuffle, n)

inline float simd_sum(float value, MSL_SITE) {        // the tree is not documented: four plausible ones
  const uint32_t active = msl::exchange(value, site);
  float a[32];
  int n = 0;
  for (unsigned lane = 0; lane < 32; lane++) if (active >> lane & 1u) a[n++] = msl::peer<float>(lane);
  switch (msl::group->sum_order) {
    case 0: for (int s = 1; s < n; s *= 2) for (int i = 0; i + s < n; i += 2 * s) a[i] = a[i] + a[i + s]; return a[0];
    case 1: for (int i = 1; i < n; i++) a[0] = a[0] + a[i]; return a[0];
    case 2: for (int i = n - 1; i > 0; i--) a[i - 1] = a[i] + a[i - 1]; return a[0];
    default: for (int s = 16; s; s /= 2) for (int i = 0; i < s && i + s < n; i++) a[i] = a[i] + a[i + s]; return a[0];
  }
}

// simdgroup_matrix: two elements a lane. Metal does not document the map from lanes to elements; this one is arbitrary.
template <class T, int R, int C> struct simdgroup_matrix {
  static_assert(R == 8 && C == 8 && !std::is_same_v<T, bfloat>, "8x8 of half or float");
  T e[2];
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T s) : e{s, s} {}
};
struct MatrixLane { int row, column; };
MSL_INLINE MatrixLane matrix_lane() { return {int(msl::self->lane / 4), int(msl::self->lane % 4 * 2)}; }
template <class T> MSL_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, ulong stride) {
  const MatrixLane at = matrix_lane();
  for (int i = 0; i < 2; i++) m.e[i] = p[at.row * stride + at.column + i];
}
template <class T> MSL_INLINE void simdgroup_store(simdgroup_matrix<T, 8, 8> m, T* p, ulong stride) {
  const MatrixLane at = matrix_lane();
  for (int i = 0; i < 2; i++) p[at.row * stride + at.column + i] = m.e[i];
}
template <class T>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<float, 8, 8>& d, simdgroup_matrix<T, 8, 8> a,
                                          simdgroup_matrix<T, 8, 8> b, simdgroup_matrix<float, 8, 8> c, MSL_SITE) {
  struct Pair { T a[2], b[2]; };
  if (msl::exchange(Pair{{a.e[0], a.e[1]}, {b.e[0], b.e[1]}}, site) != 0xffffffffu)
    msl::fail("simdgroup_multiply_accumulate with inactive lanes");
  const MatrixLane at = matrix_lane();
  for (int i = 0; i < 2; i++) {
    const int column = at.column + i;
    float p[8], q[8], acc = c.e[i];
    for (int k = 0; k < 8; k++) {
      p[k] = float(msl::peer<Pair>(unsigned(at.row * 4 + k / 2)).a[k & 1]);
      q[k] = float(msl::peer<Pair>(unsigned(k * 4 + column / 2)).b[column & 1]);
    }
    switch (msl::group->mma_order) {
      case 0: for (int k = 0; k < 8; k++) acc = __builtin_fmaf(p[k], q[k], acc); break;
      case 1: for (int k = 7; k >= 0; k--) acc = __builtin_fmaf(p[k], q[k], acc); break;
      case 2: {
        float t[8];
        for (int k = 0; k < 8; k++) t[k] = p[k] * q[k];
        acc = acc + (((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7])));
        break;
      }
      default: for (int k = 0; k < 8; k++) acc = acc + p[k] * q[k];
    }
    d.e[i] = acc;
  }
}
}  // namespace metal
using metal::as_type;                                  // a builtin in Metal: no namespace

#define MSL_VECTORS(T) typedef metal::vec<T, 2> T##2; typedef metal::vec<T, 3> T##3; typedef metal::vec<T, 4> T##4;
MSL_VECTORS(float) MSL_VECTORS(int) MSL_VECTORS(uint) MSL_VECTORS(half)

// ---- keywords: after every standard header --------------------------------------------------------------------------
#define kernel
#define device
#define constant const
#define thread
#define threadgroup
