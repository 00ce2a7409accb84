#include "embedding_bag.h"

#include <algorithm>

#include "simd.h"

namespace bi {
namespace {

template <class T>
void fold_bag(Bag mode, const BagArguments& a, int64_t begin, int64_t end, T* out) {
  using V = vec_t<T>;
  using S = acc_t<T>;
  const T* weight = static_cast<const T*>(a.weight);
  const T* sample = static_cast<const T*>(a.sample_weights);
  int64_t used = 0;
  for (int64_t j = begin; j < end; ++j) used += a.indices[j] != a.padding_idx;
  const S divisor = mode == Bag::mean && used > 0 ? static_cast<S>(used) : S(1);
  const V start = mode == Bag::max && used > 0 ? V(-static_cast<S>(__builtin_inf())) : V();
  for (int64_t c = 0; c < a.width; c += V::width) {
    const int m = static_cast<int>(std::min<int64_t>(V::width, a.width - c));
    V acc = start;
    for (int64_t j = begin; j < end; ++j) {
      if (a.indices[j] == a.padding_idx) continue;
      const T* row = weight + a.indices[j] * a.width + c;
      V x = m == V::width ? load(row) : load(row, m);
      if (sample) x = x * V(widen(sample[j]));
      acc = mode == Bag::max ? max_nan(acc, x) : acc + x;
    }
    if (mode == Bag::mean) acc = acc / V(divisor);
    store(out + c, acc, m);
  }
}

}  // namespace

void embedding_bag(Bag mode, const BagArguments& a, bool has_end, int threads) {
  dispatch_floating(a.type, [&](auto tag) {
    using T = tag_t<decltype(tag)>;
    const int64_t work = a.width * std::max<int64_t>(1, a.count / std::max<int64_t>(a.bags, 1));
    parallel_for(threads, a.bags, 1 + 16384 / std::max<int64_t>(work, 1), [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const int64_t stop = has_end || i + 1 < a.bags ? a.offsets[i + 1] : a.count;
        fold_bag(mode, a, a.offsets[i], stop, static_cast<T*>(a.out) + i * a.width);
      }
    });
  });
}

}  // namespace bi
