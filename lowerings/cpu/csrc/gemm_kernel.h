// The register tile: MR rows x NR columns, one accumulator vector per output element, lanes along k.
#pragma once

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

template <class T>
BI_INLINE typename T::Operand load_tail(const typename T::Stored* p, int tail, int pass) {
  alignas(64) typename T::Stored padded[kVectorK<T>] = {};
  for (int i = 0; i < tail; i++) padded[i] = p[i];
  return T::load_stored(padded, pass);
}

// Folds MR * NR halves and adds them to the totals of the tile.
template <class T, int COUNT>
BI_INLINE void finish(typename T::Half* halves, typename T::Sum* sums, bool first) {
  constexpr int kGroup = kLanes<T> / 2;
  constexpr int kOne = COUNT % kGroup == 1 ? 1 : 0;  // 5 x 5: the 25th alone, not with seven zeros
#pragma GCC unroll 8
  for (int g = 0; g < (COUNT - kOne + kGroup - 1) / kGroup; g++) {
    const auto s = fold(halves + g * kGroup);
    typename T::Sum* total = sums + g * kGroup;
    store_half(total, first ? s : add(load_half(total), s));
  }
  if constexpr (kOne == 1) {
    const auto s = fold_one(halves[COUNT - 1]);
    sums[COUNT - 1] = first ? s : sums[COUNT - 1] + s;
  }
}

template <class T, int MR, int NR, bool DIRECT>
void tile(const TileArgs<T>& args) {
  static_assert(MR * NR <= kTileSize && NR <= 8);
  constexpr int kPadded = (MR * NR + 7) / 8 * 8;
  typename T::Half halves[kPadded];
#pragma GCC unroll 32
  for (int i = MR * NR; i < kPadded; i++) zero(halves[i]);
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
        typename T::Half& half = halves[i * NR + j];
        if constexpr (kPasses == 1) {
          half = half_of(acc[i][j]);
        } else {
          half = pass == 0 ? acc[i][j] : add(half, acc[i][j]);
        }
      }
  }
  finish<T, MR * NR>(halves, args.sums, args.first);
}

template <class T>
using TileFunction = void (*)(const TileArgs<T>&);

// Columns of a direct tile by its number of rows: fewer rows, more columns, so that enough loads are in flight.
constexpr int direct_cols(int rows) {
#if defined(BI_ISA_AVX512)
  return rows == 1 ? 8 : rows <= 4 ? 6 : 5;
#else
  return rows == 1 ? 4 : kTileCols;
#endif
}

template <class T>
TileFunction<T> packed_tile(int rows) {
  constexpr int C = kTileCols;
#if defined(BI_ISA_AVX512)
  constexpr TileFunction<T> table[] = {tile<T, 1, C, false>, tile<T, 2, C, false>, tile<T, 3, C, false>,
                                       tile<T, 4, C, false>, tile<T, 5, C, false>};
#elif defined(BI_ISA_AVX2)
  constexpr TileFunction<T> table[] = {tile<T, 1, C, false>, tile<T, 2, C, false>, tile<T, 3, C, false>};
#else
  constexpr TileFunction<T> table[] = {tile<T, 1, C, false>, tile<T, 2, C, false>};
#endif
  return table[rows - 1];
}

// `single`: the block has one row panel, and direct_cols(rows) columns per tile; otherwise kTileCols.
template <class T>
TileFunction<T> direct_tile(int rows, bool single) {
  constexpr int C = kTileCols;
#if defined(BI_ISA_AVX512)
  constexpr TileFunction<T> alone[] = {tile<T, 1, direct_cols(1), true>, tile<T, 2, direct_cols(2), true>,
                                       tile<T, 3, direct_cols(3), true>, tile<T, 4, direct_cols(4), true>,
                                       tile<T, 5, direct_cols(5), true>};
  constexpr TileFunction<T> beside[] = {tile<T, 1, C, true>, tile<T, 2, C, true>, tile<T, 3, C, true>,
                                        tile<T, 4, C, true>, tile<T, 5, C, true>};
#elif defined(BI_ISA_AVX2)
  constexpr TileFunction<T> alone[] = {tile<T, 1, direct_cols(1), true>, tile<T, 2, C, true>, tile<T, 3, C, true>};
  constexpr TileFunction<T> beside[] = {tile<T, 1, C, true>, tile<T, 2, C, true>, tile<T, 3, C, true>};
#else
  constexpr TileFunction<T> alone[] = {tile<T, 1, direct_cols(1), true>, tile<T, 2, C, true>};
  constexpr TileFunction<T> beside[] = {tile<T, 1, C, true>, tile<T, 2, C, true>};
#endif
  return (single ? alone : beside)[rows - 1];
}

}  // namespace bi::gemm
