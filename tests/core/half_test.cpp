// SPDX-License-Identifier: BSD-3-Clause

// bf16_t and f16_t: every pattern, and rounding at every boundary between neighbours.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "heed/core/types.hpp"
#include "support/catch.hpp"

namespace {

using heed::bf16_t;
using heed::f16_t;

template <class Half>
constexpr bool is_storage = sizeof(Half) == 2 &&
                            std::is_trivial_v<Half>&& std::is_standard_layout_v<Half>&& heed::detail::storage<
                                Half>&& std::is_convertible_v<Half, float> &&
                            !std::is_convertible_v<float, Half> && std::is_constructible_v<Half, float>;
static_assert(is_storage<bf16_t> && is_storage<f16_t>);
static_assert(heed::detail::storage<float> && heed::detail::storage<double> && !heed::detail::storage<int>);
static_assert(std::is_same_v<heed::detail::acc_t<bf16_t>, float> && std::is_same_v<heed::detail::acc_t<f16_t>, float>);
static_assert(std::is_same_v<heed::detail::acc_t<float>, float> && std::is_same_v<heed::detail::acc_t<double>, double>);
static_assert(float(f16_t(1.5f)) == 1.5f && float(bf16_t(-2.0f)) == -2.0f);  // usable at compile time

// Fields of each format, for a decoder that shares nothing with the library.
template <class Half> constexpr int fraction_bits = std::is_same_v<Half, bf16_t> ? 7 : 10;
template <class Half> constexpr int bias = std::is_same_v<Half, bf16_t> ? 127 : 15;

template <class Half> double decode(std::uint16_t bits) {
  const int fraction = bits & ((1 << fraction_bits<Half>)-1);
  const int exponent = (bits & 0x7fff) >> fraction_bits<Half>;
  const int top = 0x7fff >> fraction_bits<Half>;
  double value = 0;
  if (exponent == top)
    value = fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    value = std::ldexp(fraction, 1 - bias<Half> - fraction_bits<Half>);
  else
    value = std::ldexp((1 << fraction_bits<Half>)+fraction, exponent - bias<Half> - fraction_bits<Half>);
  return bits & 0x8000 ? -value : value;
}

template <class Half> long wrong_patterns() {
  long wrong = 0;
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const double expected = decode<Half>(bits);
    const float widened = Half::from_bits(bits);
    const Half back(widened);
    if (std::isnan(expected)) {  // stays NaN both ways, keeps its sign
      wrong += !std::isnan(widened) || std::signbit(widened) != ((bits & 0x8000) != 0);
      wrong += !std::isnan(decode<Half>(back.bits)) || (back.bits & 0x8000) != (bits & 0x8000);
    } else {
      wrong += static_cast<double>(widened) != expected || std::signbit(widened) != ((bits & 0x8000) != 0);
      wrong += back.bits != bits;
    }
  }
  return wrong;
}

// Every boundary between finite neighbours (the last one being where infinity begins): the middle goes to the even
// one, the floats beside it to their own side.
template <class Half> long wrong_roundings() {
  constexpr std::uint16_t infinity = 0x7fff & ~((1 << fraction_bits<Half>)-1);
  long wrong = 0;
  for (std::uint16_t lower = 0; lower < infinity; ++lower) {
    const auto upper = static_cast<std::uint16_t>(lower + 1), even = static_cast<std::uint16_t>(lower + (lower & 1));
    const double step = upper == infinity ? decode<Half>(lower) - decode<Half>(static_cast<std::uint16_t>(lower - 1))
                                          : decode<Half>(upper) - decode<Half>(lower);
    const auto middle = static_cast<float>(decode<Half>(lower) + step / 2);
    for (const bool negative : {false, true}) {
      const float sign = negative ? -1.0f : 1.0f;
      const auto at = [&](std::uint16_t magnitude) { return static_cast<std::uint16_t>(magnitude | negative << 15); };
      wrong += Half(sign * middle).bits != at(even);
      wrong += Half(sign * std::nextafter(middle, 0.0f)).bits != at(lower);
      wrong += Half(sign * std::nextafter(middle, std::numeric_limits<float>::infinity())).bits != at(upper);
    }
  }
  return wrong;
}

TEST_CASE("16-bit floats survive widening and narrowing, all 65536 patterns") {
  CHECK(wrong_patterns<bf16_t>() == 0);
  CHECK(wrong_patterns<f16_t>() == 0);
}

TEST_CASE("narrowing to 16 bits rounds to nearest, ties to even, at every boundary") {
  CHECK(wrong_roundings<bf16_t>() == 0);
  CHECK(wrong_roundings<f16_t>() == 0);
}

TEST_CASE("16-bit floats: overflow, subnormals, signed zero, NaN payloads") {
  const float inf = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  CHECK(f16_t(65504.0f).bits == 0x7bff);
  CHECK(f16_t(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
  CHECK(f16_t(65520.0f).bits == 0x7c00);
  CHECK(f16_t(-1e6f).bits == 0xfc00);
  CHECK(f16_t(largest).bits == 0x7c00);
  CHECK(bf16_t(largest).bits == 0x7f80);
  CHECK(f16_t(inf).bits == 0x7c00);
  CHECK(bf16_t(-inf).bits == 0xff80);

  CHECK(f16_t(0x1p-24f).bits == 1);
  CHECK(f16_t(0x1p-25f).bits == 0);  // halfway to the smallest: to even
  CHECK(f16_t(std::nextafter(0x1p-25f, 1.0f)).bits == 1);
  CHECK(f16_t(0x1p-14f).bits == 0x400);
  CHECK(f16_t(std::nextafter(0x1p-14f, 0.0f)).bits == 0x400);  // a subnormal float result that rounds up to normal
  CHECK(f16_t(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(bf16_t(0x1p-133f).bits == 1);  // the smallest
  CHECK(f16_t(-0.0f).bits == 0x8000);
  CHECK(bf16_t(-0.0f).bits == 0x8000);

  // NaNs whose payload lies in the bits that are cut off must not become infinity.
  for (const std::uint32_t payload : {0x1u, 0xfffu, 0x1fffu, 0xffffu, 0x200000u, 0x400000u, 0x7fffffu}) {
    const auto nan = std::bit_cast<float>(0x7f800000u | payload);
    CHECK(std::isnan(decode<f16_t>(f16_t(nan).bits)));
    CHECK(std::isnan(decode<bf16_t>(bf16_t(nan).bits)));
    CHECK((f16_t(nan).bits & 0x200) != 0);  // quiet
    CHECK((bf16_t(nan).bits & 0x40) != 0);
  }
}

}  // namespace
