// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a call of decode is checked and cut: tasks are (sequence, head of the state), each updates its state in place.

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/tile/recurrence.hpp"
#include "heed/tile/steps.hpp"
#include "heed/tile/tasks.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// memory: what decode reads and updates
template <class T> void hold(recurrence<T>& p, const state_view<T>& memory) {
  p.after = {heed::detail::settled(memory.s), heed::detail::settled(memory.z)};
  p.before = p.after, p.in_place = true;
  if (!p.align.top_left) p.align = {};
  p.causal = true;
}
template <class T> void check_tokens(heed::detail::checker& check, const recurrence<T>& p) {
  check.require(!p.align.top_left, "align is top_left: decode takes new tokens for those after its memory's");
  check.require(!p.packed() || heed::detail::equal(p.mask.query_offsets, p.mask.key_offsets),
                "packed: query_offsets and key_offsets differ, decode has one token axis");
  check.equal("q", p.q.extent(2), "k", p.k.extent(2), "tokens");
}

// Into a plan without a problem
template <class T> void plan_steps(plan& out, const recurrence<T>& p, const context& where, index_t workers) {
  out.isa = HEED_NAME(HEED_LEVEL);
  out.tasks = p.o.empty() ? 0 : p.sequences() * p.states;
  out.query_tile = out.key_tile = out.chunk = 1;
  if (out.tasks == 0) return;
  heed::detail::arena one;
  static_cast<void>(step_driver<T>(p, one));
  out.workspace_bytes = heed::detail::scratch_bytes(out.problem, std::min(out.tasks, workers), one.needed());
  if (!out.ok()) return;
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
}

// For plan_decode alone
template <class T> void explain_steps(plan& how, const recurrence<T>& p) {
  heed::detail::message text(how.why);
  if (how.tasks == 0) {
    text << "no rows";
    return;
  }
  text << how.tasks << " memories, updated in place, token by token";
  if (p.packed()) text << "; packed: each sequence as a call of its own";
}

template <class T> void run_steps(const recurrence<T>& p, const plan& how, const context& where, index_t workers) {
  run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    step_driver<T> driver(p, scratch);
    claim([&](index_t task) { driver.run(p.track_at(task / p.states), task % p.states); });
  });
}

}  // namespace HEED_ISA
}  // namespace heed::tile
