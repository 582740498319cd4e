// SPDX-License-Identifier: BSD-3-Clause

// convert against the scalar types: every pair of element types, strides, errors, executors.

#include "heed/convert.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "heed/reference/eigen.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/float_control.hpp"
#include "support/messages.hpp"

using namespace heed_test;

namespace {

using heed::bf16_t;
using heed::f16_t;

template <class T> double as_double(T x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return static_cast<double>(static_cast<float>(x));
}
template <class T> T flushed(T x) { return std::abs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x; }

// The nearest T, ties to even: of three candidates around the float nearest to x.
template <class T> T nearest(double x) {
  if constexpr (std::is_same_v<T, double>) {
    return flushed(x);
  } else if constexpr (std::is_same_v<T, float>) {
    return flushed(static_cast<float>(x));
  } else {
    const T middle(static_cast<float>(x));
    if (!std::isfinite(x) || std::abs(x) > 1e38) return middle;
    const auto place = [](T y) {  // infinity is where the next number would be
      return std::isinf(as_double(y)) ? std::copysign(65536.0, as_double(y)) : as_double(y);
    };
    T best = middle;
    for (const int step : {-1, 1}) {
      const int bits = middle.bits + step;
      if (((bits ^ middle.bits) & 0x8000) != 0) continue;  // around 0
      const T other = T::from_bits(static_cast<std::uint16_t>(bits));
      const double a = std::abs(place(other) - x), b = std::abs(place(best) - x);
      if (!std::isnan(a) && (a < b || (!(a > b) && (other.bits & 1) == 0))) best = other;
    }
    return best;
  }
}

// What convert makes of x: numbers that are subnormal in float are 0 where one of the two is not double.
template <class To, class From> To wanted(From x) {
  if constexpr (std::is_same_v<To, From> && !std::is_same_v<To, bf16_t>) {
    return nearest<To>(as_double(x));
  } else {
    const double value = as_double(x);
    if (std::abs(value) < 0x1p-126) return To(static_cast<float>(std::copysign(0.0, value)));
    return nearest<To>(value);
  }
}

template <class T> bool same_number(T got, T want) {
  const double a = as_double(got), b = as_double(want);
  if (std::isnan(b)) return std::isnan(a) && std::signbit(a) == std::signbit(b);
  return std::memcmp(&got, &want, sizeof(T)) == 0;
}

// Numbers that are hard for some type: of all sizes, halfway between neighbours, and just beside these
template <class T> void fill(const buffer<T>& x, std::uint32_t seed) {
  random_numbers random(seed);
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const double special[] = {0.0,       -0.0,  inf,   -inf,    nan,     -nan,    65504,
                            65519.999, 65520, -1e30, 0x1p-24, 0x1p-25, 0x1p-130};
  x.each([&](T& to) {
    double value = std::ldexp(1 + random.uniform(), random.below(44) - 26);
    const int kind = random.below(5);
    if (kind == 0) value = std::ldexp(std::floor(value * 0x1p14), -14);
    if (kind == 1) value = (1 + (2 * random.below(1024) + 1) * 0x1p-11) * (1 + (random.below(3) - 1) * 0x1p-40);
    if (kind == 2) value = (1 + (2 * random.below(128) + 1) * 0x1p-8) * (1 + (random.below(3) - 1) * 0x1p-40);
    if (random.below(2) == 0) value = -value;
    if (random.below(9) == 0) value = special[random.below(13)];
    if constexpr (std::is_same_v<T, double>)
      to = value;
    else
      to = T(static_cast<float>(value));
  });
}

template <class From, class To> long wrong_numbers(const buffer<From>& from, const buffer<To>& to) {
  long wrong = 0;
  const extents n = from.size();
  for (index_t b = 0; b < n[0]; ++b)
    for (index_t h = 0; h < n[1]; ++h)
      for (index_t s = 0; s < n[2]; ++s)
        for (index_t d = 0; d < n[3]; ++d) wrong += !same_number(to(b, h, s, d), wanted<To>(from(b, h, s, d)));
  return wrong;
}

constexpr extents sizes[] = {{2, 3, 5, 37}, {1, 1, 1, 3}, {1, 2, 40, 1}, {3, 1, 4, 64}, {1, 1, 1, 40001}};

template <class From, class To> void check_pair() {
  for (const extents& n : sizes)
    for (const layout in : input_layouts)
      for (const layout out : output_layouts) {
        const auto from = buffer<From>::input(n, in);
        const auto to = buffer<To>::output(n, out);
        fill(from, 7);
        heed::convert(from.cview(), to.view());
        INFO(name_of(in) << " to " << name_of(out) << ", columns " << n[3]);
        CHECK(wrong_numbers(from, to) == 0);
        CHECK(to.canaries_alive());
        REQUIRE(heed::plan_convert(from.cview(), to.view()).ok());
      }
}

template <class T> heed::tensor_view<T, 4> transposed(const buffer<T>& x) {
  const auto v = x.view();
  return {v.data(),
          {v.extent(0), v.extent(1), v.extent(3), v.extent(2)},
          {v.stride(0), v.stride(1), v.stride(3), v.stride(2)}};
}

const extents small{1, 2, 6, 8};
template <class From, class To> std::string refusal(heed::tensor_view<From, 4> from, heed::tensor_view<To, 4> to) {
  const std::string thrown = thrown_by([&] { heed::convert(from, to); });
  CHECK(thrown == heed::plan_convert(from, to).problem.data());
  return thrown;
}

}  // namespace

