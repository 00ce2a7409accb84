// A padded copy of the input, offsets of every (channel, tap) in it, and the products that read through them.
#include "conv.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "gemm_window.h"
#include "parallel.h"

namespace bi::conv {
namespace {

constexpr int64_t kCopyBytes = 32 << 20;  // of padded samples at a time, unless threads need more
constexpr int64_t kGrain = 16384;         // elements that a thread copies at least

// The input along one axis as `slots` lines of `cells`, such that a tap reads neighbouring cells for neighbouring
// outputs: with stride s, line p holds the inputs p, p + s, ... that taps of phase p read.
struct Tap {
  int64_t tap, slot, cell;  // output o of the class reads cell + o of the slot
};

// Outputs that see the same taps: all of them, or one phase of a transposed convolution.
struct Class {
  int64_t first, count;
  std::vector<Tap> taps;
};

struct Axis {
  int64_t in = 0, in_step = 1, out_step = 1, cells = 0;
  std::vector<int64_t> slots;  // input position of cell 0; cell c is slots[i] + c * in_step
  std::vector<Class> classes;
};

Axis forward_axis(const Shape& s, int dim) {
  Axis axis;
  axis.in = s.in[dim], axis.in_step = s.stride[dim];
  Class all{0, s.out[dim], {}};
  for (int64_t tap = 0; tap < s.kernel[dim]; tap++) {
    const int64_t at = tap * s.dilation[dim], start = at % s.stride[dim] - s.padding[dim];
    const auto found = std::find(axis.slots.begin(), axis.slots.end(), start);
    all.taps.push_back({tap, found - axis.slots.begin(), at / s.stride[dim]});
    if (found == axis.slots.end()) axis.slots.push_back(start);
    axis.cells = std::max(axis.cells, at / s.stride[dim] + s.out[dim]);
  }
  axis.classes = {all};
  return axis;
}

// Output o = q * stride + phase reads input q + (phase + padding - tap * dilation) / stride, of the taps where that
// is whole. The zeros that a transposed convolution inserts between inputs are in no product.
Axis transposed_axis(const Shape& s, int dim) {
  Axis axis;
  axis.in = s.in[dim], axis.out_step = s.stride[dim];
  int64_t least = 0, most = 0;
  for (int64_t phase = 0; phase < std::min(s.stride[dim], s.out[dim]); phase++) {
    Class some{phase, (s.out[dim] - phase + s.stride[dim] - 1) / s.stride[dim], {}};
    for (int64_t tap = 0; tap < s.kernel[dim]; tap++) {
      const int64_t at = phase + s.padding[dim] - tap * s.dilation[dim];
      if (at % s.stride[dim] != 0) continue;
      some.taps.push_back({tap, 0, at / s.stride[dim]});
      least = std::min(least, at / s.stride[dim]);
      most = std::max(most, at / s.stride[dim] + some.count);
    }
    most = std::max(most, some.count);
    axis.classes.push_back(some);
  }
  for (Class& c : axis.classes)
    for (Tap& tap : c.taps) tap.cell -= least;
  axis.slots = {least};
  axis.cells = most - least;
  return axis;
}

// The padded copy of some samples: [plane][slots of d, h, w][cells of d, h, w].
struct Volume {
  Axis axes[kDims];
  int64_t plane;  // elements of one channel

