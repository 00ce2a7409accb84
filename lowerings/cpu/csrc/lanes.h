// The plan of every row reduction: element j goes to lane j % 64, lanes fold in ascending j, then
// t[i] = t[i] + t[i + w] for w = 32, 16, 8, 4, 2, 1. Missing elements are identities, so a longer
// row whose tail is identities has the same bits. Three schedules keep this order: vectors along
// the row (fold_row), and vectors across adjacent rows, long (fold_columns) or short ones.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "layout.h"
#include "simd.h"

namespace bi {

constexpr int kLanes = 64;

template <class V> struct Sum {
  V identity() const { return V(typename V::scalar(0)); }
  V map(V x) const { return x; }
  V combine(V acc, V x) const { return acc + x; }
};
template <class V> struct Prod : Sum<V> {
  V identity() const { return V(typename V::scalar(1)); }
  V combine(V acc, V x) const { return acc * x; }
};
template <class V> struct Max : Sum<V> {
  V identity() const { return V(-static_cast<typename V::scalar>(__builtin_inf())); }
  V combine(V acc, V x) const { return max_nan(acc, x); }
};
template <class V> struct Min : Sum<V> {
  V identity() const { return V(static_cast<typename V::scalar>(__builtin_inf())); }
  V combine(V acc, V x) const { return min_nan(acc, x); }
};
// Squares are rounded before they are added, so x.pow(2).sum() in a graph has the same bits.
template <class V> struct SumSquares : Sum<V> {
  V map(V x) const { return x * x; }
};
template <class V> struct SumAbs : Sum<V> {
  V map(V x) const { return abs(x); }
};
template <class V> struct MaxAbs : Max<V> {
  V map(V x) const { return abs(x); }
};
template <class V> struct MinAbs : Min<V> {
  V map(V x) const { return abs(x); }
};
template <class V> struct CountNonzero : Sum<V> {
  V map(V x) const {
    const V zero(typename V::scalar(0)), one(typename V::scalar(1));
    return select(equal(x, zero), zero, one);
  }
};
template <class V> struct CountZero : Sum<V> {
  V map(V x) const {
    const V zero(typename V::scalar(0)), one(typename V::scalar(1));
    return select(equal(x, zero), one, zero);
  }
};
template <class V> struct SumSquaredDeviations : Sum<V> {
  V mean;
  explicit SumSquaredDeviations(V m) : mean(m) {}
  V map(V x) const {
    const V d = x - mean;
    return d * d;
  }
};

/// The part of the tree inside one vector: w = width / 2 ... 1.
template <class Op, class V> inline typename V::scalar fold_vector(const Op& op, V t) {
  if constexpr (V::width == 16) t = op.combine(t, lanes_from<8>(t));
  t = op.combine(t, lanes_from<4>(t));
  t = op.combine(t, lanes_from<2>(t));
  t = op.combine(t, lanes_from<1>(t));
  return first(t);
}

/// The 64 lanes of one row as vectors: acc[k] holds lanes k * width and up.
template <class Op, class V> struct LaneAccumulator {
  static constexpr int count = kLanes / V::width;
  V acc[count];
  explicit LaneAccumulator(const Op& op) {
    for (V& a : acc) a = op.identity();
  }
  typename V::scalar fold(const Op& op) {
    if constexpr (count == 8)
      for (int i = 0; i < 4; ++i) acc[i] = op.combine(acc[i], acc[i + 4]);
    for (int i = 0; i < 2; ++i) acc[i] = op.combine(acc[i], acc[i + 2]);
    acc[0] = op.combine(acc[0], acc[1]);
    return fold_vector(op, acc[0]);
  }
};

/// full(k, offset) for the vectors of whole groups of 64, then tail(k, offset, elements).
template <class V, class Full, class Tail>
inline void for_each_vector(int64_t n, Full&& full, Tail&& tail) {
  constexpr int count = kLanes / V::width;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
#pragma GCC unroll 8
    for (int k = 0; k < count; ++k) full(k, j + k * V::width);
  }
#pragma GCC unroll 8
  for (int k = 0; k < count; ++k) {
    const int64_t at = j + k * V::width;
    if (at < n) tail(k, at, static_cast<int>(std::min<int64_t>(V::width, n - at)));
  }
}

/// Schedule 1: vectors along a contiguous row.
template <class T, class Op>
[[gnu::noinline]] acc_t<T> fold_row(const Op& op, const T* row, int64_t n) {
  using V = vec_t<T>;
  LaneAccumulator<Op, V> lanes(op);
  for_each_vector<V>(
      n,
      [&](int k, int64_t at) { lanes.acc[k] = op.combine(lanes.acc[k], op.map(load(row + at))); },
      [&](int k, int64_t at, int m) {
        const V x = select_first(m, op.map(load(row + at, m)), op.identity());
        lanes.acc[k] = op.combine(lanes.acc[k], x);
      });
  return lanes.fold(op);
}

