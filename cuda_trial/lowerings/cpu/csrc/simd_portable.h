// Plain C++: arrays of lanes with correctly rounded std::fma. Included by simd.h only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bi {

template <class T, int W> struct Lanes {
  using scalar = T;
  static constexpr int width = W;
  T v[W];
  Lanes() : v{} {}
  explicit Lanes(T x) {
    for (T& lane : v) lane = x;
  }
};
template <class T, int W> struct MaskLanes {
  bool v[W];
};
template <class U, int W> struct IntLanes {
  U v[W];
};

using V16 = Lanes<float, 16>;
using V8d = Lanes<double, 8>;
using M16 = MaskLanes<float, 16>;
using M8 = MaskLanes<double, 8>;
using I16 = IntLanes<uint32_t, 16>;
using I8 = IntLanes<uint64_t, 8>;

template <class R, class F> inline R each_lane(F f) {
  R r;
  for (int i = 0; i < int(sizeof(r.v) / sizeof(r.v[0])); ++i) r.v[i] = f(i);
  return r;
}

#define BI_LANES template <class T, int W>
BI_LANES inline Lanes<T, W> operator+(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] + b.v[i]; });
}
BI_LANES inline Lanes<T, W> operator-(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] - b.v[i]; });
}
BI_LANES inline Lanes<T, W> operator*(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] * b.v[i]; });
}
BI_LANES inline Lanes<T, W> operator/(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] / b.v[i]; });
}
BI_LANES inline Lanes<T, W> fma(Lanes<T, W> a, Lanes<T, W> b, Lanes<T, W> c) {
  return each_lane<Lanes<T, W>>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
BI_LANES inline Lanes<T, W> sqrt(Lanes<T, W> a) {
  return each_lane<Lanes<T, W>>([&](int i) { return std::sqrt(a.v[i]); });
}
BI_LANES inline Lanes<T, W> abs(Lanes<T, W> a) {
  return each_lane<Lanes<T, W>>([&](int i) { return std::fabs(a.v[i]); });
}
BI_LANES inline Lanes<T, W> max_second(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
BI_LANES inline Lanes<T, W> min_second(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
BI_LANES inline MaskLanes<T, W> less(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<MaskLanes<T, W>>([&](int i) { return a.v[i] < b.v[i]; });
}
BI_LANES inline MaskLanes<T, W> equal(Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<MaskLanes<T, W>>([&](int i) { return a.v[i] == b.v[i]; });
}
BI_LANES inline MaskLanes<T, W> is_nan(Lanes<T, W> a) {
  return each_lane<MaskLanes<T, W>>([&](int i) { return a.v[i] != a.v[i]; });
}
BI_LANES inline Lanes<T, W> select(MaskLanes<T, W> m, Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}
BI_LANES inline bool any(MaskLanes<T, W> m) {
  bool found = false;
  for (bool lane : m.v) found |= lane;
  return found;
}
BI_LANES inline Lanes<T, W> select_first(int n, Lanes<T, W> a, Lanes<T, W> b) {
  return each_lane<Lanes<T, W>>([&](int i) { return i < n ? a.v[i] : b.v[i]; });
}
template <int w, class T, int W> inline Lanes<T, W> lanes_from(Lanes<T, W> a) {
  return each_lane<Lanes<T, W>>([&](int i) { return a.v[i ^ w]; });
}
BI_LANES inline T first(Lanes<T, W> a) { return a.v[0]; }

BI_LANES inline auto bits(Lanes<T, W> a) {
  std::conditional_t<sizeof(T) == 4, I16, I8> r;
  std::memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
template <class U, int W> inline auto from_bits(IntLanes<U, W> a) {
  std::conditional_t<sizeof(U) == 4, V16, V8d> r;
  std::memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
template <class U, int W> inline IntLanes<U, W> add(IntLanes<U, W> a, std::type_identity_t<U> c) {
  return each_lane<IntLanes<U, W>>([&](int i) { return a.v[i] + c; });
}
template <class U, int W>
inline IntLanes<U, W> bit_and(IntLanes<U, W> a, std::type_identity_t<U> c) {
  return each_lane<IntLanes<U, W>>([&](int i) { return a.v[i] & c; });
}
template <class U, int W>
inline IntLanes<U, W> bit_or(IntLanes<U, W> a, std::type_identity_t<U> c) {
  return each_lane<IntLanes<U, W>>([&](int i) { return a.v[i] | c; });
}
template <int k, class U, int W> inline IntLanes<U, W> shift_right(IntLanes<U, W> a) {
  return each_lane<IntLanes<U, W>>([&](int i) { return a.v[i] >> k; });
}
template <int k, class U, int W> inline IntLanes<U, W> shift_left(IntLanes<U, W> a) {
  return each_lane<IntLanes<U, W>>([&](int i) { return a.v[i] << k; });
}
#undef BI_LANES

template <class T> using LanesOf = std::conditional_t<std::is_same_v<T, double>, V8d, V16>;

template <class T> inline LanesOf<T> load(const T* p, int n) {
  LanesOf<T> r;
  for (int i = 0; i < n; ++i) r.v[i] = widen(p[i]);
  return r;
}
template <class T> inline LanesOf<T> load(const T* p) { return load(p, LanesOf<T>::width); }
template <class T> inline void store(T* p, LanesOf<T> a, int n) {
  for (int i = 0; i < n; ++i) p[i] = narrow<T>(a.v[i]);
}
template <class T> inline void store(T* p, LanesOf<T> a) { store(p, a, LanesOf<T>::width); }

}  // namespace bi
