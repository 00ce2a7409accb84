// Schedules of the attention template: which rows share a tile, what is packed, which thread does what.
#include "attention.h"

#include <omp.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "attention_rows.h"
#include "attention_tiles.h"

namespace bi::attention {
namespace {

constexpr int64_t kMaxTileRows = 48;
constexpr int64_t kDirectRows = 4;            // up to here K is transposed in registers
constexpr int64_t kTileScores = 1 << 16;      // scores of a tile stay in the second-level cache
constexpr int64_t kPackedBytes = 32 << 20;    // packed K and V alive at one time
constexpr double kOneThreadWork = 1 << 16;    // multiply-adds that are not worth waking threads for

struct FreeAligned {
  void operator()(void *p) const { std::free(p); }
};
template <class A>
using Buffer = std::unique_ptr<A[], FreeAligned>;
template <class A>
Buffer<A> make_buffer(int64_t n) {
  const size_t bytes = (size_t(n) * sizeof(A) + 63) / 64 * 64;
  void *p = std::aligned_alloc(64, std::max<size_t>(bytes, 64));
  if (p == nullptr) throw std::bad_alloc();
  return Buffer<A>(static_cast<A *>(p));
}

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Row r of a kv head: query r % queries of head kv_head * group + r / queries.
struct Tile {
  int64_t b, kv_head, row0, rows;
};

// What one thread needs for one tile.
template <class A>
struct Scratch {
  int64_t score_stride, bits_stride, sums_stride;
  Buffer<A> q, scores, sums, totals, panel;
  Buffer<uint16_t> bits;
  Span spans[kMaxTileRows];
  A l[kMaxTileRows];

  Scratch(const Arguments &args, int64_t rows)
      : score_stride(round_up(args.keys, 16) + 16 * 8),
        bits_stride(args.keys / 16 + 4),
        sums_stride(round_up(args.value_dim, 16)),
        q(make_buffer<A>(rows * args.dim)),
        scores(make_buffer<A>(rows * score_stride)),
        sums(make_buffer<A>(rows * sums_stride)),
        totals(make_buffer<A>(rows * sums_stride)),
        panel(make_buffer<A>(kMaxVectors<A> * 16 * args.dim)),
        bits(make_buffer<uint16_t>(args.mask_type == MaskType::kNone ? 1 : rows * bits_stride)) {}
};

template <class T, class A>
class Attention {
 public:
  explicit Attention(const Arguments &args)
      : args_(args), group_(args.heads / args.kv_heads), panels_((args.keys + 15) / 16) {}

  void run() {
    const int64_t kv_heads = args_.batch * args_.kv_heads, head_rows = group_ * args_.queries;
    plan_tiles(head_rows);
    const int64_t tiles_each = int64_t(starts_.size()) - 1;
    const double work = double(kv_heads) * double(head_rows) * double(args_.keys) * double(args_.dim + args_.value_dim);
    const int threads = work < kOneThreadWork ? 1 : std::max(args_.threads, 1);
    shared_ = tiles_each > 1;
    const int64_t padded_dim = round_up(args_.value_dim, 16);
    const int64_t k_size = panels_ * 16 * args_.dim, v_size = args_.keys * padded_dim;
    const int64_t head_bytes = (k_size + v_size) * int64_t(sizeof(A));
    const int64_t fit = shared_ ? std::max<int64_t>(kPackedBytes / std::max<int64_t>(head_bytes, 1), threads) : kv_heads;
    const int64_t wave = std::min(fit, kv_heads);
    if (shared_) {
      packed_k_ = make_buffer<A>(wave * k_size);
      packed_v_ = make_buffer<A>(wave * v_size);
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const FloatState state;
      Scratch<A> scratch(args_, tile_rows_);
      for (int64_t first = 0; first < kv_heads; first += wave) {
        const int64_t heads = std::min(wave, kv_heads - first);
        if (shared_) {
#pragma omp for schedule(static)
          for (int64_t i = 0; i < heads * panels_; i++) {
            const int64_t head = i / panels_, panel = i % panels_;
            pack(first + head, panel, packed_k_.get() + head * k_size, packed_v_.get() + head * v_size);
          }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < heads * tiles_each; i++) {
          const int64_t head = i / tiles_each, t = tiles_each - 1 - i % tiles_each;  // causal: the longest rows first
          const Tile tile{(first + head) / args_.kv_heads, (first + head) % args_.kv_heads, starts_[size_t(t)],
                          starts_[size_t(t) + 1] - starts_[size_t(t)]};
          run_tile(tile, packed_k_.get() + head * k_size, packed_v_.get() + head * v_size, scratch);
        }
      }
    }
  }

