// From totals to the output: alpha, beta, bias in the accumulator type, one rounding. And the scratch memory.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "gemm.h"
#include "gemm_simd.h"

namespace bi::gemm {

// Memory of one region. Each thread keeps its buffer between calls; it grows to the largest region seen.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class E>
  E* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(E) + 127) / 64 * 64;
    Buffer& buffer = slot(next_++);
    if (buffer.size < bytes) {
      std::free(buffer.data);
      buffer.size = 0;
      buffer.data = std::aligned_alloc(64, bytes);
      if (buffer.data == nullptr) throw std::bad_alloc();
      buffer.size = bytes;
    }
    return static_cast<E*>(buffer.data);
  }

 private:
  struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
  };
  static Buffer& slot(int index) {
    static thread_local Buffer buffers[8];
    return buffers[index];
  }
  int next_ = 0;
};

template <class T>
class Epilogue {
 public:
  using Stored = typename T::Stored;
  using Sum = typename T::Sum;

  explicit Epilogue(const Problem& p)
      : p_(p), alpha_(static_cast<Sum>(p.alpha)), beta_(static_cast<Sum>(p.beta)),
        has_bias_(p.bias.data != nullptr && p.beta != 0.0) {}

  // Writes columns [n0, n0 + count) of one row. `row` is overwritten.
  void write(int64_t batch, int64_t m, int64_t n0, int64_t count, Sum* __restrict row) const {
    if (alpha_ != Sum(1)) {
      for (int64_t i = 0; i < count; i++) row[i] = row[i] * alpha_;
    }
    if (has_bias_) add_bias(batch, m, n0, count, row);
    Stored* out = static_cast<Stored*>(p_.out) + batch * p_.out_batch_stride + m * p_.out_row_stride;
    if (p_.window == nullptr) T::round_row(row, out + n0, count);
    else write_window(*p_.window, row, n0, n0 + count, out);
  }

 private:
  // One line of the padded volume after the other, without its margin.
  static void write_window(const Window& w, const Sum* row, int64_t n0, int64_t n1, Stored* out) {
    for (int64_t n = n0; n < n1;) {
      const int64_t line = n / w.pitch_w, x = n % w.pitch_w, stop = std::min(n1, (line + 1) * w.pitch_w);
      const int64_t d = line / w.pitch_h, h = line % w.pitch_h, count = std::min(stop - n, w.width - x);
      if (h < w.height && count > 0)
        write_line(row + (n - n0), count, out + d * w.step_d + h * w.step_h + x * w.step_w, w.step_w);
      n = stop;
    }
  }

  static void write_line(const Sum* row, int64_t count, Stored* out, int64_t step) {
    if (step == 1) return T::round_row(row, out, count);
    for (int64_t i = 0; i < count; i++) T::round_row(row + i, out + i * step, 1);
  }

  void add_bias(int64_t batch, int64_t m, int64_t n0, int64_t count, Sum* __restrict row) const {
    const int64_t step = p_.bias.col_stride;
    const Stored* __restrict bias = static_cast<const Stored*>(p_.bias.data) + batch * p_.bias.batch_stride +
                         m * p_.bias.row_stride + n0 * step;
    if (step == 1) {
      for (int64_t i = 0; i < count; i++) row[i] = row[i] + beta_ * T::widen(bias[i]);
    } else if (step == 0) {
      const Sum value = beta_ * T::widen(bias[0]);
      for (int64_t i = 0; i < count; i++) row[i] = row[i] + value;
    } else {
      for (int64_t i = 0; i < count; i++) row[i] = row[i] + beta_ * T::widen(bias[i * step]);
    }
  }

  const Problem& p_;
  Sum alpha_, beta_;
  bool has_bias_;
};

}  // namespace bi::gemm
