// SPDX-License-Identifier: BSD-3-Clause

// Partial results are (o, lse) pairs: forward over some of the keys makes one, merge joins two.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr shape s{2, 4, 2, 19, 61, 20, 13};
constexpr extents o_size{s.batch, s.heads, s.queries, s.value_dim}, lse_size{s.batch, s.heads, s.queries, 1};

template <class T> struct part {
  part() : o(buffer<T>::output(o_size, layout::padded_rows)), lse(buffer<T>::output(lse_size, layout::bshd)) {}
  buffer<T> o, lse;
};

// forward over keys [first, last) of x.
template <class T> part<T> attend(const softmax_case<T>& x, index_t first, index_t last) {
  part<T> p;
  const auto keys = [&](const buffer<T>& y) {
    const auto all = y.cview();
    return input<T>(all.data() + first * all.stride(2), {all.extent(0), all.extent(1), last - first, all.extent(3)},
                    {all.stride(0), all.stride(1), all.stride(2), 1});
  };
  run_forward<T>(x.q.cview(), keys(x.k), keys(x.v), p.o.view(), {.lse = p.lse.view3()}, {});
  return p;
}

template <class T> void join(part<T>& into, const part<T>& from, double log_weight = 0) {
  const auto lse = from.lse.view3();
  run_merge<T>(into.o.view(), into.lse.view3(), from.o.cview(), lse, log_weight);
}

template <class T> bool near(const part<T>& a, const part<T>& b, double tolerance) {
  bool all = true;
  for (index_t i = 0; i < s.batch; ++i)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t n = 0; n < s.queries; ++n) {
        const T x = a.lse(i, h, n), y = b.lse(i, h, n);
        all = all && (x == y || std::abs(static_cast<double>(x - y)) <= tolerance);
        for (index_t e = 0; e < s.value_dim; ++e)
          all = all && std::abs(static_cast<double>(a.o(i, h, n, e) - b.o(i, h, n, e))) <= tolerance;
      }
  return all;
}
constexpr double float_rounding = 4e-6, double_rounding = 1e-14;

}  // namespace

TEST_CASE("any split of the keys joins to the whole") {
  const softmax_case<float> x(s);
  const part<float> whole = attend(x, 0, s.keys);
  for (index_t cut = 0; cut <= s.keys; ++cut) {
    part<float> left = attend(x, 0, cut);
    join(left, attend(x, cut, s.keys));
    CHECK(near(left, whole, float_rounding));
    CHECK((left.o.canaries_alive() && left.lse.canaries_alive()));
  }
  part<float> all = attend(x, 0, 0);  // key by key
  for (index_t j = 0; j < s.keys; ++j) join(all, attend(x, j, j + 1));
  CHECK(near(all, whole, float_rounding));
}

TEST_CASE("the same in double, in any order and grouping") {
  const softmax_case<double> x(s);
  const part<double> whole = attend(x, 0, s.keys);
  part<double> left = attend(x, 0, 20), middle = attend(x, 20, 21), right = attend(x, 21, s.keys);
  part<double> a = attend(x, 0, 20);
  join(a, middle);
  join(a, right);
  CHECK(near(a, whole, double_rounding));
  join(middle, right);
  join(middle, left);
  CHECK(near(middle, whole, double_rounding));
}

TEST_CASE("an empty part is the identity on either side") {
  const softmax_case<float> x(s);
  const part<float> some = attend(x, 3, 40);
  part<float> left = attend(x, 3, 40), right = attend(x, 0, 0), none = attend(x, 0, 0);
  join(left, none);
  CHECK((same_bits(left.o, some.o) && same_bits(left.lse, some.lse)));
  join(right, some);
  CHECK((same_bits(right.o, some.o) && same_bits(right.lse, some.lse)));
  join(none, attend(x, 5, 5));
  CHECK((none.o(0, 0, 0, 0) == 0 && none.lse(0, 0, 0) == -std::numeric_limits<float>::infinity()));
}

