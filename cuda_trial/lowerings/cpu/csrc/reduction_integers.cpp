#include <algorithm>
#include <limits>

#include "parallel.h"
#include "reduction.h"

namespace bi {
namespace {

constexpr int64_t kGrain = 32768;  // elements per thread

/// y[i] = fold of row i from `init`, one element after another; exact, so any order would do.
template <class T, class Y, class F>
void fold_rows(const T* x, const RowLayout& layout, Y* y, int threads, Y init, const F& step) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(layout.extent, 1));
  parallel_for(threads, layout.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = x + layout.kept.offset(i);
      Y acc = init;
      if (layout.extent > 0)
        for_each_offset(layout.reduced, [&](int64_t at) { acc = step(acc, row[at]); });
      y[i] = acc;
    }
  });
}

template <class T>
void index_rows(bool largest, const T* x, const RowLayout& layout, int64_t* y, int threads) {
  parallel_for(threads, layout.rows, 1 + kGrain / layout.extent, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = x + layout.kept.offset(i);
      T best = row[0];
      int64_t j = 0, best_at = 0;
      for_each_offset(layout.reduced, [&](int64_t at) {
        if (largest ? row[at] > best : row[at] < best) best = row[at], best_at = j;
        ++j;
      });
      y[i] = best_at;
    }
  });
}

template <class T>
void reduce_as(Reduce kind, const T* x, const RowLayout& layout, void* y, int threads) {
  // Unsigned, since torch lets integer sums wrap around.
  const auto wrapping = static_cast<uint64_t*>(y);
  const auto same = static_cast<T*>(y);
  const auto truth = static_cast<uint8_t*>(y);
  using U = uint64_t;
  using B = uint8_t;
  using limits = std::numeric_limits<T>;
  const auto run = [&](auto* to, auto init, const auto& step) {
    fold_rows(x, layout, to, threads, init, step);
  };
  switch (kind) {
    case Reduce::sum: return run(wrapping, U{0}, [](U a, T v) { return a + static_cast<U>(v); });
    case Reduce::prod: return run(wrapping, U{1}, [](U a, T v) { return a * static_cast<U>(v); });
    case Reduce::amax: return run(same, limits::min(), [](T a, T v) { return std::max(a, v); });
    case Reduce::amin: return run(same, limits::max(), [](T a, T v) { return std::min(a, v); });
    case Reduce::any: return run(truth, B{0}, [](B a, T v) -> B { return a | B(v != 0); });
    case Reduce::all: return run(truth, B{1}, [](B a, T v) -> B { return a & B(v != 0); });
    default:
      return index_rows(kind == Reduce::argmax, x, layout, static_cast<int64_t*>(y), threads);
  }
}

}  // namespace

void reduce_integers(Reduce kind, DType in, const void* x, const RowLayout& layout, void* y,
                     int threads) {
  dispatch_integer(in, [&](auto tag) {
    reduce_as(kind, static_cast<const tag_t<decltype(tag)>*>(x), layout, y, threads);
  });
}

}  // namespace bi
