// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a call of a recurrent kernel is cut: chunk length, blocks of columns, tasks.

#include <cmath>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/tile/chunks.hpp"
#include "heed/tile/steps.hpp"
#include "heed/tile/tasks.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

struct chunk_cut {
  index_t chunk = 0;
  index_t blocks = 1, columns = 0;  // of v: blocks of so many columns, the last may have fewer
  index_t tasks = 0;
};

// The chunk that costs least. Per token, C / 2 pairs more cost (D + E) C FLOPs; a pass over the state, F x E numbers
// that are loaded, multiplied with a short depth, and stored, costs as much as `pass` products for each of them, once
// per C tokens. The sum is least at C^2 = 2 pass F E / (D + E). bench/lightning_bench.cpp, chunk rows, justifies
// `pass`.
template <class T> index_t chunk_of(index_t d, index_t features, index_t e) {
  constexpr double pass = 16;
  constexpr index_t w = simd::width<T>, lanes = max_lanes<T>, most = 512;
  const double f = static_cast<double>(features), columns = static_cast<double>(e), dim = static_cast<double>(d);
  const double best = std::min<double>(most, std::sqrt(2 * pass * f * columns / (dim + columns)));
  const index_t unit = best < static_cast<double>(lanes) ? w : lanes;
  return std::max<index_t>(unit, static_cast<index_t>(best / static_cast<double>(unit) + 0.5) * unit);
}

// Blocks of columns cost the scores and the packing once more each: so many as make the slowest worker's share least.
// No bit of the result depends on it.
template <class T> void cut_columns(const recurrence<T>& p, index_t tracks, index_t workers, chunk_cut& cut) {
  constexpr index_t w = simd::width<T>;
  const index_t whole = (p.e + w - 1) / w;
  const bool shared_sums = p.normalize && p.before.z.data() != nullptr && p.after.z.data() != nullptr;
  const double d = static_cast<double>(p.d), c = static_cast<double>(cut.chunk);
  const double once = c * d, rest = (4 * static_cast<double>(p.features) + c) * static_cast<double>(p.e);
  double least = 0;
  index_t best = 1;
  for (index_t blocks = 1; blocks <= whole && (blocks - 1) / 4 < workers; ++blocks) {
    const index_t columns = (whole + blocks - 1) / blocks;
    if ((whole + columns - 1) / columns != blocks) continue;
    const double rounds =
        std::ceil(static_cast<double>(tracks) * static_cast<double>(blocks) / static_cast<double>(workers));
    const double share = static_cast<double>(columns) / static_cast<double>(whole);
    const double time = rounds * (once + rest * share);
    if (blocks == 1 || time < 0.95 * least) least = time, best = blocks;
    if (workers == 1 || shared_sums) break;
  }
  cut.columns = std::min(p.e, (whole + best - 1) / best * w);
  cut.blocks = best;
}

template <class T> chunk_cut make_chunk_cut(const recurrence<T>& p, index_t workers) {
  chunk_cut cut;
  const index_t tracks = p.sequences() * p.states;
  if (tracks <= 0 || p.heads == 0) return cut;
  index_t longest = 1;
  for (index_t s = 0; s < (p.packed() ? p.sequences() : 1); ++s) {
    const track t = p.track_at(s);
    longest = std::max({longest, t.queries, t.keys});
  }
  constexpr index_t most = 4096;  // what a caller asks for beyond it is cut: scratch grows with the chunk
  cut.chunk = std::min({p.chunk > 0 ? p.chunk : chunk_of<T>(p.d, p.features, p.e), longest, most});
  cut_columns(p, tracks, workers, cut);
  cut.tasks = tracks * cut.blocks;
  return cut;
}

// Into a plan without a problem
template <class T>
void plan_chunks(plan& out, const recurrence<T>& p, const chunk_cut& cut, const context& where, index_t workers) {
  out.isa = HEED_NAME(HEED_LEVEL);
  out.tasks = cut.tasks, out.chunk = cut.chunk, out.splits = cut.blocks;
  out.query_tile = std::min(cut.chunk, max_lanes<T>), out.key_tile = cut.chunk;
  if (cut.tasks == 0) return;
  heed::detail::arena one;
  static_cast<void>(chunk_driver<T>(p, cut.chunk, cut.columns, one));
  out.workspace_bytes = static_cast<std::size_t>(std::min(out.tasks, workers)) * one.needed();
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
}

