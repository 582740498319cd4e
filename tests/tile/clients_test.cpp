// SPDX-License-Identifier: BSD-3-Clause
// The calls of tile/ are enough for the kernels to come: one tile of each, beside plain loops in double.

#include <cmath>
#include <random>
#include <vector>

#include "heed/tile/pack.hpp"
#include "heed/tile/positions.hpp"
#include "heed/tile/weights.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;
namespace simd = heed::simd;

constexpr index_t lanes = tile::max_lanes<float>, keys = 29, d = 20, e = 32;
constexpr double log2e = 1.4426950408889634;

std::vector<float> normal(index_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> number;
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = number(random);
  return x;
}
std::vector<float> zeros(index_t count) { return std::vector<float>(static_cast<std::size_t>(count), 0.0f); }

double at(const std::vector<float>& x, index_t i) { return static_cast<double>(x[static_cast<std::size_t>(i)]); }
void close(const std::vector<float>& x, index_t i, double expected) {
  REQUIRE(std::abs(at(x, i) - expected) <= 2e-4 * (1 + std::abs(expected)));
}

std::vector<float> packed(const std::vector<float>& rows, index_t width, float factor = 1) {
  std::vector<const float*> pointers;
  for (index_t l = 0; l < lanes; ++l) pointers.push_back(rows.data() + l * width);
  std::vector<float> out = zeros(width * lanes);
  tile::gather(pointers.data(), lanes, width, factor, out.data(), lanes);
  return out;
}

double dot(const std::vector<float>& x, index_t i, const std::vector<float>& y, index_t j, index_t width) {
  double sum = 0;
  for (index_t c = 0; c < width; ++c) sum += at(x, i * width + c) * at(y, j * width + c);
  return sum;
}

void multiply(tile::matrix_product<float> p,
              index_t width = lanes) {  // any number of lanes, in columns of the widest block
  for (index_t first = 0; first < width; first += lanes) {
    const index_t vectors = std::min(lanes, width - first) / simd::width<float>;
    tile::multiply<float>(p, vectors);
    p.b += lanes, p.c += lanes;
    if (p.factor != nullptr) p.factor += lanes;
  }
}

}  // namespace

TEST_CASE("local linear: one iteration of conjugate gradients", "[tile]") {
  const auto q = normal(lanes * d, 1), k = normal(keys * d, 2), mean = normal(lanes * d, 3), y = normal(lanes * d, 4);
  const double ridge = 0.1;
  auto p = zeros(keys * lanes), t = zeros(keys * lanes), cy = zeros(d * lanes), et = zeros(lanes), shift = zeros(lanes);
  std::vector<float> m(lanes, std::numeric_limits<float>::lowest()), l = zeros(lanes), factor = zeros(lanes);
  const auto q_lanes = packed(q, d, static_cast<float>(log2e)), y_lanes = packed(y, d);
  // p = softmax(k q), t = k y
  multiply({.a = k.data(),
            .a_row = d,
            .a_col = 1,
            .b = q_lanes.data(),
            .b_row = lanes,
            .c = p.data(),
            .c_row = lanes,
            .rows = keys,
            .depth = d});
  tile::online_softmax(p.data(), lanes, keys, tile::max_vectors, m.data(), l.data(), factor.data());
  multiply({.a = k.data(),
            .a_row = d,
            .a_col = 1,
            .b = y_lanes.data(),
            .b_row = lanes,
            .c = t.data(),
            .c_row = lanes,
            .rows = keys,
            .depth = d});
  for (index_t i = 0; i < lanes; ++i) shift[static_cast<std::size_t>(i)] = static_cast<float>(dot(mean, i, y, i, d));
  // p t with t centred, then sum p t k and sum p t
  tile::product(t.data(), p.data(), lanes, keys, lanes, shift.data());
  const float one = 1;
  multiply({.a = k.data(),
            .a_row = 1,
            .a_col = d,
            .b = t.data(),
            .b_row = lanes,
            .c = cy.data(),
            .c_row = lanes,
            .rows = d,
            .depth = keys});
  multiply({.a = &one,
            .a_row = 0,
            .a_col = 0,
            .b = t.data(),
            .b_row = lanes,
            .c = et.data(),
            .c_row = lanes,
            .rows = 1,
            .depth = keys});

  for (index_t i = 0; i < lanes; ++i) {
    std::vector<double> weight;
    double total = 0, mean_t = 0;
    for (index_t j = 0; j < keys; ++j) total += weight.emplace_back(std::exp(dot(k, j, q, i, d)));
    const auto centred = [&](index_t j) { return dot(k, j, y, i, d) - dot(mean, i, y, i, d); };
    for (index_t j = 0; j < keys; ++j) mean_t += weight[static_cast<std::size_t>(j)] / total * centred(j);
    for (index_t c = 0; c < d; ++c) {
      double sum = 0;
      for (index_t j = 0; j < keys; ++j)
        sum += weight[static_cast<std::size_t>(j)] / total * centred(j) * at(k, j * d + c);
      const double expected = sum - mean_t * at(mean, i * d + c) + ridge * at(y, i * d + c);
      const double got =
          (at(cy, c * lanes + i) - at(et, i) * at(mean, i * d + c)) / at(l, i) + ridge * at(y, i * d + c);
      REQUIRE(std::abs(got - expected) <= 2e-4 * (1 + std::abs(expected)));
    }
  }
}

