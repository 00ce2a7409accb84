// Where the rows of a strided tensor lie: kept dims name a row, reduced dims its elements.
#pragma once

#include <cstdint>
#include <memory>

namespace bi {

constexpr int kMaxRank = 16;

/// Sizes and strides, outermost first; neighbours that step evenly are one dim.
struct Dims {
  int rank = 0;
  int64_t size[kMaxRank], stride[kMaxRank];

  void push(int64_t n, int64_t step) {
    if (n == 1) return;
    if (rank > 0 && stride[rank - 1] == n * step) {
      size[rank - 1] *= n;
      stride[rank - 1] = step;
      return;
    }
    size[rank] = n;
    stride[rank++] = step;
  }
  int64_t inner_size() const { return rank ? size[rank - 1] : 1; }
  int64_t inner_stride() const { return rank ? stride[rank - 1] : 1; }

  /// Offset of the i-th element in row-major order of the sizes.
  int64_t offset(int64_t i) const {
    if (rank == 0) return 0;
    int64_t at = 0;
    for (int d = rank - 1; d > 0; --d) {
      at += i % size[d] * stride[d];
      i /= size[d];
    }
    return at + i * stride[0];
  }
};

/// rows x extent elements; the order of the elements is row-major over the reduced dims.
struct RowLayout {
  Dims kept, reduced;
  int64_t rows = 1, extent = 1;

  void add_dim(int64_t n, int64_t step, bool is_reduced) {
    (is_reduced ? extent : rows) *= n;
    (is_reduced ? reduced : kept).push(n, step);
  }
  bool contiguous_rows() const {
    return extent == 0 || reduced.rank == 0 || (reduced.rank == 1 && reduced.stride[0] == 1);
  }
  /// Rows that lie side by side: vectors can run across them.
  bool adjacent_rows() const { return kept.rank > 0 && kept.inner_stride() == 1; }
};

/// f(offset) for every element of dims, in row-major order.
template <class F> inline void for_each_offset(const Dims& dims, F&& f) {
  const int64_t n = dims.inner_size(), step = dims.inner_stride();
  int64_t index[kMaxRank] = {}, base = 0;
  for (;;) {
    for (int64_t i = 0; i < n; ++i) f(base + i * step);
    int d = dims.rank - 2;
    for (; d >= 0; --d) {
      base += dims.stride[d];
      if (++index[d] < dims.size[d]) break;
      base -= dims.size[d] * dims.stride[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

/// Hands out rows as contiguous memory; strided ones are copied into a buffer of this reader.
template <class T> class RowReader {
 public:
  RowReader(const T* base, const RowLayout& layout)
      : base_(base), layout_(layout), direct_(layout.contiguous_rows()) {
    if (!direct_) buffer_ = std::make_unique_for_overwrite<T[]>(size_t(layout.extent));
  }
  const T* row(int64_t i) {
    const T* start = base_ + layout_.kept.offset(i);
    if (direct_) return start;
    return gather(start);
  }

 private:
  [[gnu::noinline]] const T* gather(const T* start) {
    T* to = buffer_.get();
    for_each_offset(layout_.reduced, [&](int64_t at) { *to++ = start[at]; });
    return buffer_.get();
  }

  const T* base_;
  const RowLayout& layout_;
  bool direct_;
  std::unique_ptr<T[]> buffer_;
};

}  // namespace bi
