// SPDX-License-Identifier: BSD-3-Clause

// 16-bit loads and stores of vectors: every pattern, rounding at every boundary, with and without flush_to_zero, at the
// end of readable memory. The scalar types, which tests/core/half_test.cpp checks, say what is right.

#include "heed/simd/half.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "heed/simd/float_control.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::bf16_t;
using heed::f16_t;
using heed::index_t;
namespace simd = heed::simd;

constexpr index_t w = simd::width<float>;
constexpr std::uint32_t smallest_normal = 0x00800000, infinity = 0x7f800000;

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
std::uint32_t magnitude(float x) { return bits_of(x) & 0x7fffffffu; }
bool is_nan(float x) { return magnitude(x) > infinity; }
bool is_subnormal(float x) { return magnitude(x) != 0 && magnitude(x) < smallest_normal; }

// Whether got is what a kernel may take for want: subnormal numbers count as 0, NaN as NaN, each of its sign.
bool counts_as(float got, float want) {
  if ((bits_of(got) ^ bits_of(want)) > 0x7fffffffu) return false;
  if (is_nan(want)) return is_nan(got);
  if (is_subnormal(want)) return magnitude(got) < smallest_normal;
  return bits_of(got) == bits_of(want);
}

// Runs f as callers run and as kernels run.
template <class F> void both_ways(F f) {
  for (const bool flushed : {false, true}) {
    std::optional<simd::flush_to_zero> numbers;
    if (flushed) numbers.emplace();
    const long wrong = f();
    numbers.reset();
    CAPTURE(flushed);
    CHECK(wrong == 0);
  }
}

// store_as of all numbers, a vector at a time
template <class S> std::vector<S> narrowed(std::vector<float> from) {
  from.resize((from.size() + static_cast<std::size_t>(w) - 1) / static_cast<std::size_t>(w) *
              static_cast<std::size_t>(w));
  std::vector<S> to(from.size());
  for (std::size_t i = 0; i < from.size(); i += static_cast<std::size_t>(w))
    simd::store_as(to.data() + i, simd::load(from.data() + i));
  return to;
}

template <class S> long wrong_narrowings(const std::vector<float>& from) {
  const std::vector<S> got = narrowed<S>(from);
  long wrong = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const S want(from[i]);
    const bool small = is_subnormal(from[i]) && std::is_same_v<S, bf16_t>;
    if (is_nan(from[i]))
      wrong += got[i].bits != (want.bits | (std::is_same_v<S, bf16_t> ? 0x40 : 0x200));  // quiet, upper payload kept
    else if (small)
      wrong += (got[i].bits & 0x8000) != (want.bits & 0x8000) || (got[i].bits & 0x7fff) > 0x80;
    else
      wrong += got[i].bits != want.bits;
  }
  return wrong;
}

// The float halfway between each two neighbours of S up to infinity, the floats beside it, and the neighbours
template <class S> std::vector<float> boundaries() {
  std::vector<float> all;
  const auto add = [&](std::uint32_t bits) {
    for (const std::uint32_t sign : {0u, 0x80000000u}) all.push_back(std::bit_cast<float>(bits | sign));
  };
  constexpr std::uint16_t inf = std::is_same_v<S, bf16_t> ? 0x7f80 : 0x7c00;
  for (std::uint16_t lower = 0; lower < inf; ++lower) {
    const auto low = static_cast<double>(static_cast<float>(S::from_bits(lower)));
    const auto below = static_cast<double>(static_cast<float>(S::from_bits(static_cast<std::uint16_t>(lower - 1))));
    const auto high = static_cast<double>(static_cast<float>(S::from_bits(static_cast<std::uint16_t>(lower + 1))));
    const double middle = low + (lower + 1 == inf ? low - below : high - low) / 2;
    const std::uint32_t bits = bits_of(static_cast<float>(middle));
    for (const std::uint32_t each : {bits_of(static_cast<float>(low)), bits - 1, bits, bits + 1}) add(each);
  }
  for (std::uint32_t payload = 1; payload < 0x800000u; payload = payload * 3 + (payload >> 7)) add(infinity | payload);
  for (const std::uint32_t each : {0u, 1u, 0x7fffffu, 0x800000u, 0x7f7fffffu, infinity, infinity | 1u}) add(each);
  return all;
}

