// Floating-point state and threads: every kernel runs inside fp_guard, in every thread it uses.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace bi {

/// Round to nearest, denormals kept, exceptions masked; the caller's state comes back at the end.
/// torch.set_flush_denormal acts on one thread only, so bits would otherwise depend on the thread.
class fp_guard {
 public:
#if defined(__SSE2__)
  fp_guard() : saved_(_mm_getcsr()) {
    if ((saved_ & kControl) != kDefault) _mm_setcsr(kDefault);
  }
  ~fp_guard() {
    if ((saved_ & kControl) != kDefault) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned kControl = 0xFFC0;  // all but the sticky exception flags
  static constexpr unsigned kDefault = 0x1F80;
  unsigned saved_;
#else
  fp_guard() {}
  ~fp_guard() {}
#endif
  fp_guard(const fp_guard&) = delete;
  fp_guard& operator=(const fp_guard&) = delete;
};

/// One type for all bodies, so that each body is compiled once.
using range_fn = void (*)(const void* body, int64_t begin, int64_t end);

inline void run_ranges(int threads, int64_t n, int64_t grain, range_fn fn, const void* body) {
  if (n <= 0) return;
  const int64_t pieces = n / std::max<int64_t>(grain, 1);
  const int64_t team = std::min<int64_t>(threads, pieces);
  if (team <= 1 || omp_in_parallel()) {
    const fp_guard guard;
    fn(body, 0, n);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(team))
  {
    const fp_guard guard;
    const int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
    const int64_t begin = n * me / count, end = n * (me + 1) / count;
    if (begin < end) fn(body, begin, end);
  }
}

/// fn(begin, end) over [0, n) in at most `threads` contiguous pieces of at least `grain` items.
/// fn must not throw, and its items must not share results: then threads never change bits.
template <class F> inline void parallel_for(int threads, int64_t n, int64_t grain, const F& fn) {
  const auto call = [](const void* body, int64_t begin, int64_t end) {
    (*static_cast<const F*>(body))(begin, end);
  };
  run_ranges(threads, n, grain, call, &fn);
}

}  // namespace bi
