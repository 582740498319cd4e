// SPDX-License-Identifier: BSD-3-Clause

// quantize and dequantize: the bound of the error, rows that hold no numbers, strides, errors, executors.

#include "heed/convert.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"

using namespace heed_test;
using heed::bf16_t;
using heed::f16_t;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

template <class S> double number(S x) { return static_cast<double>(static_cast<float>(x)); }

struct int8_rows {
  buffer<std::int8_t> q;
  buffer<float> scale;

  explicit int8_rows(const extents& n, layout how = layout::bhsd)
      : q(buffer<std::int8_t>::output(n, how)), scale(buffer<float>::output({n[0], n[1], n[2], 1}, how)) {}
};

template <class S> void check_bounds(const extents& n, layout how) {
  const auto x = buffer<S>::input(n, how == layout::packed_slot ? layout::shared_heads : how);
  random_numbers random(5);
  x.each([&](S& to) { to = static_cast<S>(static_cast<float>(std::ldexp(random.normal(), random.below(12) - 6))); });
  int8_rows rows(n, how);
  heed::quantize(x.cview(), rows.q.view(), rows.scale.view3());
  const auto back = buffer<float>::output(n, how);
  const auto half = buffer<f16_t>::output(n, how);
  heed::dequantize(rows.q.cview(), rows.scale.view3(), back.view());
  heed::dequantize(rows.q.cview(), rows.scale.view3(), half.view());
  long wrong = 0;
  for (index_t b = 0; b < n[0]; ++b)
    for (index_t h = 0; h < n[1]; ++h)
      for (index_t i = 0; i < n[2]; ++i) {
        double largest = 0;
        for (index_t c = 0; c < n[3]; ++c) largest = std::max(largest, std::abs(number(x(b, h, i, c))));
        const double s = number(rows.scale(b, h, i));
        wrong += !(std::abs(s - largest / 127) <= 0x1p-23 * s);
        for (index_t c = 0; c < n[3]; ++c) {
          const double product = number(rows.q(b, h, i, c)) * s, want = number(x(b, h, i, c));
          wrong += !(std::abs(product - want) <= s * (0.5 + 127 * 0x1p-22));
          wrong += !(std::abs(number(back(b, h, i, c)) - product) <= std::abs(product) * 0x1p-23);
          wrong += !(std::abs(number(half(b, h, i, c)) - product) <= std::abs(product) * 0x1p-10 + 0x1p-24);
        }
      }
  CHECK(wrong == 0);
  CHECK((rows.q.canaries_alive() && rows.scale.canaries_alive() && back.canaries_alive() && half.canaries_alive()));
}

// q and scale of one row
struct quantized {
  std::vector<std::int8_t> q;
  float scale = -1;

  explicit quantized(const std::vector<float>& x) : q(x.size(), 99) {
    const auto n = static_cast<index_t>(x.size());
    heed::quantize(heed::matrix(x.data(), 1, n), heed::matrix(q.data(), 1, n), heed::contiguous(&scale, {1, 1, 1}));
  }
  std::vector<float> back() const {
    std::vector<float> x(q.size());
    const auto n = static_cast<index_t>(x.size());
    heed::dequantize(heed::matrix(q.data(), 1, n), heed::contiguous(&scale, {1, 1, 1}), heed::matrix(x.data(), 1, n));
    return x;
  }
};

}  // namespace

TEST_CASE("quantized rows are within half a scale, for every type and stride") {
  for (const extents& n : {extents{2, 3, 5, 37}, extents{1, 1, 3, 1}, extents{1, 2, 300, 64}, extents{1, 1, 2, 1500}})
    for (const layout how : output_layouts) {
      INFO(name_of(how) << ", columns " << n[3]);
      check_bounds<float>(n, how);
      check_bounds<bf16_t>(n, how);
      check_bounds<f16_t>(n, how);
    }
}

TEST_CASE("the largest numbers of a row become 127, zeros stay zeros") {
  const quantized x({3, -0.5f, 0, -3, 1.5f});
  CHECK(x.q == std::vector<std::int8_t>{127, -21, 0, -127, 64});
  CHECK(quantized({0, 0, 0}).scale <= 0.0f);
  CHECK(quantized({0, -0.0f, 0}).q == std::vector<std::int8_t>(3, 0));
  CHECK(quantized({1e-37f, 0, 0}).q == std::vector<std::int8_t>(3, 0));  // the scale would be subnormal
  const quantized large({std::numeric_limits<float>::max(), -1e38f});
  CHECK(large.q == std::vector<std::int8_t>{127, -37});
  CHECK(std::isfinite(large.back()[0]));  // max / 127 is rounded up: 127 times that would be infinite
}

