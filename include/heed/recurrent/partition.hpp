// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a call of a recurrent kernel is cut: chunk length, blocks of columns, pieces of the tokens, tasks.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/recurrent/chunk_forward.hpp"
#include "heed/tile/row_stage.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

struct chunk_cut {
  index_t chunk = 0;
  index_t blocks = 1, columns = 0;  // of v: blocks of so many columns, the last may have fewer
  index_t pieces = 1;               // of the queries
  double absorbed = 1;              // time of a token that is absorbed and not read, in times of one that is both
  index_t together = 1;             // memories of a task
  index_t tasks = 0;

  index_t groups(index_t states) const { return (states + together - 1) / together; }  // of a sequence

  // Where a piece begins, of piece::whole. They take equal time: with a the time of an absorbed token,
  // x_(p + 1) - x_p + a x_p is the same for all.
  index_t begin_of(index_t number) const {
    const double left = 1 - absorbed, share = (1 - std::pow(left, number)) / (1 - std::pow(left, pieces));
    return number >= pieces ? piece::whole : static_cast<index_t>(share * static_cast<double>(piece::whole));
  }
};

// The chunk that costs least. Per token, C / 2 pairs more cost (D + E) C FLOPs; a pass over the state, F x E numbers
// that are loaded, multiplied with a short depth, and stored, costs as much as `pass` products for each of them, once
// per C tokens. The sum is least at C^2 = 2 pass F E / (D + E). bench/lightning_bench.cpp, chunk rows, justifies
// `pass`.
template <class T> index_t chunk_of(index_t d, index_t features, index_t e) {
  constexpr double pass = 10;
  constexpr index_t w = simd::width<T>, lanes = tile::max_lanes<T>, most = 512;
  const double f = static_cast<double>(features), columns = static_cast<double>(e), dim = static_cast<double>(d);
  const double best = std::min<double>(most, std::sqrt(2 * pass * f * columns / (dim + columns)));
  const index_t unit = best < static_cast<double>(lanes) ? w : lanes;
  return std::max<index_t>(unit, static_cast<index_t>(best / static_cast<double>(unit) + 0.5) * unit);
}

// Time per token of a state and so many columns, in FLOPs at the peak: to absorb it, and for all that read the state to
// read it. Each chunk's update costs as much as 4 tokens more, its products being short; moving the rows of q, k, v and
// o costs about 50 for each element, whatever the columns; keys that fade are written once more.
// bench/lightning_bench.cpp, threads rows.
struct token_time {
  double absorb = 0, read = 0;
};
template <class T> token_time time_of(const recurrence<T>& p, index_t chunk, index_t columns) {
  const double d = static_cast<double>(p.d), e = static_cast<double>(p.e), c = static_cast<double>(columns);
  const double state = 2 * static_cast<double>(p.features) * c, pass = state * 4 / static_cast<double>(chunk);
  const double moved = p.decay != nullptr ? 14 : 9,
               pairs = p.causal ? static_cast<double>(chunk + simd::width<T>) * (d + c) : 0;
  return {state + pass + moved * (d + e), static_cast<double>(p.readers) * (state + pairs + (50 - moved) * (d + e))};
}

// Of the pieces of one block; keys that all queries see are absorbed by each of them.
inline double slowest_piece(const track& t, const order& x, const token_time& time, const chunk_cut& cut) {
  const double share = static_cast<double>(cut.begin_of(1)) / static_cast<double>(piece::whole);
  const double each =
      static_cast<double>(x.all_see) * time.absorb + static_cast<double>(x.pairs) * share * (time.absorb + time.read);
  const double first = static_cast<double>(x.blind) * time.read;
  const double last = static_cast<double>(t.queries - x.blind - x.pairs) * time.read +
                      static_cast<double>(t.keys - x.all_see - x.pairs) * time.absorb;
  return each + (cut.pieces == 1 ? first + last : std::max(first, last));
}

