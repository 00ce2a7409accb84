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

template <class V> V log_of(typename V::scalar x) { return log(V(x)); }

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

template <class T, class O>
void softmax_row(bool log, const T* x, int64_t n, O* y, acc_t<T>* e) {
  using V = vec_t<T>;
  const V max(fold_row(MaxUnordered<V>{}, x, n));
  if (log) {
    const V log_sum = log_of<V>(exp_sum(x, n, max));
    map_row<V>(x, n, y, [&](V v) { return (v - max) - log_sum; });
    return;
  }
  if constexpr (std::is_same_v<O, acc_t<T>>) e = y;
  const V scale = V(acc_t<T>(1)) / V(exp_row(x, n, max, e));
  map_row<V>(e, n, y, [&](V v) { return v * scale; });
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
  V lanes[kLanes][1];
  for (int64_t j = 0; j < n; ++j) {
    const V value = exp_nonpositive(at(j) - max);
    if (!log) store(e + j * V::width, value);
    V& lane = lanes[j % kLanes][0];
    lane = j < kLanes ? V() + value : lane + value;
  }
  const Sum<V> sum[1];
  fold_stored_lanes<Sum<V>, V, 1>(sum, lanes, std::min<int64_t>(n, kLanes));
  const V total = lanes[0][0];
  const V log_total = bi::log(total), scale = V(acc_t<T>(1)) / total;
  for (int64_t j = 0; j < n; ++j) {
    const V value = log ? (at(j) - max) - log_total : load(e + j * V::width) * scale;
    store(y + j * y_step, value, columns);
  }
}

template <class T, class O>
void softmax_all(bool log, const T* x, const RowLayout& layout, int64_t inner, O* y,
                 int threads) {
  constexpr int width = vec_t<T>::width;
  const int64_t n = layout.extent;
  const auto out_row = [&](int64_t i) { return y + i / inner * n * inner + i % inner; };
  const bool by_row = layout.contiguous_rows() || !layout.adjacent_rows();
  const bool needs_scratch = !log && !(by_row && inner == 1 && std::is_same_v<O, acc_t<T>>);
  const int64_t grain = std::max<int64_t>(1, kGrain / n);
  parallel_for(threads, layout.rows, grain, [&](int64_t begin, int64_t end) {
    std::unique_ptr<acc_t<T>[]> e;
    if (needs_scratch) e.reset(new acc_t<T>[size_t(n * (by_row ? 1 : width))]);
    if (by_row) {
      RowReader<T> reader(x, layout);
      std::unique_ptr<O[]> row;
      if (inner > 1) row.reset(new O[size_t(n)]);
      for (int64_t i = begin; i < end; ++i) {
        O* to = inner > 1 ? row.get() : out_row(i);
        softmax_row(log, reader.row(i), n, to, e.get());
        if (inner > 1)
          for (int64_t j = 0; j < n; ++j) out_row(i)[j * inner] = row[j];
      }
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
