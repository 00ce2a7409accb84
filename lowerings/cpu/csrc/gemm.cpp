// Schedules of the products in gemm.h: regions of the output for threads, and three ways through a region.
#include "gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "gemm_epilogue.h"
#include "gemm_kernel.h"
#include "gemm_pack.h"
#include "gemm_stream.h"
#include "gemm_window.h"

namespace bi::gemm {
namespace {

// A block of b stays in L2 while all panels of a, which may live in L3, pass by it.
constexpr int64_t kBlockRows = 1120;
constexpr int64_t kWideCols = 12 * 16 * kTileCols;
constexpr int64_t kDirectRows = 128;          // b is read in place up to here, as it is read once for all rows
constexpr int64_t kDirectBytes = 640 << 10;   // and while the packed a fits most of L2
constexpr int64_t kAheadBytes = 256 << 10;    // direct tiles prefetch the next tile up to this size, else
constexpr int64_t kNearBytes = 1024;          // this far along the same column
constexpr double kWorkPerThread = 128 * 1024; // multiply-adds; below this a thread costs more than it gives

struct Region {
  int64_t batch, m0, m1, n0, n1;
};

template <class T>
class Product {
 public:
  using Stored = typename T::Stored;
  using Sum = typename T::Sum;

  explicit Product(const Problem& problem) : p_(problem) {}

  void run(const Region& r) const {
    if (p_.uniform) return packed(r);
    const int64_t rows = r.m1 - r.m0;
    if (p_.window != nullptr) return rows <= kWindowRows ? windowed(r) : packed(r);
    if (b_is_k_contiguous() && rows <= kDirectRows && row_bytes() * rows <= kDirectBytes) return direct(r);
    if (p_.b.col_stride == 1 && rows <= kStreamRows) return stream(r);
    packed(r);
  }

 private:
  static constexpr int V = kVectorK<T>;
  static constexpr int64_t kBlockTiles = std::is_same_v<T, Bf16> ? 32 : 16;  // columns of b end at a cache line
  static constexpr int64_t kBlockCols = kBlockTiles * kTileCols;
  static_assert(kBlockCols <= kStagedCols);
  static int64_t vectors(int64_t k) { return (k + V - 1) / V; }
  int64_t row_bytes() const { return vectors(p_.k) * kVectorBytes; }
  bool b_is_k_contiguous() const { return p_.b.row_stride == 1 || p_.k <= 1; }

  const Stored* a_at(int64_t batch, int64_t m, int64_t k) const {
    return static_cast<const Stored*>(p_.a.data) + batch * p_.a.batch_stride + m * p_.a.row_stride +
           k * p_.a.col_stride;
  }
  const Stored* b_at(int64_t batch, int64_t k, int64_t n) const {
    return static_cast<const Stored*>(p_.b.data) + batch * p_.b.batch_stride + k * p_.b.row_stride +
           n * p_.b.col_stride;
  }

  const Stored* volume_at(int64_t batch, int64_t n) const {
    return static_cast<const Stored*>(p_.b.data) + batch * p_.b.batch_stride + n;
  }

  // Rows [m0, m1) of a, k in [k0, k0 + kc), spread evenly over panels.
  Panels pack_a(int64_t batch, int64_t m0, int64_t m1, int64_t k0, int64_t kc, char* data) const {
    const int64_t rows = m1 - m0, count = (rows + T::kTileRows - 1) / T::kTileRows;
    const int width = p_.uniform ? T::kTileRows : static_cast<int>((rows + count - 1) / count);
    const Panels panels{data, vectors(kc), rows, width, p_.uniform};
    pack<T>(a_at(batch, m0, k0), p_.a.row_stride, p_.a.col_stride, kc, panels);
    return panels;
  }

  // Rows of panel i from the totals of its tiles, [tile][kTileSize].
  void write_panel(const Region& r, const Panels& a, int64_t i, const Sum* totals, int cols, Sum* row) const {
    const Epilogue<T> epilogue(p_);
    const int64_t used = (r.n1 - r.n0 + cols - 1) / cols;
    const int64_t height = std::min<int64_t>(a.width, a.rows - i * a.width);
    for (int64_t j = 0; j < height; j++) {
      const Sum* from = totals + j * cols;
      for (int64_t t = 0; t < used; t++, from += kTileSize)
        std::memcpy(row + t * cols, from, 8 * sizeof(Sum));  // the surplus is overwritten or ignored
      epilogue.write(r.batch, r.m0 + i * a.width + j, r.n0, r.n1 - r.n0, row);
    }
  }

