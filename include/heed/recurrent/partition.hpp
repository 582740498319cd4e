// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a call of a recurrent kernel is cut into tasks: chunk length, blocks of columns, pieces of the tokens.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/recurrent/checks.hpp"
#include "heed/recurrent/chunk_forward.hpp"
#include "heed/tile/row_stage.hpp"
#include "heed/tile/verb.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The sizes and the number of the tasks: blocks of `columns` columns of v (the last may have fewer), pieces of the
// queries.
struct chunk_cut : chunk_sizes {
  index_t blocks = 1, pieces = 1;
  double update_cost = 1;  // of a token that only updates the state, relative to one that is also read (0 to 1)
  index_t tasks = 0;

  index_t groups(index_t heads) const { return (heads + states - 1) / states; }  // of heads of the state

  // Returns where a piece begins, of piece::whole. Pieces take equal time: with a the update cost,
  // x_(p + 1) - x_p + a x_p is the same for all.
  index_t begin_of(index_t number) const {
    if (number >= pieces) return piece::whole;
    const double rest = 1 - update_cost;
    const double share = update_cost > 0 ? (1 - std::pow(rest, number)) / (1 - std::pow(rest, pieces))
                                         : static_cast<double>(number) / static_cast<double>(pieces);
    return static_cast<index_t>(share * static_cast<double>(piece::whole));
  }
};

HEED_INLINE double real(index_t x) { return static_cast<double>(x); }

// Returns the chunk length that costs least. Per token, C / 2 pairs more cost (D + E) C FLOPs. A pass over the state,
// F x E numbers that are loaded, multiplied with a short depth and stored, costs as much as `pass` products for each of
// them, once per C tokens. The sum is least at C^2 = 2 pass F E / (D + E). bench/lightning_bench.cpp, chunk rows,
// justifies `pass`.
template <class T> index_t chunk_of(index_t d, index_t features, index_t e) {
  constexpr double pass = 10;
  constexpr index_t w = simd::width<T>, lanes = tile::max_lanes<T>, most = 512;
  const double best = std::min<double>(most, std::sqrt(2 * pass * real(features) * real(e) / (real(d) + real(e))));
  const index_t unit = best < real(lanes) ? w : lanes;
  return std::max<index_t>(unit, static_cast<index_t>(best / real(unit) + 0.5) * unit);
}

// Time per token for a state and so many columns, in FLOPs at the peak: to update the state, and for all queries
// that read it. Each chunk's update costs as much as 4 tokens more, since its products are short. Moving the rows of
// q, k, v and o costs about 50 for each element, whatever the columns; keys with decay are written once more.
// bench/lightning_bench.cpp, threads rows.
struct token_time {
  double update = 0, read = 0;

  double update_cost() const { return update > 0 ? update / (update + read) : 0; }
};
template <class T> token_time time_of(const recurrence<T>& p, index_t chunk, index_t columns) {
  const double c = real(columns), all = real(p.d) + real(p.e), moved = p.decay != nullptr ? 14 : 9;
  const double state = 2 * real(p.features) * c, pass = state * 4 / real(chunk);
  const double pairs = p.causal ? real(chunk + simd::width<T>) * (real(p.d) + c) : 0;
  return {state + pass + moved * all, real(p.queries_per_state) * (state + pairs + (50 - moved) * all)};
}

// Returns the time of a block's slowest piece; each piece takes the keys that all queries see into its state.
inline double slowest_piece(const sequence& s, const causal_split& x, const token_time& time, const chunk_cut& cut) {
  const double share = real(cut.begin_of(1)) / real(piece::whole);
  const double each = real(x.prefix_keys) * time.update + real(x.pairs) * share * (time.update + time.read);
  const double first = real(x.leading_queries) * time.read;
  const double last =
      real(s.queries - x.leading_queries - x.pairs) * time.read + real(s.keys - x.prefix_keys - x.pairs) * time.update;
  return each + (cut.pieces == 1 ? first + last : std::max(first, last));
}

