// SPDX-License-Identifier: BSD-3-Clause

// Units of backward: slopes of score mods, sums of rows per key, the bias' gradient, and the choice of passes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/mixture_of_head.hpp"
#include "heed/softmax.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace pairwise = heed::pairwise;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

std::vector<double> numbers(index_t count, unsigned seed) {
  heed_test::random_numbers random(seed);
  std::vector<double> x(at(count));
  for (double& v : x) v = random.normal();
  return x;
}

struct workers {
  index_t count;
  index_t concurrency() const { return count; }
  template <class F> void parallel_for(index_t n, const F& f) const {
    for (index_t i = n; i-- > 0;) f(i);
  }
};

// q = k = v = o = dout of these extents: a plan reads none of them
heed::plan plan_of(index_t batch, index_t heads, index_t n, index_t count, bool keys_too = true) {
  static std::vector<float> memory(at(16 * 4096 * 4));
  const auto x = heed::bhsd(memory.data(), batch, heads, n, index_t{4});
  std::vector<float> dq(memory.size()), dk(memory.size());
  const workers pool{count};
  heed::softmax::options<> opt{.lse = heed::contiguous(memory.data() + 1, {batch, heads, n})};
  heed::softmax::gradients<> wanted{.dq = heed::bhsd(dq.data(), batch, heads, n, index_t{4})};
  if (keys_too) wanted.dk = heed::bhsd(dk.data(), batch, heads, n, index_t{4});
  std::vector<float> o(memory.size());
  return heed::softmax::plan_backward(x, x, x, heed::bhsd(o.data(), batch, heads, n, index_t{4}), x, wanted, opt,
                                      {.executor = pool});
}

}  // namespace

TEST_CASE("slopes of score mods are the derivatives of what they do", "[gradient]") {
  using T = double;
  constexpr index_t w = heed::simd::width<T>, keys = 5, lanes = w;
  heed::softmax::options<T> opt{.softcap = 1.5, .alibi_slopes = 0.25};
  opt.score = {[](T s, const heed::position& p) { return s * s + T(p.key); },
               [](T s, const heed::position&) { return 2 * s; }};
  const auto rules = pairwise::make_score_mod_rules<T>(opt, index_t{4});
  pairwise::row_tile rows;
  rows.take(0, 1, 3, lanes);
  pairwise::score_mods<T> mods;
  mods.begin(rules, {0, 0, 0, 0, 20, 20}, rows, 0, true, lanes, pairwise::lane_per_row{});
  const std::vector<T> raw = numbers(keys * lanes, 3);
  const auto scores_of = [&](const std::vector<T>& x, pairwise::score_slopes<T> slopes) {
    std::vector<T> s = x;
    slopes.scores = s.data();
    mods.apply(rules, {s.data(), lanes, 2, keys, 0, 1}, slopes);
    return s;
  };
  std::vector<T> cap(raw.size()), function(raw.size());
  const std::vector<T> s = scores_of(raw, {nullptr, cap.data(), function.data()});
  CHECK(s == scores_of(raw, {}));
  constexpr T h = 1e-6;
  std::vector<T> above = raw, below = raw;
  for (std::size_t i = 0; i < raw.size(); ++i) above[i] += h, below[i] -= h;
  const std::vector<T> a = scores_of(above, {}), b = scores_of(below, {});
  // raw scores are in units of the cap, results in units of log 2
  for (std::size_t i = 0; i < raw.size(); ++i)
    CHECK(std::abs((a[i] - b[i]) / (2 * h) * std::log(2.0) / 1.5 - cap[i] * function[i]) < 1e-7);
}