 private:
  void plan_tiles(int64_t head_rows) {
    const int64_t by_cache = kTileScores / std::max<int64_t>(args_.keys, 1) / kMaxRows * kMaxRows;
    const int64_t most = std::clamp<int64_t>(by_cache, 2 * kMaxRows, kMaxTileRows);
    if (args_.queries >= most) {  // tiles inside one head, evenly
      const int64_t pieces = (args_.queries + most - 1) / most;
      tile_rows_ = round_up((args_.queries + pieces - 1) / pieces, kMaxRows);
      for (int64_t h = 0; h < group_; h++)
        for (int64_t i = 0; i < args_.queries; i += tile_rows_) starts_.push_back(h * args_.queries + i);
    } else {  // several heads of the group in a tile
      tile_rows_ = most / args_.queries * args_.queries;
      for (int64_t r = 0; r < head_rows; r += tile_rows_) starts_.push_back(r);
      tile_rows_ = std::min(tile_rows_, head_rows);
    }
    starts_.push_back(head_rows);
  }

  const T *rows_of(const void *base, const Strides &s, int64_t b, int64_t h) const {
    return static_cast<const T *>(base) + b * s.batch + h * s.head;
  }

  void pack(int64_t head, int64_t panel, A *packed_k, A *packed_v) const {
    const int64_t b = head / args_.kv_heads, h = head % args_.kv_heads, padded = round_up(args_.value_dim, 16);
    pack_panel(rows_of(args_.k, args_.k_strides, b, h), args_.k_strides.row, panel * 16, args_.keys, args_.dim,
               packed_k + panel * 16 * args_.dim);
    const T *v = rows_of(args_.v, args_.v_strides, b, h);
    for (int64_t j = panel * 16; j < std::min(args_.keys, panel * 16 + 16); j++)
      for (int64_t d = 0; d < args_.value_dim; d += 16)
        Vec<A>::load_first(v + j * args_.v_strides.row + d, args_.value_dim - d).store(packed_v + j * padded + d);
  }

  void run_tile(const Tile &tile, const A *packed_k, const A *packed_v, Scratch<A> &scratch) const {
    int64_t low = args_.keys, high = 0;
    for (int64_t r = 0; r < tile.rows; r++) {
      const int64_t h = head_of(tile, r), i = query_of(tile, r);
      const T *q = rows_of(args_.q, args_.q_strides, tile.b, h) + i * args_.q_strides.row;
      for (int64_t d = 0; d < args_.dim; d++) scratch.q[r * args_.dim + d] = widen(q[d]);
      const Span span = span_of_row<A>(args_, mask_of(tile, r), i, scratch.bits.get() + bits_at(r, scratch));
      scratch.spans[r] = span;
      if (span.end > 0) low = std::min(low, span.start), high = std::max(high, span.end);
    }
    if (high > 0) {
      score(tile, low, high, packed_k, scratch);
      soften(tile, scratch);
      if (shared_) {
        sum_values<A, false>(tile, packed_v, scratch.sums_stride, scratch);
      } else {
        const T *v = rows_of(args_.v, args_.v_strides, tile.b, tile.kv_head);
        if (args_.value_dim % 16 == 0)
          sum_values<T, false>(tile, v, args_.v_strides.row, scratch);
        else
          sum_values<T, true>(tile, v, args_.v_strides.row, scratch);
      }
    }
    for (int64_t r = 0; r < tile.rows; r++) finish_row(tile, r, scratch);
  }

  int64_t head_of(const Tile &tile, int64_t r) const { return tile.kv_head * group_ + (tile.row0 + r) / args_.queries; }
  int64_t query_of(const Tile &tile, int64_t r) const { return (tile.row0 + r) % args_.queries; }
  const void *mask_of(const Tile &tile, int64_t r) const {
    return args_.mask_type == MaskType::kNone ? nullptr : mask_row(args_, tile.b, head_of(tile, r), query_of(tile, r));
  }
  int64_t bits_at(int64_t r, const Scratch<A> &scratch) const {
    return args_.mask_type == MaskType::kNone ? 0 : r * scratch.bits_stride;
  }