TEST_CASE("lightning: one block with decay", "[tile]") {
  const double lambda = 0.9;
  const auto q = normal(lanes * d, 5), k = normal(lanes * d, 6), v = normal(lanes * e, 7), before = normal(d * e, 8);
  auto s = zeros(lanes * lanes), o = zeros(e * lanes), state = before, k_decayed = k;
  std::vector<float> power(static_cast<std::size_t>(2 * lanes), 0.0f), read(static_cast<std::size_t>(lanes)),
      keep(static_cast<std::size_t>(e));
  for (index_t i = 0; i < lanes; ++i) {  // power[lanes + n] = lambda^n, 0 for n < 0
    power[static_cast<std::size_t>(lanes + i)] = static_cast<float>(std::pow(lambda, i));
    read[static_cast<std::size_t>(i)] = static_cast<float>(std::pow(lambda, i + 1));
    for (index_t c = 0; c < d; ++c)
      k_decayed[static_cast<std::size_t>(i * d + c)] *= static_cast<float>(std::pow(lambda, lanes - 1 - i));
  }
  std::fill(keep.begin(), keep.end(), static_cast<float>(std::pow(lambda, lanes)));
  const auto q_lanes = packed(q, d);
  // s = k q, decayed; o = lambda^(i + 1) S q + V s; S = lambda^C S + sum lambda^(C - 1 - j) k v
  multiply({.a = k.data(),
            .a_row = d,
            .a_col = 1,
            .b = q_lanes.data(),
            .b_row = lanes,
            .c = s.data(),
            .c_row = lanes,
            .rows = lanes,
            .depth = d});
  tile::decay(s.data(), lanes, lanes, lanes, power.data(), lanes);
  multiply({.a = state.data(),
            .a_row = 1,
            .a_col = e,
            .b = q_lanes.data(),
            .b_row = lanes,
            .c = o.data(),
            .c_row = lanes,
            .rows = e,
            .depth = d});
  multiply({.a = v.data(),
            .a_row = 1,
            .a_col = e,
            .b = s.data(),
            .b_row = lanes,
            .c = o.data(),
            .c_row = lanes,
            .rows = e,
            .depth = lanes,
            .start = tile::start::scale,
            .factor = read.data()});
  multiply({.a = k_decayed.data(),
            .a_row = 1,
            .a_col = d,
            .b = v.data(),
            .b_row = e,
            .c = state.data(),
            .c_row = e,
            .rows = d,
            .depth = lanes,
            .start = tile::start::scale,
            .factor = keep.data()},
           e);

  std::vector<double> running(static_cast<std::size_t>(d * e));
  for (index_t x = 0; x < d * e; ++x) running[static_cast<std::size_t>(x)] = at(before, x);
  for (index_t i = 0; i < lanes; ++i)
    for (index_t c = 0; c < e; ++c) {
      double expected = 0;
      for (index_t x = 0; x < d; ++x) {
        double& cell = running[static_cast<std::size_t>(x * e + c)];
        cell = lambda * cell + at(k, i * d + x) * at(v, i * e + c);
        expected += at(q, i * d + x) * cell;
      }
      close(o, c * lanes + i, expected);
    }
  for (index_t x = 0; x < d * e; ++x) close(state, x, running[static_cast<std::size_t>(x)]);
}