TEST_CASE("NaN and infinity are not lost, wherever they are in a row") {
  for (const int at : {0, 5, 17, 39, 599}) {
    std::vector<float> x(600, 1.0f);
    x[static_cast<std::size_t>(at)] = not_a_number;
    INFO("column " << at);
    for (const float each : quantized(x).back()) CHECK(std::isnan(each));
    x[static_cast<std::size_t>(at)] = -inf;
    CHECK(std::isinf(quantized(x).scale));
    const std::vector<float> back = quantized(x).back();
    for (int c = 0; c < 600; ++c) {
      const float each = back[static_cast<std::size_t>(c)];
      CHECK((c == at ? each < 0 && std::isinf(each) : std::isnan(each)));
    }
    x[static_cast<std::size_t>((at + 300) % 600)] = not_a_number;
    CHECK(std::isnan(quantized(x).scale));
  }
}

TEST_CASE("quantize has the same bits on any executor") {
  const extents n{2, 3, 700, 64};
  const auto x = buffer<float>::input(n);
  random_numbers random(3);
  x.each([&](float& to) { to = static_cast<float>(random.normal()); });
  int8_rows one(n), many(n);
  heed::quantize(x.cview(), one.q.view(), one.scale.view3());
  test_executor threads(3, order::shuffled, true);
  heed::quantize(x.cview(), many.q.view(), many.scale.view3(), {.executor = threads});
  CHECK((same_bits(one.q, many.q) && same_bits(one.scale, many.scale)));
}

TEST_CASE("quantize and dequantize refuse tensors that do not fit") {
  std::vector<float> x(64), scale(64);
  std::vector<std::int8_t> q(64, 7);
  const auto says = [&](const std::string& text, const std::function<void()>& call) {
    CHECK(thrown_by(call) == text);
    CHECK(std::count(q.begin(), q.end(), 7) == 64);
  };
  const auto numbers = [&](index_t b, index_t h, index_t n, index_t d) { return heed::bhsd(x.data(), b, h, n, d); };
  const auto bytes = [&](index_t b, index_t h, index_t n, index_t d) { return heed::bhsd(q.data(), b, h, n, d); };
  const auto scales = [&](index_t b, index_t h, index_t n) { return heed::contiguous(scale.data(), {b, h, n}); };
  says("x has columns 4, q8 has 5", [&] { heed::quantize(numbers(1, 2, 3, 4), bytes(1, 2, 3, 5), scales(1, 2, 3)); });
  says("x has heads 2, q8 has 3", [&] { heed::quantize(numbers(1, 2, 3, 4), bytes(1, 3, 3, 4), scales(1, 2, 3)); });
  says("x has rows 3, scale has 2", [&] { heed::quantize(numbers(1, 2, 3, 4), bytes(1, 2, 3, 4), scales(1, 2, 2)); });
  says("x has batch 1, scale has 2", [&] { heed::quantize(numbers(1, 2, 3, 4), bytes(1, 2, 3, 4), scales(2, 2, 3)); });
  says("x has 0 columns, must have at least 1",
       [&] { heed::quantize(numbers(1, 2, 3, 0), bytes(1, 2, 3, 0), scales(1, 2, 3)); });
  says("q8 has stride 2 on its last axis, must be 1 (is it column-major?)", [&] {
    heed::quantize(numbers(1, 1, 1, 4), heed::tensor_view<std::int8_t, 4>(q.data(), {1, 1, 1, 4}, {0, 0, 0, 2}),
                   scales(1, 1, 1));
  });
  says("x is the same memory as scale", [&] {
    heed::quantize(numbers(1, 1, 1, 4), bytes(1, 1, 1, 4), heed::contiguous(x.data(), {1, 1, 1}));
  });
  says("x has rows 2, scale has 1",
       [&] { heed::dequantize(bytes(1, 1, 2, 4), scales(1, 1, 1), numbers(1, 1, 2, 4)); });
  CHECK(thrown_by([&] { heed::quantize(numbers(0, 2, 3, 4), bytes(0, 2, 3, 4), scales(0, 2, 3)); }).empty());
}