// Cuts sequences where workers would be idle: into blocks of columns and pieces of the queries, so many that the
// slowest worker's time is least. A block computes the scores and moves all rows once more; a piece takes the tokens
// before it into a state of its own. No bit of the result depends on it. count: sequences times heads of the state; s:
// the longest sequence.
template <class T>
void cut_sequences(const recurrence<T>& p, index_t count, const sequence& s, index_t workers, chunk_cut& cut) {
  constexpr index_t w = simd::width<T>, most_pieces = 8;
  cut.columns = p.e;
  if (workers == 1) return;
  const index_t whole = (p.e + w - 1) / w;
  const causal_split split = p.split(s);
  // A state that is read and written is read first by one task alone.
  const bool one_s = p.before.s.data() != nullptr && p.before.s.data() == p.after.s.data();
  const bool one_z = p.normalize && p.before.z.data() != nullptr && p.before.z.data() == p.after.z.data();
  const index_t blocks_up_to = one_z ? 1 : std::min(whole, 4 * std::min(workers, whole) + 1);
  const index_t chunks = one_s || one_z ? 1 : std::max<index_t>(1, (split.pairs + cut.chunk - 1) / cut.chunk);
  double whole_time = 0, least = 0;
  for (chunk_cut next = cut; next.blocks <= blocks_up_to; ++next.blocks) {
    const index_t vectors = (whole + next.blocks - 1) / next.blocks;
    if ((whole + vectors - 1) / vectors != next.blocks) continue;
    next.columns = std::min(p.e, vectors * w);
    const token_time time = time_of(p, cut.chunk, next.columns);
    next.update_cost = time.update_cost();
    for (next.pieces = 1; next.pieces <= std::min({most_pieces, workers, chunks}); ++next.pieces) {
      const double tasks = real(count) * real(next.blocks * next.pieces);
      const double slowest = std::ceil(tasks / real(workers)) * slowest_piece(s, split, time, next);
      if (next.blocks == 1 && next.pieces == 1) whole_time = least = slowest;
      if (slowest < least && slowest < 0.95 * whole_time && tasks < 9e18) least = slowest, cut = next;
    }
  }
}

// Returns whether rows of x are far apart, with the other heads' rows between them.
inline bool token_major(const heed::detail::input_tensor& x) {
  return tile::far_rows(x) && std::abs(x.stride(1)) <= std::abs(x.stride(2)) / 2;
}

// Returns how many of `heads` heads a task takes through the tokens side by side. In token-major tensors each row is on
// a page of its own, with the rows of other heads beside it: a task for several heads asks for the page once, and uses
// the lines that the CPU fetches on its own behind a row. They are as many as keep states and rows, `each` bytes per
// head, in the second-level cache, and no worker busy longer than with one head at a time. bench/lightning_bench.cpp,
// layout rows.
inline index_t heads_together(index_t sequences, index_t heads, double each, index_t workers) {
  constexpr double cache = 640 * 1024;
  const auto rounds = [&](index_t tasks) { return tasks / workers + (tasks % workers != 0); };
  for (index_t most = std::min(max_states_per_task, heads); most > 1; --most) {
    const index_t groups = (heads + most - 1) / most, even = (heads + groups - 1) / groups;
    if (real(even) * each > cache) continue;
    if (workers == 1 || rounds(sequences * groups) * even <= rounds(sequences * heads)) return even;
  }
  return 1;
}
template <class T> index_t states_together(const recurrence<T>& p, index_t chunk, index_t workers) {
  if (!token_major(p.k) || !token_major(p.v)) return 1;
  const index_t q = p.q_format->element, kv = p.kv_format->element, o = p.o_format->element;
  const double state = real(p.features) * real(odd_lines<T>(p.e)) * double{sizeof(T)};
  return heads_together(p.sequences(), p.states, state + real(chunk) * real((q + kv) * p.d + (kv + o) * p.e), workers);
}

