// torch.ops.bi_inductor.convolution on CPU tensors, with the meaning of aten.convolution. The output is contiguous.
#pragma once

#include <torch/library.h>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <vector>

#include "../conv.h"
#include "gemm.h"

namespace bi::torch_bindings {

namespace conv_detail {

inline int64_t value_at(at::IntArrayRef values, int64_t dim, int64_t dims, const char* name) {
  TORCH_CHECK(static_cast<int64_t>(values.size()) == dims || values.size() == 1, "bi_inductor::convolution: ", name,
              " has ", values.size(), " values for ", dims, " dims");
  return values.size() == 1 ? values[0] : values[dim];
}

inline int64_t out_extent(const conv::Shape& s, int axis, int64_t output_padding) {
  const int64_t reach = s.dilation[axis] * (s.kernel[axis] - 1) + 1;
  if (s.transposed) return (s.in[axis] - 1) * s.stride[axis] - 2 * s.padding[axis] + reach + output_padding;
  const int64_t room = s.in[axis] + 2 * s.padding[axis] - reach;
  return room < 0 ? 0 : room / s.stride[axis] + 1;
}

// x [N, C, ...], weight [Cout, C / g, ...] or, transposed, [C, Cout / g, ...].
inline conv::Shape shape_of(const at::Tensor& x, const at::Tensor& weight, at::IntArrayRef stride,
                            at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                            at::IntArrayRef output_padding, int64_t groups) {
  const int64_t dims = weight.dim() - 2;
  TORCH_CHECK_VALUE(groups > 0 && x.size(1) % groups == 0 && weight.size(0) % groups == 0 &&
                        (transposed ? weight.size(0) == x.size(1) : weight.size(1) * groups == x.size(1)),
                    "bi_inductor::convolution: x ", x.sizes(), ", weight ", weight.sizes(), " and groups=", groups,
                    " do not fit");
  conv::Shape s;
  s.samples = x.size(0);
  s.groups = groups;
  s.in_channels = x.size(1);
  s.out_channels = transposed ? weight.size(1) * groups : weight.size(0);
  s.transposed = transposed;
  for (int64_t dim = 0; dim < dims; dim++) {
    const int axis = static_cast<int>(conv::kDims - dims + dim);
    s.in[axis] = x.size(dim + 2);
    s.kernel[axis] = weight.size(dim + 2);
    s.stride[axis] = value_at(stride, dim, dims, "stride");
    s.padding[axis] = value_at(padding, dim, dims, "padding");
    s.dilation[axis] = value_at(dilation, dim, dims, "dilation");
    TORCH_CHECK_VALUE(s.stride[axis] > 0 && s.dilation[axis] > 0 && s.padding[axis] >= 0,
                      "bi_inductor::convolution: stride and dilation must be positive and padding not negative, got ",
                      stride, ", ", dilation, ", ", padding);
    s.out[axis] = out_extent(s, axis, transposed ? value_at(output_padding, dim, dims, "output_padding") : 0);
    TORCH_CHECK_VALUE(s.out[axis] > 0, "bi_inductor::convolution: x ", x.sizes(), " is too small for weight ",
                      weight.sizes(), " with padding ", padding, " and dilation ", dilation);
  }
  return s;
}

}  // namespace conv_detail

inline at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                              bool transposed, at::IntArrayRef output_padding, int64_t groups, int64_t split_size) {
  matmul_detail::check_same_dtype(x, weight, "convolution");
  check_split(split_size, "convolution");
  TORCH_CHECK(weight.dim() >= 3 && weight.dim() <= 5 && (x.dim() == weight.dim() || x.dim() == weight.dim() - 1),
              "bi_inductor::convolution: expected 1 to 3 spatial dims, got x ", x.sizes(), " and weight ",
              weight.sizes());
  if (x.dim() == weight.dim() - 1) {
    return convolution(x.unsqueeze(0), weight, bias, stride, padding, dilation, transposed, output_padding, groups,
                       split_size)
        .squeeze(0);
  }
  conv::Problem p;
  p.shape = conv_detail::shape_of(x, weight, stride, padding, dilation, transposed, output_padding, groups);
  p.dtype = matmul_dtype(x, "convolution");
  const conv::Shape& s = p.shape;
  at::Tensor w = weight;
  if (transposed) w = w.unflatten(0, {groups, s.in_channels / groups}).transpose(1, 2);
  w = w.contiguous();
  const at::Tensor input = x.contiguous();
  at::Tensor b;
  if (bias.has_value()) {
    matmul_detail::check_same_dtype(x, *bias, "convolution");
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == s.out_channels, "bi_inductor::convolution: bias is ",
                bias->sizes(), ", expected [", s.out_channels, "]");
    b = bias->contiguous();
    p.bias = b.const_data_ptr();
  }
  std::vector<int64_t> shape = {s.samples, s.out_channels};
  shape.insert(shape.end(), s.out + (conv::kDims - (weight.dim() - 2)), s.out + conv::kDims);
  at::Tensor out = at::empty(shape, x.options().memory_format(at::MemoryFormat::Contiguous));
  p.x = input.const_data_ptr();
  p.weight = w.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.split = split_size;
  p.threads = at::get_num_threads();
  conv::run(p);
  return out;
}

inline void register_conv(torch::Library& m) { m.impl("convolution", &convolution); }

}  // namespace bi::torch_bindings
