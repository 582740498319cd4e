// SPDX-License-Identifier: BSD-3-Clause

// The tolerance of gradients: plain loops in float and double keep it, and not by much more than rounding needs; the
// gradients of a slightly different question do not. And the kernel is no more than twice as inexact as plain loops.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/naive_backward.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{1, 2, 1, 37, 53, 64, 64}, {2, 2, 2, 2, 500, 64, 32}, {1, 1, 1, 120, 121, 128, 128}};

template <class T> void plain_loops_pass() {
  double worst = 0;
  for (const shape& s : shapes)
    for (const bool causal : {false, true}) {
      backward_case<T> x(s, {.mask = causal ? heed::causal() : heed::mask{}});
      naive_backward(x, causal);
      const verdict result = compare(x, expected(x, x.options));
      INFO(result.where);
      CHECK(result.worst <= 1);
      worst = std::max(worst, result.worst);
    }
  INFO(worst);
  CHECK(worst > 0.02);
}

// How far a call with `did` is from the reference with `meant`, in units of the tolerance
template <class T>
double distance(const shape& s, const heed::softmax::options<T>& did, const heed::softmax::options<T>& meant) {
  backward_case<T> x(s, did);
  x.forward(), x.backward();
  return compare(x, expected(x, meant)).worst;
}

template <class T> void wrong_answers_fail() {
  for (const shape& s : shapes) {
    INFO(to_string(s));
    const std::vector<std::int32_t> late(static_cast<std::size_t>(s.batch),
                                         static_cast<std::int32_t>(s.keys - s.queries + 1));
    using how = heed::softmax::options<T>;
    const how causal{.mask = heed::causal()};
    CHECK(distance<T>(s, causal, causal) <= 1);
    CHECK(distance<T>(s, causal, {.mask = heed::causal(), .align = heed::first_place(late)}) > 10);
    CHECK(distance<T>(s, {.mask = heed::window(20)}, {.mask = heed::window(21)}) > 10);
    CHECK(distance<T>(s, {.scale = 0.125}, {.scale = 0.1251}) > 4);
    CHECK(distance<T>(s, {.softcap = 3}, {.softcap = 3.01}) > 4);
    CHECK(distance<T>(s, {.alibi_slopes = 0.1}, {.alibi_slopes = 0.101}) > 4);
    CHECK(distance<T>(s, {.sink_logits = 0.5}, {.sink_logits = 0.6}) > 4);
  }
}

// One term of the backward of a kernel left out: what such a kernel returns is told by wrong inputs of the right one.
template <class T> void wrong_terms_fail() {
  for (const shape& s : shapes) {
    INFO(to_string(s));
    backward_case<T> x(s, {.mask = heed::causal()});
    const expected_gradients want = expected(x, x.options);
    x.forward();
    const auto without = [&](const char* what, auto bend) {
      INFO(what);
      backward_case<T> y(s, {.mask = heed::causal()});
      y.forward();
      bend(y);
      y.backward();
      CHECK(compare(y, want).worst > 10);
    };
    without("dlse", [](auto& y) { y.wanted.dlse = {}; });
    without("delta", [](auto& y) { y.o.fill(0); });
    without("1e-3 of lse", [](auto& y) { y.lse.each([](T& lse) { lse += T(1e-3); }); });
    without("2e-2 of o", [](auto& y) { y.o.each([](T& o) { o *= T(1.02); }); });
    without("1e-3 of dout", [](auto& y) { y.dout.each([](T& dout) { dout *= T(1.001); }); });
  }
}

}  // namespace

TEST_CASE("plain loops in float keep the tolerance of gradients") { plain_loops_pass<float>(); }
TEST_CASE("plain loops in double keep the tolerance of gradients") { plain_loops_pass<double>(); }
TEST_CASE("gradients of another question fail the tolerance of float") { wrong_answers_fail<float>(); }
TEST_CASE("gradients of another question fail the tolerance of double") { wrong_answers_fail<double>(); }
TEST_CASE("gradients without one of their terms fail the tolerance") {
  wrong_terms_fail<float>(), wrong_terms_fail<double>();
}

TEST_CASE("the root of the mean square error is at most twice that of plain loops in float") {
  for (const shape& s :
       {shape{1, 2, 2, 200, 200, 64, 64}, shape{1, 4, 1, 100, 300, 128, 32}, shape{2, 1, 1, 7, 400, 80, 80}})
    for (const bool causal : {false, true}) {
      INFO(to_string(s) << (causal ? ", causal" : ""));
      backward_case<float> x(s, {.mask = causal ? heed::causal() : heed::mask{}}), plain(s, x.options);
      naive_backward(plain, causal);
      x.forward(), x.backward();
      const expected_gradients want = expected(x, x.options);
      CHECK(rms_error(x.dq, want.dq) <= 2 * rms_error(plain.dq, want.dq));
      CHECK(rms_error(x.dk, want.dk) <= 2 * rms_error(plain.dk, want.dk));
      CHECK(rms_error(x.dv, want.dv) <= 2 * rms_error(plain.dv, want.dv));
    }
}
