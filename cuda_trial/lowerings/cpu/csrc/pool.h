// Average pooling over up to three spatial dims (missing ones have size and kernel 1).
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

struct PoolShape {
  int64_t planes;
  int64_t in[3], out[3], kernel[3], stride[3], padding[3];
  bool count_include_pad;
  int64_t divisor_override;  // 0: none
};

/// x [planes, in...], y [planes, out...], contiguous. The elements of a window are added in
/// row-major order in float (double for f64), divided once, rounded once.
void avg_pool(DType type, const void* x, const PoolShape& shape, void* y, int threads);

}  // namespace bi
