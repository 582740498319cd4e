// SPDX-License-Identifier: BSD-3-Clause

// What must hold of the gradients of lightning attention whatever the numbers: derivatives along random directions of
// random calls, identities, splits, packed sequences.

#include <cmath>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/recurrent_differences.hpp"
#include "support/gradient_identities.hpp"
#include "support/recurrent_adjoint.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<double>;

// A call of random shape and options; `say` describes it.
type random_call(std::uint32_t seed, std::string& say) {
  random_numbers random(seed);
  constexpr struct {
    index_t heads, kv_heads;
  } groups[] = {{1, 1}, {2, 1}, {4, 2}, {3, 3}, {6, 2}};
  const auto& group = groups[random.below(5)];
  const index_t n = random.below(100);
  shape s{1 + random.below(2), group.heads, group.kv_heads, n, n, 1 + random.below(24), 1 + random.below(24)};
  heed::lightning::options<double> how{.scale = random.normal()};
  how.chunk = random.below(3) == 0 ? 1 + random.below(40) : 0;
  index_t sequences = s.batch;
  const int kind = random.below(4);
  if (kind == 1) {
    std::vector<std::int32_t> lengths;
    for (index_t b = 0; b < s.batch; ++b) lengths.push_back(random.below(static_cast<std::int32_t>(n) + 1));
    how.mask = heed::key_lengths(std::vector<std::int32_t>(lengths));
  } else if (kind == 2) {
    std::vector<std::int32_t> at{0};
    s.batch = 1, sequences = 1 + random.below(4);
    for (index_t i = 1; i < sequences; ++i)
      at.push_back(at.back() + random.below(static_cast<std::int32_t>(n) - at.back() + 1));
    at.push_back(static_cast<std::int32_t>(n));
    how.mask = heed::packed(std::vector<std::int32_t>(at), std::vector<std::int32_t>(at));
  }
  const index_t states = random.below(2) == 0 ? s.heads : s.kv_heads;
  const bool gated = random.below(2) == 0;
  const std::int32_t cuts = random.below(2) == 0 ? 12 : 0;
  std::vector<double> slopes;
  for (index_t h = 0; h < states; ++h) slopes.push_back(random.uniform() * random.uniform());
  type x = gated ? type(s, states, cuts, how, {}, sequences) : type(s, slopes, how, {}, sequences);
  if (random.below(3) == 0) x.options.initial_state = {};
  if (random.below(3) == 0) x.asked.dfinal_state = {};
  say = to_string(s) + " mask " + std::to_string(kind) + " states " + std::to_string(states) + " chunk " +
        std::to_string(how.chunk) + (gated ? " gates" : " slopes") + (gated && cuts > 0 ? " with cuts" : "");
  return x;
}

}  // namespace

TEST_CASE("backward: the derivative along a random direction of a random call is the product with its gradients") {
  for (std::uint32_t seed = 1; seed <= (thinning == 1 ? 400 : 40); ++seed) {
    std::string say;
    type x = random_call(seed, say);
    INFO("seed " << seed << ": " << say);
    check_direction(x, seed);
  }
}

TEST_CASE("backward: the derivative by a slope is its gradient, and that by a gate") {
  for (const index_t chunk : {0, 16})
    for (const index_t states : {4, 2}) {
      const shape s{2, 4, 2, 90, 90, 12, 20};
      type x(s, some_slopes(states), {.scale = 0.5, .chunk = chunk}),
          gated(s, states, 9, {.scale = 0.5, .chunk = chunk});
      x.backward(), gated.backward();
      for (index_t h = 0; h < states; ++h) {
        double& slope = x.slopes[static_cast<std::size_t>(h)];
        const double size = loss_of(x).size, found = difference(slope, [&] { return loss_of(x).sum; }, 1e-4);
        INFO("slope " << h << ": " << found << ", the gradient says " << x.dslopes(0, 0, 0, h));
        CHECK(std::abs(found - x.dslopes(0, 0, 0, h)) <= 1e-9 * size);
        for (const index_t t : {0, 1, 15, 16, 40, 89}) {
          const double by_gate = difference(gated.gates(1, h, t), [&] { return loss_of(gated).sum; });
          INFO("gate " << t << " of head " << h << ": " << by_gate << ", the gradient says " << gated.dgates(1, h, t));
          CHECK(std::abs(by_gate - gated.dgates(1, h, t)) <= 1e-9 * loss_of(gated).size);
        }
      }
    }
}

TEST_CASE("backward: L changes linearly with each of q, k, v and the initial state") {
  for (const index_t chunk : {0, 16})
    for (const index_t states : {4, 2}) {
      type x({2, 4, 2, 75, 75, 12, 20}, some_slopes(states), {.scale = 0.5, .chunk = chunk});
      check_linear_changes(x);
    }
}