TEST_CASE("log_weight counts the second part's keys several times") {
  softmax_case<float> x(s);
  const part<float> once = attend(x, 30, s.keys);
  part<float> weighted = attend(x, 0, 30), repeated = attend(x, 0, 30), unseen = attend(x, 0, 30);
  join(weighted, once, std::log(3.0));
  for (int i = 0; i < 3; ++i) join(repeated, once);
  CHECK(near(weighted, repeated, float_rounding));
  join(unseen, once, -std::numeric_limits<double>::infinity());
  const part<float> left = attend(x, 0, 30);
  CHECK((same_bits(unseen.o, left.o) && same_bits(unseen.lse, left.lse)));
}

TEST_CASE("merge agrees with the reference's, for lse far apart and NaN") {
  constexpr float levels[] = {
      0, 1, -1, 50, -50, 1e4f, -1e4f, -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  random_numbers random(8);
  for (const float a : levels)
    for (const float b : levels) {
      part<float> mine, theirs, second;
      mine.o.each([&](float& e) { e = static_cast<float>(random.normal()); });
      second.o.each([&](float& e) { e = static_cast<float>(random.normal()); });
      for (index_t i = 0; i < s.batch; ++i)
        for (index_t h = 0; h < s.heads; ++h)
          for (index_t n = 0; n < s.queries; ++n) {
            mine.lse(i, h, n) = theirs.lse(i, h, n) = a;
            second.lse(i, h, n) = b;
            for (index_t e = 0; e < s.value_dim; ++e) theirs.o(i, h, n, e) = mine.o(i, h, n, e);
          }
      join(mine, second, 0.25);
      heed::reference::softmax::merge(theirs.o.view(), theirs.lse.view3(), second.o.cview(), second.lse.view3(), 0.25);
      INFO("lse " << a << " and " << b);
      if (std::isnan(a) || std::isnan(b))
        CHECK((std::isnan(mine.o(0, 0, 0, 0)) && std::isnan(mine.lse(0, 0, 0))));
      else
        CHECK(near(mine, theirs, std::abs(a) > 100 || std::abs(b) > 100 ? 1e-3 : float_rounding));
    }
}

TEST_CASE("values of no columns: lse alone is joined, and no pointer moves") {
  float lse[2] = {1, 2};
  const float part_lse[2] = {1, 2};
  const heed::tensor_view<float, 4> none(nullptr, {1, 1, 2, 0}, {4, 4, std::numeric_limits<index_t>::min() + 1, 1});
  run_merge<float>(none, {lse, {1, 1, 2}, {2, 2, 1}}, none, {part_lse, {1, 1, 2}, {2, 2, 1}}, 0);
  CHECK((lse[0] == Approx(1 + std::log(2)) && lse[1] == Approx(2 + std::log(2))));
}

TEST_CASE("merge checks its shapes") {
  part<float> a, b;
  a.o.fill(1);
  a.lse.fill(0);
  const auto short_part =
      input<float>(b.o.view().data(), {s.batch, s.heads, s.queries - 1, s.value_dim}, {1000, 200, 16, 1});
  std::string thrown;
  try {
    run_merge<float>(a.o.view(), a.lse.view3(), short_part, b.lse.view3(), 0);
  } catch (const heed::error& e) {
    thrown = e.what();
  }
  INFO(thrown);
  CHECK(thrown.find("part") != std::string::npos);
  CHECK(thrown.find("19") != std::string::npos);
  CHECK(thrown.find("18") != std::string::npos);
  CHECK(a.o(0, 0, 0, 0) == 1);
}

TEST_CASE("a log_weight that is no number, or +inf, is refused before anything is written") {
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    std::vector<float> o{1, 2}, lse{0}, part{3, 4}, part_lse{0};
    std::string thrown;
    try {
      run_merge<float>({o.data(), {1, 1, 1, 2}, {2, 2, 2, 1}}, {lse.data(), {1, 1, 1}, {1, 1, 1}},
                       {part.data(), {1, 1, 1, 2}, {2, 2, 2, 1}}, {part_lse.data(), {1, 1, 1}, {1, 1, 1}}, bad);
    } catch (const heed::error& e) {
      thrown = e.what();
    }
    CHECK(thrown.find("log_weight is ") == 0);
    CHECK((o == std::vector<float>{1, 2} && lse[0] == 0));
  }
}
