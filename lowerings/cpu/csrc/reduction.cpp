#include "reduction.h"

#include <cmath>
#include <limits>

#include "lanes.h"

namespace bi {
namespace {

constexpr int64_t kGrain = 32768;  // elements per thread; a fork costs about as much as these

int64_t grain_rows(const RowLayout& layout) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(layout.extent, 1));
}

/// x^p through double: the rounding to float hides the last bits of the math library.
template <class V> [[gnu::noinline]] V each_power(V x, double p) {
  using S = typename V::scalar;
  S lane[V::width];
  store(lane, x);
  for (S& value : lane) value = static_cast<S>(std::pow(static_cast<double>(value), p));
  return load(lane);
}

template <class V> struct SumPowers : Sum<V> {
  double p;
  explicit SumPowers(double order) : p(order) {}
  V map(V x) const { return each_power(abs(x), p); }
};

/// What is done to a folded row before it is rounded to the output type.
struct Finish {
  enum { none, divide, root2, root, positive, is_zero } step = none;
  double argument = 0;
  template <class V> V operator()(V totals) const {
    using S = typename V::scalar;
    const V zero(S(0)), one(S(1));
    switch (step) {
      case divide: return totals / V(static_cast<S>(argument));
      case root2: return sqrt(totals);
      case root: return each_power(totals, argument);
      case positive: return select(less(zero, totals), one, zero);
      case is_zero: return select(equal(totals, zero), one, zero);
      default: return totals;
    }
  }
};

template <class T, class Op>
void fold_column_block(const Op& op, const T* x, const RowLayout& layout, int64_t columns,
                       acc_t<T>* totals) {
  using V = vec_t<T>;
  const Op ops[4] = {op, op, op, op};
  V result[4];
  fold_columns<T>(ops, x, layout.reduced, layout.extent, columns, result);
  for (int c = 0; c < 4 && c * V::width < columns; ++c)
    store(totals + c * V::width, result[c],
          static_cast<int>(std::min<int64_t>(V::width, columns - c * V::width)));
}

/// totals[i - begin] for rows [begin, end), by the schedule that fits the strides.
template <class T, class Op>
void fold_rows(const Op& op, RowReader<T>& reader, const T* x, const RowLayout& layout,
               int64_t begin, int64_t end, acc_t<T>* totals) {
  constexpr int width = vec_t<T>::width;
  if (!layout.vectors_across_rows()) {
    for (int64_t i = begin; i < end; ++i)
      totals[i - begin] = fold_row(op, reader.row(i), layout.extent);
    return;
  }
  const bool is_short = has_short_columns(layout.reduced, layout.extent);
  for (int64_t i = begin; i < end;) {
    const T* at = x + layout.kept.offset(i);
    int64_t run = adjacent_run(layout.kept, i, end, is_short ? kBlockColumns<T> : 4 * width);
    if (is_short && run >= width) {
      run = run / width * width;
      fold_short_columns([&](int64_t) { return op; }, at, layout.reduced.inner_stride(),
                         static_cast<int>(layout.extent), run, totals + i - begin);
    } else {
      fold_column_block(op, at, layout, run, totals + i - begin);
    }
    i += run;
  }
}

/// y[begin + i] = finish(totals[i]), rounded to the output type.
template <class V>
[[gnu::noinline]] void store_totals(const Finish& finish, const typename V::scalar* totals,
                                    int64_t n, DType out, void* y, int64_t begin) {
  for (int64_t i = 0; i < n; i += V::width) {
    const int m = static_cast<int>(std::min<int64_t>(V::width, n - i));
    const V value = finish(m == V::width ? load(totals + i) : load(totals + i, m));
    if (!is_floating(out)) {
      typename V::scalar truth[V::width];
      store(truth, value);
      for (int c = 0; c < m; ++c) static_cast<uint8_t*>(y)[begin + i + c] = truth[c] != 0;
      continue;
    }
    dispatch_floating(out, [&](auto tag) {
      using O = tag_t<decltype(tag)>;
      if constexpr (std::is_same_v<vec_t<O>, V>) store(static_cast<O*>(y) + begin + i, value, m);
    });
  }
}

