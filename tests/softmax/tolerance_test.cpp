// SPDX-License-Identifier: BSD-3-Clause

// The tolerance is tight enough: a result that is right for a slightly different question fails it.

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

}  // namespace

TEST_CASE("a wrong alignment, mask or scale fails the tolerance of float") { wrong_answers_fail<float>(); }
TEST_CASE("a wrong alignment, mask or scale fails the tolerance of double") { wrong_answers_fail<double>(); }

TEST_CASE("one key off in a long row still shows") {
  const std::vector<std::int32_t> length{9999}, shorter{9998};
  CHECK(distance<float>({1, 1, 1, 2, 10000, 64, 64}, {.mask = heed::key_lengths(length)},
                        {.mask = heed::key_lengths(shorter)}) > 3);
}
