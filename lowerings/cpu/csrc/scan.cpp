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

template <class T>
void scan_block(Scan kind, const T* x, const Chains& chains, int count, T* y) {
  constexpr int width = chain_t<T>::width;
  if (kind == Scan::logcumsumexp) return log_scan_chains(x, chains, count, y);
  const bool sum = kind == Scan::cumsum;
  if (count == width && chains.step > 1) {
    if (sum) return scan_chains<RunningSum, width>(x, chains, 0, y);
    return scan_chains<RunningProduct, width>(x, chains, 1, y);
  }
  int c = 0;
  for (; c + 4 <= count; c += 4, x += 4 * chains.apart, y += 4 * chains.apart) {
    if (sum) scan_chains<RunningSum, 4>(x, chains, 0, y);
    else scan_chains<RunningProduct, 4>(x, chains, 1, y);
  }
  for (; c < count; ++c, x += chains.apart, y += chains.apart) {
    if (sum) scan_chains<RunningSum, 1>(x, chains, 0, y);
    else scan_chains<RunningProduct, 1>(x, chains, 1, y);
  }
}

template <class T>
void scan_floating(Scan kind, const T* x, int64_t outer, int64_t n, int64_t inner, T* y,
                   int threads) {
  constexpr int width = chain_t<T>::width;
  const Chains chains{n, inner, inner == 1 ? n : 1};
  const int64_t side = inner == 1 ? outer : inner, groups = inner == 1 ? 1 : outer;
  const int64_t blocks = (side + width - 1) / width;
  parallel_for(threads, groups * blocks, 1 + 4096 / (n * width), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t first_chain = i % blocks * width;
      const int64_t at = i / blocks * n * inner + first_chain * chains.apart;
      const int count = static_cast<int>(std::min<int64_t>(width, side - first_chain));
      scan_block(kind, x + at, chains, count, y + at);
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
