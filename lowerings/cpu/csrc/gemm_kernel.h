// The register tile: MR rows x NR columns, one accumulator vector per output element, lanes along k.
#pragma once

#include <array>
#include <utility>

#include "gemm_simd.h"

namespace bi::gemm {

constexpr int kTileSize = 32;  // sums kept per tile; row i of a tile starts at i * NR

// One chunk of one tile. Panels are [vectors][rows][64 bytes]; a direct b is NR pointers into memory.
template <class T>
struct TileArgs {
  const char* a;                       // packed panel of MR rows
  const char* b;                       // packed panel of NR columns (packed kernels)
  const typename T::Stored* rows[8];   // first k of each column (direct kernels)
  int64_t vectors;                     // whole vectors of k
  int tail;                            // k left after them (direct kernels; packed panels are padded)
  bool first;                          // first chunk: set the sums, later: add to them
  bool prefetch;                       // direct kernels: pull b into L2, `ahead` bytes further on
  int64_t ahead;
  typename T::Sum* sums;               // kTileSize totals
};

// Walks a block of memory and prefetches it to L2 a few lines at a time, between the tiles of the block before.
class Prefetcher {
 public:
  Prefetcher() = default;
  Prefetcher(const void* data, int64_t rows, int64_t stride, int64_t row_bytes, int64_t calls)
      : row_(static_cast<const char*>(data)), rows_(rows), stride_(stride), row_bytes_(row_bytes),
        lines_(static_cast<int>((rows * (row_bytes / 64 + 1) + calls - 1) / calls)) {}

  BI_INLINE void advance() {
    for (int i = 0; i < lines_ && rows_ > 0; i++) {
      __builtin_prefetch(row_ + at_, 0, 2);
      at_ += 64;
      if (at_ >= row_bytes_ + 64) at_ = 0, row_ += stride_, rows_--;
    }
  }

 private:
  const char* row_ = nullptr;
  int64_t rows_ = 0, stride_ = 0, row_bytes_ = 0, at_ = 0;
  int lines_ = 0;
};

template <class T>
BI_INLINE typename T::Operand load_tail(const typename T::Stored* p, int tail, int pass) {
  alignas(64) typename T::Stored padded[kVectorK<T>] = {};
  for (int i = 0; i < tail; i++) padded[i] = p[i];
  return T::load_stored(padded, pass);
}

// Folds COUNT accumulators and adds them to the totals of the tile.
template <class T, int COUNT>
BI_INLINE void finish(const typename T::Reg* lanes, typename T::Sum* sums, bool first) {
  constexpr int kGroup = static_cast<int>(sizeof(typename T::Half) / sizeof(typename T::Sum));
  int done = 0;
  const auto put = [&](auto s, int count) __attribute__((always_inline)) {
    typename T::Sum* total = sums + done;
    store_sums(total, first ? s : add(load_sums(total, s), s));
    done += count;
  };
#if defined(BI_ISA_AVX512)
  if constexpr (sizeof(typename T::Sum) == 4 && COUNT >= 15) {
    __m512 v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) v[i] = i < COUNT ? lanes[i] : _mm512_setzero_ps();
    put(fold_16_vectors(v), 16);
  }
#endif
#pragma GCC unroll 8
  for (int g = 0; g < (COUNT + kGroup - 1) / kGroup; g++) {
    const int left = COUNT - done;
    if (left < 3) break;  // a few are faster one by one than with zeros
    typename T::Reg v[kGroup];
#pragma GCC unroll 8
    for (int i = 0; i < kGroup; i++) {
      if (i < left) v[i] = lanes[done + i];
      else zero(v[i]);
    }
    put(fold(v), kGroup);
  }
#pragma GCC unroll 2
  for (int g = 0; g < 2; g++) {
    if (done >= COUNT) break;
    const auto s = fold_one(lanes[done]);
    sums[done] = first ? s : sums[done] + s;
    done++;
  }
}