// Where workers would be idle, blocks of columns and pieces of the queries share the work, so many as make the slowest
// worker's time least; t: the longest track. A block computes the scores and moves all rows once more, a piece takes
// the tokens before it into a state of its own. No bit of the result depends on it.
template <class T>
void cut_tracks(const recurrence<T>& p, index_t tracks, const track& t, index_t workers, chunk_cut& cut) {
  constexpr index_t w = simd::width<T>, most_pieces = 8;
  cut.columns = p.e;
  if (workers == 1) return;
  const index_t whole = (p.e + w - 1) / w;
  const order tokens = p.order_of(t);
  // A memory that is read and written is read first by one task alone.
  const bool one_s = p.before.s.data() != nullptr && p.before.s.data() == p.after.s.data();
  const bool one_z = p.normalize && p.before.z.data() != nullptr && p.before.z.data() == p.after.z.data();
  const index_t blocks_up_to = one_z ? 1 : std::min(whole, 4 * std::min(workers, whole) + 1);
  const index_t chunks = one_s || one_z ? 1 : std::max<index_t>(1, (tokens.pairs + cut.chunk - 1) / cut.chunk);
  double whole_time = 0, least = 0;
  for (chunk_cut next = cut; next.blocks <= blocks_up_to; ++next.blocks) {
    const index_t vectors = (whole + next.blocks - 1) / next.blocks;
    if ((whole + vectors - 1) / vectors != next.blocks) continue;
    next.columns = std::min(p.e, vectors * w);
    const token_time time = time_of(p, cut.chunk, next.columns);
    next.absorbed = time.absorb / (time.absorb + time.read);
    for (next.pieces = 1; next.pieces <= std::min({most_pieces, workers, chunks}); ++next.pieces) {
      const double tasks = static_cast<double>(tracks) * static_cast<double>(next.blocks * next.pieces);
      const double rounds = std::ceil(tasks / static_cast<double>(workers));
      const double slowest = rounds * slowest_piece(t, tokens, time, next);
      if (next.blocks == 1 && next.pieces == 1) whole_time = least = slowest;
      if (slowest < least && slowest < 0.95 * whole_time && tasks < 9e18) least = slowest, cut = next;
    }
  }
}

// Whether rows of x are far apart, and what is between them are the other heads' rows.
template <class T> bool token_major(const tensor_view<const T, 4>& x) {
  return tile::far_rows<T>(x.stride(2), x.extent(3)) && std::abs(x.stride(1)) <= std::abs(x.stride(2)) / 2;
}

// How many memories a task takes through the tokens side by side. In token-major tensors each row is on a page of its
// own, with the rows of other heads beside it: a task for several heads asks for the page once, and lines that the CPU
// fetches on its own behind a row are of use. As many as keep states and rows in the second cache,
// and no worker longer busy than one head at a time would. bench/lightning_bench.cpp, layout rows.
template <class T> index_t memories_together(const recurrence<T>& p, index_t chunk, index_t workers) {
  constexpr double cache = 640 * 1024;
  if (!token_major(p.k) || !token_major(p.v)) return 1;
  const double state = static_cast<double>(p.features) * static_cast<double>(odd_lines<T>(p.e));
  const double rows = 2 * static_cast<double>(chunk) * static_cast<double>(p.d + p.e);
  const double each = (state + rows) * static_cast<double>(sizeof(T));
  const auto rounds = [&](index_t tasks) { return tasks / workers + (tasks % workers != 0); };
  for (index_t most = std::min(most_together, p.states); most > 1; --most) {
    const index_t groups = (p.states + most - 1) / most, even = (p.states + groups - 1) / groups;
    if (static_cast<double>(even) * each > cache) continue;
    if (rounds(p.sequences() * groups) * even <= rounds(p.sequences() * p.states)) return even;
  }
  return 1;
}

