#include "softmax.h"

#include <algorithm>
#include <memory>

#include "lanes.h"

namespace bi {
namespace {

constexpr int64_t kGrain = 4096;  // elements per thread: about 2 us of exp

/// A NaN may be lost here: it comes back through the sum, so the whole row is NaN anyway.
template <class V> struct MaxUnordered : Max<V> {
  V combine(V acc, V x) const { return max_second(x, acc); }
};

/// e[j] = exp(x[j] - max) into `e`; returns the sum of e by the plan.
template <class T, class V = vec_t<T>>
typename V::scalar exp_row(const T* x, int64_t n, V max, typename V::scalar* e) {
  const Sum<V> sum;
  LaneAccumulator<Sum<V>, V> lanes(sum);
  for_each_vector<V>(
      n,
      [&](int k, int64_t at) {
        const V value = exp_nonpositive(load(x + at) - max);
        store(e + at, value);
        lanes.acc[k] = lanes.acc[k] + value;
      },
      [&](int k, int64_t at, int m) {
        const V value = select_first(m, exp_nonpositive(load(x + at, m) - max), V());
        store(e + at, value, m);
        lanes.acc[k] = lanes.acc[k] + value;
      });
  return lanes.fold(sum);
}

template <class V, class T> typename V::scalar exp_sum(const T* x, int64_t n, V max) {
  const Sum<V> sum;
  LaneAccumulator<Sum<V>, V> lanes(sum);
  for_each_vector<V>(
      n,
      [&](int k, int64_t at) {
        lanes.acc[k] = lanes.acc[k] + exp_nonpositive(load(x + at) - max);
      },
      [&](int k, int64_t at, int m) {
        const V value = exp_nonpositive(load(x + at, m) - max);
        lanes.acc[k] = lanes.acc[k] + select_first(m, value, V());
      });
  return lanes.fold(sum);
}

/// y[j] = f(load(x + j)), rounded to O.
template <class V, class S, class O, class F>
void map_row(const S* x, int64_t n, O* y, const F& f) {
  for_each_vector<V>(
      n, [&](int, int64_t at) { store(y + at, f(load(x + at))); },
      [&](int, int64_t at, int m) { store(y + at, f(load(x + at, m)), m); });
}

template <class T, class O> void softmax_row(const T* x, int64_t n, O* y, acc_t<T>* e) {
  using V = vec_t<T>;
  const V max(fold_row(MaxUnordered<V>{}, x, n));
  if constexpr (std::is_same_v<O, acc_t<T>>) e = y;
  const V scale = V(acc_t<T>(1)) / V(exp_row(x, n, max, e));
  map_row<V>(e, n, y, [&](V v) { return v * scale; });
}

/// Several rows, so that one vector log serves them all: alone it takes longer than a row of 64.
template <class T, class O>
void log_softmax_rows(const T* const* x, int rows, int64_t n, O* const* y) {
  using V = vec_t<T>;
  acc_t<T> max[V::width], sum[V::width] = {};
  for (int i = 0; i < rows; ++i) {
    max[i] = fold_row(MaxUnordered<V>{}, x[i], n);
    sum[i] = exp_sum(x[i], n, V(max[i]));
  }
  store(sum, bi::log(load(sum)));
  for (int i = 0; i < rows; ++i) {
    const V row_max(max[i]), log_sum(sum[i]);
    map_row<V>(x[i], n, y[i], [&](V v) { return (v - row_max) - log_sum; });
  }
}

/// Rows [begin, end) of memory that is contiguous along the row in x and in y.
template <class T, class O>
void direct_rows(bool log, RowReader<T>& reader, int64_t n, int64_t begin, int64_t end, O* y,
                 acc_t<T>* e) {
  if (!log) {
    for (int64_t i = begin; i < end; ++i) softmax_row(reader.row(i), n, y + i * n, e);
    return;
  }
  constexpr int width = vec_t<T>::width;
  // Several rows must stay in the first-level cache between the passes.
  const int64_t block = reader.direct() ? std::clamp<int64_t>(4096 / n, 1, width) : 1;
  for (int64_t i = begin; i < end; i += block) {
    const int rows = static_cast<int>(std::min(block, end - i));
    const T* from[width];
    O* to[width];
    for (int r = 0; r < rows; ++r) from[r] = reader.row(i + r), to[r] = y + (i + r) * n;
    log_softmax_rows(from, rows, n, to);
  }
}

/// Rows whose elements are `inner` apart in y: computed in a buffer, then spread out.
template <class T, class O>
void spread_rows(bool log, RowReader<T>& reader, int64_t n, int64_t inner, int64_t begin,
                 int64_t end, O* y, acc_t<T>* e) {
  const std::unique_ptr<O[]> buffer(new O[size_t(n)]);
  O* row = buffer.get();
  for (int64_t i = begin; i < end; ++i) {
    const T* x = reader.row(i);
    if (log) log_softmax_rows(&x, 1, n, &row);
    else softmax_row(x, n, row, e);
    O* to = y + i / inner * n * inner + i % inner;
    for (int64_t j = 0; j < n; ++j) to[j * inner] = row[j];
  }
}

/// Up to one vector of adjacent rows: lanes of the sum in memory, the same order as a single row.
template <class T, class O>
void softmax_columns(bool log, const T* x, const Dims& dims, int64_t n, int columns, O* y,
                     int64_t y_step, acc_t<T>* e) {
  using V = vec_t<T>;
  const int64_t step = dims.inner_stride();
  const auto at = [&](int64_t j) {
    return columns == V::width ? load(x + j * step) : load(x + j * step, columns);
  };
  const MaxUnordered<V> larger;
  V max = larger.identity();
  for (int64_t j = 0; j < n; ++j) max = larger.combine(max, at(j));
  StoredLanes<V, 1> lanes;
  const Sum<V> sum;
  for (int64_t j = 0; j < n; ++j) {
    const V value = exp_nonpositive(at(j) - max);
    if (!log) store(e + j * V::width, value);
    lanes.add(sum, j, 0, value);
  }
  const V total = lanes.fold(sum, 0, n);
  const V log_total = log ? bi::log(total) : V(), scale = V(acc_t<T>(1)) / total;
  for (int64_t j = 0; j < n; ++j) {
    const V value = log ? (at(j) - max) - log_total : load(e + j * V::width) * scale;
    store(y + j * y_step, value, columns);
  }
}

/// Rows of one element, side by side: 1 (its log: 0), or NaN where x - x is. The plan gives these too.
template <class T, class O> void softmax_of_one(bool log, const T* x, int64_t rows, O* y) {
  using V = vec_t<T>;
  const V shift(acc_t<T>(log ? 0 : 1));
  map_row<V>(x, rows, y, [&](V v) { return (v - v) + shift; });
}

template <class T, class O>
void softmax_all(bool log, const T* x, const RowLayout& layout, int64_t inner, O* y,
                 int threads) {
  constexpr int width = vec_t<T>::width;
  const int64_t n = layout.extent;
  const auto out_row = [&](int64_t i) { return y + i / inner * n * inner + i % inner; };
  if (n == 1 && layout.kept.rank == 1 && layout.kept.stride[0] == 1) {
    parallel_for(threads, layout.rows, 16 * kGrain, [&](int64_t begin, int64_t end) {
      softmax_of_one(log, x + begin, end - begin, y + begin);
    });
    return;
  }
  const bool by_row = !layout.vectors_across_rows();
  const bool needs_scratch = !log && !(by_row && inner == 1 && std::is_same_v<O, acc_t<T>>);
  const int64_t grain = std::max<int64_t>(1, kGrain / n);
  parallel_for(threads, layout.rows, grain, [&](int64_t begin, int64_t end) {
    std::unique_ptr<acc_t<T>[]> e;
    if (needs_scratch) e.reset(new acc_t<T>[size_t(n * (by_row ? 1 : width))]);
    if (by_row) {
      RowReader<T> reader(x, layout);
      if (inner == 1) direct_rows(log, reader, n, begin, end, y, e.get());
      else spread_rows(log, reader, n, inner, begin, end, y, e.get());
      return;
    }
    for (int64_t i = begin; i < end;) {
      // Adjacent in x and in y: a block crosses neither the inner size of x nor that of y.
      const int64_t run = std::min(adjacent_run(layout.kept, i, end, width), inner - i % inner);
      softmax_columns(log, x + layout.kept.offset(i), layout.reduced, n, static_cast<int>(run),
                      out_row(i), inner, e.get());
      i += run;
    }
  });
}

}  // namespace

void softmax(bool log, DType in, const void* x, const RowLayout& layout, int64_t inner, DType out,
             void* y, int threads) {
  if (layout.extent == 0) return;
  dispatch_floating(in, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const T* data = static_cast<const T*>(x);
    if (out == in) softmax_all(log, data, layout, inner, static_cast<T*>(y), threads);
    else if constexpr (sizeof(T) == 2)
      softmax_all(log, data, layout, inner, static_cast<float*>(y), threads);
  });
}

}  // namespace bi
