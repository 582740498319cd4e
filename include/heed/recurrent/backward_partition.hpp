// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a backward call of a recurrent kernel is cut into tasks: sweeps, and pieces of their tokens.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/recurrent/backward_checks.hpp"
#include "heed/recurrent/chunk_backward.hpp"
#include "heed/recurrent/partition.hpp"
#include "heed/recurrent/sweep_terms.hpp"
#include "heed/tile/row_stage.hpp"
#include "heed/tile/verb.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Tasks of one sweep: groups of heads of each sequence, in pieces of its tokens. chunk_cut says where pieces begin.
struct sweep_cut : chunk_cut {
  index_t heads = 0, count = 0;  // count: of groups, in all sequences

  index_t all() const { return count * pieces; }
  void set(index_t sequences, index_t of_heads, const chunk_sizes& sizes) {
    static_cast<chunk_sizes&>(*this) = sizes;
    heads = of_heads, count = sequences * groups(heads);
  }
};
struct backward_cut {
  sweep_cut forward, reverse;
};

// Time per token of each sweep, in FLOPs at the peak as in time_of().
template <class T> token_time forward_time(const recurrence<T>& p, index_t chunk) {
  const double all = real(p.d) + real(p.e), state = 2 * real(p.features) * real(p.e);
  const double pairs = p.causal ? real(chunk + simd::width<T>) * all : 0;
  return {state * (1 + 4 / real(chunk)) + 9 * all, real(p.queries_per_state) * (state + pairs + 40 * all)};
}
template <class T> token_time reverse_time(const recurrence<T>& p, index_t chunk) {
  const double all = real(p.d) + real(p.e), state = 2 * real(p.features) * real(p.e);
  const double pairs = p.causal ? real(chunk + simd::width<T>) * all : 0;
  const double queries = real(p.queries_per_state);
  return {queries * (state * (1 + 4 / real(chunk)) + 9 * all), 2 * state + 80 * all + 2 * queries * pairs};
}

// Returns the time of a sweep's slowest piece. Each goes through what comes before its pairs.
inline double sweep_piece(const token_time& time, double before, double after, double pairs, const chunk_cut& cut) {
  const double share = real(cut.begin_of(1)) / real(piece::whole);
  return before * time.update + after * time.read + pairs * share * (time.update + time.read);
}

// Returns when the last worker is done that takes tasks of two lengths from a list, the reverse sweep's first.
inline double end_of_list(double workers, double reverse, double reverse_time, double forward, double forward_time) {
  const double rounds = std::floor(reverse / workers), more = reverse - rounds * workers;
  double low = (rounds + (more > 0 ? 1 : 0)) * reverse_time, high = low + forward * forward_time;
  for (int i = 0; i < 24 && forward > 0; ++i) {
    const double middle = (low + high) / 2;
    const double done = more * std::floor((middle - (rounds + 1) * reverse_time) / forward_time) +
                        (workers - more) * std::floor((middle - rounds * reverse_time) / forward_time);
    (done >= forward ? high : low) = middle;
  }
  return high;
}