template <class S> S numbered(index_t i) { return S(static_cast<float>(i + 1)); }
template <> float numbered<float>(index_t i) { return static_cast<float>(i + 1); }
template <class S> float number_of(S x) { return static_cast<float>(x); }

// Memory whose last byte is the last one that can be touched
struct guarded_page {
  static constexpr std::size_t page = 65536;
  guarded_page()
      : start(static_cast<std::byte*>(
            mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(mprotect(start + page, page, PROT_NONE) == 0);
  }
  guarded_page(const guarded_page&) = delete;
  guarded_page& operator=(const guarded_page&) = delete;
  ~guarded_page() { munmap(start, 2 * page); }
  template <class S> S* last(index_t n) { return reinterpret_cast<S*>(start + page) - n; }

  std::byte* start;
};

}  // namespace

TEMPLATE_TEST_CASE("16-bit loads widen all 65536 patterns, at any alignment", "[half]", bf16_t, f16_t) {
  std::vector<TestType> all(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) all[i] = TestType::from_bits(static_cast<std::uint16_t>(i));
  std::vector<float> want(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) want[i] = static_cast<float>(all[i]);
  for (const std::size_t skew : {0u, 1u, 3u}) {
    std::vector<TestType> moved(skew + all.size());
    std::copy(all.begin(), all.end(), moved.begin() + static_cast<std::ptrdiff_t>(skew));
    both_ways([&] {
      long wrong = 0;
      float got[static_cast<std::size_t>(w)];
      for (std::size_t i = 0; i < all.size(); i += static_cast<std::size_t>(w)) {
        simd::store(got, simd::load_as<float>(moved.data() + skew + i));
        for (std::size_t l = 0; l < static_cast<std::size_t>(w); ++l) wrong += !counts_as(got[l], want[i + l]);
      }
      return wrong;
    });
  }
}

TEMPLATE_TEST_CASE("16-bit stores give back all patterns", "[half]", bf16_t, f16_t) {
  std::vector<float> all;
  for (std::uint32_t i = 0; i < 65536; ++i)
    all.push_back(static_cast<float>(TestType::from_bits(static_cast<std::uint16_t>(i))));
  both_ways([&] { return wrong_narrowings<TestType>(all); });
}

TEMPLATE_TEST_CASE("16-bit stores round to nearest even at every boundary; NaN, infinity, overflow", "[half]", bf16_t,
                   f16_t) {
  const std::vector<float> numbers = boundaries<TestType>();
  both_ways([&] { return wrong_narrowings<TestType>(numbers); });
}

TEMPLATE_TEST_CASE("16-bit stores of random bits", "[half]", bf16_t, f16_t) {
  heed_test::random_numbers random(11);
  std::vector<float> numbers;
  for (int i = 0; i < 200000; ++i)
    numbers.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.below(65536)) << 16 |
                                           static_cast<std::uint32_t>(random.below(65536))));
  both_ways([&] { return wrong_narrowings<TestType>(numbers); });
}

TEST_CASE("a float below 2^-126 counts as 0 in f16, and f16 subnormals are exact, under flush_to_zero", "[half]") {
  const simd::flush_to_zero numbers;
  float got[static_cast<std::size_t>(w)];
  f16_t stored[static_cast<std::size_t>(w)];
  for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(w); ++i)
    stored[i] = f16_t::from_bits(static_cast<std::uint16_t>(0x8001 + 37 * i));
  simd::store(got, simd::load_as<float>(stored) * simd::batch<float>(4.0f));  // survives arithmetic
  for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(w); ++i)
    CHECK(bits_of(got[i]) == bits_of(static_cast<float>(1 + 37 * i) * -0x1p-22f));
  simd::store_as(stored, simd::batch<float>(-0x1p-130f));
  CHECK(stored[0].bits == 0x8000);
}