// Returns task number `task` of a cut.
template <class T> chunk_task task_at(const recurrence<T>& p, const chunk_cut& cut, index_t task) {
  const index_t number = task % cut.pieces, block = task / cut.pieces % cut.blocks;
  const index_t group = task / cut.pieces / cut.blocks, groups = cut.groups(p.states);
  chunk_task x{.sequence = p.sequence_at(group / groups), .state = group % groups * cut.states};
  x.states = std::min(cut.states, p.states - x.state);
  x.column = block * cut.columns, x.columns = std::min(cut.columns, p.e - x.column);
  x.piece = {cut.begin_of(number), cut.begin_of(number + 1)};
  return x;
}

template <class T> sequence longest_sequence(const recurrence<T>& p) {
  sequence longest;
  const bool differ = p.packed() || p.mask.has(p.mask.key_lengths);
  for (index_t number = 0; number < (differ ? p.sequences() : std::min<index_t>(1, p.sequences())); ++number) {
    const sequence s = p.sequence_at(number);
    if (number == 0 || std::max(s.queries, s.keys) > std::max(longest.queries, longest.keys)) longest = s;
  }
  return longest;
}
// Returns the chunk length that is asked for, or else best, but no more than the longest sequence has.
template <class T> index_t chunk_length(const recurrence<T>& p, const sequence& longest, index_t best) {
  constexpr index_t most = 4096;  // what a caller asks for beyond it is cut: scratch grows with the chunk
  return std::min({p.chunk > 0 ? p.chunk : best, std::max<index_t>({1, longest.queries, longest.keys}), most});
}

template <class T> chunk_cut make_chunk_cut(const recurrence<T>& p, index_t workers) {
  chunk_cut cut;
  const index_t count = p.sequences() * p.states;
  if (count <= 0 || (p.o.empty() && !p.writes_state())) return cut;
  const sequence longest = longest_sequence(p);
  cut.chunk = chunk_length(p, longest, chunk_of<T>(p.d, p.features, p.e));
  cut_sequences(p, count, longest, workers, cut);
  if (cut.blocks * cut.pieces == 1) cut.states = states_together(p, cut.chunk, workers);
  cut.tasks = p.sequences() * cut.groups(p.states) * cut.blocks * cut.pieces;
  return cut;
}

// A call that goes through the tokens chunk by chunk. Kernel: check(checker&, recurrence_shapes) and path(recurrence).
template <class T, class Kernel> struct chunk_call {
  recurrence<T> p;
  chunk_cut cut = {};

  void check(heed::detail::checker& checker) const { Kernel::check(checker, recurrence_shapes(p)); }

  tile::workload measure(index_t workers) {
    cut = make_chunk_cut(p, workers);
    if (cut.tasks == 0) return {};
    return {.tasks = cut.tasks, .slot_bytes = tile::scratch_of<chunk_driver<T>>(p, cut)};
  }

  void describe(plan& out) const {
    out.path = Kernel::path(p);
    out.chunk = cut.chunk, out.splits = cut.blocks * cut.pieces;
    out.query_tile = std::min(cut.chunk, tile::max_lanes<T>), out.key_tile = cut.chunk;
    heed::detail::message text(out.why);
    if (out.tasks == 0) {
      text << "no rows";
      return;
    }
    text << "chunks of " << out.chunk << " tokens, " << (p.chunk > 0 ? "as asked" : "by the cost model for D = ");
    if (p.chunk == 0) text << p.d << ", E = " << p.e;
    text << "; " << p.sequences() * p.states << " memories";
    if (cut.states > 1) text << ", " << cut.states << " side by side";
    text << ", columns of v in " << cut.blocks << (cut.blocks == 1 ? " block" : " blocks");
    if (cut.pieces > 1) text << ", tokens in " << cut.pieces << " pieces";
    tile::name_copy(text, "v", p.v);
    if (copies_keys(p)) tile::name_copy(text, "k", p.k);
    if (p.packed()) text << "; packed: each sequence as a call of its own";
    if (p.causal && p.decay == nullptr)
      heed::detail::name_places(text, p.sequences(), [&](index_t number) { return p.sequence_at(number).place; });
    if (p.decay != nullptr)
      text << (p.decay->gated ? "; weights by sums of log_gates" : "; weights by a table of powers");
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      chunk_driver<T> driver(p, cut, scratch);
      claim([&](index_t task) { driver.run(task_at(p, cut, task)); });
    });
  }
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