  // Few rows, columns of b contiguous along k: all of a is packed once, b is read in place. At 64 to 128 rows 5 to
  // 10 % faster than packing b, which does not overlap with the products.
  void direct(const Region& r) const {
    Scratch scratch;
    const int64_t rows = r.m1 - r.m0;
    char* a_data = scratch.take<char>(row_bytes() * rows);
    const Panels a = pack_a(r.batch, r.m0, r.m1, 0, p_.k, a_data);
    const bool single = a.count() == 1;
    const int cols = single ? direct_cols(a.width) : kTileCols;
    const int64_t block = 16 * cols;
    Sum* totals = scratch.take<Sum>(a.count() * 16 * kTileSize + 8);
    Sum* row = scratch.take<Sum>(block + 8);
    for (int64_t n0 = r.n0; n0 < r.n1; n0 += block) {
      const Region part{r.batch, r.m0, r.m1, n0, std::min(r.n1, n0 + block)};
      const int64_t tiles = (part.n1 - n0 + cols - 1) / cols;
      for (int64_t t = 0; t < tiles; t++) direct_tiles(part, a, n0 + t * cols, cols, single, totals + t * kTileSize, tiles);
      for (int64_t i = 0; i < a.count(); i++) write_panel(part, a, i, totals + i * tiles * kTileSize, cols, row);
    }
  }

  void direct_tiles(const Region& r, const Panels& a, int64_t n, int cols, bool single, Sum* totals,
                    int64_t tiles) const {
    TileArgs<T> args{};
    const int64_t tile_bytes = cols * p_.b.col_stride * static_cast<int64_t>(sizeof(Stored));
    args.ahead = tile_bytes <= kAheadBytes ? tile_bytes : kNearBytes;
    for (int64_t k0 = 0; k0 < p_.k; k0 += p_.split) {
      const int64_t kc = std::min(p_.split, p_.k - k0);
      for (int j = 0; j < cols; j++) args.rows[j] = b_at(r.batch, k0, std::min(n + j, r.n1 - 1));
      args.vectors = kc / V;
      args.tail = static_cast<int>(kc % V);
      args.first = k0 == 0;
      for (int64_t i = 0; i < a.count(); i++) {
        const int height = a.height(i);
        args.a = a.panel(i) + k0 / V * height * kVectorBytes;
        args.sums = totals + i * tiles * kTileSize;
        args.prefetch = i == 0;
        direct_tile<T>(height, single)(args);
      }
    }
  }

  // Few rows, columns of b side by side in memory: rows of b stream through accumulators in cache.
  void stream(const Region& r) const {
    Scratch scratch;
    const int64_t rows = r.m1 - r.m0, width = stream_cols(rows);
    char* a_data = scratch.take<char>(row_bytes() * rows);
    const Panels a{a_data, vectors(p_.k), rows, 1, false};  // one row per panel
    pack<T>(a_at(r.batch, r.m0, 0), p_.a.row_stride, p_.a.col_stride, p_.k, a);
    Sum* lanes = scratch.take<Sum>(rows * kLanes<T> * width);
    Sum* totals = scratch.take<Sum>(rows * width);
    const Epilogue<T> epilogue(p_);
    for (int64_t n0 = r.n0; n0 < r.n1; n0 += width) {
      const int64_t cols = std::min(width, r.n1 - n0);
      for (int64_t k0 = 0; k0 < p_.k; k0 += p_.split) {
        const int64_t kc = std::min(p_.split, p_.k - k0);
        const StreamArgs<T> args{a_data + k0 / V * kVectorBytes, row_bytes(), b_at(r.batch, k0, n0), p_.b.row_stride,
                                 kc, cols, width, lanes, totals, k0 == 0};
        stream_chunk<T>(static_cast<int>(rows), args);
      }
      for (int64_t i = 0; i < rows; i++) epilogue.write(r.batch, r.m0 + i, n0, cols, totals + i * width);
    }
  }

  // A convolution of few channels, such as a depthwise one: lanes are registers, vectors hold positions.
  void windowed(const Region& r) const {
    constexpr int64_t kCols = 512;
    Scratch scratch;
    Sum* weights = scratch.take<Sum>(p_.k);
    Sum* row = scratch.take<Sum>(kCols + kWindowSlack);
    const Epilogue<T> epilogue(p_);
    for (int64_t m = r.m0; m < r.m1; m++) {
      for (int64_t k = 0; k < p_.k; k++) weights[k] = T::widen(*a_at(r.batch, m, k));
      for (int64_t n = r.n0; n < r.n1; n += kCols) {
        const int64_t count = std::min(kCols, r.n1 - n);
        window_row<T>({weights, p_.window->rows, p_.k, p_.split}, volume_at(r.batch, n), count, row);
        epilogue.write(r.batch, m, n, count, row);
      }
    }
  }

