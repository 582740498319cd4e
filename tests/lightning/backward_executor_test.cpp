// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits of all gradients whoever runs the tasks and however tokens are cut; no
// allocation in planned memory.

#include <algorithm>
#include <vector>

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/lightning_backward_case.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<float>;

constexpr shape shapes[] = {
    {1, 1, 1, 150, 150, 64, 80}, {2, 4, 2, 70, 70, 20, 12}, {1, 3, 1, 100, 100, 16, 64}, {1, 1, 1, 400, 400, 8, 5}};

type make(const shape& s, bool gated, const heed::lightning::options<float>& how = {}, index_t count = -1) {
  return gated ? type(s, s.kv_heads, 9, how, {}, count) : type(s, some_slopes(s.heads), how, {}, count);
}

struct plain_executor {  // in reverse, without allocating
  heed::index_t workers;
  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = n; i-- > 0;) f(i);
  }
};

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
        plain_executor executor{workers};
        type x = make(s, gated), y = make(s, gated);
        y.backward();
        const std::size_t bytes = x.plan_backward({.executor = executor}).workspace_bytes;
        REQUIRE(bytes > 0);
        for (const std::size_t misaligned : {std::size_t{0}, std::size_t{1}, std::size_t{63}}) {
          std::vector<std::byte> memory(bytes + 200, std::byte{0xff});
          x.poison_gradients(), x.dslopes.poison(), x.dgates.poison();
          const heed::context ctx{.executor = executor, .workspace = {memory.data() + 64 + misaligned, bytes}};
          const heed::decay<float> decay = x.decay();  // may own its slopes
          const backward_call<float> call = x.back();
          const long before = allocations;
          run_backward<float>(call, decay, x.asked, x.options, ctx);
          const long after = allocations;
          CHECK(after == before);
          CHECK(same_gradients(x, y));
          const auto untouched = [](std::byte b) { return b == std::byte{0xff}; };
          const auto inner = memory.begin() + 64 + static_cast<std::ptrdiff_t>(misaligned);
          CHECK(std::all_of(memory.begin(), inner, untouched));
          CHECK(std::all_of(inner + static_cast<std::ptrdiff_t>(bytes), memory.end(), untouched));
        }
        const long before = allocations;
        x.backward({.executor = executor});
        const long after = allocations;
        CHECK(after - before == 1);
        std::vector<std::byte> less(bytes - 1);
        const heed::plan plan = x.plan_backward({.executor = executor, .workspace = less});
        CHECK_FALSE(plan.ok());
        CHECK(std::string(plan.problem.data()).find(std::to_string(bytes)) != std::string::npos);
        CHECK_THROWS_AS(x.backward({.executor = executor, .workspace = less}), heed::error);
      }
}

TEST_CASE("backward: scratch does not grow with the sequence") {
  for (const bool gated : {false, true}) {
    const auto bytes = [gated](index_t n) {
      return make({1, 1, 1, n, n, 32, 32}, gated).plan_backward().workspace_bytes;
    };
    CHECK(bytes(500) == bytes(20000));
  }
}
