// at::Tensor to the torch-free border: types, layouts, and the checks every row op shares.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <string_view>

#include "../dtype.h"
#include "../lanes.h"
#include "../layout.h"

namespace bi::torch_bindings {

inline DType dtype_of(at::ScalarType type, const char* op) {
  switch (type) {
    case at::kFloat: return DType::f32;
    case at::kDouble: return DType::f64;
    case at::kBFloat16: return DType::bf16;
    case at::kHalf: return DType::f16;
    case at::kLong: return DType::i64;
    case at::kInt: return DType::i32;
    case at::kShort: return DType::i16;
    case at::kChar: return DType::i8;
    case at::kByte: return DType::u8;
    case at::kBool: return DType::b8;
    default:
      TORCH_CHECK(false, "bi_inductor::", op, ": dtype ", type,
                  " is not supported; use float32, float64, bfloat16, float16, an integer or bool");
  }
}

/// A contiguous output, as ATen's own kernels make theirs: at::empty would be dispatched anew.
inline at::Tensor output(at::IntArrayRef sizes, at::ScalarType type) {
  return at::Tensor(at::detail::empty_cpu(sizes, type));
}

inline void check_floating(const at::Tensor& x, const char* op) {
  TORCH_CHECK(at::isFloatingType(x.scalar_type()), "bi_inductor::", op,
              ": expected a floating input, got ", x.scalar_type(), "; convert it first");
}

inline void check_lanes(int64_t lanes, const char* op) {
  TORCH_CHECK(lanes == kLanes, "bi_inductor::", op, ": this build folds ", kLanes,
              " lanes, the plan asks for ", lanes, "; rebuild the kernels or plan again");
}

inline void check_rank(const at::Tensor& x, const char* op) {
  TORCH_CHECK(x.dim() <= kMaxRank, "bi_inductor::", op, ": at most ", kMaxRank,
              " dims are supported, got ", x.dim(), "; flatten some");
}

inline int64_t wrap_dim(int64_t dim, int64_t rank, const char* op) {
  const int64_t limit = std::max<int64_t>(rank, 1);
  TORCH_CHECK_INDEX(dim >= -limit && dim < limit, "bi_inductor::", op, ": dim ", dim,
                    " is out of range for a tensor of ", rank, " dims");
  return dim < 0 ? dim + limit : dim;
}

/// One bit per reduced dim; no dims means all of them.
inline uint32_t dim_mask(at::IntArrayRef dims, int64_t rank, const char* op) {
  if (dims.empty()) return (1u << std::max<int64_t>(rank, 1)) - 1;
  uint32_t mask = 0;
  for (int64_t d : dims) {
    const uint32_t bit = 1u << wrap_dim(d, rank, op);
    TORCH_CHECK((mask & bit) == 0, "bi_inductor::", op, ": dim ", d, " appears twice in ", dims);
    mask |= bit;
  }
  return mask;
}

inline RowLayout layout_of(const at::Tensor& x, uint32_t reduced) {
  RowLayout layout;
  const at::IntArrayRef sizes = x.sizes(), strides = x.strides();
  for (size_t d = 0; d < sizes.size(); ++d)
    layout.add_dim(sizes[d], strides[d], reduced >> d & 1);
  return layout;
}

inline at::DimVector reduced_sizes(const at::Tensor& x, uint32_t reduced, bool keepdim) {
  at::DimVector sizes;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (!(reduced >> d & 1)) sizes.push_back(x.size(d));
    else if (keepdim) sizes.push_back(1);
  }
  return sizes;
}

inline int64_t product(at::IntArrayRef sizes) {
  int64_t n = 1;
  for (int64_t s : sizes) n *= s;
  return n;
}

/// Every index in [low, size), or an error that names the first one outside.
inline void check_indices(const at::Tensor& index, int64_t low, int64_t size, const char* op) {
  const int64_t* data = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i)
    TORCH_CHECK_INDEX(data[i] >= low && data[i] < size, "bi_inductor::", op, ": index ", data[i],
                      " is out of bounds for size ", size);
}

/// A contiguous int64 copy of an index tensor (itself where it is one).
inline at::Tensor int64_index(const at::Tensor& index, const char* op) {
  TORCH_CHECK_INDEX(index.scalar_type() == at::kLong || index.scalar_type() == at::kInt,
                    "bi_inductor::", op, ": expected int64 or int32 indices, got ",
                    index.scalar_type());
  return index.to(at::kLong).contiguous();
}

}  // namespace bi::torch_bindings
