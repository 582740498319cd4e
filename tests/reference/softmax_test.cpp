// SPDX-License-Identifier: BSD-3-Clause

// The reference on closed forms: what follows from the definition by hand.

#include "heed/reference/softmax.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using options = heed::softmax::options<double>;
constexpr double inf = std::numeric_limits<double>::infinity();

matrix random_matrix(Eigen::Index rows, Eigen::Index cols, std::uint32_t seed) {
  heed_test::random_numbers random(seed);
  matrix m(rows, cols);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = random.normal();
  return m;
}

struct answer {
  matrix o;
  Eigen::VectorXd lse;
};

answer attend(const matrix& q, const matrix& k, const matrix& v, options how = {}) {
  answer a{matrix::Constant(q.rows(), v.cols(), 77), Eigen::VectorXd::Constant(q.rows(), 77)};
  how.lse = a.lse;
  heed::reference::softmax::forward(q, k, v, a.o, how);
  return a;
}

bool near(const answer& a, const answer& b, double tolerance = 1e-13) {
  return (a.o - b.o).cwiseAbs().maxCoeff() <= tolerance && (a.lse - b.lse).cwiseAbs().maxCoeff() <= tolerance;
}

// The pairs that are visible, as a picture: '1' visible, '.' hidden. With scale 0 every visible key weighs the same,
// and with v the unit matrix o shows the weights.
std::string picture(Eigen::Index queries, Eigen::Index keys, options how) {
  how.scale = 0;
  const answer a = attend(random_matrix(queries, 2, 1), random_matrix(keys, 2, 2), matrix::Identity(keys, keys), how);
  std::string lines;
  for (Eigen::Index i = 0; i < queries; ++i) {
    int count = 0;
    for (Eigen::Index j = 0; j < keys; ++j) count += a.o(i, j) != 0;
    for (Eigen::Index j = 0; j < keys; ++j) {
      lines += a.o(i, j) != 0 ? '1' : '.';
      if (a.o(i, j) != 0) CHECK(a.o(i, j) == Approx(1.0 / count));
    }
    if (count == 0)
      CHECK(a.lse(i) == -inf);
    else
      CHECK(a.lse(i) == Approx(std::log(count)));
    lines += i + 1 < queries ? " " : "";
  }
  return lines;
}

}  // namespace

TEST_CASE("one key: its value, and its score as lse") {
  const matrix q = random_matrix(4, 3, 1), k = random_matrix(1, 3, 2), v = random_matrix(1, 5, 3);
  const answer a = attend(q, k, v, {.scale = 0.3});
  CHECK((a.o.rowwise() - v.row(0)).cwiseAbs().maxCoeff() == 0);
  CHECK((a.lse - 0.3 * q * k.transpose()).cwiseAbs().maxCoeff() < 1e-15);
}

TEST_CASE("equal keys: the mean of the values") {
  const matrix q = random_matrix(3, 4, 1), k = random_matrix(1, 4, 2).replicate(6, 1), v = random_matrix(6, 2, 3);
  const answer a = attend(q, k, v);
  CHECK((a.o.rowwise() - v.colwise().mean()).cwiseAbs().maxCoeff() < 1e-15);
  for (int i = 0; i < 3; ++i) CHECK(a.lse(i) == Approx(q.row(i).dot(k.row(0)) / 2 + std::log(6)));  // 1/sqrt(4)
}

TEST_CASE("two keys by hand") {
  const matrix q{{2.0, 0.0}}, k{{1.0, 5.0}, {-1.0, 7.0}}, v{{10.0}, {20.0}};
  const answer a = attend(q, k, v, {.scale = 0.5});  // scores 1 and -1
  const double w = 1 / (1 + std::exp(-2.0));
  CHECK(a.o(0, 0) == Approx(10 * w + 20 * (1 - w)).epsilon(1e-14));
  CHECK(a.lse(0) == Approx(std::log(std::exp(1.0) + std::exp(-1.0))).epsilon(1e-14));
}

