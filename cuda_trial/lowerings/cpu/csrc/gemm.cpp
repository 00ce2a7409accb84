#include "gemm.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "gemm_lanes.h"
#include "transpose.h"

namespace bi {
namespace {

#if defined(BI_ISA_AVX512)
constexpr int kTileRows = 5, kTileColumns = 5;
#elif defined(BI_ISA_AVX2)
constexpr int kTileRows = 2, kTileColumns = 3;
#else
constexpr int kTileRows = 2, kTileColumns = 2;
#endif
// One row streams b once: more rows of b at a time keep more memory requests in flight.
constexpr int kStreamColumns = kTileRows == 5 ? 8 : kTileColumns;

constexpr int64_t kBlockRows = 48 * kTileRows;
constexpr int64_t kPanelBytes = 384 * 1024;  // of b, in a 1 MB second-level cache
constexpr int64_t kMinWork = 1 << 16;        // multiply-adds worth a thread
constexpr int64_t kVerticalRows = 4;         // up to here a row-major b is streamed, not transposed

/// Scratch that outlives a call: one growing buffer per thread and use.
template <class T, int use> T* scratch(int64_t n) {
  static thread_local std::vector<std::byte> buffer;
  const size_t bytes = static_cast<size_t>(n) * sizeof(T) + 64;
  if (buffer.size() < bytes) buffer.resize(bytes);
  void* p = buffer.data();
  size_t space = buffer.size();
  return static_cast<T*>(std::align(64, bytes - 64, p, space));
}

/// Denormals as zero while lanes of bf16 are added: vdpbf16ps does so whatever MXCSR says.
class flush_guard {
 public:
#if defined(__SSE2__)
  explicit flush_guard(bool on) : saved_(_mm_getcsr()) {
    if (on) _mm_setcsr(saved_ | 0x8040u);
  }
  ~flush_guard() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  explicit flush_guard(bool) {}
#endif
};

/// out[i * n_columns + j] = the chunk sum of row i of a and row j of b, both contiguous along K.
template <class T, int n_rows, int n_columns>
void tile(const T* a, int64_t a_step, const T* b, int64_t b_step, int64_t depth, acc_t<T>* out) {
  using L = Lanes<T>;
  typename L::Acc acc[n_rows][n_columns];
  const auto step = [&](auto&& read, int64_t k) {
    typename L::Reg x[n_rows];
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; ++i) x[i] = read(a + i * a_step + k);
#pragma GCC unroll 8
    for (int j = 0; j < n_columns; ++j) {
      const typename L::Reg y = read(b + j * b_step + k);
      if constexpr (n_rows <= 2) __builtin_prefetch(b + (n_columns + j) * b_step + k);
#pragma GCC unroll 8
      for (int i = 0; i < n_rows; ++i) acc[i][j] = L::madd(acc[i][j], x[i], y);
    }
  };
  int64_t k = 0;
  for (; k + L::kStep <= depth; k += L::kStep) step([](const T* p) { return L::read(p); }, k);
  if (k < depth) {
    const int left = static_cast<int>(depth - k);
    step([left](const T* p) { return L::read(p, left); }, k);
  }
  typename L::Acc flat[n_rows * n_columns];
#pragma GCC unroll 8
  for (int i = 0; i < n_rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < n_columns; ++j) flat[i * n_columns + j] = acc[i][j];
  }
  for (int i = 0; i < n_rows * n_columns; i += 16)
    fold_many(flat + i, std::min(16, n_rows * n_columns - i), out + i);
}

template <class T>
using tile_fn = void (*)(const T*, int64_t, const T*, int64_t, int64_t, acc_t<T>*);

template <class T, int n_rows, int... c>
constexpr std::array<tile_fn<T>, sizeof...(c)> tiles_of_row(std::integer_sequence<int, c...>) {
  return {&tile<T, n_rows, c + 1>...};
}
template <class T, int... r> constexpr auto all_tiles(std::integer_sequence<int, r...>) {
  return std::array{tiles_of_row<T, r + 1>(std::make_integer_sequence<int, kTileColumns>())...};
}
/// Tiles[i - 1][j - 1] computes i rows and j columns.
template <class T>
constexpr auto kTiles = all_tiles<T>(std::make_integer_sequence<int, kTileRows>());

