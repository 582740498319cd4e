// SPDX-License-Identifier: BSD-3-Clause

// Rows without a visible key, and calls without rows, keys, heads or batches.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

template <class T> bool all_equal(const buffer<T>& x, T value) {
  bool all = true;
  x.each([&](const T& element) { all = all && element == value; });
  return all;
}

}  // namespace

TEST_CASE("no visible key: o is 0 and lse -inf") {
  for (const index_t n : {1, 3, 40, 150}) {
    const std::vector<std::int32_t> zero{0, 0}, before{-1000, -1000}, beyond{5000, 5000};
    const shape s{2, 3, 1, n, 70, 20, 12};
    for (const heed::softmax::options<float>& options :
         {heed::softmax::options<float>{.mask = heed::key_lengths(zero)},
          heed::softmax::options<float>{.mask = heed::causal(), .align = heed::first_place(before)},
          heed::softmax::options<float>{.mask = heed::window(10), .align = heed::first_place(beyond)}}) {
      softmax_case<float> x(s, options);
      check(x);
      CHECK(all_equal(x.o, 0.0f));
      CHECK(all_equal(x.lse, -inf));
    }
  }
}

TEST_CASE("some rows see nothing: more queries than keys") {
  for (const index_t n : {5, 37, 200})
    for (const index_t m : {1, 3, 30}) {
      softmax_case<float> x({1, 2, 2, n, m, 16, 9}, {.mask = heed::causal()});
      check(x);
      CHECK((n <= m || (x.o(0, 0, 0, 0) == 0 && x.lse(0, 0, 0) == -inf)));
      check<double>({1, 2, 2, n, m, 16, 9}, {.mask = heed::causal()});
      check<float>({1, 1, 1, n, m, 16, 9}, {.mask = heed::window(2), .align = heed::top_left});
    }
}

TEST_CASE("empty rows of one batch entry beside full ones of another") {
  const std::vector<std::int32_t> lengths{0, 60, 1, 59};
  for (const index_t n : {1, 20, 64}) {
    softmax_case<float> x({4, 2, 1, n, 60, 16, 16}, {.mask = heed::key_lengths(lengths)});
    check(x);
    CHECK(x.lse(0, 1, 0) == -inf);
    CHECK(std::isfinite(x.lse(1, 1, 0)));
  }
}

TEST_CASE("no keys at all") {
  for (const index_t n : {1, 20, 100}) {
    softmax_case<float> x({2, 2, 1, n, 0, 16, 8});
    check(x);
    CHECK(all_equal(x.o, 0.0f));
    CHECK(all_equal(x.lse, -inf));
    check<float>({2, 2, 1, n, 0, 16, 8}, {.mask = heed::causal()});
  }
}

TEST_CASE("no queries, no heads, no batches: nothing is written") {
  for (const shape& s : {shape{2, 2, 1, 0, 30, 16, 8}, shape{0, 2, 1, 5, 30, 16, 8}, shape{1, 0, 0, 5, 30, 16, 8},
                         shape{1, 1, 1, 0, 0, 16, 8}}) {
    INFO(to_string(s));
    softmax_case<float> x(s, {.mask = heed::causal()});
    CHECK(x.plan().ok());
    x.forward();
    CHECK(x.o.untouched());
    CHECK(x.lse.untouched());
  }
}

TEST_CASE("null pointers are legal where there are no elements") {
  softmax_case<float> x({1, 1, 1, 4, 0, 8, 8});
  const heed::tensor_view<const float, 4> nothing(nullptr, {1, 1, 0, 8}, {0, 0, 8, 1});
  run_forward<float>(x.q.cview(), nothing, nothing, x.o.view(), x.options, {});
  CHECK(all_equal(x.o, 0.0f));
  CHECK(all_equal(x.lse, -inf));
}
