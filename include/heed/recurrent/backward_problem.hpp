// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One backward call of a recurrent kernel: the problem of forward, the gradient of its output, and what is asked for.

#include <cstddef>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// dout of a call, with the format of its rows
template <class T> struct output_gradient {
  heed::detail::input_tensor rows;
  const tile::row_format<T>* format;
};
template <class D> HEED_INLINE output_gradient<acc_of<D>> gradient_rows(const D& dout) {
  using S = heed::detail::value_t<D>;
  return {heed::detail::input_tensor(tensor_view<const S, 4>(dout)), &tile::row_format_of<acc_of<D>, S>};
}

// Gradients are null where they are not asked for. Forward's final state is not written.
template <class T> struct backward_problem {
  template <class Gradients>
  HEED_INLINE backward_problem(const recurrence<T>& forward, const output_gradient<T>& gradient, const Gradients& out)
      : p(forward),
        dout(gradient.rows),
        dout_format(gradient.format),
        dq(out.dq),
        dk(out.dk),
        dv(out.dv),
        dafter{heed::detail::with_canonical_strides(out.dfinal_state.s),
               heed::detail::with_canonical_strides(out.dfinal_state.z)},
        dbefore{heed::detail::with_canonical_strides(out.dinitial_state.s),
                heed::detail::with_canonical_strides(out.dinitial_state.z)} {
    p.after = {};
  }

  bool wants_gates() const { return dlog_gates.data() != nullptr; }
  bool wants_slopes() const { return dslopes.data() != nullptr; }
  bool wants_keys() const { return dk.data() != nullptr || wants_gates(); }
  bool wants_values() const { return dv.data() != nullptr; }
  bool wants_state() const { return dbefore.s.data() != nullptr || (p.normalize && dbefore.z.data() != nullptr); }
  // Whether the forward sweep sums over keys; else it is needed for denominators at most.
  bool sums_keys() const { return dq.data() != nullptr || wants_gates() || wants_slopes(); }
  bool has_reverse_sweep() const { return wants_keys() || wants_values() || wants_state(); }
  bool has_forward_sweep() const { return sums_keys() || (p.normalize && has_reverse_sweep()); }
  // Whether the gradient of the initial state is written where that of the final one is read.
  bool in_place() const {
    const auto same = [](const auto& a, const auto& b) { return a.data() != nullptr && a.data() == b.data(); };
    return same(dbefore.s, dafter.s) || (p.normalize && same(dbefore.z, dafter.z));
  }
  // Whether the reverse sweep reads what the forward sweep has found, or writes what it reads.
  bool in_order() const {
    return has_reverse_sweep() && (p.normalize || wants_gates() || (wants_slopes() && in_place()));
  }

  index_t queries_per_state() const { return p.queries_per_state; }
  index_t states_per_kv_head() const { return p.states > 0 ? p.states_per_kv_head : 0; }

  HEED_INLINE const std::byte* dout_row(const sequence& s, index_t head, index_t i) const {
    return dout.row(s.batch, head, s.first_query + i);
  }
  // The number of a query's row in all heads
  HEED_INLINE index_t number_of(const sequence& s, index_t head, index_t i) const {
    return (s.batch * p.query_heads + head) * p.q.extent(2) + s.first_query + i;
  }

  recurrence<T> p;
  heed::detail::input_tensor dout;
  const tile::row_format<T>* dout_format;
  heed::detail::output_tensor dq, dk, dv;
  state_view<const T> dafter;  // of the final state
  state_view<T> dbefore;       // of the initial state
  tensor_view<T, 1> dslopes = {};
  tensor_view<T, 3> dlog_gates = {};
};

// Whether keys and queries are mapped row by row
template <class T> bool maps_rows(const recurrence<T>& p) { return p.mapped() && !p.taylor(); }

}  // namespace HEED_ISA
}  // namespace heed::recurrent
