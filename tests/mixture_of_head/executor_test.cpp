// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits whoever runs the tasks in whatever order, no allocation in planned memory,
// and memory that is enough for any gates.

#include <algorithm>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/mixture_case.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

// Tiles with and without a group, few rows, many heads, an output beyond 4 MiB (cleared past the caches).
constexpr shape shapes[] = {{2, 4, 2, 150, 130, 20, 12},
                            {1, 1, 1, 700, 300, 16, 16},
                            {2, 8, 2, 3, 700, 16, 16},
                            {3, 16, 16, 20, 40, 8, 8},
                            {1, 6, 1, 90, 20, 8, 8}};

template <class T> bool same(const mixture_case<T>& a, const mixture_case<T>& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse);
}

}  // namespace

TEST_CASE("the same bits for 1 to 5 workers in any order") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    for (const gating how : {gating::random, gating::clustered, gating::few}) {
      if (turn++ % thinning != 0) continue;
      INFO(to_string(s) << ", " << name_of(how));
      mixture_case<float> serial(s, how, {.mask = heed::causal()});
      check_mixture(serial);
      for (index_t workers = 1; workers <= 5; ++workers)
        for (const order in : {order::forward, order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            INFO(workers << " workers");
            test_executor executor(workers, in, threads);
            mixture_case<float> x(s, how, {.mask = heed::causal()});
            x.mix({.executor = executor});
            CHECK(same(x, serial));
            CHECK_FALSE(executor.asked_too_much());
            CHECK(executor.phases() == 1);
          }
    }
}

// Long enough that threads take turns in the middle of tasks even on one core.
TEST_CASE("the same bits when threads interleave, with an output longer than the caches") {
  const layouts shared{.k = layout::shared_heads, .v = layout::shared_heads};
  const index_t keys = 2000 / static_cast<index_t>(thinning);
  for (const shape& s : {shape{1, 2, 2, 3000, keys, 32, 256}, shape{2, 8, 2, 1000, keys / 4, 16, 16}}) {
    INFO(to_string(s));
    mixture_case<float> serial(s, gating::random, {.mask = heed::causal()}, shared);
    serial.mix();
    for (int repeat = 0; repeat < 3; ++repeat) {
      test_executor executor(4, order::forward, true);
      mixture_case<float> x(s, gating::random, {.mask = heed::causal()}, shared);
      x.mix({.executor = executor});
      CHECK(same(x, serial));
    }
    bool right = true;
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t e = 0; serial.gates(b, h, i) == 0 && e < s.value_dim; ++e)
            right = right && serial.o(b, h, i, e) == 0;
    CHECK(right);
    CHECK(serial.o.canaries_alive());
  }
}

TEST_CASE("a plan made with any gates is enough for all others; nothing is allocated in it") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    for (const index_t workers : {1, 3})
      for (const gating planned : {gating::none, gating::all_ones, gating::few}) {
        plain_executor executor{workers};
        const std::size_t bytes =
            mixture_case<float>(s, planned, {.mask = heed::causal()}).mix_plan({.executor = executor}).workspace_bytes;
        for (const gating how : gatings) {
          if (turn++ % thinning != 0) continue;
          INFO(to_string(s) << ", " << workers << " workers, planned for " << name_of(planned) << ", run with "
                            << name_of(how));
          mixture_case<float> x(s, how, {.mask = heed::causal()}), y(s, how, {.mask = heed::causal()});
          std::vector<std::byte> memory(bytes + 100, std::byte{0xff});
          const heed::context where{.executor = executor, .workspace = {memory.data() + 17, bytes}};
          REQUIRE(x.mix_plan(where).ok());
          const long first = allocations;
          x.mix(where);
          const long second = allocations;
          y.mix();
          const long third = allocations;
          CHECK(second == first);
          CHECK(third - second == 1);
          CHECK(same(x, y));
          CHECK(std::all_of(memory.begin(), memory.begin() + 17, [](std::byte b) { return b == std::byte{0xff}; }));
          CHECK(std::all_of(memory.end() - 83, memory.end(), [](std::byte b) { return b == std::byte{0xff}; }));
        }
      }
}

TEST_CASE("a workspace that is too small is an error with both numbers") {
  for (const shape& s : shapes) {
    mixture_case<float> x(s);
    const std::size_t bytes = x.mix_plan().workspace_bytes;
    std::vector<std::byte> memory(bytes - 1);
    const heed::context where{.workspace = memory};
    const std::string problem = x.mix_plan(where).problem.data();
    INFO(problem);
    CHECK(problem.find(std::to_string(bytes)) != std::string::npos);
    CHECK(problem.find(std::to_string(bytes - 1)) != std::string::npos);
    CHECK_THROWS_AS(x.mix(where), heed::error);
    CHECK((x.o.untouched() && x.lse.untouched()));
  }
  mixture_case<float> empty({1, 2, 1, 0, 5, 8, 8});
  CHECK(empty.mix_plan().workspace_bytes == 0);
  const long before = allocations;
  empty.mix();
  const long after = allocations;
  CHECK(after == before);
}

TEST_CASE("workspace: grows with heads and workers, not with queries and keys") {
  const auto bytes = [](index_t n, index_t m, index_t heads, index_t workers) {
    plain_executor executor{workers};
    return mixture_case<float>({1, heads, heads, n, m, 16, 16}).mix_plan({.executor = executor}).workspace_bytes;
  };
  CHECK(bytes(200, 100, 2, 1) == bytes(3000, 1000, 2, 1));
  CHECK(bytes(200, 100, 64, 1) - bytes(200, 100, 2, 1) <= 62 * sizeof(index_t) + 64);
  CHECK(bytes(2000, 100, 2, 4) <= 4 * bytes(2000, 100, 2, 1));
}

TEST_CASE("what score functions and predicates throw reaches the caller, from any executor") {
  const auto call = [](auto& x, const heed::context& where) { x.mix(where); };
  for (const gating how : {gating::random, gating::sparse}) {
    INFO(name_of(how));
    const auto make = [&](fuse& f) {
      const auto visible = [&f](const heed::position& at) { return f.burn(), at.key % 3 > 0; };
      return mixture_case<float>({2, 4, 2, 70, 40, 8, 8}, how, {.mask = heed::visible_if(visible)});
    };
    const auto equal = [](const auto& a, const auto& b) { return same(a, b); };
    CHECK(mishandled_anywhere(make, call, equal) == "");
  }
}