// Cuts the tokens into pieces where workers would be idle. A piece updates a state of its own by the tokens that its
// sweep meets before. No bit of the result depends on it.
template <class T>
void cut_sweeps(const backward_problem<T>& x, const sequence& s, index_t workers, backward_cut& cut) {
  constexpr index_t most_pieces = 8;
  const index_t chunk = cut.forward.chunk, tasks = cut.forward.count + cut.reverse.count;
  if (workers == 1 || tasks == 0 || tasks >= 4 * workers || x.queries_per_state() == 0) return;
  const causal_split split = x.p.split(s);
  const index_t chunks = std::clamp<index_t>((split.pairs + chunk - 1) / chunk, 1, std::min(most_pieces, workers));
  const index_t most_forward = x.wants_slopes() || cut.forward.count == 0 ? 1 : chunks;
  const index_t most_reverse = x.wants_gates() || x.in_place() || cut.reverse.count == 0 ? 1 : chunks;
  const token_time forward = forward_time(x.p, chunk), reverse = reverse_time(x.p, chunk);
  const double rest = real(s.queries - split.leading_queries - split.pairs), w = real(workers);
  backward_cut next = cut;
  next.forward.update_cost = forward.update_cost(), next.reverse.update_cost = reverse.update_cost();
  double whole = 0, least = 0;
  for (next.forward.pieces = 1; next.forward.pieces <= most_forward; ++next.forward.pieces)
    for (next.reverse.pieces = 1; next.reverse.pieces <= most_reverse; ++next.reverse.pieces) {
      const double a = sweep_piece(forward, real(split.prefix_keys), rest, real(split.pairs), next.forward);
      const double b = sweep_piece(reverse, rest, real(split.prefix_keys), real(split.pairs), next.reverse);
      const double na = real(next.forward.all()), nb = real(next.reverse.all());
      const double time = x.in_order() ? std::ceil(na / w) * a + std::ceil(nb / w) * b : end_of_list(w, nb, b, na, a);
      if (next.forward.pieces == 1 && next.reverse.pieces == 1) whole = least = time;
      if (time < least && time < 0.95 * whole) least = time, cut = next;
    }
}

template <class T> backward_cut make_backward_cut(const backward_problem<T>& x, index_t workers) {
  const recurrence<T>& p = x.p;
  const sequence s = longest_sequence(p);
  const chunk_sizes sizes{chunk_length(p, s, chunk_of<T>(p.d, p.features, p.e)), p.e, 1};
  backward_cut cut;
  cut.forward.set(p.sequences(), x.has_forward_sweep() ? p.states : 0, sizes);
  cut.reverse.set(p.sequences(), x.has_reverse_sweep() ? p.kv_heads : 0, sizes);
  cut_sweeps(x, s, workers, cut);
  if (!token_major(p.k) || !token_major(p.v) || cut.forward.pieces * cut.reverse.pieces > 1) return cut;
  const double row = real(sizes.chunk) * double{sizeof(T)} * (real(p.d) + real(p.e));
  const double state = real(p.features) * real(odd_lines<T>(p.e)) * double{sizeof(T)};
  const index_t forward = heads_together(p.sequences(), cut.forward.heads, state + 3 * row, workers);
  const index_t reverse = heads_together(p.sequences(), cut.reverse.heads, state + 4 * row, workers);
  if (!x.wants_slopes()) cut.forward.set(p.sequences(), cut.forward.heads, {sizes.chunk, p.e, forward});
  cut.reverse.set(p.sequences(), cut.reverse.heads, {sizes.chunk, p.e, reverse});
  return cut;
}

