// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the verbs of all kernels do with a call: check it, measure it, then describe it (plan_<verb>) or run it.
//
// A Call has
//   void check(checker&) const                what is wrong with it; reads no tensor data
//   workload measure(index_t workers)         tasks, scratch of one worker and of all; after a check without a problem
//   void describe(plan&) const                path, sizes of tiles and `why`; after measure
//   void run(const workload&, const call_memory&, const executor_ref&)

#include <algorithm>
#include <limits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Says what is wrong with a call, and how much it has to do: nothing where that cannot be known.
template <class Call>
workload measure_call(Call& call, heed::detail::problem_text& problem, const context& context) noexcept {
  heed::detail::checker check(problem);
  call.check(check);
  if (!check.ok()) return {};
  const index_t workers = context.executor.concurrency();  // asked once: there is scratch for as many as will run
  workload work = call.measure(workers);
  work.slots = std::min(std::max(work.tasks, work.most_tasks), workers);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max() / 4;
  check.require(work.shared_bytes <= most, "scratch: % bytes for all tasks, more than can be counted",
                work.shared_bytes);
  if (!check.ok()) return {};
  check.require(work.slots == 0 || work.slot_bytes <= (most - work.shared_bytes) / static_cast<std::size_t>(work.slots),
                "scratch: % tasks at once (context.executor's concurrency allows them) need % bytes each, more than "
                "can be counted",
                work.slots, work.slot_bytes);
  if (!check.ok()) return {};
  heed::detail::check_workspace(problem, context.workspace, work.bytes());
  return work;
}

template <class Call> plan plan_call(Call&& call, const context& context) noexcept {
  plan out{};
  const workload work = measure_call(call, out.problem, context);
  out.workspace_bytes = work.bytes(), out.tasks = work.tasks;
  if (out.ok() || out.workspace_bytes > 0) out.isa = HEED_NAME(HEED_LEVEL);
  if (out.ok()) call.describe(out);
  return out;
}

// Runs a call, or leaves it and writes what is wrong with it into `problem`, which is empty before.
template <class Call> void try_call(Call&& call, heed::detail::problem_text& problem, const context& context) {
  const workload work = measure_call(call, problem, context);
  if (problem[0] != 0) return;
  const call_memory memory(context.workspace, work);
  call.run(work, memory, context.executor);
}

template <class Call> void run_call(Call&& call, const context& context) {
  heed::detail::problem_text problem;
  problem[0] = 0;
  try_call(call, problem, context);
  if (problem[0] != 0) heed::detail::fail(problem.data());
}

// The bytes that T(arguments..., arena) takes of one worker's scratch
template <class T, class... Arguments> std::size_t scratch_of(const Arguments&... arguments) {
  heed::detail::arena counted;
  static_cast<void>(T(arguments..., counted));
  return counted.used();
}

}  // namespace HEED_ISA
}  // namespace heed::tile
