// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward on executors and in workspaces: the same bits whoever runs the tasks in whatever order; no
// allocation in planned memory; memory that does not grow with the pairs.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/softmax_backward_case.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

// Many heads and few, long and short, groups in both directions, rows that see nothing
constexpr shape shapes[] = {{2, 4, 2, 150, 130, 20, 12}, {1, 1, 1, 300, 500, 16, 16}, {2, 8, 2, 1, 700, 16, 16},
                            {1, 2, 6, 70, 90, 8, 8},     {1, 3, 3, 40, 20, 8, 8},     {1, 1, 1, 90, 20, 8, 8}};

auto in_context(backward_case<float>& x) {
  return verb_in{[&x](const heed::context& where) { return x.backward_plan(where); },
                 [&x](const heed::context& where) { x.backward(where); }};
}

std::vector<float> bias_of(const shape& s) {
  std::vector<float> bias(static_cast<std::size_t>(s.queries * s.keys));
  random_numbers random(4);
  for (float& b : bias) b = static_cast<float>(random.normal());
  return bias;
}
template <class T = float> heed::softmax::options<T> with_all(const shape& s, const std::vector<T>& bias) {
  return {.mask = heed::causal(),
          .alibi_slopes = 0.05,
          .bias = {bias.data(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}},
          .sink_logits = 0.3};
}

}  // namespace