TEST_CASE("mixture of head: a tile of gathered queries, each with its own place", "[tile]") {
  const index_t tokens = 3 * lanes;
  const auto q = normal(tokens * d, 9), k = normal(tokens * d, 10), v = normal(tokens * e, 11);
  std::vector<index_t> active;
  for (index_t i = 0; static_cast<index_t>(active.size()) < lanes; i += 1 + i % 3) active.push_back(i);
  const auto gate = [](index_t i) { return 0.5 + 0.01 * static_cast<double>(i); };
  std::vector<const float*> from;
  std::vector<float*> to;
  auto o = zeros(tokens * e), q_lanes = zeros(d * lanes), s = zeros(tokens * lanes), acc = zeros(e * lanes);
  std::vector<float> m(lanes, std::numeric_limits<float>::lowest()), l = zeros(lanes), factor = zeros(lanes),
                                                                     lo = zeros(lanes), hi;
  for (const index_t i : active) {
    from.push_back(q.data() + i * d), to.push_back(o.data() + i * e);
    hi.push_back(static_cast<float>(i + 1));  // causal
  }
  tile::gather(from.data(), lanes, d, static_cast<float>(log2e), q_lanes.data(), lanes);
  multiply({.a = k.data(),
            .a_row = d,
            .a_col = 1,
            .b = q_lanes.data(),
            .b_row = lanes,
            .c = s.data(),
            .c_row = lanes,
            .rows = tokens,
            .depth = d});
  for (index_t x = 0; x < lanes; x += simd::width<float>)
    tile::hide(s.data() + x, lanes, 0, tokens, lo.data() + x, hi.data() + x, 0.0f);
  tile::online_softmax(s.data(), lanes, tokens, tile::max_vectors, m.data(), l.data(), factor.data());
  multiply({.a = v.data(),
            .a_row = 1,
            .a_col = e,
            .b = s.data(),
            .b_row = lanes,
            .c = acc.data(),
            .c_row = lanes,
            .rows = e,
            .depth = tokens});
  for (index_t i = 0; i < lanes; ++i)
    factor[static_cast<std::size_t>(i)] = static_cast<float>(gate(active[static_cast<std::size_t>(i)]) / at(l, i));
  tile::scatter(acc.data(), lanes, factor.data(), to.data(), lanes, e);

  for (index_t i = 0; i < tokens; ++i) {
    const bool computed = std::find(active.begin(), active.end(), i) != active.end();
    for (index_t c = 0; c < e; ++c) {
      double sum = 0, total = 0;
      for (index_t j = 0; j <= i; ++j) {
        const double p = std::exp(dot(k, j, q, i, d));
        total += p, sum += p * at(v, j * e + c);
      }
      close(o, i * e + c, computed ? gate(i) * sum / total : 0);
    }
  }
}

TEST_CASE("softmax backward: one tile of dq and dv", "[tile]") {
  const auto q = normal(lanes * d, 12), k = normal(keys * d, 13), v = normal(keys * e, 14),
             dout = normal(lanes * e, 15);
  const auto lse = normal(lanes, 16), delta = normal(lanes, 17);
  auto p = zeros(keys * lanes), ds = zeros(keys * lanes), dq = zeros(d * lanes), dv = zeros(keys * e), lse2 = lse;
  for (float& x : lse2) x *= static_cast<float>(log2e);
  const auto q_lanes = packed(q, d, static_cast<float>(log2e)), dout_lanes = packed(dout, e);
  // p = exp(k q - lse), ds = p (v dout - delta), dq = K^T ds, dv = p^T dout
  multiply({.a = k.data(),
            .a_row = d,
            .a_col = 1,
            .b = q_lanes.data(),
            .b_row = lanes,
            .c = p.data(),
            .c_row = lanes,
            .rows = keys,
            .depth = d});
  tile::known_lse(p.data(), lanes, keys, lanes, lse2.data());
  multiply({.a = v.data(),
            .a_row = e,
            .a_col = 1,
            .b = dout_lanes.data(),
            .b_row = lanes,
            .c = ds.data(),
            .c_row = lanes,
            .rows = keys,
            .depth = e});
  tile::product(ds.data(), p.data(), lanes, keys, lanes, delta.data());
  multiply({.a = k.data(),
            .a_row = 1,
            .a_col = d,
            .b = ds.data(),
            .b_row = lanes,
            .c = dq.data(),
            .c_row = lanes,
            .rows = d,
            .depth = keys});
  multiply({.a = p.data(),
            .a_row = lanes,
            .a_col = 1,
            .b = dout.data(),
            .b_row = e,
            .c = dv.data(),
            .c_row = e,
            .rows = keys,
            .depth = lanes},
           e);

  const auto weight = [&](index_t i, index_t j) { return std::exp(dot(k, j, q, i, d) - at(lse, i)); };
  for (index_t i = 0; i < lanes; ++i)
    for (index_t c = 0; c < d; ++c) {
      double expected = 0, size = 0;
      for (index_t j = 0; j < keys; ++j) {
        const double term = weight(i, j) * (dot(v, j, dout, i, e) - at(delta, i)) * at(k, j * d + c);
        expected += term, size += std::abs(term);
      }
      REQUIRE(std::abs(at(dq, c * lanes + i) - expected) <= 2e-5 * (1 + size));
    }
  for (index_t j = 0; j < keys; ++j)
    for (index_t c = 0; c < e; ++c) {
      double expected = 0, size = 0;
      for (index_t i = 0; i < lanes; ++i)
        expected += weight(i, j) * at(dout, i * e + c), size += std::abs(weight(i, j) * at(dout, i * e + c));
      REQUIRE(std::abs(at(dv, j * e + c) - expected) <= 2e-5 * (1 + size));
    }
}