  explicit Volume(const Shape& s) {
    for (int dim = 0; dim < kDims; dim++) axes[dim] = s.transposed ? transposed_axis(s, dim) : forward_axis(s, dim);
    plane = block();
    for (const Axis& axis : axes) plane *= static_cast<int64_t>(axis.slots.size());
  }
  int64_t block() const { return axes[0].cells * axes[1].cells * axes[2].cells; }
  int64_t at(const Tap& d, const Tap& h, const Tap& w) const {
    const int64_t slots_h = static_cast<int64_t>(axes[1].slots.size());
    const int64_t slots_w = static_cast<int64_t>(axes[2].slots.size());
    return ((d.slot * slots_h + h.slot) * slots_w + w.slot) * block() +
           (d.cell * axes[1].cells + h.cell) * axes[2].cells + w.cell;
  }
};

// Cells [begin, end) of a line from `start` on lie inside of the input.
struct Inside {
  int64_t begin, end;
  Inside(const Axis& axis, int64_t start)
      : begin(std::clamp<int64_t>(start < 0 ? (-start + axis.in_step - 1) / axis.in_step : 0, 0, axis.cells)),
        end(std::clamp((axis.in - start + axis.in_step - 1) / axis.in_step, begin, axis.cells)) {}
};

template <class E>
void copy_cells(const E* __restrict line, int64_t step, int64_t begin, int64_t end, E* __restrict cells) {
  if (step == 1) {
    std::copy(line + begin, line + end, cells + begin);
  } else if (step == 2) {  // a constant, so that the compiler takes vectors apart
    for (int64_t c = begin; c < end; c++) cells[c] = line[2 * c];
  } else {
    for (int64_t c = begin; c < end; c++) cells[c] = line[c * step];
  }
}

// One channel of one sample, [d][h][w]. `to` is zeroed as a whole, since lines are short.
template <class E>
void copy_plane(const Volume& v, const E* x, E* to) {
  const auto& [depth, height, width] = v.axes;
  std::fill(to, to + v.plane, E(0));
  for (const int64_t d0 : depth.slots)
    for (const int64_t h0 : height.slots)
      for (const int64_t w0 : width.slots) {
        const Inside ds(depth, d0), hs(height, h0), ws(width, w0);
        for (int64_t d = ds.begin; d < ds.end; d++)
          for (int64_t h = hs.begin; h < hs.end; h++) {
            const E* line = x + ((d0 + d * depth.in_step) * height.in + h0 + h * height.in_step) * width.in + w0;
            E* cells = to + (d * height.cells + h) * width.cells;
            copy_cells(line, width.in_step, ws.begin, ws.end, cells);
          }
        to += v.block();
      }
}

// What one combination of classes of the three axes computes: its offsets, its part of the weight, its outputs.
template <class E>
struct Part {
  gemm::Window window;
  std::vector<int64_t> rows;
  std::vector<E> copied;   // weight of the taps that count, if not all do
  const E* weight;         // [out_channel][k]
  int64_t k, n, first_out;
};

template <class E>
Part<E> part_of(const Problem& p, const Volume& v, const Class& d, const Class& h, const Class& w) {
  const Shape& s = p.shape;
  const int64_t channels = s.in_channels / s.groups, all = s.kernel[0] * s.kernel[1] * s.kernel[2];
  Part<E> part;
  std::vector<int64_t> taps;
  for (const Tap& a : d.taps)
    for (const Tap& b : h.taps)
      for (const Tap& c : w.taps) {
        part.rows.push_back(v.at(a, b, c));
        taps.push_back((a.tap * s.kernel[1] + b.tap) * s.kernel[2] + c.tap);
      }
  const size_t count = taps.size();
  for (size_t i = count; i < count * static_cast<size_t>(channels); i++)
    part.rows.push_back(part.rows[i - count] + v.plane);
  part.weight = static_cast<const E*>(p.weight);
  if (static_cast<int64_t>(count) < all) {
    for (int64_t row = 0; row < s.out_channels * channels; row++)
      for (const int64_t tap : taps) part.copied.push_back(part.weight[row * all + tap]);
    part.weight = part.copied.data();
  }
  part.k = channels * static_cast<int64_t>(count);
  const int64_t plane = s.out[1] * s.out[2];
  part.first_out = d.first * plane + h.first * s.out[2] + w.first;
  part.n = ((d.count - 1) * v.axes[1].cells + h.count - 1) * v.axes[2].cells + w.count;
  part.window = {nullptr, d.count, h.count, w.count, v.axes[1].cells, v.axes[2].cells,
                 plane * v.axes[0].out_step, s.out[2] * v.axes[1].out_step, v.axes[2].out_step};
  return part;
}

// The groups of one sample are the batch of one product.
gemm::Problem product_of(const Problem& p, int64_t sample, int64_t size) {
  const Shape& s = p.shape;
  const int64_t rows = s.out_channels / s.groups, positions = s.out[0] * s.out[1] * s.out[2];
  gemm::Problem product;
  product.dtype = p.dtype;
  product.batch = s.groups;
  product.m = rows;
  if (p.bias != nullptr) product.bias = {p.bias, rows, 1, 0};
  product.out = static_cast<char*>(p.out) + sample * s.out_channels * positions * size;
  product.out_batch_stride = rows * positions;
  product.out_row_stride = positions;
  product.split = p.split;
  return product;
}

// A 1 x 1 kernel that reads every input where it lies: the input itself is the matrix of patches.
bool is_pointwise(const Shape& s) {
  for (int dim = 0; dim < kDims; dim++)
    if (s.kernel[dim] != 1 || s.stride[dim] != 1 || s.padding[dim] != 0 || s.in[dim] != s.out[dim]) return false;
  return true;
}

template <class E>
void run_pointwise(const Problem& p) {
  const Shape& s = p.shape;
  const int64_t channels = s.in_channels / s.groups, positions = s.out[0] * s.out[1] * s.out[2];
  std::vector<gemm::Problem> products;
  for (int64_t sample = 0; sample < s.samples; sample++) {
    gemm::Problem product = product_of(p, sample, sizeof(E));
    product.n = positions, product.k = channels;
    product.a = {p.weight, product.m * channels, channels, 1};
    product.b = {static_cast<const E*>(p.x) + sample * s.in_channels * positions, channels * positions, positions, 1};
    products.push_back(product);
  }
  gemm::run_all(products.data(), static_cast<int64_t>(products.size()), p.threads);
}

template <class E>
void run_samples(const Problem& p, const Volume& v, const std::vector<Part<E>>& parts, int64_t first, int64_t count,
                 E* copy) {
  const Shape& s = p.shape;
  const int64_t in_plane = s.in[0] * s.in[1] * s.in[2], channels = s.in_channels / s.groups;
  const E* x = static_cast<const E*>(p.x) + first * s.in_channels * in_plane;
  parallel_for(p.threads, count * s.in_channels, 1 + kGrain / v.plane, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) copy_plane(v, x + i * in_plane, copy + i * v.plane);
  });
  std::vector<gemm::Problem> products;
  for (int64_t sample = 0; sample < count; sample++)
    for (const Part<E>& part : parts) {
      gemm::Problem product = product_of(p, first + sample, sizeof(E));
      product.n = part.n, product.k = part.k;
      product.a = {part.weight, product.m * part.k, part.k, 1};
      product.b.data = copy + sample * s.in_channels * v.plane;
      product.b.batch_stride = channels * v.plane;
      product.window = &part.window;
      product.out = static_cast<E*>(product.out) + part.first_out;
      products.push_back(product);
    }
  gemm::run_all(products.data(), static_cast<int64_t>(products.size()), p.threads);
}

template <class E>
void run_as(const Problem& p) {
  const Shape& s = p.shape;
  if (is_pointwise(s)) return run_pointwise<E>(p);
  const Volume v(s);
  std::vector<Part<E>> parts;
  for (const Class& d : v.axes[0].classes)
    for (const Class& h : v.axes[1].classes)
      for (const Class& w : v.axes[2].classes) parts.push_back(part_of<E>(p, v, d, h, w));
  for (Part<E>& part : parts) part.window.rows = part.rows.data();
  const int64_t sample = s.in_channels * v.plane;
  const int64_t fit = kCopyBytes / static_cast<int64_t>(sizeof(E)) / std::max<int64_t>(sample, 1);
  const int64_t step = std::min(std::max<int64_t>(fit, p.threads), s.samples);
  const std::unique_ptr<E[]> copy(new E[static_cast<size_t>(step * sample + gemm::kWindowSlack)]);
  for (int64_t first = 0; first < s.samples; first += step)
    run_samples(p, v, parts, first, std::min(step, s.samples - first), copy.get());
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