  // Many rows or any strides: both operands go through panels, one chunk of K at a time. A panel of rows is
  // written out as soon as its last chunk is added, while its totals are still in L1.
  void packed(const Region& r) const {
    Scratch scratch;
    const int64_t depth = std::min(p_.split, p_.k), depth_bytes = vectors(depth) * kVectorBytes;
    const int64_t blocks = (r.m1 - r.m0 + kBlockRows - 1) / kBlockRows;
    const int64_t block_rows = (r.m1 - r.m0 + blocks - 1) / blocks;
    const bool one_chunk = p_.k <= p_.split;  // then a is packed once, and totals live for one block only
    const int64_t wide = one_chunk ? r.n1 - r.n0 : std::min(kWideCols, r.n1 - r.n0);
    const int64_t panels = (block_rows + T::kTileRows - 1) / T::kTileRows;
    const int64_t panel_sums = kBlockTiles * kTileSize;
    const int64_t kept = one_chunk ? 1 : (wide + kBlockCols - 1) / kBlockCols * panels;
    char* a_data = scratch.take<char>((block_rows + T::kTileRows) * depth_bytes);
    char* b_data = scratch.take<char>(kBlockCols * depth_bytes);
    Sum* totals = scratch.take<Sum>(kept * panel_sums + 8);
    Sum* row = scratch.take<Sum>(kBlockCols + 8);
    for (int64_t m0 = r.m0; m0 < r.m1; m0 += block_rows) {
      for (int64_t n0 = r.n0; n0 < r.n1; n0 += wide) {
        const Region part{r.batch, m0, std::min(r.m1, m0 + block_rows), n0, std::min(r.n1, n0 + wide)};
        for (int64_t k0 = 0; k0 < p_.k; k0 += p_.split) {
          const int64_t kc = std::min(p_.split, p_.k - k0);
          const Panels a = pack_a(r.batch, part.m0, part.m1, k0, kc, a_data);
          for (int64_t n = n0; n < part.n1; n += kBlockCols) {
            const Region block{r.batch, part.m0, part.m1, n, std::min(part.n1, n + kBlockCols)};
            const Panels b = pack_b(r.batch, k0, kc, n, block.n1, b_data);
            Prefetcher ahead = next_b(part, k0, block.n1, a.count() * b.count());
            Sum* sums = totals + (one_chunk ? 0 : (n - n0) / kBlockCols * panels * panel_sums);
            for (int64_t i = 0; i < a.count(); i++, sums += one_chunk ? 0 : panel_sums) {
              multiply_panel(a, i, b, k0 == 0, sums, ahead);
              if (k0 + kc == p_.k) write_panel(block, a, i, sums, kTileCols, row);
            }
          }
        }
      }
    }
  }

  Panels pack_b(int64_t batch, int64_t k0, int64_t kc, int64_t n0, int64_t n1, char* data) const {
    const Panels panels{data, vectors(kc), n1 - n0, kTileCols, true};
    if (p_.window == nullptr) {
      pack<T>(b_at(batch, k0, n0), p_.b.col_stride, p_.b.row_stride, kc, panels);
    } else {
      const Stored* volume = volume_at(batch, n0);
      pad_last_panel(panels);
      pack_staged<T>([&](int64_t k) { return volume + p_.window->rows[k0 + k]; }, kc, panels);
    }
    return panels;
  }

  // The block of b that is packed after the one that ends at column n of the chunk at k0.
  Prefetcher next_b(const Region& part, int64_t k0, int64_t n, int64_t calls) const {
    if (n >= part.n1) n = part.n0, k0 += p_.split;
    if (p_.window != nullptr || k0 >= p_.k) return {};
    const int64_t kc = std::min(p_.split, p_.k - k0), cols = std::min(kBlockCols, part.n1 - n), size = sizeof(Stored);
    if (p_.b.row_stride == 1) return {b_at(part.batch, k0, n), cols, p_.b.col_stride * size, kc * size, calls};
    if (p_.b.col_stride != 1 || p_.b.row_stride * size % 2048 == 0) return {};  // rows would evict one another
    return {b_at(part.batch, k0, n), kc, p_.b.row_stride * size, cols * size, calls};
  }

