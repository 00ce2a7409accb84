// Convolution as a product: out[channel, position] = weight[channel, k] @ patches[k, position], k = (c, kd, kh, kw).
//
// The plan is the one of gemm.h with K = channels x taps of a group, for every sample by itself; a tap on the padding
// is a zero times its weight. Transposed: K runs over the taps that reach an input or the padding around the inputs.
// Torch-free.
#pragma once

#include <cstdint>

#include "gemm.h"

namespace bi::conv {

constexpr int kDims = 3;  // depth, height, width; missing leading dims have extent 1

struct Shape {
  int64_t samples = 0, groups = 1;
  int64_t in_channels = 0, out_channels = 0;  // of all groups
  int64_t in[kDims] = {1, 1, 1}, out[kDims] = {1, 1, 1}, kernel[kDims] = {1, 1, 1};
  int64_t stride[kDims] = {1, 1, 1}, padding[kDims] = {0, 0, 0}, dilation[kDims] = {1, 1, 1};
  bool transposed = false;
};

struct Problem {
  gemm::Dtype dtype = gemm::Dtype::f32;
  Shape shape;
  const void* x = nullptr;       // [sample][channel][d][h][w], contiguous
  const void* weight = nullptr;  // [out_channel][channel of the group][kd][kh][kw], contiguous, transposed or not
  const void* bias = nullptr;    // [out_channel] or null
  void* out = nullptr;           // [sample][out_channel][d][h][w], contiguous
  int64_t split = 0;
  int threads = 1;
};

void run(const Problem& problem);

}  // namespace bi::conv
