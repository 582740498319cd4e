// SPDX-License-Identifier: BSD-3-Clause

// softmax::decode on executors and in workspaces: the same bits whoever runs the pieces in whatever order; no
// allocation in planned memory, for any length up to the capacity.

#include <algorithm>
#include <string>
#include <vector>

#include "support/decode_case.hpp"
#include "support/executor.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;

// One long sequence, ragged ones, groups, many rows, more key/value heads, rows that see nothing
const decode_problem problems[] = {
    {1, 1, 1, 32, 32, {6000}},
    {8, 1, 1, 16, 24, {3000, 5, 0, 700}, {cache_kind::ring, 1000, 4}},
    {8, 2, 4, 20, 12, {900, 2500, 64}, {cache_kind::paged}},
    {2, 6, 2, 8, 8, {1200, 30}},
    {16, 1, 17, 8, 8, {20, 1500}},
    {4, 2, 1, 8, 8, {10, 0, 2000, 1, 1, 900, 40, 3}},
};

}  // namespace

TEST_CASE("decode: the same bits for 1 to 8 workers in any order") {
  for (const decode_problem& p : problems)
    for (const kept type : {kept::f32, kept::bf16, kept::i8}) {
      decode_problem stored = p;
      stored.stored_kv = type;
      decode_case<float> serial(stored, {.mask = heed::causal(), .sink_logits = 0.5});
      check(serial);
      decode_case<float> x(stored, {.mask = heed::causal(), .sink_logits = 0.5});
      for (index_t workers = 1; workers <= 8; ++workers)
        for (const order in : {order::forward, order::reversed, order::shuffled}) {
          if (thinning > 1 && (in != order::shuffled || workers % 3 != 0)) continue;
          test_executor executor(workers, in, in == order::shuffled);
          x.o.poison(), x.lse.poison();
          x.decode({.executor = executor});
          const bool same = same_results(x, serial);
          INFO(to_string(stored) << ", " << workers << " workers");
          CHECK(same);
          CHECK_FALSE(executor.asked_too_much());
        }
    }
}

TEST_CASE("decode: the same bits in double, and again on threads") {
  for (const decode_problem& p : problems) {
    decode_case<double> serial(p);
    check(serial);
    for (int repeat = 0; repeat < 5; ++repeat) {
      test_executor executor(4, order::shuffled, true);
      decode_case<double> x(p);
      x.decode({.executor = executor});
      CHECK(same_results(x, serial));
    }
  }
}

TEST_CASE("decode: no allocation in the planned workspace, whatever its alignment and content") {
  for (const decode_problem& p : problems)
    for (const index_t workers : {1, 3}) {
      plain_executor executor{workers};
      decode_case<float> x(p, {.mask = heed::causal()}), y(p, {.mask = heed::causal()});
      check(y);
      const std::size_t bytes = x.plan({.executor = executor}).workspace_bytes;
      for (const std::size_t misaligned : {std::size_t{0}, std::size_t{1}, std::size_t{63}}) {
        std::vector<std::byte> memory(bytes + 200, std::byte{0xff});
        const heed::context where{.executor = executor, .workspace = {memory.data() + 64 + misaligned, bytes}};
        const decode_call<float> call = x.call();
        const long before = allocations;
        run_decode<float>(call, x.options, where);
        const long after = allocations;
        CHECK(after == before);
        x.stored_o.copy_to(x.o);
        CHECK(same_results(x, y));
        const auto outside = [](std::byte b) { return b == std::byte{0xff}; };
        CHECK(std::all_of(memory.begin(), memory.begin() + 64 + static_cast<std::ptrdiff_t>(misaligned), outside));
        CHECK(std::all_of(memory.end() - 136 + static_cast<std::ptrdiff_t>(misaligned), memory.end(), outside));
      }
    }
}

TEST_CASE("decode: the workspace of one plan is enough for every length up to the capacity, without allocation") {
  for (const kept type : {kept::f32, kept::bf16, kept::i8})
    for (const index_t group : {1, 4, 8, 16})
      for (const cache_setup& cache : {cache_setup{cache_kind::contiguous, 2500}, {cache_kind::ring, 700, 4},
                                       {cache_kind::paged, 0, 0, 16}}) {
        decode_problem p{2 * group, 2, 1, 16, 16, {2500, 2500, 2500}, cache};
        p.stored_kv = type;
        decode_case<float> x(p, {.mask = heed::causal()}), y(p, {.mask = heed::causal()});
        plain_executor executor{2};
        std::vector<std::byte> memory;
        bool first = true;
        for (const std::int32_t length : {0, 1, 15, 16, 130, 699, 700, 701, 1999, 2500}) {
          const numbers now{length, length / 3, std::max(0, length - 1)};
          std::copy(now.begin(), now.end(), x.rows.lengths.begin());
          std::copy(now.begin(), now.end(), y.rows.lengths.begin());
          if (first) memory.resize(x.plan({.executor = executor}).workspace_bytes), first = false;
          const decode_call<float> call = x.call();
          const long before = allocations;
          run_decode<float>(call, x.options, {.executor = executor, .workspace = memory});
          const long after = allocations;
          CHECK(after == before);
          x.stored_o.copy_to(x.o), y.decode();
          INFO(to_string(p) << ", now " << length);
          CHECK(same_results(x, y));
        }
      }
}

TEST_CASE("decode: without a workspace at most one allocation") {
  for (const decode_problem& p : problems) {
    decode_case<float> x(p);
    const decode_call<float> call = x.call();
    const std::size_t bytes = x.plan().workspace_bytes;
    const long before = allocations;
    run_decode<float>(call, x.options, {});
    const long after = allocations;
    CHECK(after - before == (bytes > 0 ? 1 : 0));
  }
}

TEST_CASE("decode: what score functions and predicates throw reaches the caller, from any executor") {
  const auto call = [](auto& x, const heed::context& where) { x.decode(where); };
  const auto equal = [](const auto& a, const auto& b) { return same_results(a, b); };
  for (const decode_problem& p :
       {decode_problem{2, 1, 1, 8, 8, {60, 7}}, {8, 1, 4, 8, 8, {50}}, {2, 4, 1, 8, 8, {60}}}) {
    const auto scored = [&](fuse& f) {
      return decode_case<float>(p, {.score = [&f](float x, const heed::position&) { return f.burn(), x; }});
    };
    const auto hidden = [&](fuse& f) {
      const auto visible = [&f](const heed::position& at) { return f.burn(), at.key % 3 > 0; };
      return decode_case<double>(p, {.mask = heed::causal() & heed::visible_if(visible)});
    };
    CHECK(mishandled_anywhere(scored, call, equal) == "");
    CHECK(mishandled_anywhere(hidden, call, equal) == "");
  }
}