  static void multiply_panel(const Panels& a, int64_t i, const Panels& b, bool first, Sum* totals, Prefetcher& ahead) {
    TileArgs<T> args{};
    args.vectors = a.vectors;
    args.first = first;
    args.a = a.panel(i);
    args.b = b.panel(0);
    args.sums = totals;
    Prefetcher next_a = i + 1 < a.count() ? Prefetcher(a.panel(i + 1), 1, 0, a.panel_bytes(), b.count()) : Prefetcher();
    packed_tiles<T>(a.height(i))(args, b.count(), ahead, next_a);
  }

  const Problem& p_;
};

template <class T>
void zero_depth(const Problem& p, const Region& r) {
  Scratch scratch;
  typename T::Sum* row = scratch.take<typename T::Sum>(r.n1 - r.n0);
  const Epilogue<T> epilogue(p);
  for (int64_t m = r.m0; m < r.m1; m++) {
    std::fill(row, row + (r.n1 - r.n0), typename T::Sum(0));
    epilogue.write(r.batch, m, r.n0, r.n1 - r.n0, row);
  }
}

template <class T>
void run_region(const Problem& p, const Region& r) {
  const FloatMode mode(T::kFlush);
  if (r.m0 >= r.m1 || r.n0 >= r.n1) return;
  if (p.k == 0) return zero_depth<T>(p, r);
  Product<T>(p).run(r);
}

void run_region(const Problem& p, const Region& r) {
  switch (p.dtype) {
    case Dtype::f32: return run_region<F32>(p, r);
    case Dtype::bf16: return run_region<Bf16>(p, r);
    case Dtype::f16: return run_region<F16>(p, r);
    case Dtype::f64: return run_region<F64>(p, r);
  }
}

void check(const Problem& p) {
  if (p.split <= 0 || p.split % 64 != 0)
    throw std::invalid_argument("split_size must be a positive multiple of 64, got " + std::to_string(p.split));
}

double work_of(const Problem& p) {
  return static_cast<double>(p.batch) * static_cast<double>(p.m) * static_cast<double>(p.n) *
         static_cast<double>(std::max<int64_t>(p.k, 1));
}

struct Task {
  const Problem* problem;
  Region region;
};

// Cuts m x n into `parts` regions of the least packing (rows + columns per region). K is never cut.
void add_regions(const Problem& p, int64_t batch, int parts, std::vector<Task>& tasks) {
  int best = 1;
  double least = 1e300;
  for (int rows = 1; rows <= parts; rows++) {
    if (parts % rows != 0) continue;
    const double m = std::max(static_cast<double>(p.m) / rows, 1.0 * kTileCols);
    const double n = std::max(static_cast<double>(p.n) * rows / parts, 16.0);
    const double cost = m * n * (1 + 4 / m + 4 / n);
    if (cost < least * 0.999) least = cost, best = rows;
  }
  const int64_t by_rows = best, by_cols = parts / best;
  const int64_t m_step = (p.m + by_rows - 1) / by_rows;
  const int64_t n_step = ((p.n + by_cols - 1) / by_cols + 15) / 16 * 16;
  for (int64_t m = 0; m < p.m; m += m_step)
    for (int64_t n = 0; n < p.n; n += n_step)
      tasks.push_back({&p, {batch, m, std::min(p.m, m + m_step), n, std::min(p.n, n + n_step)}});
}

void run_problems(const Problem* problems, int64_t count, int threads) {
  double work = 0;
  int64_t entries = 0;
  for (int64_t i = 0; i < count; i++) {
    check(problems[i]);
    work += work_of(problems[i]);
    entries += problems[i].batch;
  }
  threads = static_cast<int>(std::clamp(work / kWorkPerThread, 1.0, static_cast<double>(std::max(threads, 1))));
  const int parts = entries >= 4 * threads ? 1 : threads / std::gcd(static_cast<int>(entries), threads);
  std::vector<Task> tasks;
  for (int64_t i = 0; i < count; i++)
    for (int64_t b = 0; b < problems[i].batch; b++) add_regions(problems[i], b, parts, tasks);
  const int64_t total = static_cast<int64_t>(tasks.size()), grain = std::max<int64_t>(1, total / (8 * threads));
  if (threads == 1 || total <= 1) {
    for (const Task& task : tasks) run_region(*task.problem, task.region);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, grain)
  for (int64_t i = 0; i < total; i++) run_region(*tasks[i].problem, tasks[i].region);
}

}  // namespace

void run(const Problem& problem) { run_problems(&problem, 1, problem.threads); }

void run_all(const Problem* problems, int64_t count, int threads) {
  if (count > 0) run_problems(problems, count, threads);
}

}  // namespace bi::gemm