/// sums[i * stride + j] (= or +=) chunk sums of a block; b has one row per column of the product.
template <class T>
void add_chunk(const T* a, int64_t a_step, int64_t rows, const T* b, int64_t b_step,
               int64_t columns, int64_t depth, acc_t<T>* sums, int64_t stride, bool first) {
  acc_t<T> out[std::max(kTileRows * kTileColumns, kStreamColumns)];
  const int64_t wide = rows == 1 ? kStreamColumns : kTileColumns;
  for (int64_t i = 0; i < rows; i += kTileRows) {
    const int64_t m = std::min<int64_t>(kTileRows, rows - i);
    for (int64_t j = 0; j < columns; j += wide) {
      const int64_t n = std::min(wide, columns - j);
      if (n == kStreamColumns && wide == kStreamColumns)
        tile<T, 1, kStreamColumns>(a, a_step, b + j * b_step, b_step, depth, out);
      else if (n <= kTileColumns)
        kTiles<T>[m - 1][n - 1](a + i * a_step, a_step, b + j * b_step, b_step, depth, out);
      else
        for (int64_t p = 0; p < n; p += kTileColumns) {
          const int64_t q = std::min<int64_t>(kTileColumns, n - p);
          kTiles<T>[m - 1][q - 1](a, a_step, b + (j + p) * b_step, b_step, depth, out + p);
        }
      for (int64_t r = 0; r < m; ++r) {
        acc_t<T>* s = sums + (i + r) * stride + j;
        for (int64_t c = 0; c < n; ++c) s[c] = first ? out[r * n + c] : s[c] + out[r * n + c];
      }
    }
  }
}

