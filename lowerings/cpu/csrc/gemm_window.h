// One output channel of a convolution: a vector holds neighbouring positions, a lane of the plan is a register.
//
// The fma chains and the tree over lanes are the ones of the register tile, without packing or transposing b.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm_simd.h"
#include "simd.h"

namespace bi::gemm {

constexpr int64_t kWindowRows = 4;
constexpr int64_t kWindowSlack = 64;  // elements that a window may read, and its row be written, past the end

template <class T>
struct WindowArgs {
  const typename T::Sum* weights;  // [k], widened
  const int64_t* rows;             // [k]: where the volume of each k begins
  int64_t k, split;
};

template <class T>
struct stored_of { using type = typename T::Stored; };
template <>
struct stored_of<Bf16> { using type = bf16; };
template <>
struct stored_of<F16> { using type = f16; };

#if defined(BI_ISA_AVX512)
constexpr int kWindowVectors = 2;  // per load of a weight
#else
constexpr int kWindowVectors = 1;  // a vector is several registers here
#endif

// Sums of one chunk of K at kWindowVectors vectors of positions. Lanes from LANES on hold no k at all.
template <class T, int LANES>
class WindowChunk {
 public:
  using E = typename stored_of<T>::type;
  using V = vec_t<E>;
  struct Vectors { V v[kWindowVectors]; };

  WindowChunk(const WindowArgs<T>& args, int64_t k0, const E* x)
      : w_(args.weights + k0), rows_(args.rows + k0), kc_(std::min(args.split, args.k - k0)), x_(x) {}

  BI_INLINE Vectors sum() const {
    Vectors s = node<0, 1>();
    // Zeros fill up the last vector of k: their lanes cannot be -0, so neither can the sum.
    if (kc_ % kVectorK<T> != 0)
      for (V& v : s.v) v = v + V();
    return s;
  }

 private:
  static constexpr int L = kLanes<T>, kPerLane = kVectorK<T> / L;

  template <int I, int W>
  BI_INLINE Vectors node() const {
    if constexpr (W == L) {
      return lane(I);
    } else if constexpr (I + W >= LANES) {
      return node<I, 2 * W>();
    } else {
      Vectors low = node<I, 2 * W>();
      const Vectors high = node<I + W, 2 * W>();
      for (int i = 0; i < kWindowVectors; i++) low.v[i] = low.v[i] + high.v[i];
      return low;
    }
  }

#if defined(BI_ISA_PORTABLE)
  [[gnu::noinline]]  // 16 copies of scalar code would take the compiler half a minute
#else
  BI_INLINE
#endif
  Vectors lane(int l) const {
    Vectors acc{};
    for (int64_t k = l * kPerLane; k < kc_; k += kVectorK<T>) {
      if (kPerLane == 2 && k + 1 < kc_) step(acc, k + 1);  // bf16: the odd k of a pair comes first
      step(acc, k);
    }
    return acc;
  }

  BI_INLINE void step(Vectors& acc, int64_t k) const {
    const V w(w_[k]);
    const E* x = x_ + rows_[k];
    for (int i = 0; i < kWindowVectors; i++) acc.v[i] = fma(w, load(x + i * V::width), acc.v[i]);
  }

  const typename T::Sum* w_;
  const int64_t* rows_;
  int64_t kc_;
  const E* x_;
};

template <class T, int LANES>
void window_row_of(const WindowArgs<T>& args, const typename T::Stored* volume, int64_t count, typename T::Sum* row) {
  using Chunk = WindowChunk<T, LANES>;
  using V = typename Chunk::V;
  const auto* x = reinterpret_cast<const typename Chunk::E*>(volume);
  for (int64_t n = 0; n < count; n += kWindowVectors * V::width) {
    auto total = Chunk(args, 0, x + n).sum();
    for (int64_t k0 = args.split; k0 < args.k; k0 += args.split) {
      const auto s = Chunk(args, k0, x + n).sum();
      for (int i = 0; i < kWindowVectors; i++) total.v[i] = total.v[i] + s.v[i];
    }
    for (int i = 0; i < kWindowVectors; i++) store(row + n + i * V::width, total.v[i]);
  }
}

// row[i] = the product of all k at position i of `volume`, for 0 <= i < count.
template <class T>
void window_row(const WindowArgs<T>& args, const typename T::Stored* volume, int64_t count, typename T::Sum* row) {
  constexpr int L = kLanes<T>, kPerLane = kVectorK<T> / L;
  [[maybe_unused]] const int64_t lanes = (args.k + kPerLane - 1) / kPerLane;
#if !defined(BI_ISA_PORTABLE)  // code of this size is for speed
  if (lanes <= 5) return window_row_of<T, 5>(args, volume, count, row);  // 3 x 3 in bf16
  if (lanes <= 9 && L > 9) return window_row_of<T, std::min(9, L)>(args, volume, count, row);
#endif
  window_row_of<T, L>(args, volume, count, row);
}

}  // namespace bi::gemm
