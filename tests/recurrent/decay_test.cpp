// SPDX-License-Identifier: BSD-3-Clause

// Decay inside a chunk against products of its factors in long double.

#include "heed/recurrent/decay.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::index_t;
namespace recurrent = heed::recurrent;
namespace simd = heed::simd;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T> constexpr long double smallest = std::numeric_limits<T>::min();

// W(i, j) of a chunk whose factors are lambda[0], lambda[1], ...; j = -1: from before it. reset: some factor of it is 0
struct weight {
  long double value = 1;
  bool reset = false;
};
weight product(const std::vector<long double>& lambda, index_t i, index_t j) {
  weight w;
  for (index_t t = j + 1; t <= i; ++t) w.value *= lambda[at(t)], w.reset = w.reset || lambda[at(t)] == 0;
  return w;
}

// Relative error: that of exp2, of its argument, and of n factors in double. Both sides of the smallest normal number
// may be 0.
template <class T> bool near(T got, const weight& w, index_t n) {
  const long double eps = std::numeric_limits<T>::epsilon(), wide = std::numeric_limits<double>::epsilon();
  if (w.reset) return got == T(0);
  const long double size = w.value > smallest<T> ? -std::log2(w.value) : 0;
  return std::abs(static_cast<long double>(got) - w.value) <=
         w.value * (eps * (4 + size) + wide * static_cast<long double>(n)) + 2 * smallest<T>;
}

// Scores of the blocks that chunk_output makes of a chunk: what hides a pair leaves exactly 0, of NaN too.
template <class T>
bool right_scores(const recurrent::chunk_decay<T>& decay, const std::vector<long double>& lambda, index_t at_lane,
                  index_t key, index_t keys, index_t lanes) {
  constexpr index_t w = simd::width<T>;
  const index_t n = static_cast<index_t>(lambda.size()), whole = tile::whole_vectors<T>(lanes), stride = whole + w;
  heed_test::aligned_numbers<T> scores(keys * stride);
  heed_test::random_numbers random(5);
  std::vector<T> before;
  for (index_t i = 0; i < keys * stride; ++i) before.push_back(static_cast<T>(random.normal()));
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; ++l)
      if (key + j > at_lane + l || product(lambda, at_lane + l, key + j).reset)
        before[at(j * stride + l)] = (j + l) % 2 == 0 ? infinity<T> : std::numeric_limits<T>::quiet_NaN();
  std::copy(before.begin(), before.end(), scores.data());
  decay.apply_diag_decay(tile::lane_block<T>{scores.data(), stride, keys, whole}, key, at_lane);
  bool right = true;
  for (index_t j = 0; j < keys; ++j) {
    for (index_t l = 0; l < lanes && at_lane + l < n; ++l) {
      const T got = scores[j * stride + l], score = before[at(j * stride + l)];
      const bool later = key + j > at_lane + l;
      const weight x = later ? weight{0, true} : product(lambda, at_lane + l, key + j);
      if (x.reset) {
        right = right && got == T(0) && !decay.sees(at_lane + l, key + j);
      } else {
        const long double size = x.value > smallest<T> ? -std::log2(x.value) : 0, wide = 1e-13L;
        const long double bound = std::numeric_limits<T>::epsilon() * (4 + size) + wide;
        right = right && std::abs(static_cast<long double>(got) - static_cast<long double>(score) * x.value) <=
                             std::abs(static_cast<long double>(score)) * (x.value * bound + 2 * smallest<T>);
        right = right && (x.value < 2 * smallest<T> || decay.sees(at_lane + l, key + j));
      }
    }
    for (index_t l = whole; l < stride; ++l) right = right && scores[j * stride + l] == before[at(j * stride + l)];
  }
  return right;
}

// One chunk after begin_chunk
template <class T> void check_chunk(const recurrent::chunk_decay<T>& decay, const std::vector<long double>& lambda) {
  constexpr index_t w = simd::width<T>, diagonal = w < 8 ? 8 : w;
  const index_t n = static_cast<index_t>(lambda.size());
  INFO("tokens " << n);
  bool q_right = true, k_right = true, kept_right = true, scores_right = true;
  if (decay.decays()) {
    for (index_t i = 0; i < n; ++i) q_right = q_right && near(decay.q_decay(0)[i], product(lambda, i, -1), n);
    for (index_t j = 0; j < n; ++j) k_right = k_right && near(decay.k_decay()[j], product(lambda, n - 1, j), n);
    for (index_t j = 0; j < n; ++j) kept_right = kept_right && (j < decay.first_kept()) <= (decay.k_decay()[j] == T(0));
    CHECK(decay.k_decay()[decay.first_kept()] != T(0));
    CHECK(decay.k_decay()[n - 1] == T(1));
  } else {
    CHECK(decay.first_kept() == 0);
  }
  CHECK(q_right);
  CHECK(k_right);
  CHECK(kept_right);
  CHECK(near(decay.block_decay(), product(lambda, n - 1, -1), n));
  const bool zero = std::any_of(lambda.begin(), lambda.end(), [](long double x) { return x == 0; });
  CHECK((!zero || decay.has_reset()));
  for (index_t tile_at = 0; tile_at < n; tile_at += tile::max_lanes<T>) {
    const index_t lanes = std::min(tile::max_lanes<T>, n - tile_at);
    for (index_t j = 0; j < tile_at; j += 20)
      scores_right = scores_right && right_scores(decay, lambda, tile_at, j, std::min<index_t>(20, tile_at - j), lanes);
    for (index_t j = 0; j < lanes; j += diagonal)
      scores_right = scores_right && right_scores(decay, lambda, tile_at + j / w * w, tile_at + j,
                                                  std::min(diagonal, lanes - j), lanes - j / w * w);
  }
  CHECK(scores_right);
}