/// The same from a row-major b: the lanes are 16 (8) rows of accumulators, the vector runs along the columns.
template <class T>
void add_chunk_vertical(const T* a, int64_t a_step, int64_t rows, const T* b, int64_t b_step,
                        int64_t columns, int64_t depth, acc_t<T>* sums, int64_t stride,
                        bool first) {
  using V = vec_t<T>;
  using S = acc_t<T>;
  constexpr int lanes = V::width, pair = Lanes<T>::kStep / lanes;
  const int64_t wide = (columns + V::width - 1) / V::width * V::width;
  S* acc = scratch<S, 2>(rows * lanes * wide);
  std::fill_n(acc, rows * lanes * wide, S(0));
  const int64_t padded = (depth + Lanes<T>::kStep - 1) / Lanes<T>::kStep * Lanes<T>::kStep;
  for (int64_t step = 0; step < padded; ++step) {
    const int64_t k = step / pair * pair + (pair - 1 - step % pair);  // odd k of a pair first
    const int64_t lane = k / pair % lanes;
    for (int64_t i = 0; i < rows; ++i) {
      const V x(k < depth ? S(widen(a[i * a_step + k])) : S(0));
      S* row = acc + (i * lanes + lane) * wide;
      const T* y = b + k * b_step;
      for (int64_t c = 0; c < columns; c += V::width) {
        const int n = static_cast<int>(std::min<int64_t>(V::width, columns - c));
        // beyond K both factors are zero, as the masked loads of a tile give them
        const V w = k >= depth ? V() : (n == V::width ? load(y + c) : load(y + c, n));
        store(row + c, fma(x, w, load(row + c)));
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    S* t = acc + i * lanes * wide;
    for (int w = lanes / 2; w; w /= 2)
      for (int64_t c = 0; c < w * wide; c += V::width)
        store(t + c, load(t + c) + load(t + w * wide + c));
    for (int64_t c = 0; c < columns; ++c) {
      S& s = sums[i * stride + c];
      s = first ? t[c] : s + t[c];
    }
  }
}

/// One call's arguments with their types.
template <class T> struct Job {
  GemmShape shape;
  const T* a;
  int64_t a_step;
  const T* b;
  int64_t b_row, b_column;
  const T* bias;
  int64_t bias_row, bias_column;
  acc_t<T> alpha, beta;
  T* out;
  int64_t out_step, split_size;
};

/// out = alpha * sums + beta * bias, rounded once.
template <class T>
void finish(const Job<T>& job, const acc_t<T>* sums, int64_t stride, int64_t row0, int64_t row1,
            int64_t column0, int64_t column1) {
  using V = vec_t<T>;
  using S = acc_t<T>;
  const bool biased = job.bias != nullptr && job.beta != S(0);
  for (int64_t i = row0; i < row1; ++i) {
    const S* s = sums + (i - row0) * stride;
    for (int64_t c = column0; c < column1; c += V::width) {
      const int n = static_cast<int>(std::min<int64_t>(V::width, column1 - c));
      V x = n == V::width ? load(s + c - column0) : load(s + c - column0, n);
      if (job.alpha != S(1)) x = V(job.alpha) * x;
      if (biased) {
        const T* p = job.bias + i * job.bias_row + c * job.bias_column;
        V y;
        if (job.bias_column == 1) {
          y = n == V::width ? load(p) : load(p, n);
        } else {
          S gathered[V::width] = {};
          for (int q = 0; q < n; ++q) gathered[q] = S(widen(p[q * job.bias_column]));
          y = load(gathered);
        }
        if (job.beta != S(1)) y = V(job.beta) * y;
        x = x + y;
      }
      if (n == V::width) store(job.out + i * job.out_step + c, x);
      else store(job.out + i * job.out_step + c, x, n);
    }
  }
}

/// A block of rows and columns on one thread.
template <class T>
void compute(const Job<T>& job, int64_t row0, int64_t row1, int64_t column0, int64_t column1) {
  const int64_t depth = job.shape.depth, chunk = std::min(depth, job.split_size);
  const bool along_k = job.b_row == 1, vertical = !along_k && row1 - row0 <= kVerticalRows;
  int64_t panel = std::max<int64_t>(kPanelBytes / int64_t(sizeof(T)) / std::max<int64_t>(chunk, 1), 1);
  panel = vertical ? 256 : std::max<int64_t>(panel / kStreamColumns * kStreamColumns, kStreamColumns);
  for (int64_t c = column0; c < column1; c += panel) {
    const int64_t ce = std::min(column1, c + panel), n = ce - c;
    for (int64_t r = row0; r < row1; r += kBlockRows) {
      const int64_t re = std::min(row1, r + kBlockRows), m = re - r;
      acc_t<T>* sums = scratch<acc_t<T>, 0>(m * n);
      if (depth == 0) std::fill_n(sums, m * n, acc_t<T>(0));
      {
        const flush_guard guard(Lanes<T>::kFlushDenormals);
        for (int64_t k = 0; k < depth; k += job.split_size) {
          const int64_t d = std::min(job.split_size, depth - k);
          const T* a = job.a + r * job.a_step + k;
          const T* b = job.b + k * job.b_row + c * job.b_column;
          if (vertical) {
            add_chunk_vertical(a, job.a_step, m, b, job.b_row, n, d, sums, n, k == 0);
          } else if (along_k) {
            add_chunk(a, job.a_step, m, b, job.b_column, n, d, sums, n, k == 0);
          } else {
            T* packed = scratch<T, 1>(n * d);
            transpose(b, job.b_row, d, n, packed, d);
            add_chunk(a, job.a_step, m, packed, d, n, d, sums, n, k == 0);
          }
        }
      }
      finish(job, sums, n, r, re, c, ce);
    }
  }
}

template <class T> void run(const Job<T>& job, int threads) {
  const auto [rows, columns, depth] = job.shape;
  if (rows == 0 || columns == 0) return;
  const int64_t work = std::max<int64_t>(rows * columns * depth, 1);
  const int team = static_cast<int>(std::clamp<int64_t>(work / kMinWork, 1, threads));
  // columns are split in whole tiles; rows only where there are too few columns
  if (columns >= 16 * team || columns >= rows) {
    const int64_t tiles = (columns + kStreamColumns - 1) / kStreamColumns;
    parallel_for(team, tiles, 1, [&](int64_t begin, int64_t end) {
      compute(job, 0, rows, begin * kStreamColumns, std::min(columns, end * kStreamColumns));
    });
  } else {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    parallel_for(team, tiles, 1, [&](int64_t begin, int64_t end) {
      compute(job, begin * kTileRows, std::min(rows, end * kTileRows), 0, columns);
    });
  }
}

template <class T>
Job<T> job_of(GemmShape shape, MatrixView a, MatrixView b, BiasView bias, double alpha, double beta,
              void* out, int64_t out_stride, int64_t split_size) {
  using S = acc_t<T>;
  return {shape,
          static_cast<const T*>(a.data),
          a.row_stride,
          static_cast<const T*>(b.data),
          b.row_stride,
          b.column_stride,
          static_cast<const T*>(bias.data),
          bias.row_stride,
          bias.column_stride,
          static_cast<S>(alpha),
          static_cast<S>(beta),
          static_cast<T*>(out),
          out_stride,
          split_size};
}

}  // namespace

void gemm(DType dtype, GemmShape shape, MatrixView a, MatrixView b, BiasView bias, double alpha,
          double beta, void* out, int64_t out_stride, int64_t split_size, int threads) {
  dispatch_floating(dtype, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    run(job_of<T>(shape, a, b, bias, alpha, beta, out, out_stride, split_size), threads);
  });
}

void batched_gemm(DType dtype, int64_t count, GemmShape shape, MatrixView a, MatrixView b,
                  BiasView bias, double alpha, double beta, void* out, BatchSteps steps,
                  int64_t out_stride, int64_t split_size, int threads) {
  dispatch_floating(dtype, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const Job<T> first = job_of<T>(shape, a, b, bias, alpha, beta, out, out_stride, split_size);
    const auto one = [&](int64_t i, int team) {
      Job<T> job = first;
      job.a += i * steps.a;
      job.b += i * steps.b;
      if (job.bias != nullptr) job.bias += i * steps.bias;
      job.out += i * steps.out;
      run(job, team);
    };
    if (count < threads) {
      for (int64_t i = 0; i < count; ++i) one(i, threads);
      return;
    }
    const int64_t work = std::max<int64_t>(shape.rows * shape.columns * shape.depth, 1);
    parallel_for(threads, count, std::max<int64_t>(kMinWork / work, 1),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) one(i, 1);
                 });
  });
}

}  // namespace bi
