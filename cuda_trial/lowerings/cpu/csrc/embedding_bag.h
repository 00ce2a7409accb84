// embedding_bag: sums, means and maxima of rows of a table.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace bi {

enum class Bag { sum, mean, max };

struct BagArguments {
  DType type;              // of weight, sample_weights and out
  const void* weight;      // [rows, width], contiguous
  int64_t width;
  const int64_t* indices;  // [count], in range
  int64_t count;
  const int64_t* offsets;  // start of each bag
  int64_t bags;
  const void* sample_weights;  // [count] or null (sum only)
  int64_t padding_idx;     // left out; -1: none
  void* out;               // [bags, width]
};

/// Entries of a bag are added in ascending order in float (double for f64): a product with its
/// sample weight is rounded first; one rounding at the end. A bag ends where the next one starts,
/// the last one at `count`, unless `has_end`: then offsets has bags + 1 entries. Empty: zeros.
void embedding_bag(Bag mode, const BagArguments& a, bool has_end, int threads);

}  // namespace bi
