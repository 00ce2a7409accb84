// layer_norm and rms_norm over the trailing elements of each row.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "layout.h"

namespace bi {

struct NormArguments {
  DType type;               // of x and out
  const void* x;
  const RowLayout* layout;  // rows of x; out is contiguous
  DType weight_type;        // type, or f32 with a half type
  const void* weight;       // [extent] or null
  const void* bias;         // [extent] or null, of weight_type (layer_norm only)
  double eps;
  void* out;
  DType statistics_type;    // type or f32
  void* mean;               // [rows] (layer_norm only)
  void* rstd;               // [rows]
};

/// out = fma((x - mean) * rstd, weight, bias), rstd = 1 / sqrt(mean((x - mean)^2) + eps): two
/// passes by the plan of lanes.h in float (double for f64), one rounding.
void layer_norm(const NormArguments& a, int threads);

/// out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps).
void rms_norm(const NormArguments& a, int threads);

}  // namespace bi
