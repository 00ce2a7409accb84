#include "scatter.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "layout.h"
#include "simd.h"

namespace bi {
namespace {

constexpr int64_t kBlock = 64;     // adjacent lines walked together
constexpr int64_t kGrain = 16384;  // additions per thread

/// The accumulator of T: integers add as themselves, halves as float.
template <class T, bool = std::is_integral_v<T>> struct adder {
  using type = T;
};
template <class T> struct adder<T, false> {
  using type = acc_t<T>;
};
template <class T> using adder_t = typename adder<T>::type;

template <class T> adder_t<T> read(T x) {
  if constexpr (std::is_integral_v<T>) return x;
  else return widen(x);
}

/// Where the sums are kept: out itself, or a float image of it for halves.
template <class T> class Accumulators {
 public:
  Accumulators(const T* x, int64_t n, T* out, int threads) : n_(n), out_(out), threads_(threads) {
    if constexpr (kSame) {
      each([=](int64_t i, int64_t end) { std::memcpy(out + i, x + i, sizeof(T) * size_t(end - i)); });
    } else {
      image_ = std::make_unique_for_overwrite<adder_t<T>[]>(size_t(n));
      each([&](int64_t i, int64_t end) {
        for (; i < end; ++i) image_[size_t(i)] = read(x[i]);
      });
    }
  }
  adder_t<T>* data() {
    if constexpr (kSame) return out_;
    else return image_.get();
  }
  void finish() {
    if constexpr (!kSame)
      each([&](int64_t i, int64_t end) {
        for (; i < end; ++i) out_[i] = narrow<T>(image_[size_t(i)]);
      });
  }

 private:
  static constexpr bool kSame = std::is_same_v<T, adder_t<T>>;
  template <class F> void each(const F& f) { parallel_for(threads_, n_, 1 << 16, f); }
  int64_t n_;
  T* out_;
  int threads_;
  std::unique_ptr<adder_t<T>[]> image_;
};

struct Strides {
  int64_t at[kMaxRank];
  Strides(const int64_t* size, int rank) {
    int64_t step = 1;
    for (int d = rank - 1; d >= 0; --d) at[d] = step, step *= size[d];
  }
};

template <class T>
void scatter_as(const T* x, const ScatterShape& s, const int64_t* index, const T* src, T* out,
                int threads) {
  int64_t numel = 1, lines = 1;
  for (int d = 0; d < s.rank; ++d) {
    numel *= s.x[d];
    if (d != s.dim) lines *= s.index[d];
  }
  const Strides xs(s.x, s.rank), is(s.index, s.rank), ss(s.src, s.rank);
  const int64_t n = s.index[s.dim], inner = s.dim == s.rank - 1 ? 1 : s.index[s.rank - 1];
  Accumulators<T> sums(x, numel, out, threads);
  adder_t<T>* to = sums.data();
  const auto walk = [&](int64_t line, int64_t end) {
    while (line < end) {
      const int64_t run = std::min({kBlock, end - line, inner - line % inner});
      int64_t rest = line, x_at = 0, i_at = 0, s_at = 0;
      for (int d = s.rank - 1; d >= 0; --d) {
        if (d == s.dim) continue;
        const int64_t k = rest % s.index[d];
        rest /= s.index[d];
        x_at += k * xs.at[d], i_at += k * is.at[d], s_at += k * ss.at[d];
      }
      for (int64_t j = 0; j < n; ++j)
        for (int64_t c = 0; c < run; ++c)
          to[x_at + c + index[i_at + c + j * is.at[s.dim]] * xs.at[s.dim]] +=
              read(src[s_at + c + j * ss.at[s.dim]]);
      line += run;
    }
  };
  parallel_for(threads, lines, 1 + kGrain / std::max<int64_t>(n, 1), walk);
  sums.finish();
}

template <class T>
void index_add_as(const T* x, int64_t outer, int64_t size, int64_t inner, const int64_t* index,
                  int64_t n, const T* src, adder_t<T> alpha, T* out, int threads) {
  Accumulators<T> sums(x, outer * size * inner, out, threads);
  adder_t<T>* to = sums.data();
  const int64_t blocks = (inner + kBlock - 1) / kBlock;
  const int64_t grain = 1 + kGrain / std::max<int64_t>(n * std::min(inner, kBlock), 1);
  // A thread owns whole blocks of columns, and walks every source of them in order.
  parallel_for(threads, outer * blocks, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t o = begin / blocks, b = begin % blocks, last = std::min(blocks, b + end - begin);
      const int64_t first = b * kBlock, columns = std::min(inner, last * kBlock) - first;
      for (int64_t j = 0; j < n; ++j) {
        adder_t<T>* row = to + (o * size + index[j]) * inner + first;
        const T* from = src + (o * n + j) * inner + first;
        for (int64_t c = 0; c < columns; ++c)
          row[c] = static_cast<adder_t<T>>(row[c] + static_cast<adder_t<T>>(alpha * read(from[c])));
      }
      begin += last - b;
    }
  });
  sums.finish();
}

template <class F> void dispatch_any(DType type, const F& f) {
  if (is_floating(type)) dispatch_floating(type, f);
  else dispatch_integer(type, f);
}

}  // namespace

void scatter_add(DType type, const void* x, const ScatterShape& shape, const int64_t* index,
                 const void* src, void* out, int threads) {
  dispatch_any(type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    scatter_as(static_cast<const T*>(x), shape, index, static_cast<const T*>(src),
               static_cast<T*>(out), threads);
  });
}

void index_add(DType type, const void* x, int64_t outer, int64_t size, int64_t inner,
               const int64_t* index, int64_t n, const void* src, double alpha,
               int64_t integer_alpha, void* out, int threads) {
  dispatch_any(type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const auto factor = std::is_integral_v<T> ? static_cast<adder_t<T>>(integer_alpha)
                                              : static_cast<adder_t<T>>(alpha);
    index_add_as(static_cast<const T*>(x), outer, size, inner, index, n,
                 static_cast<const T*>(src), factor, static_cast<T*>(out), threads);
  });
}

}  // namespace bi