TEST_CASE("rows that hold NaN reach the keys that see them and no other", "[gradient]") {
  using T = float;
  constexpr index_t w = heed::simd::width<T>, dim = 20, keys = 70, rows = w;
  const heed::detail::input_tensor none{heed::tensor_view<const T, 4>()};
  std::vector<std::byte> bytes(1 << 20);
  heed::detail::arena memory(bytes, bytes.size());
  pairwise::tile_copy<T> x(dim, true, memory);
  pairwise::key_sums<T> sums(dim, keys, true, memory);
  std::vector<T> source(at(rows * dim)), weights(at(keys * rows));
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<T>(i % 7) - 3;
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<T>(i % 5);
  constexpr index_t lost = 1, column = 4;
  source[at(lost * dim + column)] = std::numeric_limits<T>::quiet_NaN();
  pairwise::row_pointers<const std::byte> at_rows;
  for (index_t l = 0; l < rows; ++l) at_rows[l] = reinterpret_cast<const std::byte*>(&source[at(l * dim)]);
  x.take(tile::row_format_of<T, T>, at_rows, rows);
  CHECK(!x.finite());
  static pairwise::seen_keys<T> seen;
  for (index_t j = 0; j < keys; ++j) {
    seen[j] = ~std::uint64_t{0};
    if (j % 3 == 0) seen[j] &= ~(std::uint64_t{1} << lost), weights[at(j * rows + lost)] = 0;
  }
  sums.begin(keys);
  sums.add_visible({weights.data(), rows, keys, rows}, {0, keys, 0, 1}, x, 0, seen);
  std::vector<T> out(at(keys * dim));
  sums.write(heed::bhsd(out.data(), index_t{1}, index_t{1}, keys, dim), {0, 0, 0, 0, rows, keys}, 0, 0, T(1));
  for (index_t j = 0; j < keys; ++j)
    for (index_t c = 0; c < dim; ++c) {
      T sum = 0;
      for (index_t l = 0; l < rows; ++l)
        if (l != lost || j % 3 != 0) sum += weights[at(j * rows + l)] * source[at(l * dim + c)];
      const T got = out[at(j * dim + c)];
      CHECK((std::isnan(sum) ? std::isnan(got) : std::abs(got - sum) <= 1e-3f));
      CHECK(std::isnan(got) == (c == column && j % 3 != 0));
    }
}

// dbias with the strides of a bias by distance adds up diagonals: it equals the full dbias, summed.
TEST_CASE("dbias adds up the pairs that share a number", "[gradient]") {
  constexpr index_t heads = 2, n = 70, m = 300, d = 8, distances = n + m - 1;
  const std::vector<double> q = numbers(heads * n * d, 1), k = numbers(heads * m * d, 2), v = numbers(heads * m * d, 3),
                            dout = numbers(heads * n * d, 4), table = numbers(heads * distances, 5);
  std::vector<double> o(q.size()), lse(at(heads * n)), full(at(heads * n * m)), sums(table.size(), 7), expanded;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < m; ++j) expanded.push_back(table[at(h * distances + i - j + m - 1)]);
  using heed::bhsd;
  const auto shared = [&](auto* x) {
    return heed::tensor_view<std::remove_pointer_t<decltype(x)>, 4>(x + m - 1, {1, heads, n, m}, {0, distances, 1, -1});
  };
  heed::softmax::options<double> opt{.mask = heed::causal(), .bias = shared(table.data())};
  opt.lse = heed::contiguous(lse.data(), {index_t{1}, heads, n});
  const auto Q = bhsd(q.data(), 1, heads, n, d), D = bhsd(dout.data(), 1, heads, n, d);
  const auto K = bhsd(k.data(), 1, heads, m, d), V = bhsd(v.data(), 1, heads, m, d);
  heed::softmax::forward(Q, K, V, bhsd(o.data(), 1, heads, n, d), opt);
  const workers pool{8};
  const auto O = bhsd(o.data(), 1, heads, n, d);
  heed::softmax::backward(Q, K, V, O, D, {.dbias = shared(sums.data())}, opt, {.executor = pool});
  opt.bias = heed::contiguous(expanded.data(), {index_t{1}, heads, n, m});
  heed::softmax::backward(Q, K, V, O, D, {.dbias = heed::contiguous(full.data(), {index_t{1}, heads, n, m})}, opt,
                          {.executor = pool});
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < m; ++j) sums[at(h * distances + i - j + m - 1)] -= full[at((h * n + i) * m + j)];
  for (const double rest : sums) CHECK(std::abs(rest) < 1e-12);
}