TEST_CASE("the order of the keys does not matter, that of the queries is kept") {
  const matrix q = random_matrix(5, 3, 1), k = random_matrix(7, 3, 2), v = random_matrix(7, 4, 3);
  const answer a = attend(q, k, v);
  const answer keys_reversed = attend(q, k.colwise().reverse(), v.colwise().reverse());
  CHECK(near(a, keys_reversed));
  const answer queries_reversed = attend(q.colwise().reverse(), k, v);
  CHECK((a.o - queries_reversed.o.colwise().reverse()).cwiseAbs().maxCoeff() == 0);
}

TEST_CASE("huge scores stay finite") {
  const matrix q{{1000.0}}, k{{1.0}, {2.0}}, v{{3.0}, {4.0}};
  const answer a = attend(q, k, v, {.scale = 10});
  CHECK(a.o(0, 0) == 4);
  CHECK(a.lse(0) == 20000);
}

TEST_CASE("soft-cap, ALiBi, bias and score function by hand, in this order") {
  const matrix q{{2.0}}, k{{3.0}, {-1.0}}, v{{1.0}, {0.0}};
  const matrix bias{{0.25, -0.5}};
  options how{
      .scale = 1, .softcap = 4, .alibi_slopes = 0.1, .bias = bias, .score = [](double s, const heed::position& at) {
        return 2 * s + at.key;
      }};
  const double s0 = 2 * (4 * std::tanh(6.0 / 4) - 0.1 * 1 + 0.25),
               s1 = 2 * (4 * std::tanh(-2.0 / 4) - 0.5) + 1;  // place is 1
  const answer a = attend(q, k, v, how);
  CHECK(a.o(0, 0) == Approx(std::exp(s0) / (std::exp(s0) + std::exp(s1))).epsilon(1e-13));
  CHECK(a.lse(0) == Approx(std::log(std::exp(s0) + std::exp(s1))).epsilon(1e-13));

  how.align = heed::top_left;  // place is 0: the slope pulls the other key down
  const double t0 = s0 + 0.2, t1 = s1 - 0.2;
  CHECK(attend(q, k, v, how).lse(0) == Approx(std::log(std::exp(t0) + std::exp(t1))).epsilon(1e-13));
}

TEST_CASE("-inf from a bias or a score function hides the key, +inf and NaN reach the row") {
  const matrix q = random_matrix(1, 2, 1), k = random_matrix(3, 2, 2), v{{1.0}, {2.0}, {std::nan("")}};
  const matrix hides{{0.0, 0.0, -inf}}, breaks{{0.0, inf, -inf}};
  const answer two = attend(q, k.topRows(2), v.topRows(2));
  CHECK(near(attend(q, k, v, {.bias = hides}), two));
  CHECK(
      near(attend(q, k, v, {.score = [](double s, const heed::position& at) { return at.key == 2 ? -inf : s; }}), two));
  CHECK(std::isnan(attend(q, k, v, {.bias = breaks}).o(0, 0)));
  CHECK(std::isnan(attend(q, k, v).o(0, 0)));
  matrix bad = k;
  bad(1, 0) = std::nan("");
  CHECK(std::isnan(attend(q, bad, matrix::Ones(3, 1)).o(0, 0)));
  CHECK(std::isnan(attend(q, bad, matrix::Ones(3, 1)).lse(0)));
}

TEST_CASE("a sink joins the denominator and lse, and nothing else") {
  const matrix q{{1.0}}, k{{0.0}, {1.0}}, v{{1.0}, {3.0}};
  const answer a = attend(q, k, v, {.scale = 1, .softcap = 0, .sink_logits = 0.5});
  const double sum = 1 + std::exp(1.0) + std::exp(0.5);
  CHECK(a.o(0, 0) == Approx((1 + 3 * std::exp(1.0)) / sum).epsilon(1e-14));
  CHECK(a.lse(0) == Approx(std::log(sum)).epsilon(1e-14));
  CHECK(near(attend(q, k, v, {.sink_logits = -inf}), attend(q, k, v)));
  const answer empty = attend(q, k, v, {.mask = heed::causal(), .align = heed::top_left, .sink_logits = 0.5});
  CHECK(empty.o(0, 0) == Approx(1 / (1 + std::exp(0.5))));  // sees key 0 only
}

