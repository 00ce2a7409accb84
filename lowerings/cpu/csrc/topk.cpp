#include "topk.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace bi {
namespace {

/// A value as an unsigned integer in its own order: NaN above everything, -0 equal to +0.
template <class S> auto order_of(S x) {
  if constexpr (std::is_integral_v<S>) {
    return static_cast<uint64_t>(static_cast<int64_t>(x)) ^ (uint64_t{1} << 63);
  } else {
    using U = std::conditional_t<sizeof(S) == 4, uint32_t, uint64_t>;
    constexpr U sign = U{1} << (8 * sizeof(S) - 1);
    const U b = std::bit_cast<U>(x + S(0));  // -0 + 0 is +0
    return x != x ? ~U{0} : b & sign ? U(~b) : U(b | sign);
  }
}
template <class T> T value_of(T x) requires std::is_integral_v<T> { return x; }
template <class T> acc_t<T> value_of(T x) requires(!std::is_integral_v<T>) { return widen(x); }

/// (rank, index) in ascending order; the smallest is the best.
struct WideKey {
  uint64_t rank;
  int64_t index;
  static constexpr uint64_t worst_rank = ~uint64_t{0};
  bool operator<(const WideKey& o) const {
    return rank < o.rank || (rank == o.rank && index < o.index);
  }
};
/// The same in one word, twice as fast to sort: rows below 2^32 elements of at most 32 bits.
struct PackedKey {
  uint64_t word;
  static constexpr uint64_t worst_rank = ~uint32_t{0};
  bool operator<(const PackedKey& o) const { return word < o.word; }
};
inline uint64_t rank_of(const WideKey& k) { return k.rank; }
inline int64_t index_of(const WideKey& k) { return k.index; }
inline uint64_t rank_of(const PackedKey& k) { return k.word >> 32; }
inline int64_t index_of(const PackedKey& k) { return static_cast<int64_t>(k.word & 0xFFFFFFFFu); }
inline void set(WideKey& k, uint64_t rank, int64_t index) { k = {rank, index}; }
inline void set(PackedKey& k, uint64_t rank, int64_t index) {
  k.word = rank << 32 | static_cast<uint64_t>(index);
}

template <class T, class Key> class Selector {
 public:
  Selector(int64_t k, bool largest) : k_(size_t(k)), largest_(largest) {
    limit_ = 2 * k_ + 64;
    best_.reserve(limit_);
  }

  void select(const T* row, int64_t n, T* values, int64_t* indices) {
    best_.clear();
    worst_ = Key::worst_rank;
    full_ = false;
    for (int64_t j = 0; j < n;) j = full_ ? skip_worse(row, j, n) : offer(row, j);
    prune();
    std::sort(best_.begin(), best_.end());
    for (size_t i = 0; i < k_; ++i) {
      indices[i] = index_of(best_[i]);
      values[i] = row[index_of(best_[i])];
    }
  }

 private:
  int64_t offer(const T* row, int64_t j) {
    const auto order = order_of(value_of(row[j]));
    const decltype(order) rank = largest_ ? ~order : order;
    // Indices ascend, so an element that equals the k-th best one comes too late.
    if (full_ && rank >= worst_) return j + 1;
    Key key;
    set(key, rank, j);
    best_.push_back(key);
    if (best_.size() == limit_) prune();
    return j + 1;
  }

  void prune() {
    if (best_.size() > k_) {
      std::nth_element(best_.begin(), best_.begin() + std::ptrdiff_t(k_), best_.end());
      best_.resize(k_);
    }
    if (best_.size() < k_ || k_ == 0) return;
    const Key& last = *std::max_element(best_.begin(), best_.end());
    full_ = true;
    worst_ = rank_of(last);
    worst_index_ = index_of(last);
  }

  /// Passes whole vectors in which nothing can beat the k-th best; offers the others one by one.
  int64_t skip_worse(const T* row, int64_t j, int64_t n) {
    if constexpr (std::is_integral_v<T>) {
      return offer(row, j);
    } else {
      using V = vec_t<T>;
      const auto kth = widen(row[worst_index_]);
      const V bound(kth);
      const uint64_t before = worst_;
      for (; j + V::width <= n; j += V::width) {
        const V x = load(row + j);
        const bool hit = largest_ ? any(less(bound, x)) || any(is_nan(x))
                                  : kth != kth || any(less(x, bound));
        if (!hit) continue;
        for (int64_t i = j; i < j + V::width; ++i) offer(row, i);
        if (worst_ != before) return j + V::width;  // a better bound
      }
      return j < n ? offer(row, j) : n;
    }
  }

  size_t k_, limit_;
  bool largest_, full_ = false;
  uint64_t worst_ = 0;
  int64_t worst_index_ = 0;
  std::vector<Key> best_;
};

constexpr int64_t kShortRow = 4096, kFewBest = 16, kManyBest = 128;

/// A bound that k of the n ranks lie below, or where ties forbid one, the k-th rank: found bit by
/// bit, since counting has no branch that depends on data.
inline uint32_t rank_bound(const uint32_t* rank, int64_t n, int64_t k) {
  uint32_t bound = 0;
  for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
    const uint32_t candidate = bound | bit;
    uint32_t below = 0;
    for (int64_t j = 0; j < n; ++j) below += rank[j] < candidate;
    if (below == k) return candidate;
    if (below < k) bound = candidate;
  }
  return bound;
}