// Packed sequences of two query heads on one key/value head, with sinks; some rows have gate 0, some see no key.
TEST_CASE("lse that was not kept is computed once more", "[gradient]") {
  constexpr index_t heads = 2, n = 150, m = 320, d = 8;
  const std::vector<double> q = numbers(heads * n * d, 1), k = numbers(m * d, 2), v = numbers(m * d, 3),
                            dout = numbers(heads * n * d, 4), sinks = numbers(heads, 5);
  std::vector<double> gates(at(heads * n), 1), o(q.size()), lse(gates.size()), dq(q.size()), dk(k.size()),
      more(q.size()), keys(k.size()), dsinks(2), same(2);
  const std::vector<std::int32_t> queries{0, 100, n}, rows{0, 300, m};
  using heed::bhsd;
  const auto Q = bhsd(q.data(), 1, heads, n, d), D = bhsd(dout.data(), 1, heads, n, d);
  const auto K = bhsd(k.data(), 1, index_t{1}, m, d), V = bhsd(v.data(), 1, index_t{1}, m, d);
  const auto O = bhsd(o.data(), 1, heads, n, d), dQ = bhsd(dq.data(), 1, heads, n, d);
  const auto moreQ = bhsd(more.data(), 1, heads, n, d), dK = bhsd(dk.data(), 1, index_t{1}, m, d);
  const auto moreK = bhsd(keys.data(), 1, index_t{1}, m, d);
  heed::softmax::options<double> opt{.mask = heed::causal() & heed::packed(queries, rows), .sink_logits = sinks};
  opt.lse = heed::contiguous(lse.data(), {index_t{1}, heads, n});
  heed::softmax::options<double> bare = opt;
  bare.lse = {};
  const auto differ = [&] {
    double most = 0;
    for (std::size_t i = 0; i < dq.size(); ++i) most = std::max(most, std::abs(dq[i] - more[i]));
    for (std::size_t i = 0; i < dk.size(); ++i) most = std::max(most, std::abs(dk[i] - keys[i]));
    return most;
  };
  heed::softmax::forward(Q, K, V, O, opt);
  const auto of = [](std::vector<double>& x) { return heed::contiguous(x.data(), {index_t{2}}); };
  heed::softmax::backward(Q, K, V, O, D, {.dq = dQ, .dk = dK, .dsink_logits = of(dsinks)}, opt);
  heed::softmax::backward(Q, K, V, O, D, {.dq = moreQ, .dk = moreK, .dsink_logits = of(same)}, bare);
  CHECK(differ() < 1e-12);
  CHECK((std::abs(dsinks[0] - same[0]) < 1e-12 && std::abs(dsinks[0]) > 1e-3));

  for (std::size_t i = 0; i < gates.size(); i += 3) gates[i] = 0;
  const auto G = heed::contiguous(gates.data(), {index_t{1}, heads, n});
  heed::mixture_of_head::forward(Q, K, V, G, O, opt);
  heed::mixture_of_head::backward(Q, K, V, G, O, D, {.dq = dQ, .dk = dK}, opt);
  const workers pool{5};
  heed::mixture_of_head::backward(Q, K, V, G, O, D, {.dq = moreQ, .dk = moreK}, bare, {.executor = pool});
  CHECK(differ() < 1e-12);
}

TEST_CASE("passes are chosen by heads and workers", "[gradient]") {
  const std::string one = "backward: one pass over blocks of keys";
  const std::string two = "backward: two passes, by rows and by blocks of keys";
  CHECK(plan_of(1, 1, 4096, 1).path == one);
  CHECK(plan_of(1, 1, 4096, 2).path == two);
  CHECK(plan_of(1, 1, 4096, 2).tasks > 8);
  CHECK(plan_of(2, 4, 512, 2).path == one);
  CHECK(plan_of(2, 4, 512, 2).tasks == 8);
  CHECK(plan_of(1, 3, 1024, 2).path == one);  // 2 of 3 thirds, or 7/5 of a half
  CHECK(plan_of(1, 4, 1024, 3).path == two);
  CHECK(plan_of(1, 4, 1024, 3, false).path == std::string("backward: by rows"));
}