// A backward call. Kernel: check(checker&, backward_shapes) and path(recurrence).
template <class T, class Kernel> struct backward_call {
  backward_problem<T> x;
  state_view<T> after;  // the final state in the options
  backward_cut cut = {};

  void check(heed::detail::checker& checker) const {
    Kernel::check(checker, backward_shapes(x));
    check_initial_state(checker, x.p, after);
  }

  tile::workload measure(index_t workers) {
    cut = make_backward_cut(x, workers);
    heed::detail::arena shared;
    const sweep_terms<T> terms(x, cut.forward.chunk, shared);
    const index_t tasks = cut.forward.all() + cut.reverse.all();
    if (tasks == 0) return {};
    std::size_t bytes = 0;
    if (cut.forward.count > 0) bytes = tile::scratch_of<forward_sweep<T>>(x, terms, cut.forward);
    if (cut.reverse.count > 0) bytes = std::max(bytes, tile::scratch_of<reverse_sweep<T>>(x, terms, cut.reverse));
    return {.tasks = tasks, .shared_bytes = shared.used(), .slot_bytes = bytes};
  }

  void describe(plan& out) const {
    const recurrence<T>& p = x.p;
    out.path = Kernel::path(p);
    out.chunk = cut.forward.chunk, out.splits = std::max(cut.forward.pieces, cut.reverse.pieces);
    out.query_tile = std::min(out.chunk, tile::max_lanes<T>), out.key_tile = out.chunk;
    heed::detail::message text(out.why);
    if (out.tasks == 0) {
      text << "nothing is asked for, or there are no rows";
      return;
    }
    text << "chunks of " << out.chunk << " tokens, " << (p.chunk > 0 ? "as asked" : "by the cost model for D = ");
    if (p.chunk == 0) text << p.d << ", E = " << p.e;
    name_sweep(text, "forward", cut.forward), name_sweep(text, "reverse", cut.reverse);
    if (x.in_order())
      text << ", one after the other: the second "
           << (p.normalize       ? "reads denominators of rows"
               : x.wants_gates() ? "reads sums of the first for gates"
                                 : "overwrites dfinal_state");
    tile::name_copy(text, "v", p.v);
    if (p.packed()) text << "; packed: each sequence as a call of its own";
    if (p.causal && p.decay == nullptr)
      heed::detail::name_places(text, p.sequences(), [&](index_t number) { return p.sequence_at(number).place; });
    if (p.decay != nullptr)
      text << (p.decay->gated ? "; weights by sums of log_gates" : "; weights by a table of powers");
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    clear_rest();
    heed::detail::arena shared({memory.shared(), work.shared_bytes}, work.shared_bytes);
    const sweep_terms<T> terms(x, cut.forward.chunk, shared);
    const index_t forward = cut.forward.all(), reverse = cut.reverse.all();
    if (x.in_order()) {
      run_sweeps(terms, 0, forward, work, memory, executor);
      run_sweeps(terms, reverse, 0, work, memory, executor);
    } else {
      run_sweeps(terms, reverse, forward, work, memory, executor);
    }
    for (index_t h = 0; h < (x.wants_slopes() ? x.p.states : 0); ++h) {
      double sum = 0;
      for (index_t s = 0; s < x.p.sequences(); ++s) sum += terms.state[s * x.p.states + h];
      x.dslopes(h) = static_cast<T>(sum);
    }
  }

 private:
  static void name_sweep(heed::detail::message& text, const char* name, const sweep_cut& sweep) {
    if (sweep.count == 0) return;
    text << "; " << sweep.count << " " << name << (sweep.count == 1 ? " sweep" : " sweeps");
    if (sweep.states > 1) text << " of " << sweep.states << " heads side by side";
    if (sweep.pieces > 1) text << ", tokens in " << sweep.pieces << " pieces";
  }

  chunk_task task_at(const sweep_cut& sweep, index_t task) const {
    const index_t number = task % sweep.pieces, group = task / sweep.pieces, groups = sweep.groups(sweep.heads);
    chunk_task out{.sequence = x.p.sequence_at(group / groups), .state = group % groups * sweep.states};
    out.states = std::min(sweep.states, sweep.heads - out.state), out.columns = x.p.e;
    out.piece = {sweep.begin_of(number), sweep.begin_of(number + 1)};
    return out;
  }

  // Runs the first tasks of each sweep.
  void run_sweeps(const sweep_terms<T>& terms, index_t reverse, index_t forward, const tile::workload& work,
                  const tile::call_memory& memory, const executor_ref& executor) const {
    tile::run_tasks(reverse + forward, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      backward_driver<T> driver(x, terms, cut.forward, cut.reverse, bytes);
      claim([&](index_t task) {
        if (task < reverse)
          driver.run_reverse(task_at(cut.reverse, task));
        else
          driver.run_forward(task_at(cut.forward, task - reverse));
      });
    });
  }

  // Writes zeros to the gradients of keys and values that are in no packed sequence.
  void clear_rest() const {
    if (!x.p.packed()) return;
    const auto& offsets = x.p.mask.key_offsets;
    for (const heed::detail::output_tensor* const to : {&x.dk, &x.dv}) {
      if (to->data() == nullptr) continue;
      for (index_t h = 0; h < x.p.kv_heads; ++h)
        for (index_t j = offsets[offsets.size() - 1]; j < x.p.k.extent(2); ++j) {
          T* const row = tile::row_as<T>(to->row(0, h, j));
          std::fill(row, row + to->extent(3), T(0));
        }
    }
  }
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
