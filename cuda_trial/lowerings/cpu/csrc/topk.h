// The k largest or smallest elements of each row, in order; of equal ones the lower index wins.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

/// x [rows, n] contiguous, values [rows, k] of its type, indices [rows, k]; 0 <= k <= n.
/// NaN counts as the largest value, -0 equals +0.
void topk(DType type, const void* x, int64_t rows, int64_t n, int64_t k, bool largest,
          void* values, int64_t* indices, int threads);

}  // namespace bi
