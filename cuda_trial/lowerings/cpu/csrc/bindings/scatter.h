// bi_inductor::scatter_add, index_add, index_put_add, embedding_bag.
#pragma once

#include <ATen/ExpandUtils.h>
#include <ATen/core/List.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <numeric>

#include "../embedding_bag.h"
#include "../scatter.h"
#include "common.h"

namespace bi::torch_bindings {

inline void check_same_dtype(const at::Tensor& x, const at::Tensor& src, const char* op) {
  TORCH_CHECK(x.scalar_type() == src.scalar_type(), "bi_inductor::", op,
              ": the source must have the destination's dtype ", x.scalar_type(), ", got ",
              src.scalar_type());
}

inline at::Tensor scatter_add_op(const at::Tensor& x_in, int64_t dim, const at::Tensor& index_in,
                                 const at::Tensor& src_in) {
  check_same_dtype(x_in, src_in, "scatter_add");
  check_rank(x_in, "scatter_add");
  const int64_t d = wrap_dim(dim, x_in.dim(), "scatter_add");
  const auto flat = [](const at::Tensor& t) { return t.dim() ? t.contiguous() : t.reshape({1}); };
  const at::Tensor x = flat(x_in), src = flat(src_in);
  const at::Tensor index = flat(int64_index(index_in, "scatter_add"));
  TORCH_CHECK(index.numel() == 0 || (x.dim() == index.dim() && x.dim() == src.dim()),
              "bi_inductor::scatter_add: input, index and src must have the same number of dims, "
              "got ", x.dim(), ", ", index.dim(), ", ", src.dim());
  at::Tensor out = at::empty(x_in.sizes(), x_in.options());
  if (x.numel() == 0) return out;
  if (index.numel() == 0) return out.copy_(x_in);
  for (int64_t i = 0; i < x.dim(); ++i)
    TORCH_CHECK(index.size(i) <= src.size(i) && (i == d || index.size(i) <= x.size(i)),
                "bi_inductor::scatter_add: index of shape ", index.sizes(),
                " must fit into src ", src.sizes(), " and, outside dim ", d, ", into ", x.sizes());
  check_indices(index, 0, x.size(d), "scatter_add");
  const ScatterShape shape{static_cast<int>(x.dim()), static_cast<int>(d), x.sizes().data(),
                           index.sizes().data(), src.sizes().data()};
  scatter_add(dtype_of(x.scalar_type(), "scatter_add"), x.const_data_ptr(), shape,
              index.const_data_ptr<int64_t>(), src.const_data_ptr(), out.mutable_data_ptr(),
              at::get_num_threads());
  return out;
}

/// x [.., size, ..] plus alpha * src along dim; the index is contiguous int64 and in range.
inline at::Tensor add_at(const at::Tensor& x_in, int64_t d, const at::Tensor& index,
                         const at::Tensor& src_in, const at::Scalar& alpha, const char* op) {
  const at::Tensor x = x_in.contiguous(), src = src_in.contiguous();
  const size_t at = static_cast<size_t>(d);
  at::Tensor out = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return out;
  const int64_t outer = product(x.sizes().slice(0, at)), inner = product(x.sizes().slice(at + 1));
  const bool integral = at::isIntegralType(x.scalar_type(), true);
  index_add(dtype_of(x.scalar_type(), op), x.const_data_ptr(), outer, x.size(d), inner,
            index.const_data_ptr<int64_t>(), index.numel(), src.const_data_ptr(),
            integral ? 0.0 : alpha.toDouble(), integral ? alpha.toLong() : 0,
            out.mutable_data_ptr(), at::get_num_threads());
  return out;
}

inline at::Tensor index_add_op(const at::Tensor& x, int64_t dim, const at::Tensor& index_in,
                               const at::Tensor& src, const at::Scalar& alpha) {
  check_same_dtype(x, src, "index_add");
  const int64_t d = wrap_dim(dim, x.dim(), "index_add");
  const at::Tensor index = int64_index(index_in, "index_add");
  TORCH_CHECK_INDEX(index.dim() <= 1, "bi_inductor::index_add: index must be 1-d, got ",
                    index.dim(), " dims");
  if (x.dim() == 0)
    return index_add_op(x.reshape({1}), 0, index_in, src.reshape({-1}), alpha).reshape({});
  at::DimVector expected(x.sizes().begin(), x.sizes().end());
  expected[static_cast<size_t>(d)] = index.numel();
  TORCH_CHECK(src.sizes() == at::IntArrayRef(expected), "bi_inductor::index_add: expected src of ",
              at::IntArrayRef(expected), ", got ", src.sizes());
  check_indices(index, 0, x.size(d), "index_add");
  return add_at(x, d, index, src, alpha, "index_add");
}

/// The index tensors of an index_put with their dims; a mask stands for its nonzero positions.
struct PutIndices {
  std::vector<at::Tensor> tensors;
  std::vector<int64_t> dims;
};

inline PutIndices put_indices(const at::Tensor& x,
                              const c10::List<std::optional<at::Tensor>>& indices) {
  PutIndices put;
  int64_t dim = 0;
  for (const std::optional<at::Tensor>& given : indices) {
    if (!given || !given->defined()) {
      ++dim;
      continue;
    }
    if (given->scalar_type() != at::kBool && given->scalar_type() != at::kByte) {
      put.tensors.push_back(int64_index(*given, "index_put_add"));
      put.dims.push_back(dim++);
      continue;
    }
    const at::Tensor where = given->nonzero();
    for (int64_t k = 0; k < given->dim(); ++k, ++dim) {
      TORCH_CHECK_INDEX(dim < x.dim() && given->size(k) == x.size(dim),
                        "bi_inductor::index_put_add: the mask of shape ", given->sizes(),
                        " does not fit the input of shape ", x.sizes());
      put.tensors.push_back(where.select(1, k).contiguous());
      put.dims.push_back(dim);
    }
  }
  TORCH_CHECK_INDEX(dim <= x.dim(), "bi_inductor::index_put_add: too many indices for an input of ",
                    x.dim(), " dims: ", dim);
  return put;
}

/// Row-major position over the indexed dims, negative indices counted from the end.
inline at::Tensor linear_index(const at::Tensor& x, const PutIndices& put,
                               at::IntArrayRef shape) {
  at::Tensor linear = at::zeros(shape, x.options().dtype(at::kLong));
  int64_t* to = linear.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < put.tensors.size(); ++i) {
    const int64_t size = x.size(put.dims[i]);
    const at::Tensor index = put.tensors[i].expand(shape).contiguous();
    check_indices(index, -size, size, "index_put_add");
    const int64_t* from = index.const_data_ptr<int64_t>();
    for (int64_t j = 0; j < index.numel(); ++j)
      to[j] = to[j] * size + (from[j] < 0 ? from[j] + size : from[j]);
  }
  return linear.reshape({-1});
}

