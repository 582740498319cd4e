// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits whoever runs the tasks in whatever order; no allocation in planned memory.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/softmax_case.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

// Many rows, few rows, groups, more key/value heads, rows that see nothing.
constexpr shape shapes[] = {{2, 4, 2, 150, 130, 20, 12}, {1, 1, 1, 700, 300, 16, 16}, {2, 8, 2, 1, 700, 16, 16},
                            {1, 2, 6, 70, 90, 8, 8},     {1, 1, 1, 1, 3000, 32, 32},  {1, 1, 1, 90, 20, 8, 8}};

auto in_context(softmax_case<float>& x) {
  return verb_in{[&x](const heed::context& where) { return x.plan(where); },
                 [&x](const heed::context& where) { x.forward(where); }};
}

}  // namespace

TEST_CASE("the same bits for 1 to 5 workers in any order") {
  for (const shape& s : shapes) {
    INFO(to_string(s));
    softmax_case<float> serial(s, {.mask = heed::causal()});
    check(serial);
    for (index_t workers = 1; workers <= 5; ++workers)
      for (const order in : {order::forward, order::reversed, order::shuffled})
        for (const bool threads : {false, true}) {
          if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
          INFO(workers << " workers");
          test_executor executor(workers, in, threads);
          softmax_case<float> x(s, {.mask = heed::causal()});
          x.forward({.executor = executor});
          const bool same = same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse);
          CHECK(same);
          CHECK_FALSE(executor.asked_too_much());
          CHECK(executor.phases() >= 1);
        }
  }
}

TEST_CASE("the same bits in double, and again on threads") {
  for (const shape& s : shapes) {
    softmax_case<double> serial(s);
    check(serial);
    for (int repeat = 0; repeat < 10; ++repeat) {
      test_executor executor(4, order::forward, true);
      softmax_case<double> x(s);
      x.forward({.executor = executor});
      CHECK((same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse)));
    }
  }
}

// Long enough that threads take turns in the middle of tasks even on one core: no two may use the same scratch.
TEST_CASE("the same bits when threads interleave") {
  const layouts shared{.k = layout::shared_heads, .v = layout::shared_heads};
  for (const shape& s : {shape{1, 2, 2, 3000, 3000, 64, 64}, shape{8, 32, 32, 4, 2000, 64, 64}}) {
    INFO(to_string(s));
    softmax_case<float> serial(s, {.mask = heed::causal()}, shared);
    serial.forward();
    for (int repeat = 0; repeat < (thinning == 1 ? 3 : 1); ++repeat) {
      test_executor executor(4, order::forward, true);
      softmax_case<float> x(s, {.mask = heed::causal()}, shared);
      x.forward({.executor = executor});
      CHECK((same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse)));
    }
  }
}

TEST_CASE("large calls have tasks to share") {
  CHECK(softmax_case<float>({1, 1, 1, 2000, 64, 32, 32}).plan().tasks >= 8);
  CHECK(softmax_case<float>({4, 2, 2, 64, 64, 32, 32}).plan().tasks >= 8);
}

TEST_CASE("no allocation in the planned workspace, whatever its alignment and content; at most one without") {
  for (const shape& s : shapes)
    for (const index_t workers : {1, 3}) {
      INFO(to_string(s));
      softmax_case<float> x(s, {.mask = heed::causal()}), y(s, {.mask = heed::causal()});
      check(y);
      check_workspaces(
          in_context(x), workers, [&] { x.o.poison(), x.lse.poison(); },
          [&] { return same_bits(x.o, y.o) && same_bits(x.lse, y.lse); });
    }
  softmax_case<float> empty({1, 1, 1, 0, 5, 8, 8});
  CHECK(in_context(empty).allocations_of({}) == 0);
}

TEST_CASE("a workspace that is too small is an error with both numbers") {
  for (const shape& s : shapes) {
    softmax_case<float> x(s);
    if (x.plan().workspace_bytes == 0) continue;
    for (const index_t workers : {1, 3})
      check_small_workspace(in_context(x), workers, [&] { return x.o.untouched() && x.lse.untouched(); });
  }
}

TEST_CASE("scratch does not depend on the lengths, and grows with the workers at most in proportion") {
  const auto bytes = [](index_t n, index_t m, index_t workers) {
    float some = 0;  // a plan looks at no element
    const auto view = [&](index_t rows) {
      return heed::tensor_view<float, 4>(&some, {1, 2, rows, 64}, {rows * 128, rows * 64, 64, 1});
    };
    float other[3] = {};
    const auto at = [&](int i, index_t rows) {
      return heed::tensor_view<float, 4>(other + i, {1, 2, rows, 64}, {rows * 128, rows * 64, 64, 1});
    };
    plain_executor executor{workers};
    return run_plan<float>(at(0, n), at(1, m), at(2, m), view(n), {}, {.executor = executor}).workspace_bytes;
  };
  CHECK(bytes(2000, 2000, 1) == bytes(100000, 500000, 1));
  CHECK(bytes(2000, 2000, 4) == bytes(100000, 500000, 4));
  CHECK(bytes(2000, 2000, 4) <= 4 * bytes(2000, 2000, 1));
}

// Queries in lanes, head dim in lanes, more key/value heads; a score function, a predicate, both under other rules.
TEST_CASE("what score functions and predicates throw reaches the caller, from any executor") {
  const auto call = [](auto& x, const heed::context& where) { x.forward(where); };
  const auto equal = [](const auto& a, const auto& b) { return same_bits(a.o, b.o) && same_bits(a.lse, b.lse); };
  for (const shape& s : {shape{2, 2, 1, 70, 60, 8, 8}, shape{3, 4, 2, 2, 60, 8, 8}, shape{1, 2, 6, 70, 20, 8, 8}}) {
    INFO(to_string(s));
    const auto scored = [&](fuse& f) {
      return softmax_case<float>(s, {.score = [&f](float x, const heed::position&) { return f.burn(), x; }});
    };
    const auto hidden = [&](fuse& f) {
      const auto visible = [&f](const heed::position& at) { return f.burn(), at.key % 3 > 0; };
      return softmax_case<double>(s, {.mask = heed::causal() & heed::visible_if(visible), .alibi_slopes = 0.5});
    };
    CHECK(mishandled_anywhere(scored, call, equal) == "");
    CHECK(mishandled_anywhere(hidden, call, equal) == "");
  }
}

TEST_CASE("where several workers throw at once, one of their exceptions reaches the caller") {
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::atomic<int> begun{0};
    const auto meet = [&begun](float, const heed::position& at) -> float {
      ++begun;
      while (begun < 3) std::this_thread::yield();
      throw at.head;
    };
    test_executor executor(3, order::forward, true);
    softmax_case<float> x({1, 3, 3, 1, 20, 8, 8}, {.score = meet});
    int thrown = -1;
    try {
      x.forward({.executor = executor});
    } catch (std::int32_t head) {
      thrown = head;
    }
    CHECK((thrown >= 0 && thrown < 3 && begun == 3));
  }
}
