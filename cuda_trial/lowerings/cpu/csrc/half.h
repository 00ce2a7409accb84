// bfloat16 and float16 as bit patterns, with exact widening and round-to-nearest-even narrowing.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace bi {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline float widen(f16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) {  // Inf, NaN: quieten as vcvtph2ps does
    const uint32_t quiet = magnitude > 0x7C00u ? 0x00400000u : 0u;
    return std::bit_cast<float>(sign | 0x7F800000u | (magnitude << 13 & 0x007FFFFFu) | quiet);
  }
  // 2^112 moves the exponent bias from 15 to 127 and normalises subnormals, exactly.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

inline bf16 to_bf16(float x) {
  const uint32_t b = std::bit_cast<uint32_t>(x);
  if (x != x) return {0x7FC0};
  return {static_cast<uint16_t>((b + 0x7FFFu + (b >> 16 & 1u)) >> 16)};
}

inline f16 to_f16(float x) {
  const uint32_t b = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>(b >> 16 & 0x8000u);
  const uint32_t magnitude = b & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u)  // NaN: quiet, upper payload bits kept, as vcvtps2ph does
    return {static_cast<uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu))};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the subnormal, rounded to nearest even, in the low bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u))};
  }
  const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u) - 0x38000000u;
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}

/// x rounded to the storage type T; float and double pass through.
template <class T, class S> inline T narrow(S x) {
  if constexpr (std::is_same_v<T, bf16>) return to_bf16(x);
  else if constexpr (std::is_same_v<T, f16>) return to_f16(x);
  else return static_cast<T>(x);
}

}  // namespace bi