TEMPLATE_TEST_CASE("convert rounds every number once, whatever the strides", "[convert]", float, double, bf16_t,
                   f16_t) {
  check_pair<TestType, float>();
  check_pair<TestType, double>();
  check_pair<TestType, bf16_t>();
  check_pair<TestType, f16_t>();
}

TEST_CASE("convert: columns of one tensor to rows of another") {
  const auto from = buffer<float>::input({2, 2, 9, 5});
  fill(from, 3);
  const auto to = buffer<bf16_t>::output({2, 2, 5, 9});
  heed::convert(transposed(from), to.view());
  bool right = true;
  for (index_t s = 0; s < 9; ++s)
    for (index_t d = 0; d < 5; ++d) right = right && same_number(to(1, 1, d, s), wanted<bf16_t>(from(1, 1, s, d)));
  CHECK(right);
}

TEST_CASE("convert: all f16 and bf16 numbers to float and double and back, subnormal ones in float as 0") {
  std::vector<f16_t> half(65536), half_back(half.size());
  std::vector<bf16_t> brain(65536), brain_back(brain.size());
  std::vector<float> single(65536);
  std::vector<double> wide(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    half[i] = f16_t::from_bits(static_cast<std::uint16_t>(i));
    brain[i] = bf16_t::from_bits(static_cast<std::uint16_t>(i));
  }
  long wrong = 0;
  heed::convert(half, single), heed::convert(half, wide), heed::convert(wide, half_back);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    wrong += !same_number(single[i], static_cast<float>(half[i])) || !same_number(wide[i], as_double(half[i]));
    wrong += !same_number(half_back[i], half[i]);
  }
  heed::convert(brain, single), heed::convert(brain, wide), heed::convert(single, brain_back);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const bf16_t want = (i & 0x7f80) == 0 ? bf16_t::from_bits(i & 0x8000) : brain[i];
    wrong += !same_number(single[i], static_cast<float>(want)) || !same_number(wide[i], as_double(want));
    wrong += !same_number(brain_back[i], want);
  }
  CHECK(wrong == 0);
}

TEST_CASE("convert takes Eigen's types, and tensors of one axis") {
  Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic> half(3, 20);  // column-major
  for (int i = 0; i < 60; ++i) half(i % 3, i / 3) = static_cast<Eigen::half>(static_cast<float>(i) / 8);
  Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> brain(3, 20);
  heed::convert(half, brain);
  for (int i = 0; i < 60; ++i) CHECK(static_cast<float>(brain(i % 3, i / 3)) == static_cast<float>(i) / 8);
}

