// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits whoever runs the tasks and however columns and tokens are cut; no allocation
// in planned memory.

#include <algorithm>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/recurrent_case.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {
    {1, 1, 1, 150, 150, 64, 80}, {2, 4, 2, 70, 70, 20, 12}, {1, 3, 1, 100, 100, 16, 64}, {1, 1, 1, 40, 40, 8, 5}};

}  // namespace

TEST_CASE("the same bits for 1 to 5 workers in any order, columns and tokens cut or not") {
  bool columns = false, tokens = false, both = false;
  for (const shape& s : shapes)
    for (const bool gated : {false, true}) {
      const auto make = [&] {
        return gated ? lightning_case<float>(s, s.kv_heads, 9) : lightning_case<float>(s, some_slopes(s.heads));
      };
      lightning_case<float> serial = make();
      check(serial);
      for (index_t workers = 1; workers <= 5; ++workers)
        for (const order in : {order::forward, order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
            INFO(to_string(s) << ", " << workers << " workers");
            test_executor executor(workers, in, threads);
            lightning_case<float> x = make();
            const heed::plan plan = x.plan({.executor = executor});
            const bool in_blocks = says(plan, "blocks"), in_pieces = says(plan, "pieces");
            columns = columns || in_blocks, tokens = tokens || in_pieces, both = both || (in_blocks && in_pieces);
            x.forward({.executor = executor});
            CHECK((same_bits(x.o, serial.o) && same_bits(x.s1, serial.s1)));
            CHECK_FALSE(executor.asked_too_much());
          }
    }
  CHECK(columns);
  CHECK(tokens);
  CHECK(both);
}

TEST_CASE("packed sequences and padding: the same bits however tokens are cut") {
  const std::vector<std::int32_t> at{0, 0, 130, 131, 170, 170}, seen{0, 97, 0, 39, 0};
  const shape s{1, 1, 1, 170, 170, 20, 8};
  for (const bool padded : {false, true})
    for (const bool gated : {false, true})
      for (const index_t workers : {10, 16}) {
        heed::lightning::options<float> how{.mask = heed::packed(at, at), .chunk = 16};
        if (padded) how.mask = how.mask & heed::key_lengths(seen);
        const auto make = [&] {
          return gated ? lightning_case<float>(s, 1, 9, how, {}, 5)
                       : lightning_case<float>(s, some_slopes(1), how, {}, 5);
        };
        lightning_case<float> serial = make(), x = make();
        serial.forward();
        test_executor executor(workers, order::shuffled, true);
        CHECK(says(x.plan({.executor = executor}), "pieces"));
        x.forward({.executor = executor});
        CHECK((same_bits(x.o, serial.o) && same_bits(x.s1, serial.s1)));
      }
}

TEST_CASE("one head is shared by two workers, four heads are not cut") {
  plain_executor two{2};
  for (const index_t d : {64, 256}) {
    const heed::plan one_head = lightning_case<float>({1, 1, 1, 500, 500, d, d}, {0.1}).plan({.executor = two});
    CHECK(one_head.splits == 2);
    CHECK(one_head.tasks == 2);
    CHECK(says(one_head, d == 64 ? "tokens in 2 pieces" : "columns of v in 2 blocks"));
  }
  const heed::plan four = lightning_case<float>({1, 4, 4, 500, 500, 64, 64}, some_slopes(4)).plan({.executor = two});
  CHECK(four.splits == 1);
  CHECK(four.tasks == 4);
}

TEST_CASE("the state in one memory, on threads: tokens are not cut, a piece could be late to read it") {
  const shape s{1, 1, 1, 300, 300, 32, 16};
  lightning_case<float> serial(s, {0.1});
  serial.forward();
  plain_executor four{4};
  CHECK(says(serial.plan({.executor = four}), "pieces"));
  for (int repeat = 0; repeat < 5; ++repeat) {
    test_executor executor(4, order::forward, true);
    lightning_case<float> x(s, {0.1});
    x.options.final_state.s = x.s0.view();
    CHECK_FALSE(says(x.plan({.executor = executor}), "pieces"));
    x.forward({.executor = executor});
    CHECK((same_bits(x.o, serial.o) && same_bits(x.s0, serial.s1)));
  }
}

TEST_CASE("no allocation in the planned workspace, whatever its alignment and content; one without") {
  for (const shape& s : shapes)
    for (const index_t workers : {1, 3}) {
      lightning_case<float> x(s, some_slopes(s.heads)), y(s, some_slopes(s.heads));
      y.forward();
      const verb_in verb{[&](const heed::context& where) { return x.plan(where); },
                         [&](const heed::context& where) { x.forward(where); }};
      check_small_workspace(verb, workers, [&] { return x.o.untouched() && x.s1.untouched(); });
      check_workspaces(
          verb, workers, [&] { x.o.poison(), x.s1.poison(); },
          [&] { return same_bits(x.o, y.o) && same_bits(x.s1, y.s1); });
    }
}

TEST_CASE("scratch does not grow with the sequence") {
  const auto bytes = [](index_t n) {
    return lightning_case<float>({1, 1, 1, n, n, 32, 32}, {0.1}).plan().workspace_bytes;
  };
  CHECK(bytes(500) == bytes(20000));
}