/// The lanes of C vectors of adjacent rows, in memory: lane l of row c * width + r is at
/// [l][c * width + r]. Left uninitialised: lanes past the extent are identities and never touched.
template <class V, int C> struct StoredLanes {
  alignas(64) typename V::scalar at[kLanes][C * V::width];

  /// Folds x into vector c of the lane of element j.
  template <class Op> void add(const Op& op, int64_t j, int c, V x) {
    typename V::scalar* lane = at[j % kLanes] + c * V::width;
    store(lane, op.combine(j < kLanes ? op.identity() : load(lane), x));
  }
  /// The tree over the lanes of vector c.
  template <class Op> V fold(const Op& op, int c, int64_t extent) {
    const int64_t used = std::min<int64_t>(extent, kLanes);
    const int first_row = c * V::width;
    for (int w = kLanes / 2; w > 0; w /= 2)
      for (int i = 0; i < w && i + w < used; ++i) {
        typename V::scalar* lane = at[i] + first_row;
        store(lane, op.combine(load(lane), load(at[i + w] + first_row)));
      }
    return load(at[0] + first_row);
  }
};

/// Adjacent rows that one block folds: partial folds of a block stay in L1.
template <class T> constexpr int64_t kBlockColumns = 4096 / int64_t{sizeof(acc_t<T>)};

/// Whether fold_short_columns can fold these rows.
inline bool has_short_columns(const Dims& reduced, int64_t extent) {
  return extent <= kLanes && reduced.rank <= 1;
}

/// Schedule 3: adjacent rows of at most 64 elements, `step` apart: a lane has one element, so the
/// tree reads the rows themselves. Four lanes whose subtree is whole run through a block of columns
/// at a time, which is as many streams as the hardware follows; one block for each open level.
/// totals[j] is the fold of row j with op_at(j). columns: whole vectors, at most kBlockColumns.
template <class T, class OpAt>
[[gnu::noinline]] void fold_short_columns(const OpAt& op_at, const T* base, int64_t step,
                                          int extent, int64_t columns, acc_t<T>* totals) {
  using V = vec_t<T>;
  alignas(64) acc_t<T> levels[4][kBlockColumns<T>];
  const int lanes = static_cast<int>(std::bit_ceil(unsigned(extent)));
  const int half = lanes / 2, quarter = lanes / 4, groups = std::max(quarter, 1);
  for (int r = 0, i = 0; r < groups; ++r) {
    const T* lane = base + i * step;
    const bool second = half > 0 && i + half < extent;
    const bool third = quarter > 0, fourth = third && i + half + quarter < extent;
    const int open = std::countr_one(unsigned(r));  // levels that this group completes
    acc_t<T>* to = r + 1 == groups ? totals : levels[open];
    for (int64_t j = 0; j < columns; j += V::width) {
      const auto op = op_at(j);
      const auto leaf = [&](const T* at) {
        return op.combine(op.identity(), op.map(load(at + j)));
      };
      V t = leaf(lane);
      if (second) t = op.combine(t, leaf(lane + half * step));
      if (third) {
        V u = leaf(lane + quarter * step);
        if (fourth) u = op.combine(u, leaf(lane + (half + quarter) * step));
        t = op.combine(t, u);
      }
      for (int level = 0; level < open; ++level) t = op.combine(load(levels[level] + j), t);
      store(to + j, t);
    }
    // r + 1 with its bits reversed: a carry that runs downwards
    int bit = quarter / 2;
    for (; i & bit; bit /= 2) i ^= bit;
    i |= bit;
  }
}

/// Schedule 2: C vectors of adjacent rows at once. columns <= C * width; result[c] holds the
/// folds. Same order as fold_row for each row. The extent is at least 1.
template <class T, class Op, int C>
[[gnu::noinline]] void fold_columns(const Op (&ops)[C], const T* base, const Dims& reduced,
                                    int64_t extent, int64_t columns, vec_t<T> (&result)[C]) {
  using V = vec_t<T>;
  StoredLanes<V, C> lanes;
  int64_t j = 0;
  if (columns == C * V::width) {
    for_each_offset(reduced, [&](int64_t at) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
        lanes.add(ops[c], j, c, ops[c].map(load(base + at + c * V::width)));
      ++j;
    });
  } else {
    for_each_offset(reduced, [&](int64_t at) {
      for (int c = 0; c < C && c * V::width < columns; ++c) {
        const int m = static_cast<int>(std::min<int64_t>(V::width, columns - c * V::width));
        lanes.add(ops[c], j, c, ops[c].map(load(base + at + c * V::width, m)));
      }
      ++j;
    });
  }
  for (int c = 0; c < C && c * V::width < columns; ++c)
    result[c] = lanes.fold(ops[c], c, extent);
}

/// Largest run of adjacent rows from row i on, at most `limit`.
inline int64_t adjacent_run(const Dims& kept, int64_t i, int64_t end, int64_t limit) {
  const int64_t inner = kept.inner_size();
  return std::min({limit, end - i, inner - i % inner});
}

}  // namespace bi
