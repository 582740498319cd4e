// SPDX-License-Identifier: BSD-3-Clause

// What backward's sweeps are made of: states with ends of their own, gradients of gates, the cut into tasks.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "heed/recurrent/backward_partition.hpp"
#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::index_t;
namespace recurrent = heed::recurrent;
namespace simd = heed::simd;
namespace tile = heed::tile;
using heed_test::recurrent_problem;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
// Of sums of about ten products of normal numbers, weighted up to 4
template <class T> constexpr double bound = 100 * double(std::numeric_limits<T>::epsilon());

// Rows of random numbers, in whole vectors
template <class T> struct random_rows {
  index_t stride;
  heed_test::aligned_numbers<T> numbers;
  tile::lane_block<const T> rows;

  random_rows(index_t count, index_t dim, std::uint32_t seed)
      : stride(tile::whole_vectors<T>(dim)), numbers(count * stride), rows{numbers.data(), stride, count, dim} {
    heed_test::random_numbers random(seed);
    for (index_t i = 0; i < count * stride; ++i) numbers[i] = i % stride < dim ? static_cast<T>(random.normal()) : T(0);
  }
};

// A problem of backward over one of forward, by slopes or gates of `decay`
template <class T> struct backward_case {
  recurrent_problem<T> x;
  heed_test::buffer<T> dgates;
  std::vector<T> dslopes;
  heed::lightning::gradients<T> asked = {};

  explicit backward_case(const heed_test::recurrent_shape& s)
      : x(s, options()),
        dgates(heed_test::buffer<T>::output({s.batch, s.states, s.queries, 1})),
        dslopes(at(s.states)) {}

  static heed::linear::options<T> options() {
    heed::linear::options<T> how;
    how.feature = heed::feature::identity, how.normalize = false;
    return how;
  }
  recurrent::backward_problem<T> problem(bool gates, bool slopes) {
    const auto p = x.problem();
    recurrent::backward_problem<T> out(p, recurrent::gradient_rows(x.o.cview()), asked);
    if (gates) out.dlog_gates = dgates.view3();
    if (slopes) out.dslopes = {dslopes.data(), {x.s.states}, {1}};
    return out;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("states for the gradients of gates are saved every few whole chunks, each in memory of its own",
                   "[backward_parts]", float, double) {
  using T = TestType;
  backward_case<T> c({3, 2, 2, 2, 900, 900, 3, 2});
  const recurrent::backward_problem<T> x = c.problem(true, false);
  constexpr index_t chunk = 96, size = 3 * 2;
  const heed_test::with_scratch<recurrent::saved_states<T>> saved(x, chunk);
  std::vector<const T*> found;
  for (index_t number = 0; number < 3; ++number)
    for (index_t head = 0; head < 2; ++head)
      for (index_t j = 0; j <= 900; j += chunk) {
        const heed::recurrent::sequence s = x.p.sequence_at(number);
        T* const state = saved.part.before(s, x.p.split(s), head, j);
        INFO(number << ", head " << head << ", token " << j);
        CHECK((state != nullptr) == (j > 0 && j % (3 * chunk) == 0));  // the first whole chunks of 256 tokens
        if (state == nullptr) continue;
        REQUIRE(saved.holds(state, size));
        found.push_back(state);
      }
  std::sort(found.begin(), found.end());
  for (std::size_t i = 1; i < found.size(); ++i) CHECK(found[i] - found[i - 1] >= size);
}

TEMPLATE_TEST_CASE("a state with ends of its own: s and z may be absent each; weights of z", "[backward_parts]", float,
                   double) {
  using T = TestType;
  heed::linear::options<T> options;
  options.feature = heed::feature::identity;
  recurrent_problem<T> x({.queries = 9, .keys = 9, .d = 6, .e = 5}, options);
  const auto p = x.problem();
  const recurrent::chunk_task task{p.sequence_at(0), 0, 1, 0, 5};
  const random_rows<T> keys(9, 6, 1), values(9, 5, 2);
  std::vector<T> weight;
  for (index_t j = 0; j < 9; ++j) weight.push_back(static_cast<T>(j - 4));
  for (const bool from_s : {false, true})
    for (const bool from_z : {false, true})
      for (const bool to_s : {false, true}) {
        INFO(from_s << from_z << to_s);
        recurrent::state_ends<T> ends{};
        if (from_s) ends.from.s = x.s0.cview();
        if (from_z) ends.from.z = x.z0.view3();
        x.s1.poison(), x.z1.poison();
        (to_s ? ends.to.s = x.s1.view(), ends.to.s.data() : (ends.to.z = x.z1.view3()).data());
        const heed_test::with_scratch<recurrent::chunk_features<T>> features(p, index_t{9});
        heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, index_t{9});
        const recurrent::chunk_sizes sizes{9, 5, 1};
        heed_test::with_scratch<recurrent::chunk_state<T>> state(p, ends, task, sizes);
        tile::prefetch_queue<T> prefetch;
        decay.part.begin_state(task.sequence, 0);
        state.part.begin(0);
        CHECK(state.part.empty() == (!from_s && !from_z));
        state.part.update({keys.rows, values.rows, weight.data()}, features.part, decay.part, prefetch);
        state.part.scale(T(1));
        state.part.end();
        bool right = true;
        for (index_t f = 0; f < 6; ++f) {
          double z = from_z ? double(x.z0(0, 0, f)) : 0;
          for (index_t j = 0; j < 9; ++j) z += double(weight[at(j)]) * double(keys.rows.row(j)[f]);
          if (!to_s) right = right && std::abs(double(x.z1(0, 0, f)) - z) < bound<T>;
          for (index_t c = 0; c < 5 && to_s; ++c) {
            double s = from_s ? double(x.s0(0, 0, f, c)) : 0;
            for (index_t j = 0; j < 9; ++j) s += double(keys.rows.row(j)[f]) * double(values.rows.row(j)[c]);
            right = right && std::abs(double(x.s1(0, 0, f, c)) - s) < bound<T>;
          }
        }
        CHECK(right);
        CHECK((to_s ? x.z1.untouched() : x.s1.untouched()));
      }
}

TEMPLATE_TEST_CASE("a state decays once per chunk, whatever number of updates", "[backward_parts]", float, double) {
  using T = TestType;
  heed_test::recurrent_problem<T> x({.queries = 8, .keys = 8, .d = 4, .e = 3}, backward_case<T>::options());
  const std::vector<double> slopes{0.1};
  x.decay.slopes = heed::per_head(slopes), x.decays = true;
  const auto p = x.problem();
  const recurrent::chunk_task task{p.sequence_at(0), 0, 1, 0, 3};
  const random_rows<T> a(8, 4, 1), b(8, 4, 2), v(8, 3, 3);
  const recurrent::state_ends<T> ends{{x.s0.cview(), {}}, {x.s1.view(), {}}};
  const heed_test::with_scratch<recurrent::chunk_features<T>> features(p, index_t{8});
  heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, index_t{8});
  const recurrent::chunk_sizes sizes{8, 3, 1};
  heed_test::with_scratch<recurrent::chunk_state<T>> state(p, ends, task, sizes);
  tile::prefetch_queue<T> prefetch;
  decay.part.begin_state(task.sequence, 0);
  state.part.begin(0);
  decay.part.begin_chunk(0, 8, true);
  state.part.update({recurrent::reversed(a.rows), recurrent::reversed(v.rows)}, features.part, decay.part, prefetch);
  state.part.update({recurrent::reversed(b.rows), recurrent::reversed(v.rows)}, features.part, decay.part, prefetch,
                    true);
  state.part.scale(T(0.5));
  state.part.end();
  bool right = true;
  for (index_t f = 0; f < 4; ++f)
    for (index_t c = 0; c < 3; ++c) {
      double s = std::exp(-0.8) * double(x.s0(0, 0, f, c));
      for (index_t i = 0; i < 8; ++i)  // W(i, -1): the share of query i in the gradient of the state before
        s += std::exp(-0.1 * double(i + 1)) * (double(a.rows.row(i)[f]) + double(b.rows.row(i)[f])) *
             double(v.rows.row(i)[c]);
      right = right && std::abs(double(x.s1(0, 0, f, c)) - s / 2) < bound<T>;
    }
  CHECK(right);
}

