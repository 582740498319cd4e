// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What must hold of every verb in a workspace of its caller. Counts allocations: one file of a program includes it.

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"

namespace heed_test {

// Runs its indices in reverse, without allocating.
struct plain_executor {
  heed::index_t workers;
  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = n; i-- > 0;) f(i);
  }
};

// A verb with its arguments: what it would do, and does, in a context
template <class Plan, class Run> struct verb_in {
  Plan plan;
  Run run;

  long allocations_of(const heed::context& where) const {
    const long before = allocations;
    run(where);
    return allocations - before;
  }
};
template <class Plan, class Run> verb_in(Plan, Run) -> verb_in<Plan, Run>;  // clang 14 has none for aggregates

// Runs in memory of the planned size, whatever its alignment and content, and without: it allocates nothing there, and
// writes nothing around it; else it allocates once. clear(): forgets results; right(): they are as they should be
template <class Verb, class Clear, class Right>
void check_workspaces(const Verb& verb, heed::index_t workers, const Clear& clear, const Right& right) {
  plain_executor executor{workers};
  const heed::plan plan = verb.plan({.executor = executor});
  REQUIRE(plan.ok());
  const std::size_t bytes = plan.workspace_bytes;
  INFO(workers << " workers, workspace of " << bytes << " bytes");
  for (const std::size_t misaligned : {std::size_t{0}, std::size_t{1}, std::size_t{31}, std::size_t{63}}) {
    std::vector<std::byte> memory(bytes + 200, std::byte{0xff});
    clear();
    CHECK(verb.allocations_of({.executor = executor, .workspace = {memory.data() + 64 + misaligned, bytes}}) == 0);
    CHECK(right());
    const auto untouched = [](std::byte b) { return b == std::byte{0xff}; };
    const auto inner = memory.begin() + 64 + static_cast<std::ptrdiff_t>(misaligned);
    CHECK(std::all_of(memory.begin(), inner, untouched));
    CHECK(std::all_of(inner + static_cast<std::ptrdiff_t>(bytes), memory.end(), untouched));
  }
  clear();
  CHECK(verb.allocations_of({.executor = executor}) == (bytes > 0 ? 1 : 0));
  CHECK(right());
}

// Runs in memory that is too small: an error with both numbers. untouched(): no output was written
template <class Verb, class Untouched>
void check_small_workspace(const Verb& verb, heed::index_t workers, const Untouched& untouched) {
  plain_executor executor{workers};
  const std::size_t bytes = verb.plan({.executor = executor}).workspace_bytes;
  REQUIRE(bytes > 0);
  for (const std::size_t size : {std::size_t{1}, bytes - 1}) {
    std::vector<std::byte> memory(size);
    const heed::context where{.executor = executor, .workspace = memory};
    const heed::plan plan = verb.plan(where);
    const std::string problem = plan.problem.data();
    INFO(problem);
    CHECK(problem.find("workspace") != std::string::npos);
    CHECK(problem.find(std::to_string(size)) != std::string::npos);
    CHECK(problem.find(std::to_string(bytes)) != std::string::npos);
    CHECK(plan.workspace_bytes == bytes);
    std::string thrown;
    try {
      verb.run(where);
    } catch (const heed::error& refused) {
      thrown = refused.what();
    }
    CHECK(thrown == problem);
    CHECK(untouched());
  }
  std::vector<std::byte> enough(bytes);
  CHECK(verb.plan({.executor = executor, .workspace = enough}).ok());
}

}  // namespace heed_test