TEST_CASE("backward: products of inputs and gradients are those of outputs and cotangents") {
  for (const bool gated : {false, true})
    for (const index_t states : {4, 2}) {
      const shape s{2, 4, 2, 90, 90, 12, 20};
      type x = gated ? type(s, states, 9, {.scale = 0.5}) : type(s, some_slopes(states), {.scale = 0.5});
      x.backward(), x.forward();
      sum_and_size o, outputs, queries, keys, values;
      o.add(x.dout, x.o), outputs = o, outputs.add(x.ds1, x.s1);
      queries.add(x.dq, x.q), keys.add(x.dk, x.k), values.add(x.dv, x.v);
      keys.add(x.ds0, x.s0), values.add(x.ds0, x.s0);
      check_equal("q", queries, o), check_equal("k", keys, outputs), check_equal("v", values, outputs);
      if (!gated || states == 2) continue;
      for (index_t h = 0; h < 4; ++h) {  // the memory that the first gate fades: <ds0, s0> is its gradient
        double sum = 0, size = 0;
        for (index_t d = 0; d < 12; ++d)
          for (index_t e = 0; e < 20; ++e)
            sum += x.ds0(0, h, d, e) * x.s0(0, h, d, e), size += std::abs(x.ds0(0, h, d, e) * x.s0(0, h, d, e));
        CHECK(std::abs(sum - x.dgates(0, h, 0)) <= 1e-12 * (size + std::abs(o.size)));
      }
    }
}

// dq = f(q := dout, k := v, v := k); in reversed time dk = f(q := v, k := dout, v := q), dv = f(q := k, k := q,
// v := dout).
TEST_CASE("backward: gradients are forward calls with q, k, v and dout in other roles") {
  const shape s{2, 2, 2, 75, 75, 12, 20};
  type x(s, some_slopes(2), {.scale = 0.5});
  x.options.initial_state = {}, x.asked.dfinal_state = {};
  x.backward();
  const auto dq = buffer<double>::output(x.q.size()), dk = buffer<double>::output(x.k.size()),
             dv = buffer<double>::output(x.v.size());
  const heed::lightning::options<double> how{.scale = 0.5};
  run_forward<double>({x.dout.cview(), x.v.cview(), x.k.cview(), dq.view()}, x.decay(), how, {});
  run_forward<double>({reversed(x.v.cview()), reversed(x.dout.cview()), reversed(x.q.cview()), reversed(dk.view())},
                      x.decay(), how, {});
  run_forward<double>({reversed(x.k.cview()), reversed(x.q.cview()), reversed(x.dout.cview()), reversed(dv.view())},
                      x.decay(), how, {});
  CHECK(largest_difference(dq, x.dq) < 1e-12);
  CHECK(largest_difference(dk, x.dk) < 1e-12);
  CHECK(largest_difference(dv, x.dv) < 1e-12);
}

TEST_CASE("backward: no decay is linear attention without features and normaliser") {
  const shape s{2, 4, 2, 75, 75, 12, 20};
  type x(s, {0.0, 0.0});
  linear_backward_case<double> y(s, {.mask = heed::causal(), .feature = heed::feature::identity, .normalize = false});
  x.backward(), y.run();
  for (const double apart : {largest_difference(x.dq, y.dq), largest_difference(x.dk, y.dk),
                             largest_difference(x.dv, y.dv), largest_difference(x.ds0, y.ds0)})
    CHECK(apart < 1e-11);
}