// For plan_forward alone
template <class T> void explain_chunks(plan& how, const recurrence<T>& p) {
  heed::detail::message text(how.why);
  if (how.tasks == 0) {
    text << "no rows";
    return;
  }
  text << "chunks of " << how.chunk << " tokens, " << (p.chunk > 0 ? "as asked" : "by the cost model for D = ");
  if (p.chunk == 0) text << p.d << ", E = " << p.e;
  text << "; " << how.tasks / how.splits << " memories, columns of v in " << how.splits
       << (how.splits == 1 ? " block" : " blocks");
  if (p.packed()) text << "; packed: each sequence as a call of its own";
  if (p.decay != nullptr)
    text << (p.decay->gated ? "; weights by sums of log_gates" : "; weights by a table of powers");
}

// Tasks are (sequence, head of the state, block of columns).
template <class T>
void run_chunks(const recurrence<T>& p, const plan& how, const chunk_cut& cut, const context& where, index_t workers) {
  run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    chunk_driver<T> driver(p, cut.chunk, cut.columns, scratch);
    claim([&](index_t task) {
      const index_t block = task % cut.blocks, head = task / cut.blocks % p.states;
      const index_t first = block * cut.columns;
      driver.run(p.track_at(task / cut.blocks / p.states), head, first, std::min(cut.columns, p.e - first));
    });
  });
}

// ---- decode: a few new tokens on a state in place -------------------------------------------------------------------

// Sequences of so many new tokens run step by step, longer ones in chunks. bench/lightning_bench.cpp, decode rows.
inline constexpr index_t few_tokens = 4;

// memory: what decode reads and updates
template <class T> void hold(recurrence<T>& p, const state_view<T>& memory) {
  p.before = memory, p.after = memory, p.in_place = true;
  if (!p.align.top_left) p.align = {};
  p.causal = true;
}
template <class T> void check_tokens(heed::detail::checker& check, const recurrence<T>& p) {
  check.require(!p.align.top_left, "align is top_left: decode takes new tokens for those after its memory's");
  check.require(!p.packed() || heed::detail::equal(p.mask.query_offsets, p.mask.key_offsets),
                "packed: query_offsets and key_offsets differ, decode has one token axis");
  check.equal("q", p.q.extent(2), "k", p.k.extent(2), "tokens");
}

struct step_cut : chunk_cut {
  bool few = false, many = false;
};
template <class T> step_cut make_step_cut(const recurrence<T>& p) {
  step_cut cut;
  static_cast<chunk_cut&>(cut) = make_chunk_cut(p, 1);  // one block: states are updated in place
  for (index_t s = 0; cut.tasks > 0 && s < (p.packed() ? p.sequences() : 1); ++s)
    (p.track_at(s).queries <= few_tokens ? cut.few : cut.many) = true;
  return cut;
}

template <class T>
void plan_steps(plan& out, const recurrence<T>& p, const step_cut& cut, const context& where, index_t workers) {
  out.isa = HEED_NAME(HEED_LEVEL);
  out.tasks = cut.tasks, out.chunk = cut.many ? cut.chunk : 1;
  out.query_tile = out.key_tile = out.chunk;
  heed::detail::arena few, many;
  if (cut.few) static_cast<void>(step_driver<T>(p, few));
  if (cut.many) static_cast<void>(chunk_driver<T>(p, cut.chunk, cut.columns, many));
  out.workspace_bytes = static_cast<std::size_t>(std::min(out.tasks, workers)) * std::max(few.needed(), many.needed());
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
}

// For plan_decode alone
template <class T> void explain_steps(plan& how, const recurrence<T>& p, const step_cut& cut) {
  heed::detail::message text(how.why);
  if (how.tasks == 0) {
    text << "no rows";
    return;
  }
  text << how.tasks << " memories, updated in place; ";
  if (cut.few) text << "up to " << few_tokens << " new tokens of a sequence one by one";
  if (cut.many) text << (cut.few ? ", more" : "more than a few new tokens") << " in chunks of " << how.chunk;
  if (p.packed()) text << "; packed: each sequence as a call of its own";
}

template <class T>
void run_steps(const recurrence<T>& p, const plan& how, const step_cut& cut, const context& where, index_t workers) {
  run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena few_scratch(memory, memory.size()), many_scratch(memory, memory.size());  // one at a time
    const auto each_task = [&](auto f) {
      claim([&](index_t task) { f(p.track_at(task / p.states), task % p.states); });
    };
    step_driver<T> few(p, few_scratch);
    if (!cut.many) return each_task([&](const track& t, index_t state) { few.run(t, state); });
    chunk_driver<T> many(p, cut.chunk, cut.columns, many_scratch);
    each_task([&](const track& t, index_t state) {
      t.queries <= few_tokens ? few.run(t, state) : many.run(t, state, 0, p.e);
    });
  });
}

}  // namespace HEED_ISA
}  // namespace heed::tile