TEST_CASE("rows that see no key") {
  const matrix q = random_matrix(5, 2, 1), k = random_matrix(3, 2, 2), v = random_matrix(3, 4, 3);
  const answer a = attend(q, k, v, {.mask = heed::causal()});  // places -2 .. 2
  CHECK(a.o.topRows(2).cwiseAbs().maxCoeff() == 0);
  CHECK((a.lse(0) == -inf && a.lse(1) == -inf && a.lse(2) > -inf));
  const answer with_sink = attend(q, k, v, {.mask = heed::causal(), .sink_logits = 0.75});
  CHECK(with_sink.o.topRows(2).cwiseAbs().maxCoeff() == 0);
  CHECK((with_sink.lse(0) == 0.75 && with_sink.lse(1) == 0.75));
  const answer no_keys = attend(q, k.topRows(0), v.topRows(0));
  CHECK((no_keys.o.cwiseAbs().maxCoeff() == 0 && no_keys.lse.maxCoeff() == -inf));
}

TEST_CASE("masks as pictures, 3 queries and 5 keys") {
  const std::vector<std::int32_t> four{4}, two{2}, one{1}, zero{0};
  const auto at_one = heed::first_place(one);
  CHECK(picture(3, 5, {}) == "11111 11111 11111");
  CHECK(picture(3, 5, {.mask = heed::causal()}) == "111.. 1111. 11111");  // places 2, 3, 4
  CHECK(picture(3, 5, {.mask = heed::causal(), .align = heed::top_left}) == "1.... 11... 111..");
  CHECK(picture(3, 5, {.mask = heed::causal(), .align = at_one}) == "11... 111.. 1111.");
  CHECK(picture(3, 5, {.mask = heed::window(1)}) == ".11.. ..11. ...11");
  CHECK(picture(3, 5, {.mask = heed::window(1), .align = heed::top_left}) == "1.... 11... .11..");
  CHECK(picture(3, 5, {.mask = heed::window(1), .align = at_one}) == "11... .11.. ..11.");
  CHECK(picture(3, 5, {.mask = heed::window(1, 1)}) == ".111. ..111 ...11");
  CHECK(picture(3, 5, {.mask = heed::window(-1, 1)}) == "1111. 11111 11111");
  CHECK(picture(3, 5, {.mask = heed::window(1, -1)}) == ".1111 ..111 ...11");
  CHECK(picture(3, 5, {.mask = heed::window(0)}) == "..1.. ...1. ....1");
  CHECK(picture(3, 5, {.mask = heed::window(0, 0, 1)}) == "1.1.. 1..1. 1...1");
  CHECK(picture(3, 5, {.mask = heed::window(0, 0, 2), .align = heed::top_left}) ==
        "1.... 11... 111..");  // right side cuts too
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::window(2, 4)}) == "111.. .111. ..111");
  CHECK(picture(3, 5, {.mask = heed::key_lengths(four)}) == "1111. 1111. 1111.");
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::key_lengths(four)}) ==
        "111.. 1111. 1111.");  // places do not move
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::key_lengths(two), .align = heed::top_left}) ==
        "1.... 11... 11...");
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::key_lengths(four), .align = heed::end_of_lengths}) ==
        "11... 111.. 1111.");
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::key_lengths(two), .align = heed::end_of_lengths}) ==
        "..... 1.... 11...");  // places -1, 0, 1
  CHECK(picture(3, 5, {.mask = heed::prefix_lm(four)}) == "1111. 1111. 11111");
  CHECK(picture(3, 5, {.mask = heed::prefix_lm(four), .align = heed::top_left}) == "1111. 1111. 1111.");
  CHECK(picture(3, 5, {.mask = heed::prefix_lm(two), .align = at_one}) == "11... 111.. 1111.");
  CHECK(picture(3, 5, {.mask = heed::prefix_lm(zero)}) == picture(3, 5, {.mask = heed::causal()}));
  CHECK(picture(3, 5, {.mask = heed::causal() & heed::prefix_lm(four)}) == "111.. 1111. 11111");
  const auto odd = heed::visible_if([](const heed::position& at) { return (at.place - at.key) % 2 == 0; });
  CHECK(picture(3, 5, {.mask = odd}) == "1.1.1 .1.1. 1.1.1");
  CHECK(picture(3, 5, {.mask = odd & heed::causal(), .align = at_one}) == ".1... 1.1.. .1.1.");
  CHECK(picture(5, 3, {.mask = heed::causal()}) == "... ... 1.. 11. 111");
  CHECK(picture(5, 3, {.mask = heed::causal(), .align = heed::top_left}) == "1.. 11. 111 111 111");
}