TEST_CASE("backward: two halves, the gradient of the state between them carried, are the whole") {
  constexpr index_t n = 150;
  for (const bool gated : {false, true})
    for (const index_t cut : {0, 1, 16, 31, 64, 100, 149, 150}) {
      INFO("cut at " << cut << (gated ? ", gates" : ""));
      const shape s{1, 1, 1, n, n, 20, 24};
      using half = lightning_backward_case<float>;
      half x = gated ? half(s, 1, 9) : half(s, {0.03});
      const auto between = buffer<float>::output(x.s0.size()), ds = buffer<float>::output(x.s0.size()),
                 slopes = buffer<float>::output({1, 1, 1, 2});
      const auto part = [&](auto view, bool last) {
        return heed::slice(view, 2, last ? cut : 0, last ? n - cut : cut);
      };
      const auto decay = [&](bool last) {
        const index_t first = last ? cut : 0, count = last ? n - cut : cut;
        const heed::tensor_view<const float, 3> gates(gated ? &x.gates(0, 0, first) : nullptr, {1, 1, count},
                                                      {0, 0, 1});
        return gated ? heed::decay<float>(gates) : x.decay();
      };
      heed::lightning::options<float> first, second;
      first.initial_state.s = x.s0.cview(), first.final_state.s = between.view(),
      second.initial_state.s = between.cview();
      run_forward<float>(
          {part(x.q.cview(), false), part(x.k.cview(), false), part(x.v.cview(), false), part(x.o.view(), false)},
          decay(false), first, {});
      for (const bool last : {true, false}) {
        heed::lightning::gradients<float> asked{part(x.dq.view(), last), part(x.dk.view(), last),
                                                part(x.dv.view(), last)};
        if (gated)
          asked.dlog_gates = {&x.dgates(0, 0, last ? cut : 0), {1, 1, last ? n - cut : cut}, {0, 0, 1}};
        else
          asked.dslopes = {&slopes(0, 0, 0, last ? 1 : 0), {1}, {1}};
        asked.dinitial_state.s = last ? ds.view() : x.ds0.view();
        asked.dfinal_state.s = last ? x.ds1.cview() : ds.cview();
        run_backward<float>(
            {part(x.q.cview(), last), part(x.k.cview(), last), part(x.v.cview(), last), {}, part(x.dout.cview(), last)},
            decay(last), asked, last ? second : first, {});
      }
      x.dslopes(0, 0, 0, 0) = slopes(0, 0, 0, 0) + slopes(0, 0, 0, 1);
      const verdict result = compare_gradients(x);
      INFO(result.where);
      CHECK(result.worst <= 1);
    }
}

TEST_CASE("backward: the gradients of the two states in one memory") {
  for (const bool gated : {false, true}) {
    using half = lightning_backward_case<float>;
    const shape s{2, 4, 2, 70, 70, 16, 20};
    half apart = gated ? half(s, 2, 9) : half(s, some_slopes(4)),
         both = gated ? half(s, 2, 9) : half(s, some_slopes(4));
    both.asked.dinitial_state.s = both.ds1.view();
    apart.backward(), both.backward();
    CHECK((same_bits(apart.dq, both.dq) && same_bits(apart.dk, both.dk) && same_bits(apart.dv, both.dv)));
    CHECK(same_bits(apart.ds0, both.ds1));
    CHECK(same_bits(apart.dslopes, both.dslopes));
    CHECK(same_bits(apart.dgates, both.dgates));
  }
}

TEST_CASE("backward: packed sequences, empty ones among them: the bits of calls one by one") {
  static const std::vector<std::int32_t> at{0, 0, 70, 71, 71, 151};
  using half = lightning_backward_case<float>;
  for (const bool gated : {false, true})
    for (const index_t chunk : {0, 7, 64}) {
      const shape s{1, 4, 2, 151, 151, 16, 20};
      const heed::lightning::options<float> how{.mask = heed::packed(at, at), .chunk = chunk};
      half x = gated ? half(s, 4, 9, how, {}, 5) : half(s, some_slopes(4), how, {}, 5);
      x.backward();
      for (index_t i = 0; i < 5; ++i) {
        const index_t first = at[static_cast<std::size_t>(i)], count = at[static_cast<std::size_t>(i) + 1] - first;
        shape alone = s;
        alone.queries = alone.keys = count;
        const auto make = [&] {
          return gated ? half(alone, 4, 0, {.chunk = chunk}) : half(alone, some_slopes(4), {.chunk = chunk});
        };
        const auto take = [](const buffer<float>& to, const buffer<float>& from, index_t b, index_t row) {
          for (index_t h = 0; h < to.size()[1]; ++h)
            for (index_t n = 0; n < to.size()[2]; ++n)
              for (index_t d = 0; d < to.size()[3]; ++d) to(0, h, n, d) = from(b, h, row + n, d);
        };
        half y = make(), part = make();
        take(y.q, x.q, 0, first), take(y.dout, x.dout, 0, first), take(y.k, x.k, 0, first), take(y.v, x.v, 0, first);
        take(y.s0, x.s0, i, 0), take(y.ds1, x.ds1, i, 0);
        if (gated) take(y.gates, x.gates, 0, first);
        y.backward();
        take(part.dq, x.dq, 0, first), take(part.dk, x.dk, 0, first), take(part.dv, x.dv, 0, first);
        take(part.ds0, x.ds0, i, 0);
        INFO("sequence " << i << ", chunk " << chunk);
        const gradient_buffers<float>&mine = part, &its = y;
        CHECK(same_gradients(mine, its));
        if (gated) take(part.dgates, x.dgates, 0, first);
        if (gated) CHECK(same_bits(part.dgates, y.dgates));
      }
    }
}
