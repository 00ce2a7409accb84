#include "norm.h"

#include <cmath>

#include "lanes.h"

namespace bi {
namespace {

constexpr int64_t kGrain = 16384;  // elements per thread

template <class V, class W> V load_some(const W* p, int64_t at, int m) {
  if constexpr (std::is_same_v<vec_t<W>, V>) return m == V::width ? load(p + at) : load(p + at, m);
  else return V();
}

/// out[j] = f(x[j], j, elements), rounded to T.
template <class T, class F> void map_row(const T* x, int64_t n, T* out, const F& f) {
  using V = vec_t<T>;
  for_each_vector<V>(
      n, [&](int, int64_t at) { store(out + at, f(load(x + at), at, V::width)); },
      [&](int, int64_t at, int m) { store(out + at, f(load(x + at, m), at, m), m); });
}

template <class T> acc_t<T> rstd_of(acc_t<T> squares, int64_t n, double eps) {
  const auto count = static_cast<acc_t<T>>(n);
  return acc_t<T>(1) / std::sqrt(squares / count + static_cast<acc_t<T>>(eps));
}

void store_statistic(DType type, void* to, int64_t i, double value) {
  dispatch_floating(type, [&](auto tag) {
    using S = tag_t<decltype(tag)>;
    static_cast<S*>(to)[i] = narrow<S>(static_cast<acc_t<S>>(value));
  });
}

template <class T, class W>
void layer_norm_row(const NormArguments& a, const T* x, int64_t i) {
  using V = vec_t<T>;
  const int64_t n = a.layout->extent;
  const acc_t<T> center = fold_row(Sum<V>{}, x, n) / static_cast<acc_t<T>>(n);
  const V mean(center);
  const acc_t<T> squares = fold_row(SumSquaredDeviations<V>(mean), x, n);
  const acc_t<T> inverse = rstd_of<T>(squares, n, a.eps);
  const V rstd(inverse);
  const W* weight = static_cast<const W*>(a.weight);
  const W* bias = static_cast<const W*>(a.bias);
  T* out = static_cast<T*>(a.out) + i * n;
  if (weight && bias)
    map_row(x, n, out, [&](V v, int64_t at, int m) {
      return fma((v - mean) * rstd, load_some<V>(weight, at, m), load_some<V>(bias, at, m));
    });
  else if (weight)
    map_row(x, n, out, [&](V v, int64_t at, int m) {
      return (v - mean) * rstd * load_some<V>(weight, at, m);
    });
  else if (bias)
    map_row(x, n, out, [&](V v, int64_t at, int m) {
      return (v - mean) * rstd + load_some<V>(bias, at, m);
    });
  else
    map_row(x, n, out, [&](V v, int64_t, int) { return (v - mean) * rstd; });
  store_statistic(a.statistics_type, a.mean, i, center);
  store_statistic(a.statistics_type, a.rstd, i, inverse);
}

template <class T, class W>
void rms_norm_row(const NormArguments& a, const T* x, int64_t i) {
  using V = vec_t<T>;
  const int64_t n = a.layout->extent;
  const acc_t<T> inverse = rstd_of<T>(fold_row(SumSquares<V>{}, x, n), n, a.eps);
  const V rstd(inverse);
  const W* weight = static_cast<const W*>(a.weight);
  T* out = static_cast<T*>(a.out) + i * n;
  if (weight)
    map_row(x, n, out, [&](V v, int64_t at, int m) {
      return v * rstd * load_some<V>(weight, at, m);
    });
  else
    map_row(x, n, out, [&](V v, int64_t, int) { return v * rstd; });
  store_statistic(a.statistics_type, a.rstd, i, inverse);
}

/// row(type_tag<T>, type_tag<W>, x, i) for every row.
template <class F> void for_each_row(const NormArguments& a, int threads, const F& row) {
  dispatch_floating(a.type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(a.layout->extent, 1));
    parallel_for(threads, a.layout->rows, grain, [&](int64_t begin, int64_t end) {
      RowReader<T> reader(static_cast<const T*>(a.x), *a.layout);
      for (int64_t i = begin; i < end; ++i) {
        if (a.weight_type == a.type) row(tag, tag, reader.row(i), i);
        else row(tag, type_tag<float>{}, reader.row(i), i);
      }
    });
  });
}

}  // namespace

void layer_norm(const NormArguments& a, int threads) {
  for_each_row(a, threads, [&](auto t, auto w, const auto* x, int64_t i) {
    layer_norm_row<tag_t<decltype(t)>, tag_t<decltype(w)>>(a, x, i);
  });
}

void rms_norm(const NormArguments& a, int threads) {
  for_each_row(a, threads, [&](auto t, auto w, const auto* x, int64_t i) {
    rms_norm_row<tag_t<decltype(t)>, tag_t<decltype(w)>>(a, x, i);
  });
}

}  // namespace bi
