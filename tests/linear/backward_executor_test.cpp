// SPDX-License-Identifier: BSD-3-Clause

// Executors: the same bits of all gradients whoever runs the tasks and however tokens are cut; what feature maps throw.

#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/linear_backward_case.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using type = linear_backward_case<float>;

}  // namespace

TEST_CASE("backward: the same bits for 1 to 5 workers in any order, causal and not, normalised and not") {
  bool cut = false;
  for (const feature map : {feature::elu_plus_one, feature::taylor})
    for (const bool normalize : {true, false})
      for (const bool causal : {true, false})
        for (const shape& s : {shape{1, 2, 1, 200, 200, 12, 40}, shape{2, 4, 2, 70, 110, 12, 8}}) {
          const heed::linear::options<float> how{
              .mask = causal ? heed::causal() : heed::mask(), .feature = map, .normalize = normalize, .chunk = 16};
          type serial(s, how);
          check_backward(serial);
          for (index_t workers = 1; workers <= 5; ++workers)
            for (const order in : {order::forward, order::reversed, order::shuffled}) {
              if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
              INFO(to_string(s) << ", " << workers << " workers");
              test_executor executor(workers, in, in == order::shuffled);
              type x(s, how);
              x.forward();
              cut = cut || x.plan_backward({.executor = executor}).splits > 1;
              x.backward({.executor = executor});
              CHECK(same_gradients(x, serial));
              CHECK_FALSE(executor.asked_too_much());
            }
        }
  CHECK(cut);
}

TEST_CASE("backward: the same bits however tokens are cut, whoever sees no key or is seen by all") {
  const std::vector<std::int32_t> into{17}, before{-50};
  constexpr struct {
    index_t queries, keys;
  } sizes[] = {{90, 90}, {40, 110}, {110, 40}, {3, 100}, {100, 3}};
  const heed::alignment alignments[] = {heed::bottom_right, heed::top_left, heed::first_place(into),
                                        heed::first_place(before)};
  bool cut = false;
  for (const auto& [queries, keys] : sizes)
    for (const heed::alignment& align : alignments)
      for (const index_t workers : {2, 4, 9}) {
        const heed::linear::options<float> how{.mask = heed::causal(), .align = align, .chunk = 8};
        type serial({1, 2, 1, queries, keys, 20, 8}, how);
        check_backward(serial);
        type x(serial.s, how);
        test_executor executor(workers, order::shuffled, true);
        x.forward();
        cut = cut || says(x.plan_backward({.executor = executor}), "pieces");
        x.backward({.executor = executor});
        CHECK(same_gradients(x, serial));
      }
  CHECK(cut);
}

TEST_CASE("backward: packed sequences and both states in one memory, on threads") {
  static const std::vector<std::int32_t> q_at{0, 0, 130, 131, 170}, k_at{0, 20, 150, 150, 190};
  for (const index_t workers : {3, 5, 12}) {
    const heed::linear::options<float> how{.mask = heed::causal() & heed::packed(q_at, k_at), .chunk = 16};
    type serial({1, 2, 1, 170, 200, 20, 8}, how, {}, 4), x(serial.s, how, {}, 4);
    serial.run(), x.forward();
    x.asked.dinitial_state = {x.ds1.view(), x.dz1.view3()};
    test_executor executor(workers, order::shuffled, true);
    x.backward({.executor = executor});
    CHECK((same_bits(x.dq, serial.dq) && same_bits(x.dk, serial.dk) && same_bits(x.dv, serial.dv)));
    CHECK((same_bits(x.ds1, serial.ds0) && same_bits(x.dz1, serial.dz0)));
  }
}

TEST_CASE("backward: no allocation in the planned workspace, whatever its alignment and content; one without") {
  for (const bool causal : {true, false})
    for (const bool normalize : {true, false})
      for (const index_t workers : {1, 3}) {
        type x({2, 2, 1, 100, 90, 20, 24}, {.mask = causal ? heed::causal() : heed::mask(), .normalize = normalize}),
            y(x.s, x.options);
        y.options = x.options;
        x.run(), y.forward();
        const verb_in verb{[&](const heed::context& where) { return y.plan_backward(where); },
                           [&](const heed::context& where) { y.backward(where); }};
        check_small_workspace(verb, workers, [&] { return y.dq.untouched() && y.dk.untouched() && y.dv.untouched(); });
        check_workspaces(verb, workers, [&] { y.poison_gradients(); }, [&] { return same_gradients(x, y); });
      }
}

TEST_CASE("backward: scratch of sums does not grow with the sequence, that of a normaliser by 2 numbers per row") {
  const auto bytes = [](index_t n, bool normalize) {
    return type({1, 1, 1, n, n, 32, 32}, {.mask = heed::causal(), .normalize = normalize})
        .plan_backward()
        .workspace_bytes;
  };
  CHECK(bytes(500, false) == bytes(20000, false));
  CHECK(bytes(20000, true) - bytes(1000, true) <= 2 * 19000 * sizeof(float) + 256);
}

TEST_CASE("backward: what a feature map or its derivative throws reaches the caller, from any executor") {
  for (const bool derivative : {false, true}) {
    const auto make = [derivative](fuse& f) {
      const auto map = [&f, derivative](float x) { return derivative ? x * x : (f.burn(), x * x); };
      const auto slope = [&f, derivative](float x) { return derivative ? (f.burn(), 2 * x) : 2 * x; };
      type x({2, 2, 1, 60, 60, 8, 12}, {.mask = heed::causal(), .chunk = 16});
      x.options.feature = heed::feature_map<float>(map, slope);
      x.o.fill(1);  // as forward might have left it
      return x;
    };
    const auto equal = [](const auto& a, const auto& b) { return same_gradients(a, b); };
    const auto call = [](auto& x, const heed::context& where) { x.backward(where); };
    CHECK(mishandled_anywhere(make, call, equal) == "");
  }
}
