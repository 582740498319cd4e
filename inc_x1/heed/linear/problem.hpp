// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/linear/options.hpp"
#include "heed/recurrent/checks.hpp"

namespace heed::linear::detail {
inline namespace HEED_ISA {

template <class T>
HEED_INLINE recurrent::recurrence<T> make_problem(const options<T>& opt, const tile::call_rows<T>& x) {
  recurrent::recurrence<T> p(opt, x);
  p.align = &heed::detail::parts(opt.align);
  p.map = heed::detail::parts(opt.feature);
  p.causal = p.mask.has(p.mask.causal);
  p.normalize = opt.normalize;
  p.eps = opt.eps;
  recurrent::derive_sizes(p);
  return p;
}

// What the engine asks of this kernel
struct kernel {
  static constexpr const char* decode_path = "linear: token by token";
  template <class T> static const char* path(const recurrent::recurrence<T>& p) {
    return p.causal ? "linear: chunks" : "linear: one pass writes, one reads";
  }
  static void check(heed::detail::checker& check, const recurrent::recurrence_shapes& p) {
    using kind = heed::detail::mask_parts;
    check.require((p.sequences.mask.present & ~unsigned{kind::causal | kind::key_lengths | kind::packed}) == 0,
                  "mask: linear attention takes causal, key_lengths and packed, no other mask");
    recurrent::check_recurrence(check, p);
  }
};

}  // namespace HEED_ISA
}  // namespace heed::linear::detail