TEMPLATE_TEST_CASE("gradients of gates: pairs on both sides of a token, chunk by chunk from the last",
                   "[backward_parts]", float, double) {
  using T = TestType;
  constexpr index_t n = 40, chunk = 16;
  for (const index_t reset : {-1, 0, 20, 39}) {
    INFO("reset " << reset);
    backward_case<T> c({.queries = n, .keys = n, .d = 4, .e = 4});
    auto gates = heed_test::buffer<T>::input({1, 1, n, 1});
    gates.each([](T& g) { g = T(-0.125); });
    if (reset >= 0) gates(0, 0, reset) = -std::numeric_limits<T>::infinity();
    c.x.decay.log_gates = gates.view3(), c.x.decay.gated = true, c.x.decays = true;
    const auto x = c.problem(true, false);
    // m of all pairs, 0 across the reset; what crosses chunks is split among a and b as the sweeps do it
    std::vector<double> m(at(n * n), 0.0);
    heed_test::random_numbers random(6);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j <= i; ++j)
        m[at(i * n + j)] = j < reset && reset <= i ? 0 : double(static_cast<T>(random.normal()));
    const auto sum = [&](index_t i0, index_t i1, index_t j0, index_t j1) {
      double all = 0;
      for (index_t i = i0; i < i1; ++i)
        for (index_t j = j0; j < std::min(j1, i + 1); ++j) all += m[at(i * n + j)];
      return all;
    };
    heed_test::with_scratch<recurrent::gate_gradients<T>> part(x, chunk);
    heed_test::with_scratch<recurrent::chunk_decay<T>> decay(x.p, chunk);
    for (index_t i = 0; i < n; ++i) c.dgates(0, 0, i) = static_cast<T>(sum(i, i + 1, 0, i / chunk * chunk));
    const recurrent::sequence s = x.p.sequence_at(0);
    decay.part.begin_state(s, 0);
    part.part.begin(s, 0, 0, n, 0);
    for (index_t first = (n - 1) / chunk * chunk; first >= 0; first -= chunk) {
      const index_t count = std::min(chunk, n - first), whole = tile::whole_vectors<T>(count);
      decay.part.begin_chunk(first, count, true);
      part.part.begin_chunk();
      std::vector<T> keys;
      for (index_t l = 0; l < count; ++l) {
        const index_t j = first + count - 1 - l;
        const double left = double(*decay.part.q_decay(l));
        keys.push_back(static_cast<T>(left > 0 ? sum(first + count, n, j, j + 1) / left : 7));
      }
      part.part.set_keys(decay.part, 0, count, keys.data());
      heed_test::aligned_numbers<T> a(count * whole), b(count * whole);
      for (index_t r = 0; r < count; ++r)
        for (index_t l = 0; l < whole; ++l) {
          const index_t i = first + count - 1 - r, j = first + count - 1 - l;
          a[r * whole + l] = l >= r && l < count ? static_cast<T>(m[at(i * n + j)]) : T(0);
          b[r * whole + l] = l < r ? std::numeric_limits<T>::quiet_NaN() : T(1);  // not seen
        }
      part.part.add_pairs({a.data(), whole, count, whole}, {b.data(), whole, count, whole}, 0, 0);
      part.part.write(decay.part, first, count);
    }
    double worst = 0;
    for (index_t t = 0; t < n; ++t) worst = std::max(worst, std::abs(double(c.dgates(0, 0, t)) - sum(t, n, 0, t)));
    CHECK(worst < 400 * double(std::numeric_limits<T>::epsilon()));
    if (reset >= 0) CHECK(c.dgates(0, 0, reset) == T(0));
  }
}