template <class T, class Op>
void fold_all(const Op& op, const Finish& finish, const void* x, const RowLayout& layout,
              DType out, void* y, int threads) {
  parallel_for(threads, layout.rows, grain_rows(layout), [&](int64_t begin, int64_t end) {
    constexpr int64_t block = kBlockColumns<T>;
    acc_t<T> totals[block];
    const T* data = static_cast<const T*>(x);
    RowReader<T> reader(data, layout);
    for (int64_t i = begin; i < end; i += block) {
      const int64_t stop = std::min(i + block, end);
      fold_rows(op, reader, data, layout, i, stop, totals);
      store_totals<vec_t<T>>(finish, totals, stop - i, out, y, i);
    }
  });
}

template <class T>
void reduce_norm(double p, const void* x, const RowLayout& layout, DType out, void* y,
                 int threads) {
  using V = vec_t<T>;
  const auto run = [&](const auto& op, const Finish& finish) {
    fold_all<T>(op, finish, x, layout, out, y, threads);
  };
  if (p == 2) return run(SumSquares<V>{}, {Finish::root2});
  if (p == 1) return run(SumAbs<V>{}, {});
  if (p == 0) return run(CountNonzero<V>{}, {});
  if (std::isinf(p)) return p > 0 ? run(MaxAbs<V>{}, {}) : run(MinAbs<V>{}, {});
  run(SumPowers<V>(p), {Finish::root, 1 / p});
}

/// Index of the first element equal to the extreme value, or of the first NaN.
template <class T> int64_t first_index(const T* row, int64_t n, acc_t<T> value) {
  using V = vec_t<T>;
  const bool nan = value != value;
  const V wanted(value);
  for (int64_t j = 0; j < n; j += V::width) {
    const int m = static_cast<int>(std::min<int64_t>(V::width, n - j));
    const V x = m == V::width ? load(row + j) : load(row + j, m);
    if (!any(nan ? is_nan(x) : equal(x, wanted))) continue;
    for (int64_t i = j; i < j + m; ++i)
      if (nan ? widen(row[i]) != widen(row[i]) : widen(row[i]) == value) return i;
  }
  return 0;
}

template <class T>
void reduce_arg(bool largest, const T* x, const RowLayout& layout, int64_t* y, int threads) {
  using V = vec_t<T>;
  parallel_for(threads, layout.rows, grain_rows(layout), [&](int64_t begin, int64_t end) {
    RowReader<T> reader(x, layout);
    for (int64_t i = begin; i < end; ++i) {
      const T* row = reader.row(i);
      const acc_t<T> value = largest ? fold_row(Max<V>{}, row, layout.extent)
                                     : fold_row(Min<V>{}, row, layout.extent);
      y[i] = first_index(row, layout.extent, value);
    }
  });
}

template <class T>
void reduce_floating(Reduce kind, double p, const void* x, const RowLayout& layout, DType out,
                     void* y, int threads) {
  using V = vec_t<T>;
  const Finish mean{Finish::divide, static_cast<double>(layout.extent)};
  const auto run = [&](const auto& op, const Finish& finish) {
    fold_all<T>(op, finish, x, layout, out, y, threads);
  };
  switch (kind) {
    case Reduce::sum: return run(Sum<V>{}, {});
    case Reduce::mean: return run(Sum<V>{}, mean);
    case Reduce::sum_squares: return run(SumSquares<V>{}, {});
    case Reduce::mean_squares: return run(SumSquares<V>{}, mean);
    case Reduce::prod: return run(Prod<V>{}, {});
    case Reduce::amax: return run(Max<V>{}, {});
    case Reduce::amin: return run(Min<V>{}, {});
    case Reduce::any: return run(CountNonzero<V>{}, {Finish::positive});
    case Reduce::all: return run(CountZero<V>{}, {Finish::is_zero});
    case Reduce::norm: return reduce_norm<T>(p, x, layout, out, y, threads);
    default:
      return reduce_arg(kind == Reduce::argmax, static_cast<const T*>(x), layout,
                        static_cast<int64_t*>(y), threads);
  }
}