inline at::Tensor index_put_add_op(const at::Tensor& x,
                                   const c10::List<std::optional<at::Tensor>>& indices,
                                   const at::Tensor& values) {
  check_same_dtype(x, values, "index_put_add");
  const PutIndices put = put_indices(x, indices);
  TORCH_CHECK_INDEX(!put.tensors.empty(),
                    "bi_inductor::index_put_add: at least one index must be a tensor");
  at::DimVector shape;
  for (const at::Tensor& t : put.tensors) shape = at::infer_size_dimvector(shape, t.sizes());
  // Indexed dims first, the others after them.
  std::vector<int64_t> order = put.dims;
  at::DimVector result, rest;
  for (int64_t d = 0; d < x.dim(); ++d)
    if (std::find(put.dims.begin(), put.dims.end(), d) == put.dims.end()) {
      order.push_back(d);
      rest.push_back(x.size(d));
    }
  // torch puts the index's dims where the indexed ones were, if those are neighbours, else first.
  const bool neighbours = put.dims.back() - put.dims.front() + 1 == int64_t(put.dims.size());
  const size_t front = neighbours ? static_cast<size_t>(put.dims.front()) : 0;
  result.append(rest.begin(), rest.begin() + front);
  result.append(shape.begin(), shape.end());
  result.append(rest.begin() + front, rest.end());
  std::vector<int64_t> source_order(shape.size()), back(order.size());
  std::iota(source_order.begin(), source_order.end(), int64_t(front));
  for (size_t d = 0; d < result.size(); ++d)
    if (d < front || d >= front + shape.size()) source_order.push_back(int64_t(d));
  for (size_t d = 0; d < order.size(); ++d) back[static_cast<size_t>(order[d])] = int64_t(d);

  const at::Tensor linear = linear_index(x, put, shape);
  const at::Tensor moved = x.permute(order);
  const int64_t width = product(rest), cells = product(moved.sizes().slice(0, put.dims.size()));
  const at::Tensor src = values.expand(result).permute(source_order);
  const at::Tensor out = add_at(moved.reshape({cells, width}), 0, linear,
                                src.reshape({linear.numel(), width}), 1, "index_put_add");
  return out.view(moved.sizes()).permute(back).contiguous();
}