// Chunks of a sequence, the last of them partial
template <class T>
void check_sequence(const recurrent::recurrence<T>& p, index_t state, index_t chunk,
                    const std::vector<long double>& lambda) {
  heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, chunk);
  const recurrent::sequence s = p.sequence_at(0);
  decay.part.begin_state(s, state);
  for (index_t first = 0; first < s.keys; first += chunk) {
    const index_t n = std::min(chunk, s.keys - first);
    decay.part.begin_chunk(first, n);
    check_chunk(decay.part, std::vector<long double>(lambda.begin() + first, lambda.begin() + first + n));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("chunk_decay of slopes is a product of equal factors", "[decay]", float, double) {
  using T = TestType;
  for (const double slope : {0.0, 0.003, 0.3, 5.0, 90.0, 1000.0, infinity<double>})
    for (const index_t chunk : {1, 7, 32, 75}) {
      INFO("slope " << slope << " chunk " << chunk);
      heed_test::recurrent_problem<T> x({.queries = 160, .keys = 160});
      const std::vector<double> slopes{slope};
      x.decay.slopes = heed::per_head(slopes), x.decays = true;
      const auto p = x.problem();
      // Powers below the smallest normal number are a reset: what they weigh is hidden.
      check_sequence(p, 0, chunk, std::vector<long double>(160, std::exp(-slope)));
      heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, chunk);
      decay.part.begin_state(p.sequence_at(0), 0);
      decay.part.begin_chunk(0, chunk);
      CHECK(decay.part.decays() == (slope > 0));
      const bool vanishes = std::exp(-static_cast<long double>(slope) * static_cast<long double>(chunk)) < smallest<T>;
      CHECK(decay.part.has_reset() == vanishes);
    }
}

TEMPLATE_TEST_CASE("chunk_decay of gates is the product of their factors; -inf is a reset", "[decay]", float, double) {
  using T = TestType;
  for (const int kind : {0, 1, 2, 3})  // small gates; large ones; resets; all -inf
    for (const index_t chunk : {1, 7, 32, 75}) {
      INFO("kind " << kind << " chunk " << chunk);
      heed_test::recurrent_problem<T> x({.heads = 3, .kv_heads = 3, .states = 3, .queries = 160, .keys = 160});
      auto gates = heed_test::buffer<T>::input({1, 3, 160, 1}, heed_test::layout::bshd);
      heed_test::random_numbers random(17);
      gates.each([&](T& g) {
        g = static_cast<T>((kind == 1 ? -40.0 : -0.3) * random.uniform());
        if (kind == 3 || (kind == 2 && random.below(9) == 0)) g = -infinity<T>;
      });
      x.decay.log_gates = gates.view3(), x.decay.gated = true, x.decays = true;
      std::vector<long double> lambda;
      for (index_t t = 0; t < 160; ++t) lambda.push_back(std::exp(static_cast<long double>(gates(0, 2, t))));
      check_sequence(x.problem(), 2, chunk, lambda);
    }
}

TEMPLATE_TEST_CASE("differences of large sums of gates keep their digits", "[decay]", float, double) {
  using T = TestType;
  heed_test::recurrent_problem<T> x({.queries = 64, .keys = 64});
  auto gates = heed_test::buffer<T>::input({1, 1, 64, 1});
  for (index_t t = 0; t < 64; ++t) gates(0, 0, t) = t == 0 ? T(-80) : T(-0.001);  // W(i, j) of later tokens is about 1
  x.decay.log_gates = gates.view3(), x.decay.gated = true, x.decays = true;
  const auto p = x.problem();
  heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, index_t{64});
  decay.part.begin_state(p.sequence_at(0), 0);
  decay.part.begin_chunk(0, 64);
  CHECK_FALSE(decay.part.has_reset());
  for (index_t j = 1; j < 64; ++j)
    CHECK(static_cast<double>(decay.part.k_decay()[j]) ==
          Approx(std::exp(static_cast<double>(T(-0.001)) * static_cast<double>(63 - j)))
              .epsilon(4 * std::numeric_limits<T>::epsilon()));
}

TEMPLATE_TEST_CASE("decay_by_powers reads the power of each distance", "[decay]", float, double) {
  using T = TestType;
  const index_t lanes = 2 * simd::width<T>, keys = 9, stride = lanes + simd::width<T>;
  heed_test::aligned_numbers<T> s(keys * stride);
  std::vector<T> power, before;
  for (index_t i = 0; i < keys - 1 + lanes; ++i) power.push_back(static_cast<T>(i + 1));
  for (index_t i = 0; i < keys * stride; ++i) before.push_back(static_cast<T>(i % 7 - 3)), s[i] = before.back();
  recurrent::decay_by_powers(tile::lane_block<T>{s.data(), stride, keys, lanes}, power.data() + keys - 1);
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < stride; ++l) {
      const T x = before[at(j * stride + l)];
      CHECK(s[j * stride + l] == (l < lanes ? x * static_cast<T>(keys + l - j) : x));
    }
}