template <class T> chunk_cut make_chunk_cut(const recurrence<T>& p, index_t workers) {
  chunk_cut cut;
  const index_t tracks = p.sequences() * p.states;
  const bool nothing = p.o.empty() && p.after.s.data() == nullptr;
  if (tracks <= 0 || p.heads == 0 || nothing) return cut;
  track longest;
  const bool differ = p.packed() || p.mask.has(p.mask.key_lengths);
  for (index_t s = 0; s < (differ ? p.sequences() : 1); ++s) {
    const track t = p.track_at(s);
    if (s == 0 || std::max(t.queries, t.keys) > std::max(longest.queries, longest.keys)) longest = t;
  }
  constexpr index_t most = 4096;  // what a caller asks for beyond it is cut: scratch grows with the chunk
  cut.chunk = std::min({p.chunk > 0 ? p.chunk : chunk_of<T>(p.d, p.features, p.e),
                        std::max<index_t>({1, longest.queries, longest.keys}), most});
  cut_tracks(p, tracks, longest, workers, cut);
  if (cut.blocks * cut.pieces == 1) cut.together = memories_together(p, cut.chunk, workers);
  cut.tasks = p.sequences() * cut.groups(p.states) * cut.blocks * cut.pieces;
  return cut;
}

// Into a plan without a problem
template <class T>
void plan_chunks(plan& out, const recurrence<T>& p, const chunk_cut& cut, const context& where, index_t workers) {
  out.isa = HEED_NAME(HEED_LEVEL);
  out.tasks = cut.tasks, out.chunk = cut.chunk, out.splits = cut.blocks * cut.pieces;
  out.query_tile = std::min(cut.chunk, tile::max_lanes<T>), out.key_tile = cut.chunk;
  if (cut.tasks == 0) return;
  heed::detail::arena one;
  static_cast<void>(chunk_driver<T>(p, cut.chunk, cut.columns, cut.together, one));
  out.workspace_bytes = heed::detail::scratch_bytes(out.problem, std::min(out.tasks, workers), one.needed());
  if (!out.ok()) return;
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
}

// For plan_forward alone
template <class T> void explain_chunks(plan& how, const recurrence<T>& p, const chunk_cut& cut) {
  heed::detail::message text(how.why);
  if (how.tasks == 0) {
    text << "no rows";
    return;
  }
  text << "chunks of " << how.chunk << " tokens, " << (p.chunk > 0 ? "as asked" : "by the cost model for D = ");
  if (p.chunk == 0) text << p.d << ", E = " << p.e;
  text << "; " << p.sequences() * p.states << " memories";
  if (cut.together > 1) text << ", " << cut.together << " side by side";
  text << ", columns of v in " << cut.blocks << (cut.blocks == 1 ? " block" : " blocks");
  if (cut.pieces > 1) text << ", tokens in " << cut.pieces << " pieces";
  const index_t size = sizeof(T);
  if (tile::far_rows<T>(p.v.stride(2), p.e)) text << "; rows of v copied, stride " << p.v.stride(2) * size << " bytes";
  if (tile::far_rows<T>(p.k.stride(2), p.d) && copies_keys(p))
    text << "; rows of k copied, stride " << p.k.stride(2) * size << " bytes";
  if (p.packed()) text << "; packed: each sequence as a call of its own";
  if (p.causal && p.decay == nullptr)
    heed::detail::name_places(text, p.sequences(), [&](index_t number) { return p.track_at(number).place; });
  if (p.decay != nullptr)
    text << (p.decay->gated ? "; weights by sums of log_gates" : "; weights by a table of powers");
}

// Tasks are (sequence, heads of the state, block of columns, piece of the tokens).
template <class T>
void run_chunks(const recurrence<T>& p, const plan& how, const chunk_cut& cut, const context& where, index_t workers) {
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    chunk_driver<T> driver(p, cut.chunk, cut.columns, cut.together, scratch);
    const index_t groups = cut.groups(p.states);
    claim([&](index_t task) {
      const index_t number = task % cut.pieces, block = task / cut.pieces % cut.blocks;
      const index_t group = task / cut.pieces / cut.blocks, first = block * cut.columns;
      const index_t state = group % groups * cut.together;
      driver.run(p.track_at(group / groups), state, std::min(cut.together, p.states - state), first,
                 std::min(cut.columns, p.e - first), {cut.begin_of(number), cut.begin_of(number + 1)});
    });
  });
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
