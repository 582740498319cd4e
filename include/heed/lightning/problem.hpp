// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/decay.hpp"
#include "heed/lightning/options.hpp"
#include "heed/recurrent/checks.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::lightning::detail {
inline namespace HEED_ISA {

template <class T>
recurrent::recurrence<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                                 const heed::decay<T>& decay, tensor_view<T, 4> o, const options<T>& opt,
                                 unsigned one_axis) {
  recurrent::recurrence<T> p = recurrent::make_recurrence<T>(q, k, v, o, opt, one_axis);
  p.decay = &heed::detail::parts(decay);
  p.states = p.decay->gated ? p.decay->log_gates.extent(1) : p.decay->slopes.size();
  recurrent::derive_sizes(p);
  return p;
}

template <class T> bool check_call(const recurrent::recurrence<T>& p, heed::detail::problem_text& text) {
  using kind = heed::detail::mask_parts;
  heed::detail::checker check(text);
  check.require((p.mask.present & ~unsigned{kind::key_lengths | kind::packed}) == 0,
                "mask: lightning attention is causal by itself and takes key_lengths and packed, no other mask");
  check.equal("q", p.q.extent(2), "k", p.k.extent(2), "tokens");
  recurrent::check_recurrence(check, p);
  if (check.ok() && p.packed())
    check.require(heed::detail::equal(p.mask.query_offsets, p.mask.key_offsets),
                  "packed: query_offsets and key_offsets differ, lightning attention has one token axis");
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::lightning::detail
