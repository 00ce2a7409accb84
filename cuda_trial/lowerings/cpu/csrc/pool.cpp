#include "pool.h"

#include <algorithm>

#include "simd.h"

namespace bi {
namespace {

/// The part of a window that lies inside the input, and its length with padding.
struct Window {
  int64_t begin, end, padded;
  Window(const PoolShape& s, int d, int64_t o) {
    begin = o * s.stride[d] - s.padding[d];
    end = std::min(begin + s.kernel[d], s.in[d] + s.padding[d]);
    padded = end - begin;
    begin = std::max<int64_t>(begin, 0);
    end = std::min(end, s.in[d]);
  }
  int64_t inside() const { return end - begin; }
};

template <class T>
acc_t<T> average(const T* plane, const PoolShape& s, const Window& d, const Window& h,
                 const Window& w) {
  if (d.inside() <= 0 || h.inside() <= 0 || w.inside() <= 0) return 0;
  acc_t<T> sum = 0;
  for (int64_t i = d.begin; i < d.end; ++i)
    for (int64_t j = h.begin; j < h.end; ++j) {
      const T* row = plane + (i * s.in[1] + j) * s.in[2];
      for (int64_t k = w.begin; k < w.end; ++k) sum += widen(row[k]);
    }
  const int64_t padded = d.padded * h.padded * w.padded;
  const int64_t inside = d.inside() * h.inside() * w.inside();
  const int64_t count = s.count_include_pad ? padded : inside;
  return sum / static_cast<acc_t<T>>(s.divisor_override ? s.divisor_override : count);
}

}  // namespace

void avg_pool(DType type, const void* x, const PoolShape& s, void* y, int threads) {
  const int64_t in = s.in[0] * s.in[1] * s.in[2], out = s.out[0] * s.out[1] * s.out[2];
  const int64_t work = out * s.kernel[0] * s.kernel[1] * s.kernel[2];
  dispatch_floating(type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    parallel_for(threads, s.planes, 1 + 16384 / std::max<int64_t>(work, 1), [&](int64_t p, int64_t end) {
      for (; p < end; ++p) {
        const T* plane = static_cast<const T*>(x) + p * in;
        T* to = static_cast<T*>(y) + p * out;
        for (int64_t d = 0; d < s.out[0]; ++d)
          for (int64_t h = 0; h < s.out[1]; ++h)
            for (int64_t w = 0; w < s.out[2]; ++w)
              *to++ = narrow<T>(average(plane, s, Window(s, 0, d), Window(s, 1, h), Window(s, 2, w)));
      }
    });
  });
}

}  // namespace bi
