// softmax and log_softmax over one dim of any strided tensor.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "layout.h"

namespace bi {

/// y = exp(x - max) / sum, or x - max - log(sum); y is contiguous, `inner` elements apart along
/// the dim (the product of the sizes after it). Everything in float (double for f64), the sum by
/// the plan of lanes.h, one rounding into `out` (x's type, or f32 for a half x).
/// A row of -inf only, or with a NaN or +inf in it, is NaN as in torch.
void softmax(bool log, DType in, const void* x, const RowLayout& layout, int64_t inner, DType out,
             void* y, int threads);

}  // namespace bi