/// Rows one at a time: mean, then squared deviations.
template <class T>
void var_mean_row(const T* row, int64_t n, acc_t<T> divisor, T& var, T& mean) {
  using V = vec_t<T>;
  const acc_t<T> center = fold_row(Sum<V>{}, row, n) / static_cast<acc_t<T>>(n);
  const acc_t<T> squares = fold_row(SumSquaredDeviations<V>(V(center)), row, n);
  mean = narrow<T>(center);
  var = narrow<T>(squares / divisor);
}

template <class T>
void var_mean_columns(const T* x, const RowLayout& layout, acc_t<T> divisor, int64_t columns,
                      T* var, T* mean) {
  using V = vec_t<T>;
  const Sum<V> sum[1];
  V totals[1], squares[1];
  fold_columns<T>(sum, x, layout.reduced, layout.extent, columns, totals);
  const V center = totals[0] / V(static_cast<acc_t<T>>(layout.extent));
  const SumSquaredDeviations<V> deviations[1] = {SumSquaredDeviations<V>(center)};
  fold_columns<T>(deviations, x, layout.reduced, layout.extent, columns, squares);
  store(mean, center, static_cast<int>(columns));
  store(var, squares[0] / V(divisor), static_cast<int>(columns));
}

/// The same for whole vectors of columns with few elements.
template <class T>
void var_mean_short_columns(const T* x, const RowLayout& layout, acc_t<T> divisor, int64_t columns,
                            T* var, T* mean) {
  using V = vec_t<T>;
  acc_t<T> centers[kBlockColumns<T>], squares[kBlockColumns<T>];
  const int64_t step = layout.reduced.inner_stride();
  const int extent = static_cast<int>(layout.extent);
  fold_short_columns([](int64_t) { return Sum<V>{}; }, x, step, extent, columns, centers);
  const V count(static_cast<acc_t<T>>(extent));
  for (int64_t j = 0; j < columns; j += V::width) store(centers + j, load(centers + j) / count);
  const auto deviations = [&](int64_t j) { return SumSquaredDeviations<V>(load(centers + j)); };
  fold_short_columns(deviations, x, step, extent, columns, squares);
  for (int64_t j = 0; j < columns; j += V::width) {
    store(mean + j, load(centers + j));
    store(var + j, load(squares + j) / V(divisor));
  }
}

}  // namespace

void reduce(Reduce kind, double p, DType in, const void* x, const RowLayout& layout, DType out,
            void* y, int threads) {
  if (!is_floating(in)) return reduce_integers(kind, in, x, layout, y, threads);
  dispatch_floating(in, [&](auto tag) {
    reduce_floating<tag_t<decltype(tag)>>(kind, p, x, layout, out, y, threads);
  });
}

void var_mean(DType type, const void* x, const RowLayout& layout, double correction, void* var,
              void* mean, int threads) {
  const double freedom = std::max(0.0, static_cast<double>(layout.extent) - correction);
  dispatch_floating(type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const auto divisor = static_cast<acc_t<T>>(freedom);
    const T* data = static_cast<const T*>(x);
    T* v = static_cast<T*>(var);
    T* m = static_cast<T*>(mean);
    parallel_for(threads, layout.rows, grain_rows(layout), [&](int64_t begin, int64_t end) {
      if (!layout.vectors_across_rows()) {
        RowReader<T> reader(data, layout);
        for (int64_t i = begin; i < end; ++i)
          var_mean_row(reader.row(i), layout.extent, divisor, v[i], m[i]);
        return;
      }
      constexpr int64_t width = vec_t<T>::width;
      const bool is_short = has_short_columns(layout.reduced, layout.extent);
      for (int64_t i = begin; i < end;) {
        const T* at = data + layout.kept.offset(i);
        int64_t run = adjacent_run(layout.kept, i, end, is_short ? kBlockColumns<T> : width);
        if (is_short && run >= width) {
          run = run / width * width;
          var_mean_short_columns(at, layout, divisor, run, v + i, m + i);
        } else {
          var_mean_columns(at, layout, divisor, run, v + i, m + i);
        }
        i += run;
      }
    });
  });
}

}  // namespace bi
