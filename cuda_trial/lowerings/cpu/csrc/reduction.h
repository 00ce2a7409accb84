// Reductions over any set of dims of any strided tensor. Plan: lanes.h; integers are exact.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "layout.h"

namespace bi {

enum class Reduce {
  sum, mean, prod, amax, amin, any, all, argmax, argmin, norm, sum_squares, mean_squares
};

/// y[i] for every row i of x, contiguous, of type `out`. Floating x: sum, mean, prod, norms and
/// squares accumulate in float (double for f64) and round once into `out`. Integer x: sum and
/// prod in int64 (out i64), amax and amin of x's type. argmax and argmin: out i64, the lowest
/// index wins, the first NaN before all. any and all: out b8 or u8.
/// `p` is the order of the norm. Empty rows give the identity; the caller rejects them where
/// there is none (amax, amin, argmax, argmin, norm with p < 0 or infinite p).
void reduce(Reduce kind, double p, DType in, const void* x, const RowLayout& layout, DType out,
            void* y, int threads);

/// The part of `reduce` for integer and bool x.
void reduce_integers(Reduce kind, DType in, const void* x, const RowLayout& layout, void* y,
                     int threads);

/// var = sum((x - mean)^2) / max(n - correction, 0), two passes, both outputs of x's type.
void var_mean(DType type, const void* x, const RowLayout& layout, double correction, void* var,
              void* mean, int threads);

}  // namespace bi
