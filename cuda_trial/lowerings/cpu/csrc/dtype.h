// Storage types at the torch-free border, and the switch from a run-time type to a template one.
#pragma once

#include <cstdint>
#include <utility>

#include "half.h"

namespace bi {

enum class DType { f32, f64, bf16, f16, i64, i32, i16, i8, u8, b8 };

template <class T> struct type_tag {
  using type = T;
};
template <class Tag> using tag_t = typename Tag::type;

inline bool is_floating(DType d) { return d <= DType::f16; }

/// f(type_tag<T>{}) for the floating type d.
template <class F> inline decltype(auto) dispatch_floating(DType d, F&& f) {
  switch (d) {
    case DType::f64: return std::forward<F>(f)(type_tag<double>{});
    case DType::bf16: return std::forward<F>(f)(type_tag<bf16>{});
    case DType::f16: return std::forward<F>(f)(type_tag<f16>{});
    default: return std::forward<F>(f)(type_tag<float>{});
  }
}

/// f(type_tag<T>{}) for the integer type d; bool is read as 0 or 1 bytes.
template <class F> inline decltype(auto) dispatch_integer(DType d, F&& f) {
  switch (d) {
    case DType::i32: return std::forward<F>(f)(type_tag<int32_t>{});
    case DType::i16: return std::forward<F>(f)(type_tag<int16_t>{});
    case DType::i8: return std::forward<F>(f)(type_tag<int8_t>{});
    case DType::u8:
    case DType::b8: return std::forward<F>(f)(type_tag<uint8_t>{});
    default: return std::forward<F>(f)(type_tag<int64_t>{});
  }
}

}  // namespace bi
