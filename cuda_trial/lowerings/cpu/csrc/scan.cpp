#include "scan.h"

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace bi {
namespace {

template <class V> struct RunningSum {
  static V start() { return V(); }
  static V next(V acc, V x) { return acc + x; }
};
template <class V> struct RunningProduct {
  static V start() { return V(typename V::scalar(1)); }
  static V next(V acc, V x) { return acc * x; }
};
template <class V> struct RunningLogSumExp {
  static V start() { return V(-static_cast<typename V::scalar>(__builtin_inf())); }
  static V next(V acc, V x) {
    const V low = min_nan(acc, x), high = max_nan(acc, x);
    const V gap = select(equal(low, high), V(), low - high);  // inf - inf would be NaN
    return log1p(exp_nonpositive(gap)) + high;
  }
};

/// f32 chains run in double: torch does, and a float chain of 50000 would lose three digits.
template <class T> using chain_t = std::conditional_t<sizeof(T) == 2, V16, V8d>;

/// `lanes` chains at once, `apart` elements from each other.
template <class Op, class T, class V>
void scan_block(const T* x, int64_t n, int64_t inner, int64_t apart, int lanes, T* y) {
  V acc = Op::start();
  typename V::scalar lane[V::width] = {};
  for (int64_t j = 0; j < n; ++j) {
    for (int c = 0; c < lanes; ++c) lane[c] = widen(x[c * apart + j * inner]);
    acc = Op::next(acc, load(lane));
    store(lane, acc);
    for (int c = 0; c < lanes; ++c)
      y[c * apart + j * inner] = narrow<T>(static_cast<acc_t<T>>(lane[c]));
  }
}

template <class Op, class T, class V>
void scan_floating(const T* x, int64_t outer, int64_t n, int64_t inner, T* y, int threads) {
  const int64_t chains = inner == 1 ? outer : inner, apart = inner == 1 ? n : 1;
  const int64_t blocks = (chains + V::width - 1) / V::width, groups = inner == 1 ? 1 : outer;
  parallel_for(threads, groups * blocks, 1 + 4096 / (n * V::width), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t first_chain = i % blocks * V::width;
      const int64_t at = i / blocks * n * inner + first_chain * apart;
      const int lanes = static_cast<int>(std::min<int64_t>(V::width, chains - first_chain));
      scan_block<Op, T, V>(x + at, n, inner, apart, lanes, y + at);
    }
  });
}

void scan_integers(bool product, const uint64_t* x, int64_t outer, int64_t n, int64_t inner,
                   uint64_t* y, int threads) {
  parallel_for(threads, outer * inner, 1 + 16384 / n, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t at = i / inner * n * inner + i % inner;
      uint64_t acc = product ? 1 : 0;
      for (int64_t j = 0; j < n; ++j) {
        const uint64_t value = x[at + j * inner];
        y[at + j * inner] = acc = product ? acc * value : acc + value;
      }
    }
  });
}

}  // namespace

void scan(Scan kind, DType type, const void* x, int64_t outer, int64_t n, int64_t inner, void* y,
          int threads) {
  if (outer == 0 || n == 0 || inner == 0) return;
  if (!is_floating(type)) {
    return scan_integers(kind == Scan::cumprod, static_cast<const uint64_t*>(x), outer, n, inner,
                         static_cast<uint64_t*>(y), threads);
  }
  dispatch_floating(type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    using V = chain_t<T>;
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    switch (kind) {
      case Scan::cumsum:
        return scan_floating<RunningSum<V>, T, V>(from, outer, n, inner, to, threads);
      case Scan::cumprod:
        return scan_floating<RunningProduct<V>, T, V>(from, outer, n, inner, to, threads);
      case Scan::logcumsumexp:
        return scan_floating<RunningLogSumExp<V>, T, V>(from, outer, n, inner, to, threads);
    }
  });
}

}  // namespace bi