TEST_CASE("the end of a list of tasks of two lengths", "[backward_parts]") {
  for (const index_t workers : {1, 2, 3, 7})
    for (const index_t reverse : {0, 1, 4, 9})
      for (const index_t forward : {0, 1, 3, 8}) {
        std::vector<double> busy(at(workers), 0.0);
        for (index_t i = 0; i < reverse + forward; ++i)
          *std::min_element(busy.begin(), busy.end()) += i < reverse ? 1.6 : 1.0;
        const double end = *std::max_element(busy.begin(), busy.end());
        const double got = recurrent::end_of_list(double(workers), double(reverse), 1.6, double(forward), 1.0);
        INFO(workers << " workers, " << reverse << " and " << forward << " tasks: " << end << ", " << got);
        CHECK(std::abs(got - end) < 1e-4);
      }
}

TEMPLATE_TEST_CASE("sweeps are cut where workers would be idle, and where nothing forbids it", "[backward_parts]",
                   float, double) {
  using T = TestType;
  backward_case<T> c({.heads = 2, .kv_heads = 2, .states = 2, .queries = 4000, .keys = 4000, .d = 64, .e = 64});
  c.asked.dq = c.x.q.view(), c.asked.dk = c.x.k.view(), c.asked.dv = c.x.v.view();
  const std::vector<double> slopes{0.1, 0.2};
  c.x.decay.slopes = heed::per_head(slopes), c.x.decays = true;
  const auto cut = [&](bool gates, bool with_slopes, index_t workers) {
    return recurrent::make_backward_cut(c.problem(gates, with_slopes), workers);
  };
  CHECK(cut(false, false, 1).forward.all() == 2);
  CHECK(cut(false, false, 1).reverse.all() == 2);
  CHECK(cut(false, false, 16).forward.pieces > 1);
  CHECK(cut(false, false, 16).reverse.pieces > 1);
  CHECK(cut(false, true, 16).forward.pieces == 1);  // sums over the sequence
  CHECK(cut(true, false, 16).reverse.pieces == 1);
  c.asked.dinitial_state = {c.x.s1.view(), {}}, c.asked.dfinal_state = {c.x.s1.cview(), {}};
  CHECK(cut(false, false, 16).reverse.pieces == 1);  // one memory
  c.asked = {}, c.asked.dv = c.x.v.view();
  CHECK(cut(false, false, 16).forward.all() == 0);  // not asked for
  c.asked = {}, c.asked.dq = c.x.q.view();
  CHECK(cut(false, false, 16).reverse.all() == 0);
}

