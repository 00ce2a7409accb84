// Patches of a convolution, row by row, and the products that read them.
#include "conv.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace bi::conv {
namespace {

// One axis of one tap: output position o reads input (o * step + offset) / divisor, if that is whole and inside.
struct Axis {
  int64_t step, offset, divisor, extent;

  int64_t input(int64_t o) const {  // -1: the tap falls on padding or between inputs
    const int64_t position = o * step + offset;
    if (position < 0 || position % divisor != 0 || position / divisor >= extent) return -1;
    return position / divisor;
  }
};

Axis axis_of(const Shape& s, int dim, int64_t tap) {
  if (s.transposed) return {1, s.padding[dim] - tap * s.dilation[dim], s.stride[dim], s.in[dim]};
  return {s.stride[dim], tap * s.dilation[dim] - s.padding[dim], 1, s.in[dim]};
}

// dst[i] = line[axis.input(o + i)], zero where there is none. Axes have step 1 or divisor 1.
template <class E>
void copy_line(const E* line, const Axis& axis, int64_t o, int64_t count, E* dst) {
  const auto first_at_least = [&](int64_t position) {  // smallest o' with o' * step + offset >= position
    const int64_t distance = position - axis.offset;
    return distance <= 0 ? distance / axis.step : (distance + axis.step - 1) / axis.step;
  };
  const int64_t begin = std::clamp(first_at_least(0), o, o + count);
  const int64_t end = std::clamp(first_at_least(axis.extent * axis.divisor), begin, o + count);
  if (axis.divisor > 1) {
    std::fill(dst, dst + count, E(0));
    int64_t i = begin + (axis.divisor - (begin + axis.offset) % axis.divisor) % axis.divisor;
    for (; i < end; i += axis.divisor) dst[i - o] = line[(i + axis.offset) / axis.divisor];
    return;
  }
  std::fill(dst, dst + (begin - o), E(0));
  const E* from = line + begin * axis.step + axis.offset;
  if (axis.step == 1) {
    std::copy(from, from + (end - begin), dst + (begin - o));
  } else {
    for (int64_t i = 0; i < end - begin; i++) dst[begin - o + i] = from[i * axis.step];
  }
  std::fill(dst + (end - o), dst + count, E(0));
}

template <class E>
class Patches final : public gemm::VirtualB {
 public:
  Patches(const Shape& shape, const void* x) : s_(shape), x_(static_cast<const E*>(x)) {}

  // entry = sample * groups + group
  void fill(int64_t entry, int64_t k0, int64_t ks, int64_t n0, int64_t ns, void* dst, int64_t ld) const override {
    const int64_t plane = s_.in[0] * s_.in[1] * s_.in[2];
    const E* x = x_ + entry * (s_.in_channels / s_.groups) * plane;
    for (int64_t j = 0; j < ks; j++) {
      int64_t k = k0 + j;
      int64_t tap[kDims];
      for (int dim = kDims - 1; dim >= 0; dim--) tap[dim] = k % s_.kernel[dim], k /= s_.kernel[dim];
      fill_row(x + k * plane, tap, n0, ns, static_cast<E*>(dst) + j * ld);
    }
  }

 private:
  void fill_row(const E* x, const int64_t (&tap)[kDims], int64_t n0, int64_t ns, E* dst) const {
    const Axis depth = axis_of(s_, 0, tap[0]), height = axis_of(s_, 1, tap[1]), width = axis_of(s_, 2, tap[2]);
    int64_t w = n0 % s_.out[2], h = n0 / s_.out[2] % s_.out[1], d = n0 / s_.out[2] / s_.out[1];
    while (ns > 0) {
      const int64_t count = std::min(ns, s_.out[2] - w);
      const int64_t in_d = depth.input(d), in_h = height.input(h);
      if (in_d < 0 || in_h < 0) std::fill(dst, dst + count, E(0));
      else copy_line(x + (in_d * s_.in[1] + in_h) * s_.in[2], width, w, count, dst);
      dst += count, ns -= count, w = 0;
      if (++h == s_.out[1]) h = 0, d++;
    }
  }

  const Shape s_;
  const E* x_;
};

// A 1 x 1 kernel that reads every input where it lies: the input itself is the matrix of patches.
bool is_pointwise(const Shape& s) {
  for (int dim = 0; dim < kDims; dim++)
    if (s.kernel[dim] != 1 || s.stride[dim] != 1 || s.padding[dim] != 0 || s.in[dim] != s.out[dim]) return false;
  return true;
}

template <class E>
void run_as(const Problem& p) {
  const Shape& s = p.shape;
  const int64_t in_plane = s.in[0] * s.in[1] * s.in[2], positions = s.out[0] * s.out[1] * s.out[2];
  const int64_t channels = s.in_channels / s.groups, rows = s.out_channels / s.groups;
  const int64_t k = channels * s.kernel[0] * s.kernel[1] * s.kernel[2];
  const Patches<E> patches(s, p.x);
  std::vector<gemm::Problem> products;
  products.reserve(static_cast<size_t>(s.samples * s.groups));
  for (int64_t entry = 0; entry < s.samples * s.groups; entry++) {
    const int64_t group = entry % s.groups;
    gemm::Problem product;
    product.dtype = p.dtype;
    product.m = rows, product.n = positions, product.k = k;
    product.a = {static_cast<const E*>(p.weight) + group * rows * k, 0, k, 1};
    if (is_pointwise(s)) {
      product.b = {static_cast<const E*>(p.x) + entry * channels * in_plane, 0, in_plane, 1};
    } else {
      product.source = &patches;
      product.source_entry = entry;
    }
    if (p.bias != nullptr) product.bias = {static_cast<const E*>(p.bias) + group * rows, 0, 1, 0};
    product.out = static_cast<E*>(p.out) + entry * rows * positions;
    product.out_row_stride = positions;
    product.split = p.split;
    products.push_back(product);
  }
  gemm::run_all(products.data(), static_cast<int64_t>(products.size()), p.threads);
}

}  // namespace

void run(const Problem& p) {
  switch (p.dtype) {
    case gemm::Dtype::f32: return run_as<float>(p);
    case gemm::Dtype::f64: return run_as<double>(p);
    case gemm::Dtype::bf16:
    case gemm::Dtype::f16: return run_as<uint16_t>(p);
  }
}

}  // namespace bi::conv
