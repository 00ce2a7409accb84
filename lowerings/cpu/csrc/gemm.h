// Matrix products with one fixed expression per output element. Torch-free; used by gemm, grouped_mm, conv.
//
// The plan (what decides bits): out[m, n] = round(alpha * total + beta * bias[m, n]) where
//   total = s_0, then total = total + s_c over chunks of `split` k in ascending order (no chunk: total = 0);
//   s_c   = tree of the lanes: l + 8, then l + 4, l + 2, l + 1 (f64, 8 lanes: l + 4, l + 2, l + 1);
//   lane  = fma chain over its k in ascending order from +0, lane of k as in gemm_simd.h;
//   the end of K is padded with zeros to a whole vector, in both operands.
// The total, alpha, beta and the bias are float (double for f64); there is one rounding at the store.
// Everything else here (tiles, packing, threads, streaming) is a schedule and cannot change a bit.
#pragma once

#include <cstdint>

namespace bi::gemm {

enum class Dtype : int { f32, bf16, f16, f64 };

// The columns of a convolution: n = (d * pitch_h + h) * pitch_w + w walks a padded volume, in which row k of b is the
// volume from element rows[k] on. Columns outside of the output are computed and dropped.
struct Window {
  const int64_t* rows = nullptr;           // [k]
  int64_t depth = 1, height = 1, width = 1;  // of the output
  int64_t pitch_h = 1, pitch_w = 1;
  int64_t step_d = 0, step_h = 0, step_w = 1;  // of the output in memory
};

// Strides are in elements. The product is a[batch][m][k] @ b[batch][k][n]; out and bias as [batch][m][n].
struct Operand {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};

struct Problem {
  Dtype dtype = Dtype::f32;
  int64_t batch = 1, m = 0, n = 0, k = 0;
  Operand a;                   // rows m, columns k
  Operand b;                   // rows k, columns n; of a window only data and batch_stride count
  const Window* window = nullptr;
  Operand bias;                // rows m, columns n; data == nullptr: none. Same dtype as a
  void* out = nullptr;         // columns are contiguous, or where the window puts them
  int64_t out_batch_stride = 0;
  int64_t out_row_stride = 0;
  double alpha = 1.0, beta = 1.0;
  int64_t split = 0;           // k per chunk, a positive multiple of 64
  int threads = 1;
  bool uniform = false;        // one tile for every shape: the packed way, rows padded to whole tiles
};

// Multiplies. Throws std::invalid_argument for a split that is not a positive multiple of 64.
void run(const Problem& problem);

// Several products of one dtype side by side, such as the groups of grouped_mm; threads are shared.
void run_all(const Problem* problems, int64_t count, int threads);

}  // namespace bi::gemm