// One chunk of one tile: the lanes of its outputs. In two passes, the second adds its lanes to those of the first.
template <class T, int MR, int NR, bool DIRECT>
BI_INLINE void accumulate(const TileArgs<T>& args, typename T::Reg* lanes) {
  static_assert(MR * NR <= kTileSize && NR <= 8);
#pragma GCC unroll 2
  for (int pass = 0; pass < kPasses; pass++) {
    typename T::Reg acc[MR][NR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 8
      for (int j = 0; j < NR; j++) zero(acc[i][j]);
    const char* a = args.a;
    const char* b = args.b;
    const auto step_row = [&](const typename T::Operand* bs) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < MR; i++) {
        const auto av = T::load(a + i * kVectorBytes, pass);
#pragma GCC unroll 8
        for (int j = 0; j < NR; j++) acc[i][j] = T::step(acc[i][j], av, bs[j]);
      }
      a += MR * kVectorBytes;
    };
    for (int64_t v = 0; v < args.vectors; v++) {
      typename T::Operand bs[NR];
#pragma GCC unroll 8
      for (int j = 0; j < NR; j++) {
        if constexpr (DIRECT) {
          const auto* p = args.rows[j] + v * kVectorK<T>;
          bs[j] = T::load_stored(p, pass);
          if (args.prefetch) __builtin_prefetch(reinterpret_cast<const char*>(p) + args.ahead, 0, 2);
        } else {
          bs[j] = T::load(b + j * kVectorBytes, pass);
        }
      }
      b += NR * kVectorBytes;
      step_row(bs);
    }
    if (DIRECT && args.tail > 0) {
      typename T::Operand bs[NR];
#pragma GCC unroll 8
      for (int j = 0; j < NR; j++)
        bs[j] = load_tail<T>(args.rows[j] + args.vectors * kVectorK<T>, args.tail, pass);
      step_row(bs);
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 8
      for (int j = 0; j < NR; j++) {
        typename T::Reg& kept = lanes[i * NR + j];
        kept = pass == 0 ? acc[i][j] : add(kept, acc[i][j]);
      }
  }
}

template <class T, int MR, int NR>
void direct_tile_of(const TileArgs<T>& args) {
  typename T::Reg lanes[MR * NR];
  accumulate<T, MR, NR, true>(args, lanes);
  finish<T, MR * NR>(lanes, args.sums, args.first);
}

// One panel of a with `count` panels of b. A tile is folded behind the loop of the next one: its lanes are ready by
// then, so that the fold runs beside the multiply-adds instead of waiting for the last of them.
template <class T, int MR, int NR>
void packed_tiles_of(TileArgs<T> args, int64_t count, Prefetcher& next_b, Prefetcher& next_a) {
  typename T::Reg lanes[2][MR * NR];
  for (int64_t t = 0; t < count; t++) {
    accumulate<T, MR, NR, false>(args, lanes[t % 2]);
    args.b += args.vectors * NR * kVectorBytes;
    if (t > 0) {
      finish<T, MR * NR>(lanes[(t - 1) % 2], args.sums, args.first);
      args.sums += kTileSize;
    }
    next_b.advance();
    next_a.advance();
  }
  finish<T, MR * NR>(lanes[(count - 1) % 2], args.sums, args.first);
}

template <class T>
using DirectTile = void (*)(const TileArgs<T>&);
template <class T>
using PackedTiles = void (*)(TileArgs<T>, int64_t, Prefetcher&, Prefetcher&);

// Columns of a direct tile by its number of rows: fewer rows, more columns, so that enough loads are in flight.
constexpr int direct_cols(int rows) {
#if defined(BI_ISA_AVX512)
  return rows == 1 ? 8 : rows <= 4 ? 6 : 5;
#else
  return rows == 1 ? 4 : kTileCols;
#endif
}

template <class T, size_t... I>
constexpr std::array<PackedTiles<T>, T::kTileRows> packed_table(std::index_sequence<I...>) {
  return {packed_tiles_of<T, I + 1, kTileCols>...};
}
template <class T, bool ALONE, size_t... I>
constexpr std::array<DirectTile<T>, T::kTileRows> direct_table(std::index_sequence<I...>) {
  return {direct_tile_of<T, I + 1, ALONE ? direct_cols(I + 1) : kTileCols>...};
}

// Not static: tables of function templates are unique in a process, and tests load several instruction sets into one.
template <class T>
PackedTiles<T> packed_tiles(int rows) {
  constexpr auto table = packed_table<T>(std::make_index_sequence<T::kTileRows>());
  return table[static_cast<size_t>(rows) - 1];
}

// `single`: the block has one row panel, and direct_cols(rows) columns per tile; otherwise kTileCols.
template <class T>
DirectTile<T> direct_tile(int rows, bool single) {
  constexpr auto alone = direct_table<T, true>(std::make_index_sequence<T::kTileRows>());
  constexpr auto beside = direct_table<T, false>(std::make_index_sequence<T::kTileRows>());
  return (single ? alone : beside)[static_cast<size_t>(rows) - 1];
}

}  // namespace bi::gemm
