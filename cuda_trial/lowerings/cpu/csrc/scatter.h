// Scattered additions: sources are added in ascending order into each destination.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

/// out[..., index, ...] += src over one dim. All tensors are contiguous; the first `rank` entries
/// of the sizes hold x's, index's and src's shape (index <= src everywhere, <= x outside dim).
struct ScatterShape {
  int rank, dim;
  const int64_t *x, *index, *src;
};

/// Halves accumulate in float per destination (x first, then the sources) and round once.
/// Threads split the lines along dim, never the order inside one. Indices must be in range.
void scatter_add(DType type, const void* x, const ScatterShape& shape, const int64_t* index,
                 const void* src, void* out, int threads);

/// out[o, index[j], :] += alpha * src[o, j, :] for j ascending; x, out [outer, size, inner],
/// src [outer, n, inner]; the product is rounded before it is added. Threads split outer and
/// inner.
void index_add(DType type, const void* x, int64_t outer, int64_t size, int64_t inner,
               const int64_t* index, int64_t n, const void* src, double alpha, int64_t integer_alpha,
               void* out, int threads);

}  // namespace bi
