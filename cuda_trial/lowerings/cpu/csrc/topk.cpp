#include "topk.h"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace bi {
namespace {

/// A value as an unsigned integer in its own order: NaN above everything, -0 equal to +0.
template <class T> uint64_t order_of(T x) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<uint64_t>(static_cast<int64_t>(x)) ^ (uint64_t{1} << 63);
  } else {
    const double wide = static_cast<double>(widen(x)) + 0.0;  // -0 + 0 is +0
    if (wide != wide) return ~uint64_t{0};
    const uint64_t b = std::bit_cast<uint64_t>(wide);
    return b >> 63 ? ~b : b | uint64_t{1} << 63;
  }
}

struct Candidate {
  uint64_t rank;  // ascending: the best first
  int64_t index;
  bool operator<(const Candidate& o) const {
    return rank < o.rank || (rank == o.rank && index < o.index);
  }
};

template <class T> class Selector {
 public:
  Selector(int64_t k, bool largest) : k_(size_t(k)), largest_(largest) {
    limit_ = 2 * k_ + 64;
    best_.reserve(limit_);
  }

  void select(const T* row, int64_t n, T* values, int64_t* indices) {
    best_.clear();
    worst_ = ~uint64_t{0};
    full_ = false;
    for (int64_t j = 0; j < n;) j = full_ ? skip_worse(row, j, n) : offer(row, j);
    prune();
    std::sort(best_.begin(), best_.end());
    for (size_t i = 0; i < k_; ++i) {
      indices[i] = best_[i].index;
      values[i] = row[best_[i].index];
    }
  }

 private:
  int64_t offer(const T* row, int64_t j) {
    const uint64_t order = order_of(row[j]);
    const uint64_t rank = largest_ ? ~order : order;
    // Indices ascend, so an element that equals the k-th best one comes too late.
    if (full_ && rank >= worst_) return j + 1;
    best_.push_back({rank, j});
    if (best_.size() == limit_) prune();
    return j + 1;
  }

  void prune() {
    if (best_.size() > k_) {
      std::nth_element(best_.begin(), best_.begin() + ptrdiff_t(k_), best_.end());
      best_.resize(k_);
    }
    if (best_.size() < k_ || k_ == 0) return;
    const Candidate& last = *std::max_element(best_.begin(), best_.end());
    full_ = true;
    worst_ = last.rank;
    worst_index_ = last.index;
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
  std::vector<Candidate> best_;
};

}  // namespace

void topk(DType type, const void* x, int64_t rows, int64_t n, int64_t k, bool largest,
          void* values, int64_t* indices, int threads) {
  if (k == 0) return;
  const auto run = [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    parallel_for(threads, rows, 1 + 4096 / n, [&](int64_t i, int64_t end) {
      Selector<T> selector(k, largest);
      for (; i < end; ++i)
        selector.select(static_cast<const T*>(x) + i * n, n, static_cast<T*>(values) + i * k,
                        indices + i * k);
    });
  };
  if (is_floating(type)) dispatch_floating(type, run);
  else dispatch_integer(type, run);
}

}  // namespace bi
