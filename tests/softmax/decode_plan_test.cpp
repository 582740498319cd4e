// SPDX-License-Identifier: BSD-3-Clause

// What plan_decode says: a path and why, pieces that follow shapes and lengths alone, and never a throw.

#include <string>
#include <vector>

#include "support/decode_errors.hpp"
#include "support/executor.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;

heed::plan plan_of(const decode_problem& p, index_t workers = 1) {
  test_executor executor(workers);
  return decode_case<float>(p).plan({.executor = executor});
}

}  // namespace

TEST_CASE("plan_decode: a path, why, and pieces of every kind of call") {
  for (const kept type : all_kept)
    for (const index_t group : {1, 2, 4, 8, 16})
      for (const index_t n : {1, 4, 17})
        for (std::size_t kind = 0; kind < 9; ++kind) {
          decode_problem p{2 * group, 2, n, 16, 16, {400, 3}, some_cache(kind, 400)};
          p.stored_kv = type;
          const heed::plan plan = plan_of(p);
          INFO(to_string(p) << ": " << plan.problem.data());
          REQUIRE(plan.ok());
          CHECK(std::string(plan.path).find("softmax") == 0);
          CHECK(std::string(plan.path).find("decode") != std::string::npos);
          CHECK_FALSE(std::string(plan.isa).empty());
          CHECK_FALSE(std::string(plan.why.data()).empty());
          CHECK(plan.splits >= 1);
          CHECK(plan.tasks >= 1);
        }
}

TEST_CASE("plan_decode: up to 4 rows have tiles of 16 keys, more of 128") {
  for (const index_t rows : {1, 2, 3, 4, 5, 7}) {
    const heed::plan plan = plan_of({2 * rows, 2, 1, 16, 16, {400, 3}});
    CHECK(plan.query_tile == rows);
    CHECK(plan.key_tile == (rows <= 4 ? 16 : 128));
  }
}

TEST_CASE("plan_decode: pieces follow shapes and lengths, not workers") {
  for (const decode_problem& p :
       {decode_problem{1, 1, 1, 64, 64, {30000}}, {8, 1, 4, 16, 16, {900, 5, 20000}}, {4, 2, 17, 8, 8, {3000}}}) {
    const heed::plan one = plan_of(p);
    for (const index_t workers : {2, 3, 8}) {
      const heed::plan plan = plan_of(p, workers);
      CHECK(plan.tasks == one.tasks);
      CHECK(plan.splits == one.splits);
      CHECK(std::string(plan.path) == one.path);
    }
    CHECK(one.tasks >= 2);
  }
}

TEST_CASE("plan_decode: one long sequence is split, short ones are not") {
  CHECK(plan_of({1, 1, 1, 64, 64, {100000}}).splits >= 4);
  CHECK(plan_of({1, 1, 1, 64, 64, {16}}).splits == 1);
  CHECK(plan_of({16, 16, 1, 64, 64, {64, 64, 64, 64}}).tasks >= 4);
}

TEST_CASE("plan_decode: the workspace does not depend on the lengths") {
  for (const index_t group : {1, 4, 8})
    for (const index_t n : {1, 17}) {
      const auto bytes = [&](std::int32_t length) {
        return plan_of({group, 1, n, 16, 16, {length, 1}, {cache_kind::contiguous, 4000}}).workspace_bytes;
      };
      CHECK(bytes(4000) == bytes(3));
      CHECK(bytes(2000) == bytes(0));
    }
}

TEST_CASE("plan_decode: nothing to do") {
  CHECK(plan_of({4, 2, 0, 8, 8, {5, 9}}).ok());
  CHECK(plan_of({4, 2, 3, 8, 8, {}}).ok());
  CHECK(plan_of({4, 2, 3, 8, 8, {0, 0}}).ok());
}

TEST_CASE("plan_decode: any bad call is a problem, not a throw") {
  const decode_problem p{4, 2, 2, 8, 6, {20, 11}};
  decode_case<float> x(p);
  const auto problem = [](const decode_to_bend<float>& c) {
    return std::string(plan_decode<float>(c.call(), c.options, {}).problem.data());
  };
  decode_to_bend<float> lengths(x), mask(x), nothing(x);
  const numbers each{20, 1000};
  lengths.cache.lengths = each;
  mask.options.mask = heed::window(-7);
  nothing.cache = {}, nothing.q = {}, nothing.o = {};
  CHECK(mentions(problem(lengths), "1000"));
  CHECK(mentions(problem(mask), "-7"));
  CHECK_NOTHROW(problem(nothing));
}