TEMPLATE_TEST_CASE("partial loads and stores of stored numbers touch only their lanes", "[half]", bf16_t, f16_t,
                   float) {
  using S = TestType;
  float got[static_cast<std::size_t>(w)];
  guarded_page memory;
  for (index_t n = 0; n <= w; ++n) {
    CAPTURE(n);
    S* const exact = memory.last<S>(n);
    for (index_t i = 0; i < n; ++i) exact[i] = numbered<S>(i);
    simd::store(got, simd::load_partial_as<float>(exact, n));
    for (index_t i = 0; i < w; ++i) CHECK(got[i] == (i < n ? static_cast<float>(i + 1) : 0.0f));

    simd::store_partial_as(exact, simd::load(got) + simd::batch<float>(1.0f), n);
    for (index_t i = 0; i < n; ++i) CHECK(number_of(exact[i]) == static_cast<float>(i + 2));
    std::vector<S> out(static_cast<std::size_t>(3 * w), numbered<S>(99));
    simd::store_partial_as(out.data() + w, simd::batch<float>(5.0f), n);
    for (index_t i = 0; i < 3 * w; ++i)
      CHECK(number_of(out[static_cast<std::size_t>(i)]) == (i >= w && i < w + n ? 5.0f : 100.0f));
  }
}

TEST_CASE("load_as and store_as of double are load and store", "[half]") {
  constexpr index_t wide = simd::width<double>;
  std::vector<double> from(static_cast<std::size_t>(wide)), to(from.size(), -1);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = 0.1 * static_cast<double>(i + 1);
  simd::store_as(to.data(), simd::load_as<double>(from.data()));
  CHECK(to == from);
  simd::store_partial_as(to.data(), simd::load_partial_as<double>(from.data(), 1) + simd::batch<double>(1.0), 1);
  CHECK(to[0] == from[0] + 1.0);
  CHECK(to[1] == from[1]);
}

TEST_CASE("round_to_bf16 rounds half up; pairs hold both values", "[half]") {
  heed_test::random_numbers random(5);
  float x[static_cast<std::size_t>(w)], y[static_cast<std::size_t>(w)];
  float rounded[static_cast<std::size_t>(w)], pairs[static_cast<std::size_t>(w)], both[static_cast<std::size_t>(w)];
  for (int turn = 0; turn < 500; ++turn) {
    for (index_t l = 0; l < w; ++l) {
      x[l] = static_cast<float>(random.uniform() * random.uniform());
      if (turn % 3 == 0) x[l] = std::bit_cast<float>((bits_of(x[l]) & 0xffff0000u) | 0x8000u);  // halfway
      if (turn % 7 == 0) x[l] = 0;
      y[l] = static_cast<float>(random.uniform());
    }
    const simd::batch<float> even = simd::load(x), odd = simd::load(y);
    simd::store(rounded, simd::round_to_bf16(even));
    simd::store(pairs, simd::pair_bf16(simd::round_to_bf16(even), simd::round_to_bf16(odd)));
    simd::store(both, simd::pair_round_bf16(even, odd));
    bool right = true;
    for (index_t l = 0; l < w; ++l) {
      const std::uint32_t low = (bits_of(x[l]) + 0x8000u) >> 16, high = (bits_of(y[l]) + 0x8000u) >> 16;
      right = right && bits_of(rounded[l]) == low << 16;
      right = right && bits_of(pairs[l]) == (low | high << 16) && bits_of(both[l]) == bits_of(pairs[l]);
    }
    CHECK(right);
  }
}