inline Bag bag_of(std::string_view mode) {
  if (mode == "sum") return Bag::sum;
  if (mode == "mean") return Bag::mean;
  TORCH_CHECK(mode == "max", "bi_inductor::embedding_bag: unknown mode '", mode,
              "'; known: sum mean max");
  return Bag::max;
}

inline at::Tensor embedding_bag_op(const at::Tensor& weight_in, const at::Tensor& indices_in,
                                   const at::Tensor& offsets_in,
                                   const std::optional<at::Tensor>& sample_weights,
                                   c10::string_view mode_name, bool include_last_offset,
                                   int64_t padding_idx) {
  const char* op = "embedding_bag";
  const Bag mode = bag_of(std::string_view(mode_name.data(), mode_name.size()));
  check_floating(weight_in, op);
  TORCH_CHECK(weight_in.dim() == 2 && indices_in.dim() == 1 && offsets_in.dim() == 1,
              "bi_inductor::embedding_bag: expected weight [rows, width], indices and offsets 1-d, "
              "got ", weight_in.sizes(), ", ", indices_in.sizes(), ", ", offsets_in.sizes());
  const at::Tensor weight = weight_in.contiguous(), indices = int64_index(indices_in, op);
  const at::Tensor offsets = int64_index(offsets_in, op);
  const int64_t rows = weight.size(0), count = indices.numel();
  TORCH_CHECK(!include_last_offset || offsets.numel() > 0,
              "bi_inductor::embedding_bag: include_last_offset needs at least one offset");
  check_indices(indices, 0, rows, op);
  check_indices(offsets, 0, count + 1, op);
  const int64_t* starts = offsets.const_data_ptr<int64_t>();
  for (int64_t i = 1; i < offsets.numel(); ++i)
    TORCH_CHECK(starts[i - 1] <= starts[i],
                "bi_inductor::embedding_bag: offsets must not descend, got ", starts[i - 1],
                " before ", starts[i]);
  at::Tensor sample;
  if (sample_weights && sample_weights->defined()) {
    check_same_dtype(weight, *sample_weights, op);
    TORCH_CHECK(mode == Bag::sum && sample_weights->sizes() == indices.sizes(),
                "bi_inductor::embedding_bag: per_sample_weights need mode 'sum' and the shape of "
                "indices ", indices.sizes(), ", got mode '", mode_name, "' and ",
                sample_weights->sizes());
    sample = sample_weights->contiguous();
  }
  const int64_t bags = offsets.numel() - include_last_offset;
  at::Tensor out = at::empty({bags, weight.size(1)}, weight.options());
  const BagArguments a{dtype_of(weight.scalar_type(), op), weight.const_data_ptr(), weight.size(1),
                       indices.const_data_ptr<int64_t>(), count, starts, bags,
                       sample.defined() ? sample.const_data_ptr() : nullptr,
                       padding_idx < -1 ? padding_idx + rows : padding_idx,
                       out.mutable_data_ptr()};
  embedding_bag(mode, a, include_last_offset, at::get_num_threads());
  return out;
}

inline void register_scatter(torch::Library& m) {
  m.impl("scatter_add", &scatter_add_op);
  m.impl("index_add", &index_add_op);
  m.impl("index_put_add", &index_put_add_op);
  m.impl("embedding_bag", &embedding_bag_op);
}

}  // namespace bi::torch_bindings