/// A short row of which many elements are wanted: mispredicted branches would cost more than these
/// loops over all of it.
template <class T>
void select_short(const T* row, int64_t n, int64_t k, bool largest, T* values, int64_t* indices) {
  alignas(64) uint32_t rank[kShortRow];
  for (int64_t j = 0; j < n; ++j) {
    const uint32_t order = order_of(value_of(row[j]));
    rank[j] = largest ? ~order : order;
  }
  const uint32_t bound = rank_bound(rank, n, k);
  alignas(64) uint64_t best[kManyBest + 1];
  const auto key = [&](int64_t j) { return uint64_t{rank[j]} << 32 | static_cast<uint64_t>(j); };
  int64_t found = 0;
  for (int64_t j = 0; j < n; ++j) {
    best[found] = key(j);
    found += rank[j] < bound;
  }
  for (int64_t j = 0; found < k; ++j)  // of the elements that equal the k-th, the first ones
    if (rank[j] == bound) best[found++] = key(j);
  for (int64_t i = 0; i < k; ++i) {
    int64_t place = 0;
    for (int64_t j = 0; j < k; ++j) place += best[j] < best[i];
    const int64_t index = static_cast<int64_t>(best[i] & 0xFFFFFFFFu);
    indices[place] = index;
    values[place] = row[index];
  }
}

template <class T, class Key>
void select_rows(const T* x, int64_t rows, int64_t n, int64_t k, bool largest, T* values,
                 int64_t* indices, int threads) {
  parallel_for(threads, rows, 1 + 4096 / n, [&](int64_t i, int64_t end) {
    if constexpr (std::is_same_v<Key, PackedKey>)
      if (n <= std::min(kShortRow, 64 * k) && k >= kFewBest && k <= kManyBest) {
        for (; i < end; ++i)
          select_short(x + i * n, n, k, largest, values + i * k, indices + i * k);
        return;
      }
    Selector<T, Key> selector(k, largest);
    for (; i < end; ++i) selector.select(x + i * n, n, values + i * k, indices + i * k);
  });
}

}  // namespace

void topk(DType type, const void* x, int64_t rows, int64_t n, int64_t k, bool largest,
          void* values, int64_t* indices, int threads) {
  if (k == 0) return;
  const auto run = [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(values);
    if constexpr (!std::is_integral_v<T> && sizeof(T) <= 4)
      if (n < int64_t{1} << 32)
        return select_rows<T, PackedKey>(from, rows, n, k, largest, to, indices, threads);
    select_rows<T, WideKey>(from, rows, n, k, largest, to, indices, threads);
  };
  if (is_floating(type)) dispatch_floating(type, run);
  else dispatch_integer(type, run);
}

}  // namespace bi