TEST_CASE("segments and keep as pictures") {
  const std::vector<std::int32_t> query_ids{1, 2, 2}, key_ids{1, 1, 2, 2, 3};
  const heed::mask same = heed::segments(heed::tensor_view<const std::int32_t, 2>(query_ids),
                                         heed::tensor_view<const std::int32_t, 2>(key_ids));
  CHECK(picture(3, 5, {.mask = same}) == "11... ..11. ..11.");
  CHECK(picture(3, 5, {.mask = same & heed::causal(), .align = heed::top_left}) == "1.... ..... ..1..");
  const bool table[] = {true, false, true,  true,  false, false, true, true,
                        true, true,  false, false, false, false, false};
  const heed::tensor_view<const bool, 4> all(table, {1, 1, 3, 5}, {0, 0, 5, 1}),
      keys(table, {1, 1, 1, 5}, {0, 0, 0, 1}), queries(table, {1, 1, 3, 1}, {0, 0, 1, 0});
  CHECK(picture(3, 5, {.mask = heed::keep(all)}) == "1.11. .1111 .....");
  CHECK(picture(3, 5, {.mask = heed::keep(keys)}) == "1.11. 1.11. 1.11.");
  CHECK(picture(3, 5, {.mask = heed::keep(queries)}) == "11111 ..... 11111");
}

TEST_CASE("packed sequences: each as if alone") {
  const matrix q = random_matrix(9, 3, 1), k = random_matrix(11, 3, 2), v = random_matrix(11, 2, 3);
  const std::vector<std::int32_t> q_at{0, 4, 4, 9}, k_at{0, 5, 7, 11}, seen{3, 1, 4}, one{2};
  CHECK(picture(4, 5, {.mask = heed::causal()}) == "11... 111.. 1111. 11111");
  for (const heed::alignment& align : {heed::bottom_right, heed::top_left}) {
    const answer all = attend(q, k, v,
                              {.mask = heed::causal() & heed::packed(q_at, k_at) & heed::key_lengths(seen),
                               .align = align,
                               .alibi_slopes = 0.3});
    for (std::size_t s = 0; s < 3; ++s) {
      const auto n = q_at[s + 1] - q_at[s], m = k_at[s + 1] - k_at[s];
      if (n == 0) continue;
      const std::vector<std::int32_t> mine{seen[s]};
      const answer alone =
          attend(q.middleRows(q_at[s], n), k.middleRows(k_at[s], m), v.middleRows(k_at[s], m),
                 {.mask = heed::causal() & heed::key_lengths(mine), .align = align, .alibi_slopes = 0.3});
      CHECK((alone.o - all.o.middleRows(q_at[s], n)).cwiseAbs().maxCoeff() == 0);
      CHECK(alone.lse == all.lse.segment(q_at[s], n));
    }
  }
}

TEST_CASE("hidden keys are not read into anything") {
  const std::vector<std::int32_t> three{3};
  const matrix q = random_matrix(4, 3, 1), k = random_matrix(6, 3, 2), v = random_matrix(6, 2, 3);
  matrix bad_k = k, bad_v = v;
  bad_k.bottomRows(3).setConstant(std::nan(""));
  bad_v.bottomRows(3).setConstant(inf);
  const options how{.mask = heed::key_lengths(three)};
  CHECK(near(attend(q, bad_k, bad_v, how), attend(q, k, v, how), 0));
  CHECK(near(attend(q, bad_k, bad_v, how), attend(q, k.topRows(3), v.topRows(3)), 0));
}

