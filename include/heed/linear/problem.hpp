// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/linear/options.hpp"
#include "heed/recurrent/checks.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::linear::detail {
inline namespace HEED_ISA {

template <class T>
recurrent::recurrence<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                                 tensor_view<T, 4> o, const options<T>& opt, unsigned one_axis) {
  recurrent::recurrence<T> p = recurrent::make_recurrence<T>(q, k, v, o, opt, one_axis);
  p.align = heed::detail::parts(opt.align);
  p.map = heed::detail::parts(opt.feature);
  p.causal = p.mask.has(p.mask.causal);
  p.normalize = opt.normalize;
  p.eps = opt.eps;
  recurrent::derive_sizes(p);
  return p;
}

template <class T> bool check_call(const recurrent::recurrence<T>& p, heed::detail::problem_text& text) {
  using kind = heed::detail::mask_parts;
  heed::detail::checker check(text);
  check.require((p.mask.present & ~unsigned{kind::causal | kind::key_lengths | kind::packed}) == 0,
                "mask: linear attention takes causal, key_lengths and packed, no other mask");
  recurrent::check_recurrence(check, p);
  if (check.ok() && p.align.has_first)
    check.require(static_cast<index_t>(p.align.first.size()) == p.sequences(), "first_place has ", p.align.first.size(),
                  " entries, ", p.packed() ? "packed has " : "q has batch ", p.sequences());
  if (check.ok()) heed::detail::check_ends(check, p.align, p.mask);
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::linear::detail