TEST_CASE("gradients have the same bits for 1 to 5 workers in any order") {
  for (const shape& s : shapes)
    for (const bool everything : {false, true}) {
      INFO(to_string(s) << (everything ? ", all gradients" : ""));
      const std::vector<float> bias = bias_of(s);
      const heed::softmax::options<float> how =
          everything ? with_all(s, bias) : heed::softmax::options<float>{.mask = heed::causal()};
      backward_case<float> serial(s, how);
      check(serial);
      for (index_t workers = 1; workers <= 5; ++workers)
        for (const order in : {order::forward, order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
            INFO(workers << " workers");
            test_executor executor(workers, in, threads);
            backward_case<float> x(s, how);
            x.forward(), x.backward({.executor = executor});
            CHECK(same_gradients(x, serial));
            CHECK_FALSE(executor.asked_too_much());
            CHECK(executor.phases() >= 1);
          }
    }
}

TEST_CASE("gradients have the same bits in double, and again on threads") {
  for (const shape& s : shapes) {
    backward_case<double> serial(s, {.alibi_slopes = 0.1, .sink_logits = 0.2});
    check(serial);
    for (int repeat = 0; repeat < 5; ++repeat) {
      test_executor executor(4, order::forward, true);
      backward_case<double> x(s, {.alibi_slopes = 0.1, .sink_logits = 0.2});
      x.forward(), x.backward({.executor = executor});
      CHECK(same_gradients(x, serial));
    }
  }
}

// Long enough that threads take turns in the middle of tasks even on one core: no two may use the same scratch.
TEST_CASE("gradients have the same bits when threads interleave") {
  for (const shape& s : {shape{1, 2, 1, 1500, 1500, 64, 64}, shape{2, 16, 16, 200, 200, 64, 64}}) {
    INFO(to_string(s));
    backward_case<float> serial(s, {.mask = heed::causal()});
    serial.forward(), serial.backward();
    for (int repeat = 0; repeat < (thinning == 1 ? 3 : 1); ++repeat) {
      test_executor executor(4, order::forward, true);
      backward_case<float> x(s, {.mask = heed::causal()});
      x.forward(), x.backward({.executor = executor});
      CHECK(same_gradients(x, serial));
    }
  }
}

TEST_CASE("large calls of backward have tasks to share, one head or many") {
  for (const index_t workers : {2, 4}) {
    plain_executor executor{workers};
    for (const shape& s : {shape{1, 1, 1, 2000, 2000, 32, 32}, shape{4, 2, 2, 64, 64, 32, 32}})
      CHECK(backward_case<float>(s).backward_plan({.executor = executor}).tasks >= workers);
  }
}

TEST_CASE("backward in workspaces: nothing is allocated there, whatever their alignment and content") {
  for (const shape& s : shapes)
    for (const index_t workers : {1, 3}) {
      INFO(to_string(s));
      const std::vector<float> bias = bias_of(s);
      backward_case<float> x(s, with_all(s, bias)), y(s, with_all(s, bias));
      check(y);
      x.forward();
      check_workspaces(in_context(x), workers, [&] { x.poison_gradients(); }, [&] { return same_gradients(x, y); });
    }
}

TEST_CASE("backward: a workspace that is too small is an error with both numbers") {
  for (const shape& s : shapes) {
    backward_case<float> x(s);
    x.forward();
    for (const index_t workers : {1, 3})
      check_small_workspace(in_context(x), workers,
                            [&] { return x.dq.untouched() && x.dk.untouched() && x.dv.untouched(); });
  }
}

TEST_CASE("the scratch of backward grows with the rows alone, not with the pairs or keys") {
  const auto bytes = [](index_t n, index_t m, index_t workers) {
    static float memory[9];  // a plan looks at no element
    const auto rows = [](int i, index_t count) {
      return heed::tensor_view<float, 4>(memory + i, {1, 2, count, 64}, {count * 128, count * 64, 64, 1});
    };
    plain_executor executor{workers};
    const heed::softmax::options<float> how{.mask = heed::causal(), .lse = {memory + 8, {1, 2, n}, {2 * n, n, 1}}};
    const heed::plan plan =
        run_plan_backward<float>({rows(0, n), rows(1, m), rows(2, m), rows(3, n), rows(4, n)},
                                 {.dq = rows(5, n), .dk = rows(6, m), .dv = rows(7, m)}, how, {.executor = executor});
    REQUIRE(plan.ok());
    return static_cast<double>(plan.workspace_bytes);
  };
  CHECK(bytes(2000, 200000, 1) == bytes(2000, 2000, 1));
  CHECK(bytes(2000, 200000, 4) == bytes(2000, 2000, 4));
  CHECK(bytes(200000, 2000, 1) - bytes(2000, 2000, 1) <= 2 * 198000 * 4 * sizeof(float));  // a few numbers per row
  CHECK(bytes(2000, 2000, 4) <= 4 * bytes(2000, 2000, 1));
}

TEST_CASE("what functions throw reaches the caller of backward, from any executor") {
  struct throwing_case : backward_case<float> {
    using backward_case<float>::backward_case;
  };
  const auto call = [](auto& x, const heed::context& where) { x.backward(where); };
  const auto equal = [](const auto& a, const auto& b) { return same_gradients(a, b); };
  for (const shape& s : {shape{2, 2, 1, 70, 60, 8, 8}, shape{3, 4, 2, 2, 60, 8, 8}, shape{1, 2, 6, 70, 20, 8, 8}}) {
    INFO(to_string(s));
    const auto with_forward = [&](const heed::softmax::options<float>& good, const heed::softmax::options<float>& how) {
      throwing_case x(s, good);
      x.forward();
      const auto lse = x.options.lse;
      x.options = how, x.options.lse = lse;
      return x;
    };
    const auto identity = [](float x, const heed::position&) { return x; };
    const auto one = [](float, const heed::position&) { return 1.f; };
    const auto derived = [&](fuse& f) {
      return with_forward({.score = {identity, one}},
                          {.score = {identity, [&f](float, const heed::position&) { return f.burn(), 1.f; }}});
    };
    const auto visible = [](const heed::position& at) { return at.key % 3 > 0; };
    const auto hidden = [&](fuse& f) {
      return with_forward({.mask = heed::causal() & heed::visible_if(visible)},
                          {.mask = heed::causal() & heed::visible_if([&f](const heed::position& at) {
                                     return f.burn(), at.key % 3 > 0;
                                   })});
    };
    CHECK(mishandled_anywhere(derived, call, equal) == "");
    CHECK(mishandled_anywhere(hidden, call, equal) == "");
  }
}
