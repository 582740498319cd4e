// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Scalars, storage types, and the small plain types that the whole API shares.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "heed/core/config.hpp"

namespace heed {

using index_t = std::ptrdiff_t;

// One number per sequence; offsets have one more.
using lengths = std::span<const std::int32_t>;

// Where a score sits. place: the query's position on the key axis, which masks and ALiBi use. In packed sequences batch
// is the sequence, and query and key count within it.
struct position {
  std::int32_t batch, head, query, key, place;
};

// bfloat16 as storage: the upper half of a float. Narrowing rounds to nearest even, widening is exact.
struct HEED_MAY_ALIAS bf16_t {
  std::uint16_t bits;

  bf16_t() = default;
  HEED_INLINE constexpr explicit bf16_t(float x) noexcept : bits(narrow(std::bit_cast<std::uint32_t>(x))) {}
  HEED_INLINE constexpr operator float() const noexcept { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

  HEED_INLINE static constexpr bf16_t from_bits(std::uint16_t bits) noexcept {
    bf16_t x{};
    x.bits = bits;
    return x;
  }

 private:
  HEED_INLINE static constexpr std::uint16_t narrow(std::uint32_t x) noexcept {
    if ((x & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(x >> 16 | 0x40u);  // NaN: quiet, never inf
    return static_cast<std::uint16_t>((x + 0x7fffu + (x >> 16 & 1u)) >> 16);
  }
};

// IEEE binary16 as storage. Narrowing rounds to nearest even (above 65504 + half a step: infinity; subnormals kept),
// widening is exact.
struct HEED_MAY_ALIAS f16_t {
  std::uint16_t bits;

  f16_t() = default;
  HEED_INLINE constexpr explicit f16_t(float x) noexcept : bits(narrow(x)) {}
  HEED_INLINE constexpr operator float() const noexcept { return widen(bits); }

  HEED_INLINE static constexpr f16_t from_bits(std::uint16_t bits) noexcept {
    f16_t x{};
    x.bits = bits;
    return x;
  }

 private:
  HEED_INLINE static constexpr std::uint16_t narrow(float value) noexcept {
    const std::uint32_t x = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = x >> 16 & 0x8000u, magnitude = x & 0x7fffffffu;
    std::uint32_t half = 0;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u | (magnitude >> 13 & 0x3ffu);  // NaN: quiet, upper payload kept
    } else if (magnitude >= 0x47800000u) {          // 2^16 and above
      half = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {  // normal in binary16; a carry out of the fraction may reach infinity
      half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
    } else {  // adding 0.5 leaves the value in units of 2^-24 in the last bits of the sum, rounded by the addition
      half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    }
    return static_cast<std::uint16_t>(sign | half);
  }

  HEED_INLINE static constexpr float widen(std::uint16_t half) noexcept {
    const std::uint32_t sign = (half & 0x8000u) * 0x10000u, magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(subnormal));
  }
};

namespace detail {

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wfloat-equal"
#endif
// Whether a is b exactly: for numbers that were put there, not computed.
template <class T> HEED_INLINE constexpr bool equals(T a, std::type_identity_t<T> b) noexcept { return a == b; }
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

// What sums accumulate in.
template <class T> using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// What q, k, v and o may be stored as.
template <class T>
concept storage =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bf16_t> || std::is_same_v<T, f16_t>;
template <class T> inline constexpr bool is_storage = storage<T>;

// The binary digits of a 16-bit floating-point type of the compiler or of another library, recognised by its size and
// numeric_limits, or without these by what it makes of 1 + 2^-10; 0: T is none.
template <class T> consteval int digits_of_16_bits() {
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__)
  if (std::is_same_v<T, __bf16>) return 8;  // storage alone before g++ 13
#endif
  if constexpr (sizeof(T) != 2 || !std::is_trivially_copyable_v<T> || std::is_integral_v<T> || std::is_enum_v<T>)
    return 0;
  else if constexpr (std::numeric_limits<T>::is_specialized)
    return !std::numeric_limits<T>::is_integer && std::numeric_limits<T>::radix == 2 ? std::numeric_limits<T>::digits
                                                                                     : 0;
  else if constexpr (!std::is_class_v<T> && requires(T x) { static_cast<T>(static_cast<float>(x)); })
    return static_cast<float>(static_cast<T>(1.0009765625f)) > 1.0f ? 11 : 8;  // _Float16, __bf16
  else
    return 0;
}

// What T is stored as: f16_t for _Float16, std::float16_t and Eigen::half, bf16_t for __bf16, std::bfloat16_t and
// Eigen::bfloat16, else T itself; const stays.
template <class T> struct storage_type {
  static constexpr int digits() {
    if constexpr (requires { sizeof(T); })
      return digits_of_16_bits<std::remove_cv_t<T>>();
    else
      return 0;
  }
  using type = std::conditional_t<digits() == 11, f16_t, std::conditional_t<digits() == 8, bf16_t, T>>;
};
template <class T> struct storage_type<const T> {
  using type = const typename storage_type<T>::type;
};
template <class T> using storage_of = typename storage_type<T>::type;

}  // namespace detail
}  // namespace heed