TEST_CASE("head map in both directions") {
  // 4 query heads over 2 key/value heads, then 2 over 4: the same as every head on its own.
  for (const auto& [heads, kv_heads] : {std::pair<heed::index_t, heed::index_t>{4, 2}, {2, 4}}) {
    const matrix q = random_matrix(heads * 3, 5, 1), k = random_matrix(kv_heads * 6, 5, 2),
                 v = random_matrix(kv_heads * 6, 2, 3);
    matrix o(4 * 3, 2);
    heed::reference::softmax::forward(heed::tensor_view<const double, 4>(q.data(), {1, heads, 3, 5}, {0, 15, 5, 1}),
                                      heed::tensor_view<const double, 4>(k.data(), {1, kv_heads, 6, 5}, {0, 30, 5, 1}),
                                      heed::tensor_view<const double, 4>(v.data(), {1, kv_heads, 6, 2}, {0, 12, 2, 1}),
                                      heed::tensor_view<double, 4>(o.data(), {1, 4, 3, 2}, {0, 6, 2, 1}));
    for (heed::index_t head = 0; head < 4; ++head) {
      const heed::index_t a = heads == 4 ? head : head / 2, b = kv_heads == 4 ? head : head / 2;
      const answer alone = attend(q.middleRows(a * 3, 3), k.middleRows(b * 6, 6), v.middleRows(b * 6, 6));
      CHECK((alone.o - o.middleRows(head * 3, 3)).cwiseAbs().maxCoeff() == 0);
    }
  }
}

TEST_CASE("float and bf16 inputs are computed in double") {
  const matrix q = random_matrix(3, 4, 1), k = random_matrix(5, 4, 2), v = random_matrix(5, 4, 3);
  std::vector<heed::bf16_t> half;
  for (const matrix* m : {&q, &k, &v})
    for (Eigen::Index i = 0; i < m->size(); ++i) half.push_back(heed::bf16_t(static_cast<float>(m->data()[i])));
  const auto rows = [&](std::ptrdiff_t first, std::ptrdiff_t n) {
    return heed::tensor_view<const heed::bf16_t, 4>(half.data() + first, {1, 1, n, 4}, {0, 0, 4, 1});
  };
  matrix rounded(13, 4);
  for (Eigen::Index i = 0; i < rounded.size(); ++i)
    rounded.data()[i] = static_cast<double>(static_cast<float>(half[static_cast<std::size_t>(i)]));
  matrix o(3, 4);
  heed::reference::softmax::forward(rows(0, 3), rows(12, 5), rows(32, 5), o);
  CHECK((o - attend(rounded.topRows(3), rounded.middleRows(3, 5), rounded.bottomRows(5)).o).cwiseAbs().maxCoeff() == 0);
  std::vector<heed::bf16_t> narrow(12);
  heed::reference::softmax::forward(rows(0, 3), rows(12, 5), rows(32, 5),
                                    heed::tensor_view<heed::bf16_t, 4>(narrow.data(), {1, 1, 3, 4}, {0, 0, 4, 1}));
  for (std::size_t i = 0; i < narrow.size(); ++i) {
    INFO(i);
    CHECK(static_cast<float>(narrow[i]) == static_cast<float>(heed::bf16_t(static_cast<float>(o.data()[i]))));
  }
}

TEST_CASE("merge joins what a split of the keys separates") {
  const matrix q = random_matrix(4, 3, 1), k = random_matrix(9, 3, 2), v = random_matrix(9, 2, 3);
  const answer whole = attend(q, k, v);
  for (int cut = 0; cut <= 9; ++cut) {
    answer a = attend(q, k.topRows(cut), v.topRows(cut));
    const answer b = attend(q, k.bottomRows(9 - cut), v.bottomRows(9 - cut));
    heed::reference::softmax::merge(a.o, a.lse, b.o, b.lse);
    CHECK(near(a, whole));
  }
  answer a = attend(q, k.topRows(1), v.topRows(1));
  const answer b = attend(q, k.middleRows(1, 1), v.middleRows(1, 1));
  const Eigen::VectorXd lse = a.lse;
  heed::reference::softmax::merge(a.o, a.lse, b.o, b.lse, std::log(3.0));  // the second key counts three times
  for (int i = 0; i < 4; ++i) CHECK(a.lse(i) == Approx(std::log(std::exp(lse(i)) + 3 * std::exp(b.lse(i)))));
}
