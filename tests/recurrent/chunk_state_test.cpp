// SPDX-License-Identifier: BSD-3-Clause

// The state after chunks of tokens against a loop over tokens, features and columns in double.

#include "heed/recurrent/chunk_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::feature;
using heed::index_t;
namespace recurrent = heed::recurrent;
namespace tile = heed::tile;
using heed_test::recurrent_problem;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();

// What a state is compared with, and how large the terms of its sums are
struct expected {
  std::vector<double> s, s_size, z, z_size;
};

std::vector<double> features_of(const std::vector<double>& k, bool taylor) {
  if (!taylor) return k;
  std::vector<double> y{1};
  y.insert(y.end(), k.begin(), k.end());
  for (const double a : k)
    for (const double b : k) y.push_back(a * b / std::sqrt(2.0));
  return y;
}

// Head `head` of the state of sequence `number`, after all its keys
template <class T> expected loop(const recurrent_problem<T>& x, index_t number, index_t head, bool initial) {
  const auto count = at(x.features * x.s.e);
  const std::vector<double> no_s(count, 0.0), no_z(at(x.features), 0.0);
  expected out{no_s, no_s, no_z, no_z};
  const bool taylor = heed::detail::parts(x.options.feature).built_in == feature::taylor;
  const index_t kv_head = head * x.s.kv_heads / x.s.states;
  for (index_t f = 0; f < x.features && initial; ++f) {
    out.z[at(f)] = double(x.z0(number, head, f)), out.z_size[at(f)] = std::abs(out.z[at(f)]);
    for (index_t c = 0; c < x.s.e; ++c) {
      const double s = double(x.s0(number, head, f, c));
      out.s[at(f * x.s.e + c)] = s, out.s_size[at(f * x.s.e + c)] = std::isfinite(s) ? std::abs(s) : 0;
    }
  }
  for (index_t j = 0; j < x.s.keys; ++j) {
    double lambda = 1;
    const heed::tensor_view<const T, 3>& gates = x.decay.log_gates;
    if (x.decays && x.decay.gated)
      lambda = std::exp(double(gates.data()[head * gates.stride(1) + j * gates.stride(2)]));
    if (x.decays && !x.decay.gated) lambda = std::exp(-x.decay.slopes.at(head));
    std::vector<double> k;
    for (index_t d = 0; d < x.s.d; ++d) k.push_back(double(x.k(number, kv_head, j, d)));
    const std::vector<double> phi = features_of(k, taylor);
    for (index_t f = 0; f < x.features; ++f) {
      out.z[at(f)] += phi[at(f)], out.z_size[at(f)] += std::abs(phi[at(f)]);
      for (index_t c = 0; c < x.s.e; ++c) {
        const double v = double(x.v(number, kv_head, j, c));
        double &s = out.s[at(f * x.s.e + c)], &size = out.s_size[at(f * x.s.e + c)];
        s = lambda == 0 ? 0 : lambda * s, size = lambda == 0 ? 0 : lambda * size;  // a reset removes even NaN
        s += phi[at(f)] * v, size += std::abs(phi[at(f)] * v);
      }
    }
  }
  return out;
}

// All tokens in chunks, as chunk_driver hands them over: values in whole vectors
template <class T>
void run_chunks(const recurrent::recurrence<T>& p, const recurrent::chunk_task& task, index_t chunk) {
  const recurrent::chunk_sizes sizes{chunk, task.columns, 1};
  const heed_test::with_scratch<recurrent::chunk_features<T>> features(p, chunk);
  heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, chunk);
  heed::detail::arena counting;
  static_cast<void>(recurrent::chunk_state<T>(p, task, sizes, counting));
  std::vector<std::byte> bytes(counting.needed(), std::byte{0xff});
  heed::detail::arena memory(bytes, bytes.size());
  recurrent::chunk_state<T> state(p, task, sizes, memory);
  tile::prefetch_queue<T> prefetch;
  decay.part.begin_state(task.sequence, task.state);
  state.begin(task.state);
  CHECK(state.empty() == (p.before.s.data() == nullptr));
  const index_t stride = tile::whole_vectors<T>(task.columns), kv_head = task.state / p.states_per_kv_head;
  const heed_test::aligned_numbers<T> values(chunk * stride);
  for (index_t first = 0; first < task.sequence.keys; first += chunk) {
    const index_t n = std::min(chunk, task.sequence.keys - first);
    for (index_t j = 0; j < n; ++j)
      for (index_t c = 0; c < stride; ++c)
        values[j * stride + c] =
            c < task.columns ? tile::row_as<T>(p.value(task.sequence, kv_head, first + j))[task.column + c] : T(0);
    decay.part.begin_chunk(first, n);
    prefetch.clear();
    const std::byte* const key = p.key(task.sequence, kv_head, first);
    // any rows: no bit may change
    prefetch.set(1, {key, p.k.row_bytes(), n, p.d * p.k.element_bytes()}, true);
    state.update({{tile::row_as<T>(key), p.k.stride(2), n, p.d}, {values.data(), stride, n, task.columns}},
                 features.part, decay.part, prefetch);
  }
  CHECK(state.empty() == (p.before.s.data() == nullptr && task.sequence.keys == 0));
  state.end();
}

