// SPDX-License-Identifier: BSD-3-Clause

// What a cache keeps of the numbers that are appended: every pair of storage types, all strides.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "heed/cache.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"

using namespace heed_test;
using heed::bf16_t;
using heed::f16_t;

namespace {

template <class T> double as_double(T x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return static_cast<double>(static_cast<float>(x));
}
template <class T, class S> T rounded(S x) {
  if constexpr (std::is_same_v<T, S>)
    return x;
  else
    return static_cast<T>(static_cast<float>(x));
}
template <class T> bool same_number(T a, T b) {
  return std::isnan(as_double(a)) ? std::isnan(as_double(b)) : std::memcmp(&a, &b, sizeof(T)) == 0;
}

// Numbers of all sizes that f16 has as normal ones or infinity, and some that are none
template <class S> void fill(const buffer<S>& x, std::uint32_t seed, bool special) {
  random_numbers random(seed);
  x.each([&](S& to) {
    double value = std::ldexp(random.normal(), random.below(20) - 6);
    if (special && random.below(20) == 0) value = std::numeric_limits<double>::quiet_NaN();
    if (special && random.below(20) == 0) value = 1e30;
    if (special && random.below(20) == 0) value = -std::numeric_limits<double>::infinity();
    if constexpr (std::is_same_v<S, double>)
      to = value;
    else
      to = static_cast<S>(static_cast<float>(value));
  });
}

// Wrong numbers among the rows that the cache made of x
template <class T, class S>
long wrong_rows(const heed::tensor_view<const T, 4>& rows, const heed::tensor_view<const float, 3>& scale,
                const heed::tensor_view<const S, 4>& x) {
  long wrong = 0;
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i) {
        double largest = 0;
        for (index_t c = 0; c < x.extent(3); ++c) largest = std::max(largest, std::abs(as_double(x(b, h, i, c))));
        for (index_t c = 0; c < x.extent(3); ++c)
          if constexpr (std::is_same_v<T, std::int8_t>) {
            const double s = static_cast<double>(scale(b, h, i)), q = rows(b, h, i, c);
            wrong += !(std::abs(as_double(x(b, h, i, c)) - q * s) <= s * (0.5 + 127 * 0x1p-22)) || std::abs(q) > 127;
            wrong += !(std::abs(s - largest / 127) <= s * 0x1p-23);
          } else {
            wrong += !same_number(rows(b, h, i, c), rounded<T>(x(b, h, i, c)));
          }
      }
  return wrong;
}

template <class T, class S> void append_and_check(const heed::tensor_view<const S, 4>& k,
                                                  const heed::tensor_view<const S, 4>& v) {
  const index_t n = k.extent(2);
  heed::cache::contiguous<T> cache(k.extent(0), k.extent(1), n + 1, k.extent(3), v.extent(3));
  cache.append(k, v);
  const auto view = cache.view();
  CHECK(wrong_rows(view.k, view.k_scale, k) == 0);
  CHECK(wrong_rows(view.v, view.v_scale, v) == 0);
}

// Every column of a tensor that has twice as many
template <class S> heed::tensor_view<const S, 4> every_second(const buffer<S>& x) {
  const auto all = x.cview();
  return {all.data(), {all.extent(0), all.extent(1), all.extent(2), all.extent(3) / 2},
          {all.stride(0), all.stride(1), all.stride(2), 2 * all.stride(3)}};
}

template <class T, class S> void check_pair() {
  constexpr bool special = !std::is_same_v<T, std::int8_t>;
  for (const index_t dim : {1, 37, 64, 600, 1024}) {
    INFO("dim " << dim << ", " << sizeof(T) << " bytes of " << sizeof(S));
    for (const layout how : input_layouts) {
      const auto k = buffer<S>::input({2, 2, 3, dim}, how, 1), v = buffer<S>::input({2, 2, 3, dim + 3}, how, 3);
      fill(k, 1, special), fill(v, 2, special);
      append_and_check<T, S>(k.cview(), v.cview());
    }
    const auto k = buffer<S>::input({1, 2, 3, 2 * dim}), v = buffer<S>::input({1, 2, 3, 2 * dim + 2});
    fill(k, 3, special), fill(v, 4, special);
    append_and_check<T, S>(every_second(k), every_second(v));
  }
}
template <class T> void check_sources() {
  check_pair<T, float>();
  check_pair<T, bf16_t>();
  check_pair<T, f16_t>();
}

}  // namespace

TEST_CASE("float and 16-bit caches have every number rounded once") {
  check_sources<float>();
  check_sources<bf16_t>();
  check_sources<f16_t>();
}

TEST_CASE("a cache of double has the numbers") { check_pair<double, double>(); }

TEST_CASE("a cache of 8-bit integers is within half a scale") { check_sources<std::int8_t>(); }

TEST_CASE("a cache of one type keeps subnormal numbers") {
  const float tiny = 1e-40f;
  heed::cache::contiguous<float> cache(1, 1, 1, 1, 1);
  cache.append(heed::matrix(&tiny, 1, 1), heed::matrix(&tiny, 1, 1));
  CHECK(std::memcmp(cache.view().k.data(), &tiny, sizeof tiny) == 0);
}

TEST_CASE("8-bit rows with NaN or infinity say so in their scale") {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  float k[5][40] = {}, v[5][40] = {};
  for (int c = 0; c < 40; ++c) k[0][c] = v[0][c] = k[1][c] = k[2][c] = k[3][c] = static_cast<float>(c - 20);
  k[0][39] = nan;
  k[1][0] = inf, k[1][20] = -inf;
  k[2][3] = inf, k[2][30] = nan;
  heed::cache::paged<std::int8_t> cache(3, 2, 1, 40, 40, 1);
  cache.append(heed::matrix(&k[0][0], 5, 40), heed::matrix(&v[0][0], 5, 40));
  const auto x = cache.view();
  const auto scale = [&](index_t t) { return x.k_scale(x.blocks(0, t / 2), 0, t % 2); };
  const auto q = [&](index_t t, index_t c) { return int{x.k(x.blocks(0, t / 2), 0, t % 2, c)}; };
  CHECK(std::isnan(scale(0)));
  CHECK(std::isinf(scale(1)));
  CHECK(q(1, 0) == 127);
  CHECK(q(1, 20) == -127);
  CHECK(q(1, 5) == 0);
  CHECK(std::isnan(scale(2)));
  CHECK(std::isfinite(scale(3)));
  CHECK(q(3, 0) == -127);
  CHECK(std::memcmp(&k[4][0], &v[4][0], sizeof v[4]) == 0);  // zeros
  CHECK(scale(4) <= 0.0f);
  for (index_t c = 0; c < 40; ++c) CHECK(q(4, c) == 0);
}