  // Scores of the keys [low, high), whole panels of 16 counted from key 0.
  void score(const Tile &tile, int64_t low, int64_t high, const A *packed_k, Scratch<A> &scratch) const {
    const A scale = A(args_.scale);
    const T *k = rows_of(args_.k, args_.k_strides, tile.b, tile.kv_head);
    const int64_t stride = args_.k_strides.row, dim = args_.dim, panels = (high + 15) / 16;
#if BI_TRANSPOSE16
    if constexpr (std::is_same_v<A, float>)
      if (!shared_ && tile.rows <= kDirectRows && dim % (64 / int64_t(sizeof(T))) == 0) {
        for (int64_t p = low / 16; p < panels; p++)
          for_row_groups(tile.rows, [&]<int MR>(int64_t r) {
            score_direct<T, MR>(scratch.q.get() + r * dim, dim, k, stride, p * 16, args_.keys, scale,
                                scratch.scores.get() + r * scratch.score_stride + p * 16, scratch.score_stride);
          });
        return;
      }
#endif
    for (int64_t p = low / 16; p < panels;) {
      const int64_t wide = std::min<int64_t>(kMaxVectors<A>, panels - p);
      const A *packed = shared_ ? packed_k + p * 16 * dim : scratch.panel.get();
      if (!shared_)
        for (int64_t c = 0; c < wide; c++)
          pack_panel(k, stride, (p + c) * 16, args_.keys, dim, scratch.panel.get() + c * 16 * dim);
      for_row_groups(tile.rows, [&]<int MR>(int64_t r) {
        if (!any_row_needs<MR>(scratch.spans + r, p * 16, (p + wide) * 16)) return;
        with_vectors(wide, [&]<int NV>() {
          score_tile<A, MR, NV>(scratch.q.get() + r * dim, dim, packed, scale,
                                scratch.scores.get() + r * scratch.score_stride + p * 16, scratch.score_stride);
        });
      });
      p += wide;
    }
  }

  template <int MR>
  static bool any_row_needs(const Span *spans, int64_t j0, int64_t j1) {
    for (int r = 0; r < MR; r++)
      if (spans[r].start < j1 && spans[r].end > j0) return true;
    return false;
  }

  // Weights of all rows; the rows of a register group mark each other's keys that they do not keep.
  void soften(const Tile &tile, Scratch<A> &scratch) const {
    for_row_groups(tile.rows, [&]<int MR>(int64_t first) {
      int64_t low = args_.keys, high = 0;
      for (int64_t r = first; r < first + MR; r++) {
        const Span &span = scratch.spans[r];
        if (span.end > 0) low = std::min(low, span.start), high = std::max(high, span.end);
      }
      for (int64_t r = first; r < first + MR; r++) {
        A *scores = scratch.scores.get() + r * scratch.score_stride;
        A *lse = static_cast<A *>(args_.lse) + lse_at(tile, r);
        if (scratch.spans[r].end > 0) {
          scratch.l[r] = weights_of_row(args_, mask_of(tile, r), scratch.bits.get() + bits_at(r, scratch),
                                        scratch.spans[r], low, high, scores, lse);
        } else if (high > 0) {
          std::fill(scores + low, scores + high, A(-1));
        }
      }
    });
  }

  int64_t lse_at(const Tile &tile, int64_t r) const {
    return (tile.b * args_.heads + head_of(tile, r)) * args_.queries + query_of(tile, r);
  }

  template <class S, bool TAIL>
  void sum_values(const Tile &tile, const S *v, int64_t v_stride, Scratch<A> &scratch) const {
    const int64_t vectors = scratch.sums_stride / 16;
    const int64_t pieces = (vectors + kMaxVectors<A> - 1) / kMaxVectors<A>;
    for_row_groups(tile.rows, [&]<int MR>(int64_t r) {
      for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t c0 = piece * vectors / pieces, c1 = (piece + 1) * vectors / pieces;
        with_vectors(c1 - c0, [&]<int NV>() {
          if constexpr (NV <= kMaxVectors<A>) sum_chunks<S, TAIL, MR, NV>(r, c0 * 16, v, v_stride, scratch);
        });
      }
    });
  }

