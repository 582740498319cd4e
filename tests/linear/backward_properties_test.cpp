// SPDX-License-Identifier: BSD-3-Clause

// What must hold of the gradients of linear attention whatever the numbers: derivatives along random directions of
// random calls, identities, splits, packed sequences.

#include <cmath>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/gradient_identities.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using type = linear_backward_case<double>;

constexpr feature all_features[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                    feature::silu,     feature::exp,          feature::softmax, feature::taylor};
bool positive(feature map) { return map != feature::identity && map != feature::silu; }

// A call of random shape and options; `say` describes it.
type random_call(std::uint32_t seed, std::string& say) {
  random_numbers random(seed);
  constexpr struct {
    index_t heads, kv_heads;
  } groups[] = {{1, 1}, {2, 1}, {4, 2}, {3, 3}, {6, 2}};
  const auto& group = groups[random.below(5)];
  const feature map = all_features[random.below(8)];
  const index_t widest = map == feature::taylor ? 7 : 24;
  shape s{1 + random.below(2), group.heads,      group.kv_heads,
          random.below(80),    random.below(80), 1 + random.below(static_cast<std::int32_t>(widest)),
          1 + random.below(24)};
  heed::linear::options<double> how{.scale = random.uniform() + 0.2, .feature = map};
  how.normalize = positive(map) && random.below(3) > 0;
  how.eps = random.below(2) == 0 ? 0.3 : 1;
  how.chunk = random.below(3) == 0 ? 1 + random.below(40) : 0;
  if (random.below(2) == 0) how.mask = heed::causal();
  index_t sequences = s.batch;
  const int kind = random.below(4);
  if (kind == 1) {
    std::vector<std::int32_t> lengths;
    for (index_t b = 0; b < s.batch; ++b) lengths.push_back(random.below(static_cast<std::int32_t>(s.keys) + 1));
    how.mask = how.mask & heed::key_lengths(std::vector<std::int32_t>(lengths));
  } else if (kind == 2) {
    std::vector<std::int32_t> q_at{0}, k_at{0};
    s.batch = 1, sequences = 1 + random.below(4);
    for (index_t n = 0; n < sequences; ++n) {
      q_at.push_back(n + 1 == sequences
                         ? static_cast<std::int32_t>(s.queries)
                         : q_at.back() + random.below(static_cast<std::int32_t>(s.queries) - q_at.back() + 1));
      k_at.push_back(k_at.back() + random.below(static_cast<std::int32_t>(s.keys) - k_at.back() + 1));
    }
    how.mask = how.mask & heed::packed(std::vector<std::int32_t>(q_at), std::vector<std::int32_t>(k_at));
  }
  const int align = random.below(3);
  if (align == 1) how.align = heed::top_left;
  if (align == 2) {
    std::vector<std::int32_t> places;
    for (index_t n = 0; n < sequences; ++n) places.push_back(random.below(100) - 30);
    how.align = heed::first_place(std::vector<std::int32_t>(places));
  }
  type x(s, how, {}, sequences);
  if (random.below(3) == 0) x.options.initial_state = {};
  if (random.below(3) == 0) x.asked.dfinal_state = {};
  for (const buffer<double>* const each : {&x.q, &x.k}) keep_off_zero(*each);
  say = to_string(s) + " feature " + std::to_string(static_cast<int>(map)) + " mask " + std::to_string(kind) +
        " normalize " + std::to_string(how.normalize) + " chunk " + std::to_string(how.chunk) + " align " +
        std::to_string(align);
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

TEST_CASE("backward: a gradient of another call is not the derivative") {
  type x({1, 2, 1, 40, 40, 8, 8}, {.mask = heed::causal()}), y({1, 2, 1, 40, 40, 8, 8}, {});
  y.run(), x.run();
  const direction along(all_of(x), 1);
  const sum_and_size right = along.derivative();
  for (const auto& [to, from] :
       {std::pair{&x.dq, &y.dq}, std::pair{&x.dk, &y.dk}, std::pair{&x.dv, &y.dv}, std::pair{&x.ds0, &y.ds0}}) {
    std::swap(*to, *from);
    CHECK(std::abs(along.derivative().sum - right.sum) > 1e-6 * right.size);
    std::swap(*to, *from);
  }
}

TEST_CASE("backward: sums of scores change linearly with each input") {
  for (const bool causal : {false, true})
    for (const auto& [queries, keys] : {std::pair<index_t, index_t>{75, 75}, {40, 75}, {75, 40}})
      for (const index_t chunk : {0, 16}) {
        type x({2, 4, 2, queries, keys, 12, 20}, {.mask = causal ? heed::causal() : heed::mask(),
                                                  .scale = 0.5,
                                                  .feature = feature::identity,
                                                  .normalize = false,
                                                  .chunk = chunk});
        check_linear_changes(x);
      }
}

// o and the final state are linear in (v, initial s), and homogeneous in phi(q) and in (phi(k), initial state).
TEST_CASE("backward: products of inputs and gradients are those of outputs and cotangents") {
  for (const feature map : all_features)
    for (const bool causal : {false, true})
      for (const bool normalize : {false, true}) {
        if (normalize && !positive(map)) continue;
        INFO("feature " << static_cast<int>(map) << (causal ? " causal" : "") << (normalize ? " normalised" : ""));
        type x({2, 4, 2, 70, 70, 6, 12}, {.mask = causal ? heed::causal() : heed::mask(),
                                          .scale = 0.5,
                                          .feature = map,
                                          .normalize = normalize,
                                          .eps = 0});
        x.run();
        sum_and_size outputs, values, keys, queries, o;
        o.add(x.dout, x.o), outputs = o, outputs.add(x.ds1, x.s1);
        values.add(x.dv, x.v), values.add(x.ds0, x.s0);
        check_equal("v", values, outputs);
        const double power = map == feature::relu_squared ? 0.5 : 1;
        if (map != feature::identity && map != feature::relu && map != feature::relu_squared) continue;
        queries.add(x.dq, x.q, power);
        keys.add(x.dk, x.k, power), keys.add(x.ds0, x.s0);
        if (normalize) {  // of degree 0 in what a row is divided by
          keys.add(x.dz0, x.z0);
          sum_and_size nothing, states;
          nothing.size = o.size, states.add(x.ds1, x.s1), states.add(x.dz1, x.z1), states.size += o.size;
          check_equal("q", queries, nothing), check_equal("k", keys, states);
        } else {
          check_equal("q", queries, o), check_equal("k", keys, outputs);
        }
      }
}

TEST_CASE("backward: two halves, the gradient of the state between them carried, are the whole") {
  constexpr index_t n = 150;
  for (const bool normalize : {true, false})
    for (const index_t cut : {0, 1, 16, 64, 100, 149, 150}) {
      INFO("cut at " << cut);
      linear_backward_case<float> x({1, 2, 1, n, n, 20, 24}, {.mask = heed::causal(), .normalize = normalize});
      x.forward();
      const auto s = buffer<float>::output(x.s0.size()), z = buffer<float>::output(x.z0.size()),
                 ds = buffer<float>::output(x.s0.size()), dz = buffer<float>::output(x.z0.size());
      const auto part = [&](auto view, bool last) {
        return heed::slice(view, 2, last ? cut : 0, last ? n - cut : cut);
      };
      heed::linear::options<float> first = x.options, second = x.options;
      first.final_state = {s.view(), z.view3()}, second.initial_state = {s.cview(), z.view3()};
      run_forward<float>(
          {part(x.q.cview(), false), part(x.k.cview(), false), part(x.v.cview(), false), part(x.o.view(), false)},
          first, {});
      for (const bool last : {true, false}) {
        heed::linear::gradients<float> asked{part(x.dq.view(), last), part(x.dk.view(), last), part(x.dv.view(), last)};
        asked.dinitial_state = last ? heed::state_view<float>{ds.view(), dz.view3()} : x.asked.dinitial_state;
        asked.dfinal_state = last ? x.asked.dfinal_state : heed::state_view<const float>{ds.cview(), dz.view3()};
        run_backward<float>({part(x.q.cview(), last), part(x.k.cview(), last), part(x.v.cview(), last),
                             part(x.o.cview(), last), part(x.dout.cview(), last)},
                            asked, last ? second : first, {});
      }
      const verdict result = compare_gradients(x);
      INFO(result.where);
      CHECK(result.worst <= 1);
    }
}

TEST_CASE("backward: the gradients of the two states in one memory") {
  for (const bool causal : {true, false}) {
    const shape s{2, 4, 2, 70, 70, 16, 20};
    linear_backward_case<float> apart(s, {.mask = causal ? heed::causal() : heed::mask()}), both(s, apart.options);
    both.options = apart.options;
    both.asked.dinitial_state = {both.ds1.view(), both.dz1.view3()};
    apart.run(), both.run();
    CHECK((same_bits(apart.dq, both.dq) && same_bits(apart.dk, both.dk) && same_bits(apart.dv, both.dv)));
    CHECK((same_bits(apart.ds0, both.ds1) && same_bits(apart.dz0, both.dz1)));
  }
}

TEST_CASE("backward: packed sequences, empty ones among them: the bits of calls one by one") {
  static const std::vector<std::int32_t> q_at{0, 0, 70, 71, 90, 130}, k_at{0, 20, 90, 90, 110, 151};
  for (const bool causal : {false, true})
    for (const bool normalize : {true, false})
      for (const index_t chunk : {0, 7, 64}) {
        const heed::mask mask = heed::packed(q_at, k_at);
        linear_backward_case<float> x(
            {1, 4, 2, 130, 151, 16, 20},
            {.mask = causal ? heed::causal() & mask : mask, .normalize = normalize, .chunk = chunk}, {}, 5);
        check_backward(x);
        for (index_t i = 0; i < 5; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const index_t first = q_at[at], count = q_at[at + 1] - first, key = k_at[at], keys = k_at[at + 1] - key;
          linear_backward_case<float> y(
              {1, 4, 2, count, keys, 16, 20},
              {.mask = causal ? heed::causal() : heed::mask(), .normalize = normalize, .chunk = chunk});
          const auto take = [](const buffer<float>& to, const buffer<float>& from, index_t b, index_t row) {
            for (index_t h = 0; h < to.size()[1]; ++h)
              for (index_t n = 0; n < to.size()[2]; ++n)
                for (index_t d = 0; d < to.size()[3]; ++d) to(0, h, n, d) = from(b, h, row + n, d);
          };
          take(y.q, x.q, 0, first), take(y.dout, x.dout, 0, first), take(y.k, x.k, 0, key), take(y.v, x.v, 0, key);
          take(y.s0, x.s0, i, 0), take(y.z0, x.z0, i, 0), take(y.ds1, x.ds1, i, 0), take(y.dz1, x.dz1, i, 0);
          y.run();
          linear_backward_case<float> part(y.s, y.options);  // what the packed call wrote
          take(part.dq, x.dq, 0, first), take(part.dk, x.dk, 0, key), take(part.dv, x.dv, 0, key);
          take(part.ds0, x.ds0, i, 0), take(part.dz0, x.dz0, i, 0);
          INFO("sequence " << i << ", chunk " << chunk);
          CHECK(same_gradients(part, y));
        }
      }
}

TEST_CASE("backward: a length is the same call on fewer keys") {
  static const std::vector<std::int32_t> held{50};
  for (const bool causal : {true, false}) {
    const heed::mask lengths = heed::key_lengths(held);
    linear_backward_case<float> x(
        {1, 2, 1, 20, 90, 16, 20},
        {.mask = causal ? heed::causal() & lengths : lengths, .align = heed::end_of_lengths, .chunk = 16}),
        y({1, 2, 1, 20, 90, 16, 20}, {.mask = causal ? heed::causal() : heed::mask(), .chunk = 16});
    x.run();
    const recurrent_call<float> all = y.call();
    const auto part = [](auto view) { return heed::slice(view, 2, 0, 50); };
    run_forward<float>({all.q, part(all.k), part(all.v), all.o}, y.options, {});
    y.dk.fill(0), y.dv.fill(0);
    y.asked.dk = part(y.dk.view()), y.asked.dv = part(y.dv.view());
    run_backward<float>({all.q, part(all.k), part(all.v), y.o.cview(), y.dout.cview()}, y.asked, y.options, {});
    CHECK(same_gradients(x, y));
  }
}
