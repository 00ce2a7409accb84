#include "scan.h"

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace bi {
namespace {

struct RunningSum {
  template <class S> static S next(S acc, S x) { return acc + x; }
};
struct RunningProduct {
  template <class S> static S next(S acc, S x) { return acc * x; }
};
template <class V> V log_add_exp(V acc, V x) {
  const V low = min_nan(acc, x), high = max_nan(acc, x);
  const V gap = select(equal(low, high), V(), low - high);  // inf - inf would be NaN
  return log1p(exp_nonpositive(gap)) + high;
}

/// f32 chains run in double: torch does, and a float chain of 50000 would lose three digits.
template <class T> using chain_t = std::conditional_t<sizeof(T) == 2, V16, V8d>;

constexpr int kRowsAtOnce = 4;  // chains along rows that hide each other's latency

/// Element j of chain c at c * apart + j * step.
struct Chains {
  int64_t n, step, apart;
};

/// W chains at once hide the latency of each addition.
template <class Op, int W, class T>
void scan_chains(const T* x, const Chains& chains, typename chain_t<T>::scalar start, T* y) {
  using S = typename chain_t<T>::scalar;
  S acc[W];
  for (S& a : acc) a = start;
  const int64_t apart = chains.step == 1 ? chains.apart : 1;
  for (int64_t j = 0; j < chains.n; ++j) {
#pragma GCC unroll 16
    for (int c = 0; c < W; ++c) {
      const int64_t at = c * apart + j * chains.step;
      acc[c] = Op::next(acc[c], static_cast<S>(widen(x[at])));
      y[at] = narrow<T>(static_cast<acc_t<T>>(acc[c]));
    }
  }
}

/// W chains along rows of halves: whole vectors are converted, the chains run in the floats between.
template <class Op, int W, class T>
void scan_half_rows(const T* x, const Chains& chains, float start, T* y) {
  constexpr int64_t block = 256;
  alignas(64) float values[W][block];
  float acc[W];
  for (float& a : acc) a = start;
  for (int64_t j = 0; j < chains.n; j += block) {
    const int64_t count = std::min(block, chains.n - j);
    const auto each_vector = [&](const auto& f) {
      for (int c = 0; c < W; ++c)
        for (int64_t i = 0; i < count; i += V16::width)
          f(values[c] + i, c * chains.apart + j + i,
            static_cast<int>(std::min<int64_t>(V16::width, count - i)));
    };
    each_vector([&](float* v, int64_t at, int m) {
      store(v, m == V16::width ? load(x + at) : load(x + at, m));
    });
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
      for (int c = 0; c < W; ++c) values[c][i] = acc[c] = Op::next(acc[c], values[c][i]);
    }
    each_vector([&](const float* v, int64_t at, int m) {
      if (m == V16::width) store(y + at, load(v));
      else store(y + at, load(v), m);
    });
  }
}

template <class T> void log_scan_chains(const T* x, const Chains& chains, int count, T* y) {
  using V = chain_t<T>;
  using S = typename V::scalar;
  V acc(-static_cast<S>(__builtin_inf()));
  S lane[V::width] = {};
  for (int64_t j = 0; j < chains.n; ++j) {
    for (int c = 0; c < count; ++c) lane[c] = widen(x[c * chains.apart + j * chains.step]);
    acc = log_add_exp(acc, load(lane));
    store(lane, acc);
    for (int c = 0; c < count; ++c)
      y[c * chains.apart + j * chains.step] = narrow<T>(static_cast<acc_t<T>>(lane[c]));
  }
}

/// W chains, along rows or across them.
template <class Op, int W, class T>
void scan_some(const T* x, const Chains& chains, int start, T* y) {
  if constexpr (sizeof(T) == 2)
    if (chains.step == 1) return scan_half_rows<Op, W>(x, chains, static_cast<float>(start), y);
  scan_chains<Op, W>(x, chains, static_cast<typename chain_t<T>::scalar>(start), y);
}

template <class Op, class T>
void scan_block(const T* x, const Chains& chains, int start, int count, T* y) {
  constexpr int width = chain_t<T>::width;
  if (count == width && chains.step > 1) return scan_some<Op, width>(x, chains, start, y);
  const auto passed = [&](int c) { x += c * chains.apart, y += c * chains.apart, count -= c; };
  for (; count >= kRowsAtOnce; passed(kRowsAtOnce))
    scan_some<Op, kRowsAtOnce>(x, chains, start, y);
  for (; count >= 2; passed(2)) scan_some<Op, 2>(x, chains, start, y);
  if (count) scan_some<Op, 1>(x, chains, start, y);
}

template <class T>
void scan_floating(Scan kind, const T* x, int64_t outer, int64_t n, int64_t inner, T* y,
                   int threads) {
  const bool along_rows = inner == 1 && kind != Scan::logcumsumexp;
  const Chains chains{n, inner, inner == 1 ? n : 1};
  const int64_t side = inner == 1 ? outer : inner, groups = inner == 1 ? 1 : outer;
  // Few rows: a thread with fewer of them at once is better than a thread without any.
  const int64_t unit = along_rows ? std::clamp<int64_t>(side / threads, 1, kRowsAtOnce)
                                  : chain_t<T>::width;
  const int64_t blocks = (side + unit - 1) / unit;
  parallel_for(threads, groups * blocks, 1 + 4096 / (n * unit), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t first_chain = i % blocks * unit;
      const int64_t at = i / blocks * n * inner + first_chain * chains.apart;
      const int count = static_cast<int>(std::min<int64_t>(unit, side - first_chain));
      if (kind == Scan::logcumsumexp) log_scan_chains(x + at, chains, count, y + at);
      else if (kind == Scan::cumsum) scan_block<RunningSum>(x + at, chains, 0, count, y + at);
      else scan_block<RunningProduct>(x + at, chains, 1, count, y + at);
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
    scan_floating(kind, static_cast<const T*>(x), outer, n, inner, static_cast<T*>(y), threads);
  });
}

}  // namespace bi
