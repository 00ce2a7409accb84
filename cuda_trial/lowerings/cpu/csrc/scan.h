// Running sums, products and log-sum-exps along one dim.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

enum class Scan { cumsum, cumprod, logcumsumexp };

/// x and y are contiguous [outer, n, inner] of one type (floating or i64); one chain along n in
/// ascending order. The chain is kept in double for f32 and f64 (as torch), in float for halves,
/// and each output is rounded once. i64 (no logcumsumexp) wraps around.
void scan(Scan kind, DType type, const void* x, int64_t outer, int64_t n, int64_t inner, void* y,
          int threads);

}  // namespace bi
