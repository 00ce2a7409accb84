// The matmul family. Plan: K is cut into chunks of split_size; inside a chunk element k goes to lane k % 16
// (float, f16), k % 8 (double) or (k / 2) % 16 with the odd k of each pair first (bf16, the order of vdpbf16ps, with
// denormals as zero); lanes fold by fma in ascending k, then t[i] += t[i + w] for w = 8, 4, 2, 1; chunk sums are added in
// ascending order. Rows, columns, strides and threads choose a schedule and change no bit.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

/// A matrix by pointer and strides, in elements.
struct MatrixView {
  const void* data;
  int64_t row_stride, column_stride;
};

/// A term broadcast over the product: a stride of 0 repeats. data may be null.
struct BiasView {
  const void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
};

struct GemmShape {
  int64_t rows, columns, depth;
};

/// out[rows, columns] (row-major, leading dimension out_stride) = alpha * (a @ b) + beta * bias.
/// a [rows, depth], b [depth, columns], bias and out of the same type; beta = 0 does not read bias.
void gemm(DType dtype, GemmShape shape, MatrixView a, MatrixView b, BiasView bias, double alpha,
          double beta, void* out, int64_t out_stride, int64_t split_size, int threads);

/// The same for count independent products; steps are in elements between consecutive matrices.
struct BatchSteps {
  int64_t a, b, bias, out;
};
void batched_gemm(DType dtype, int64_t count, GemmShape shape, MatrixView a, MatrixView b,
                  BiasView bias, double alpha, double beta, void* out, BatchSteps steps,
                  int64_t out_stride, int64_t split_size, int threads);

}  // namespace bi
