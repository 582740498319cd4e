// SPDX-License-Identifier: BSD-3-Clause

// The tolerance is tight enough: a result that is right for a slightly different question fails it.

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

// How far a call with `did` is from the reference with `meant`, in units of the tolerance.
template <class T>
double distance(const shape& s, const heed::softmax::options<T>& did, heed::softmax::options<T> meant) {
  softmax_case<T> x(s, did);
  x.forward();
  return compare(x, meant).worst;
}

template <class T> void wrong_answers_fail() {
  for (const shape& s :
       {shape{1, 2, 1, 37, 53, 64, 64}, shape{2, 2, 2, 2, 1000, 64, 32}, shape{1, 1, 1, 300, 301, 128, 128}}) {
    INFO(to_string(s));
    std::vector<std::int32_t> length, shorter, place, late;
    for (index_t b = 0; b < s.batch; ++b) {
      length.push_back(static_cast<std::int32_t>(s.keys / 2));
      shorter.push_back(length.back() - 1);
      place.push_back(static_cast<std::int32_t>(s.keys - s.queries));
      late.push_back(place.back() + 1);
    }
    using how = heed::softmax::options<T>;
    const how causal{.mask = heed::causal()};
    CHECK(distance<T>(s, causal, causal) <= 1);
    CHECK(distance<T>(s, causal, {.mask = heed::causal(), .align = heed::first_place(place)}) <= 1);
    CHECK(distance<T>(s, causal, {.mask = heed::causal(), .align = heed::top_left}) > 10);
    CHECK(distance<T>(s, causal, {.mask = heed::causal(), .align = heed::first_place(late)}) > 10);
    CHECK(distance<T>(s, causal, {}) > 10);
    CHECK(distance<T>(s, {.mask = heed::window(20)}, {.mask = heed::window(21)}) > 10);
    CHECK(distance<T>(s, {.mask = heed::window(20, 1)}, {.mask = heed::window(20)}) > 10);
    CHECK(distance<T>(s, {.mask = heed::window(20, 0, 1)}, {.mask = heed::window(20)}) > 10);
    CHECK(distance<T>(s, {.mask = heed::key_lengths(length)}, {.mask = heed::key_lengths(shorter)}) > 10);
    CHECK(distance<T>(s, {.scale = 0.125}, {.scale = 0.1251}) > 10);
  }
}

// x in 8 binary digits, halves up
double weight_in_bf16(double x) {
  return static_cast<double>(
      std::bit_cast<float>((std::bit_cast<std::uint32_t>(static_cast<float>(x)) + 0x8000u) & 0xffff0000u));
}

// The largest error of calls whose weights are rounded to bf16, in units of the tolerance for it: sums in double, and
// an exp2 that is off by 1e-4 in turn. With right: l is the sum of the rounded weights.
double of_rounded_weights(const shape& s, double size, bool right) {
  softmax_case<float> x(s);
  random_numbers random(9);
  x.q.randomize(random, size);
  heed::reference::softmax::detail::each_row(
      x.q.cview(), x.k.cview(), x.v.cview(), x.options,
      [&](const auto& sequence, index_t h, index_t i, const auto& scores, const auto& values) {
        Eigen::VectorXd sum = Eigen::VectorXd::Zero(values.cols());
        double l = 0;
        for (index_t j = 0; j < scores.size(); ++j) {
          const double exact = std::exp(scores(j) - scores.maxCoeff()) * (j % 2 == 0 ? 1 + 1e-4 : 1 - 1e-4);
          const double p = weight_in_bf16(exact);
          l += right ? p : weight_in_bf16(p * 1.006), sum += p * values.row(j).transpose();
        }
        for (index_t e = 0; e < values.cols(); ++e) x.o(sequence.batch, h, i, e) = static_cast<float>(sum(e) / l);
        x.lse(sequence.batch, h, i) = static_cast<float>(scores.maxCoeff() + std::log(l));
      });
  return compare(x, x.options, exactness{rounded_weights, {}}).worst;
}

}  // namespace

TEST_CASE("the tolerance of weights in bf16 holds, and is not far from what few keys need") {
  double worst = 0;
  for (const index_t keys : {1, 2, 3, 20, 300})
    for (const double size : {0.1, 1.0, 4.0}) {
      const double each = of_rounded_weights({1, 2, 1, 40, keys, 16, 16}, size, true);
      CHECK(each <= 1);
      worst = std::max(worst, each);
    }
  INFO(worst);
  CHECK(worst > 0.3);
  CHECK(of_rounded_weights({1, 2, 1, 40, 20, 16, 16}, 1, false) > 1);
}

TEST_CASE("a wrong alignment, mask or scale fails the tolerance of float") { wrong_answers_fail<float>(); }
TEST_CASE("a wrong alignment, mask or scale fails the tolerance of double") { wrong_answers_fail<double>(); }

TEST_CASE("one key off in a long row still shows") {
  const std::vector<std::int32_t> length{9999}, shorter{9998};
  CHECK(distance<float>({1, 1, 1, 2, 10000, 64, 64}, {.mask = heed::key_lengths(length)},
                        {.mask = heed::key_lengths(shorter)}) > 3);
}