TEST_CASE("convert in place between types of one size") {
  const auto x = buffer<bf16_t>::output(small, layout::padded_rows), y = buffer<bf16_t>::output(small);
  fill(x, 5), fill(y, 5);
  const auto view = x.view();
  const heed::tensor_view<f16_t, 4> half(reinterpret_cast<f16_t*>(view.data()), view.extents(), view.strides());
  heed::convert(view, half);
  bool right = true;
  for (index_t s = 0; s < 6; ++s)
    for (index_t d = 0; d < 8; ++d) right = right && same_number(half(0, 1, s, d), wanted<f16_t>(y(0, 1, s, d)));
  CHECK(right);
  CHECK(x.canaries_alive());
}

TEST_CASE("convert names what does not fit, before it writes") {
  const auto from = buffer<float>::input(small);
  const auto to = buffer<bf16_t>::output(small), other = buffer<bf16_t>::output({1, 2, 6, 7});
  CHECK(refusal(from.cview(), other.view()) == "from has columns 8, to has 7");
  CHECK(refusal(from.cview(), transposed(to)) == "from has rows 6, to has 8");
  heed::tensor_view<bf16_t, 4> null(nullptr, small, {96, 48, 8, 1});
  CHECK(refusal(from.cview(), null) == "to is null but has elements");
  heed::tensor_view<bf16_t, 4> repeated(to.view().data(), small, {96, 48, 0, 1});
  CHECK(refusal(from.cview(), repeated) == "to is written but has stride 0 on axis 2 of extent 6");
  const auto memory = from.view();
  const heed::tensor_view<bf16_t, 4> narrow(reinterpret_cast<bf16_t*>(memory.data()), small, memory.strides());
  CHECK(refusal(from.cview(), narrow) ==
        "to is the same memory as from: its elements have 2 bytes, those of from 4, must be equal");
  const heed::tensor_view<float, 4> moved(memory.data(), small, {96, 48, 1, 6});
  CHECK(refusal(from.cview(), moved) ==
        "to is the same memory as from: its stride on axis 2 is 1, that of from 8, must be equal");
  CHECK((to.untouched() && other.untouched()));
  CHECK(refusal(heed::tensor_view<const float, 4>(nullptr, {1, 2, 0, 8}, {}),
                heed::tensor_view<bf16_t, 4>(nullptr, {1, 2, 0, 8}, {})) == "");
}

TEST_CASE("convert: the same bits on any executor, and the caller's control register") {
  for (const extents& n : {extents{2, 3, 400, 64}, extents{1, 1, 1, 70001}, extents{1, 2, 3, 20000}}) {
    const auto from = buffer<float>::input(n, layout::bshd);
    fill(from, 9);
    const auto serial = buffer<f16_t>::output(n);
    heed::convert(from.cview(), serial.view());
    CHECK(heed::plan_convert(from.cview(), serial.view()).tasks > 1);
    CHECK(heed::plan_convert(from.cview(), serial.view()).workspace_bytes == 0);
    for (const bool threads : {false, true}) {
      test_executor executor(3, order::shuffled, threads);
      const auto to = buffer<f16_t>::output(n);
      heed::convert(from.cview(), to.view(), {.executor = executor});
      CHECK(to.hash() == serial.hash());
      CHECK_FALSE(executor.asked_too_much());
    }
  }
  const auto from = buffer<double>::input(small);
  const auto to = buffer<float>::output(small);
  check_control("convert", [&](const heed::context& where) { heed::convert(from.cview(), to.view(), where); });
}

TEST_CASE("plan_convert says how") {
  const auto from = buffer<float>::input(small);
  const auto to = buffer<bf16_t>::output(small);
  const heed::plan plan = heed::plan_convert(from.cview(), to.view());
  CHECK(std::string(plan.path) == "convert: elements in lanes");
  CHECK(std::string(plan.why.data()) == "1 runs of 96 elements, strides 1 and 1");
  CHECK(std::string(heed::plan_convert(transposed(from), transposed(to)).path) == "convert: one element at a time");
}
