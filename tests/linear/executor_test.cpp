// SPDX-License-Identifier: BSD-3-Clause

// Executors: the same bits whoever runs the tasks and however columns and tokens are cut.

#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/recurrent_case.hpp"
#include "support/throwing.hpp"

using namespace heed_test;

namespace {

using heed::feature;

}  // namespace

TEST_CASE("the same bits for 1 to 5 workers, columns cut or not, one memory or two") {
  bool cut = false;
  for (const feature map : {feature::elu_plus_one, feature::taylor})
    for (const bool normalize : {true, false})
      for (const bool one_memory : {false, true}) {
        const shape s{1, 2, 1, 100, 100, 12, 80};
        const heed::linear::options<float> how{.mask = heed::causal(), .feature = map, .normalize = normalize};
        linear_case<float> serial(s, how);
        serial.forward();
        for (index_t workers = 1; workers <= 5; ++workers)
          for (const order in : {order::forward, order::shuffled}) {
            test_executor executor(workers, in, true);
            linear_case<float> x(s, how);
            if (one_memory) x.options.final_state = x.memory();
            const heed::plan plan = x.plan({.executor = executor});
            cut = cut || plan.splits > 1;
            if (one_memory) CHECK_FALSE(says(plan, "pieces"));
            x.forward({.executor = executor});
            const auto &last_s = one_memory ? x.s0 : x.s1, &last_z = one_memory ? x.z0 : x.z1;
            CHECK((same_bits(x.o, serial.o) && same_bits(last_s, serial.s1)));
            if (normalize) CHECK(same_bits(last_z, serial.z1));
          }
      }
  CHECK(cut);
}

TEST_CASE("the same bits however tokens are cut, whoever sees no key or is seen by all") {
  const std::vector<std::int32_t> into{17}, before{-50};
  constexpr struct { index_t queries, keys; } sizes[] = {{90, 90}, {40, 110}, {110, 40}, {3, 100}, {100, 3}};
  const heed::alignment alignments[] = {heed::bottom_right, heed::top_left, heed::first_place(into),
                                        heed::first_place(before)};
  for (const auto& [queries, keys] : sizes)
    for (const heed::alignment& align : alignments)
      for (const index_t workers : {2, 4, 9}) {
        const heed::linear::options<float> how{.mask = heed::causal(), .align = align, .chunk = 8};
        linear_case<float> serial({1, 2, 1, queries, keys, 20, 8}, how);
        check(serial);
        linear_case<float> x(serial.s, how);
        test_executor executor(workers, order::shuffled, true);
        const heed::plan plan = x.plan({.executor = executor});
        if (queries == keys && &align == alignments) CHECK(says(plan, "pieces"));
        x.forward({.executor = executor});
        CHECK((same_bits(x.o, serial.o) && same_bits(x.s1, serial.s1) && same_bits(x.z1, serial.z1)));
      }
}

TEST_CASE("tokens are cut where there are pairs, columns where all keys come first") {
  const std::vector<std::int32_t> behind{2000}, half{1000}, second{0, 2000};
  test_executor two(2);
  const auto plan = [&](const shape& s, const heed::linear::options<float>& how) {
    return linear_case<float>(s, how).plan({.executor = two});
  };
  const shape square{1, 1, 1, 2000, 2000, 64, 64}, long_keys{1, 1, 1, 1000, 2000, 64, 64};
  CHECK(says(plan(square, {.mask = heed::causal()}), "tokens in 2 pieces"));
  for (const heed::plan& way :
       {plan(square, {}), plan(square, {.mask = heed::causal(), .align = heed::first_place(behind)}),
        plan(long_keys, {.mask = heed::causal() & heed::key_lengths(half)})}) {
    INFO(way.why.data());
    CHECK((says(way, "columns of v in 2 blocks") && !says(way, "pieces")));
  }
  CHECK(plan({2, 1, 1, 1, 2000, 64, 64}, {.mask = heed::key_lengths(second)}).chunk ==
        plan({1, 1, 1, 1, 2000, 64, 64}, {}).chunk);
}

TEST_CASE("what a feature map throws reaches the caller, from any executor") {
  const auto make = [](fuse& f) {
    const auto map = [&f](float x) { return f.burn(), x * x; };
    const auto derivative = [](float x) { return 2 * x; };
    linear_case<float> x({2, 2, 1, 60, 60, 8, 40}, {.mask = heed::causal(), .chunk = 16});
    x.options.feature = heed::feature_map<float>(map, derivative);
    return x;
  };
  const auto equal = [](const auto& a, const auto& b) { return same_bits(a.o, b.o); };
  CHECK(mishandled_anywhere(make, [](auto& x, const heed::context& where) { x.forward(where); }, equal) == "");
  const auto decode = [](auto& x, const heed::context& where) {  // from the same memory each time
    random_numbers random(3);
    x.s0.randomize(random), x.z0.fill(1);
    run_decode<float>(x.call(), x.memory(), x.options, where);
  };
  CHECK(mishandled_anywhere(make, decode, equal) == "");
}
