// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits of all gradients whoever runs the tasks and however tokens are cut; no
// allocation in planned memory.

#include <algorithm>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/lightning_backward_case.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<float>;

constexpr shape shapes[] = {
    {1, 1, 1, 150, 150, 64, 80}, {2, 4, 2, 70, 70, 20, 12}, {1, 3, 1, 100, 100, 16, 64}, {1, 1, 1, 400, 400, 8, 5}};

type make(const shape& s, bool gated, const heed::lightning::options<float>& how = {}, index_t count = -1) {
  return gated ? type(s, s.kv_heads, 9, how, {}, count) : type(s, some_slopes(s.heads), how, {}, count);
}

}  // namespace

TEST_CASE("backward: the same bits for 1 to 5 workers in any order, tokens cut or not, slopes and gates") {
  bool cut = false;
  for (const shape& s : shapes)
    for (const bool gated : {false, true}) {
      type serial = make(s, gated, {.chunk = 16});
      check_backward(serial);
      for (index_t workers = 1; workers <= 5; ++workers)
        for (const order in : {order::forward, order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
            INFO(to_string(s) << ", " << workers << " workers" << (gated ? ", gates" : ""));
            test_executor executor(workers, in, threads);
            type x = make(s, gated, {.chunk = 16});
            cut = cut || says(x.plan_backward({.executor = executor}), "pieces");
            x.backward({.executor = executor});
            CHECK(same_gradients(x, serial));
            CHECK_FALSE(executor.asked_too_much());
          }
    }
  CHECK(cut);
}

TEST_CASE("backward: some gradients alone, the states in one memory: the same bits on threads") {
  for (const bool gated : {false, true})
    for (unsigned which = 1; which < 32; ++which) {
      const shape s{1, 2, 1, 200, 200, 16, 12};
      type serial = make(s, gated, {.chunk = 16}), x = make(s, gated, {.chunk = 16});
      serial.backward();
      heed::lightning::gradients<float> some;
      some.dfinal_state = x.asked.dfinal_state;
      if (which & 1) some.dq = x.asked.dq;
      if (which & 2) some.dk = x.asked.dk;
      if (which & 4) some.dv = x.asked.dv;
      if (which & 8) some.dinitial_state.s = x.ds1.view();
      if (which & 16) some.dslopes = x.asked.dslopes, some.dlog_gates = x.asked.dlog_gates;
      x.asked = some;
      test_executor executor(4, order::shuffled, true);
      INFO("asked for " << which << (gated ? ", gates" : ""));
      x.backward({.executor = executor});
      CHECK((!(which & 1) || same_bits(x.dq, serial.dq)));
      CHECK((!(which & 2) || same_bits(x.dk, serial.dk)));
      CHECK((!(which & 4) || same_bits(x.dv, serial.dv)));
      CHECK((!(which & 8) || same_bits(x.ds1, serial.ds0)));
      CHECK((!(which & 16) || (same_bits(x.dslopes, serial.dslopes) && same_bits(x.dgates, serial.dgates))));
    }
}

TEST_CASE("backward: packed sequences and padding: the same bits however tokens are cut") {
  static const std::vector<std::int32_t> at{0, 0, 130, 131, 170, 170}, seen{0, 97, 0, 39, 0};
  for (const bool padded : {false, true})
    for (const bool gated : {false, true})
      for (const index_t workers : {5, 10, 16}) {
        heed::lightning::options<float> how{.mask = heed::packed(at, at), .chunk = 16};
        if (padded) how.mask = how.mask & heed::key_lengths(seen);
        type serial = make({1, 1, 1, 170, 170, 20, 8}, gated, how, 5), x = make(serial.s, gated, how, 5);
        serial.backward();
        test_executor executor(workers, order::shuffled, true);
        x.backward({.executor = executor});
        CHECK(same_gradients(x, serial));
      }
}

TEST_CASE("backward: no allocation in the planned workspace, whatever its alignment and content; one without") {
  for (const shape& s : shapes)
    for (const bool gated : {false, true})
      for (const index_t workers : {1, 3}) {
        type x = make(s, gated), y = make(s, gated);
        y.backward();
        const heed::decay<float> decay = x.decay();  // may own its slopes
        const backward_call<float> call = x.back();
        const verb_in verb{
            [&](const heed::context& where) { return x.plan_backward(where); },
            [&](const heed::context& where) { run_backward<float>(call, decay, x.asked, x.options, where); }};
        const auto untouched = [&] {
          return x.dq.untouched() && x.dk.untouched() && x.dv.untouched() && x.dslopes.untouched() &&
                 x.dgates.untouched();
        };
        check_small_workspace(verb, workers, untouched);
        const auto clear = [&] { x.poison_gradients(), x.dslopes.poison(), x.dgates.poison(); };
        check_workspaces(verb, workers, clear, [&] { return same_gradients(x, y); });
      }
}

TEST_CASE("backward: scratch does not grow with the sequence, but for E / 4 numbers per token where there are gates") {
  const auto bytes = [](index_t n, bool gated) {
    return make({1, 1, 1, n, n, 32, 24}, gated).plan_backward().workspace_bytes;
  };
  CHECK(bytes(500, false) == bytes(20000, false));
  CHECK(bytes(20000, true) - bytes(500, true) <= 19500 * 24 / 4 * sizeof(float));
}