TEMPLATE_TEST_CASE("heads of token-major tensors go side by side, with the same bits", "[backward_parts]", float,
                   double) {
  using T = TestType;
  constexpr index_t heads = 11, n = 70, d = 256 / static_cast<index_t>(sizeof(T)), e = d;
  for (const index_t group : {1, 2})
    for (const bool per_query_head : {false, true})
      for (const bool gated : {false, true}) {
        INFO("group " << group << (per_query_head ? ", a state per query head" : "") << (gated ? ", gates" : ""));
        const index_t states = per_query_head ? heads * group : heads;
        const auto make = [&](heed_test::layout in) {
          heed_test::random_numbers random(5);
          std::vector<heed_test::buffer<T>> x;
          for (const index_t h : {heads * group, heads, heads, heads * group}) {
            x.push_back(heed_test::buffer<T>::input({2, h, n, d}, in));
            x.back().randomize(random);
          }
          for (const index_t h : {heads * group, heads, heads})
            x.push_back(heed_test::buffer<T>::output({2, h, n, d}, in));
          return x;
        };
        auto gates = heed_test::buffer<T>::input({2, states, n, 1});
        heed_test::random_numbers random(6);
        gates.each([&](T& g) { g = static_cast<T>(-0.2 * random.uniform()); });
        const std::vector<double> slopes(at(states), 0.05);
        const heed::decay<T> decay = gated ? heed::decay<T>(gates.view3()) : heed::decay<T>(slopes);
        const std::vector<std::int32_t> lengths{n, 41};
        const auto run = [&](std::vector<heed_test::buffer<T>>& x, heed_test::buffer<T>& dgates) {
          heed::lightning::gradients<T> out{.dq = x[4].view(), .dk = x[5].view(), .dv = x[6].view()};
          if (gated) out.dlog_gates = dgates.view3();
          heed::lightning::backward(x[0].cview(), x[1].cview(), x[2].cview(), decay, x[3].cview(), out,
                                    {.mask = heed::key_lengths(lengths)});
          return heed::lightning::plan_backward(x[0].cview(), x[1].cview(), x[2].cview(), decay, x[3].cview(), out,
                                                {.mask = heed::key_lengths(lengths)});
        };
        auto plain = make(heed_test::layout::bhsd), token_major = make(heed_test::layout::bshd);
        auto a = heed_test::buffer<T>::output({2, states, n, 1}), b = heed_test::buffer<T>::output({2, states, n, 1});
        CHECK(std::string(run(plain, a).why.data()).find("side by side") == std::string::npos);
        CHECK(std::string(run(token_major, b).why.data()).find("side by side") != std::string::npos);
        bool same = true;
        for (std::size_t i = 4; i < 7; ++i)
          for (index_t s = 0; s < 2; ++s)
            for (index_t h = 0; h < plain[i].view().extent(1); ++h)
              for (index_t t = 0; t < n; ++t)
                same = same && std::memcmp(&plain[i](s, h, t), &token_major[i](s, h, t), at(e) * sizeof(T)) == 0;
        for (index_t s = 0; s < 2; ++s)
          for (index_t h = 0; h < states && gated; ++h)
            for (index_t t = 0; t < n; ++t) same = same && a(s, h, t) == b(s, h, t);
        CHECK(same);
      }
}