  // Walks the keys of MR rows between the chunk borders of any of them; rows with one start share all borders.
  template <class S, bool TAIL, int MR, int NV>
  void sum_chunks(int64_t r0, int64_t column, const S *v, int64_t v_stride, Scratch<A> &scratch) const {
    const Span *spans = scratch.spans + r0;
    A *weights = scratch.scores.get() + r0 * scratch.score_stride;
    A *sums = scratch.sums.get() + r0 * scratch.sums_stride + column;
    A *totals = scratch.totals.get() + r0 * scratch.sums_stride + column;
    const int64_t tail = args_.value_dim - column - (NV - 1) * 16;
    int64_t low = args_.keys, high = 0, all_from = 0, all_to = args_.keys, border[MR];
    bool dense = true;
    for (int r = 0; r < MR; r++) {
      for (int c = 0; c < NV; c++) Vec<A>::set(A(0)).store(sums + r * scratch.sums_stride + c * 16);
      border[r] = spans[r].start + kPlannedSplit;
      dense &= spans[r].dense;
      all_from = std::max(all_from, spans[r].start), all_to = std::min(all_to, spans[r].end);
      if (spans[r].end > 0) low = std::min(low, spans[r].start), high = std::max(high, spans[r].end);
    }
    if (!dense) all_from = all_to = high;
    for (int64_t j = low; j < high;) {
      int64_t next = high;
      if (j < all_from) next = std::min(next, all_from);
      if (j < all_to) next = std::min(next, std::max(all_to, all_from));
      for (int r = 0; r < MR; r++)
        if (border[r] > j) next = std::min(next, border[r]);
      if (j >= all_from && j < all_to)
        value_tile<A, S, MR, NV, false, TAIL>(weights, scratch.score_stride, v + column, v_stride, tail, j, next, sums,
                                              scratch.sums_stride);
      else
        value_tile<A, S, MR, NV, true, TAIL>(weights, scratch.score_stride, v + column, v_stride, tail, j, next, sums,
                                             scratch.sums_stride);
      for (int r = 0; r < MR; r++) {
        if (next != border[r] && next != high) continue;
        const int64_t chunk = border[r] - kPlannedSplit;
        if (chunk < spans[r].end && spans[r].end > 0)
          add_chunk<NV>(chunk == spans[r].start, sums + r * scratch.sums_stride, totals + r * scratch.sums_stride);
        border[r] += kPlannedSplit;
      }
      j = next;
    }
  }

  template <int NV>
  static void add_chunk(bool first, A *sums, A *totals) {
    using V = Vec<A>;
    for (int c = 0; c < NV; c++) {
      const V sum = V::load(sums + c * 16);
      (first ? sum : add(V::load(totals + c * 16), sum)).store(totals + c * 16);
      V::set(A(0)).store(sums + c * 16);
    }
  }

  void finish_row(const Tile &tile, int64_t r, Scratch<A> &scratch) const {
    using V = Vec<A>;
    const Strides &s = args_.out_strides;
    T *out = static_cast<T *>(args_.out) + tile.b * s.batch + head_of(tile, r) * s.head + query_of(tile, r) * s.row;
    const bool empty = scratch.spans[r].end == 0;
    if (empty) static_cast<A *>(args_.lse)[lse_at(tile, r)] = A(0);
    const V l = V::set(empty ? A(1) : scratch.l[r]);
    for (int64_t d = 0; d < args_.value_dim; d += 16) {
      const V o = empty ? V::set(A(0)) : V::load(scratch.totals.get() + r * scratch.sums_stride + d);
      div(o, l).store_first(out + d, std::min<int64_t>(16, args_.value_dim - d));
    }
  }

  const Arguments &args_;
  const int64_t group_, panels_;
  int64_t tile_rows_ = 0;
  bool shared_ = false;
  std::vector<int64_t> starts_;
  Buffer<A> packed_k_, packed_v_;
};

}  // namespace

void attention(const Arguments &args) {
  if (args.batch * args.heads * args.queries == 0) return;
  switch (args.type) {
    case Type::kFloat: return Attention<float, float>(args).run();
    case Type::kBFloat16: return Attention<BFloat16, float>(args).run();
    case Type::kHalf: return Attention<Half, float>(args).run();
    case Type::kDouble: return Attention<double, double>(args).run();
  }
}

}  // namespace bi::attention