template <class T> void check_state(recurrent_problem<T>& x, index_t columns, index_t chunk, bool initial) {
  INFO("chunk " << chunk << " columns " << columns << " initial " << initial);
  if (initial) x.options.initial_state = {x.s0.cview(), x.z0.view3()};
  x.options.final_state = {x.s1.view(), x.z1.view3()};
  x.s1.poison(), x.z1.poison();
  const auto p = x.problem();
  const index_t number = x.s.batch - 1, head = x.s.states - 1;
  for (index_t column = 0; column < x.s.e; column += columns)
    run_chunks(p, {p.sequence_at(number), head, 1, column, std::min(columns, x.s.e - column)}, chunk);
  const expected want = loop(x, number, head, initial);
  const double tolerance = (20 + 2 * double(x.s.keys)) * double(std::numeric_limits<T>::epsilon());
  bool right = true, z_right = true;
  for (index_t f = 0; f < x.features; ++f) {
    z_right = z_right && (!p.normalize || std::abs(double(x.z1(number, head, f)) - want.z[at(f)]) <=
                                              tolerance * want.z_size[at(f)] + 1e-30);
    for (index_t c = 0; c < x.s.e; ++c)
      right = right && std::abs(double(x.s1(number, head, f, c)) - want.s[at(f * x.s.e + c)]) <=
                           tolerance * want.s_size[at(f * x.s.e + c)] + 1e-30;
  }
  CHECK(right);
  CHECK(z_right);
  CHECK(x.s1.canaries_alive());
  index_t written = 0;  // of other sequences and heads: none
  x.s1.each([&](T v) { written += std::isnan(v) ? 0 : 1; });
  CHECK(written == x.features * x.s.e);
}

template <class T> heed::linear::options<T> with_map(feature map, bool normalize) {
  heed::linear::options<T> options;
  options.feature = map, options.normalize = normalize;
  return options;
}

}  // namespace

TEMPLATE_TEST_CASE("a state without decay is a sum, in whole and in blocks of columns", "[chunk_state]", float,
                   double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  for (const bool normalize : {false, true})
    for (const index_t e : {index_t{1}, w, 3 * w + 1, 7 * w})
      for (const bool initial : {false, true})
        for (const index_t chunk : {5, 24, 64}) {
          recurrent_problem<T> x({.batch = 2, .kv_heads = 2, .states = 2, .queries = 50, .keys = 50, .d = 13, .e = e},
                                 with_map<T>(feature::identity, normalize));
          check_state(x, e, chunk, initial);
          if (e > w) check_state(x, 2 * w, chunk, initial);
        }
}

TEMPLATE_TEST_CASE("a state of taylor features", "[chunk_state]", float, double) {
  using T = TestType;
  for (const index_t d : {1, 6, 40}) {
    recurrent_problem<T> x({.queries = 30, .keys = 30, .d = d, .e = 9}, with_map<T>(feature::taylor, true));
    check_state(x, 9, 16, true);
  }
}

TEMPLATE_TEST_CASE("a state with slopes: each head of the state has its own", "[chunk_state]", float, double) {
  using T = TestType;
  for (const double slope : {0.0, 0.02, 3.0, 200.0, infinity<double>})
    for (const index_t chunk : {1, 20, 64}) {
      recurrent_problem<T> x({.heads = 4, .kv_heads = 2, .states = 4, .queries = 70, .keys = 70, .d = 18, .e = 21},
                             with_map<T>(feature::identity, false));
      const std::vector<double> slopes{7, 7, 7, slope};
      x.decay.slopes = heed::per_head(slopes), x.decays = true;
      check_state(x, 21, chunk, true);
    }
}

TEMPLATE_TEST_CASE("a state with gates: a reset leaves nothing of what was before it", "[chunk_state]", float, double) {
  using T = TestType;
  for (const index_t reset : {-1, 0, 19, 20, 41, 69})
    for (const index_t chunk : {1, 20, 64}) {
      INFO("reset " << reset);
      recurrent_problem<T> x({.queries = 70, .keys = 70, .d = 18, .e = 21}, with_map<T>(feature::identity, false));
      auto gates = heed_test::buffer<T>::input({1, 1, 70, 1});
      heed_test::random_numbers random(8);
      gates.each([&](T& g) { g = static_cast<T>(-0.2 * random.uniform()); });
      if (reset >= 0) {
        gates(0, 0, reset) = -infinity<T>;
        x.s0(0, 0, 3, 4) = std::numeric_limits<T>::quiet_NaN();
        if (reset > 0) x.v(0, 0, reset - 1, 2) = infinity<T>, x.k(0, 0, 0, 1) = std::numeric_limits<T>::quiet_NaN();
      }
      x.decay.log_gates = gates.view3(), x.decay.gated = true, x.decays = true;
      check_state(x, 21, chunk, true);
    }
}

TEMPLATE_TEST_CASE("no token: the final state is the initial one, or zeros", "[chunk_state]", float, double) {
  using T = TestType;
  recurrent_problem<T> x({.queries = 0, .keys = 0, .d = 5, .e = 9}, with_map<T>(feature::identity, true));
  check_state(x, 9, 8, false);
  check_state(x, 9, 8, true);
}

TEMPLATE_TEST_CASE("z comes from the task of the first columns alone", "[chunk_state]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  recurrent_problem<T> x({.queries = 10, .keys = 10, .d = 5, .e = 2 * w}, with_map<T>(feature::identity, true));
  x.options.final_state = {x.s1.view(), x.z1.view3()};
  const auto p = x.problem();
  run_chunks(p, {p.sequence_at(0), 0, 1, w, w}, 8);
  CHECK(x.z1.untouched());
  run_chunks(p, {p.sequence_at(0), 0, 1, 0, w}, 8);
  CHECK_FALSE(std::isnan(x.z1(0, 0, 4)));
}
