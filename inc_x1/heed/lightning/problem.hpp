// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/decay.hpp"
#include "heed/lightning/options.hpp"
#include "heed/recurrent/checks.hpp"

namespace heed::lightning::detail {
inline namespace HEED_ISA {

template <class T>
HEED_INLINE recurrent::recurrence<T> make_problem(const heed::decay<T>& decay, const options<T>& opt,
                                                  const tile::call_rows<T>& x) {
  recurrent::recurrence<T> p(opt, x);
  p.decay = &heed::detail::parts(decay);
  p.states = p.decay->gated ? p.decay->log_gates.extent(1) : p.decay->slopes.size();
  recurrent::derive_sizes(p);
  return p;
}

// What the engine asks of this kernel
struct kernel {
  static constexpr const char* decode_path = "lightning: token by token";
  template <class T> static const char* path(const recurrent::recurrence<T>& p) {
    return p.decay->gated ? "lightning: chunks, log_gates" : "lightning: chunks";
  }
  static void check(heed::detail::checker& check, const recurrent::recurrence_shapes& p) {
    using kind = heed::detail::mask_parts;
    const kind& mask = p.sequences.mask;
    check.require((mask.present & ~unsigned{kind::key_lengths | kind::packed}) == 0,
                  "mask: lightning attention is causal by itself and takes key_lengths and packed, no other mask");
    check.equal(p.q, p.k, 2, "tokens");
    recurrent::check_recurrence(check, p);
    if (check.ok() && p.sequences.packed())
      check.require(heed::detail::equal(mask.query_offsets, mask.key_offsets),
                    "packed: query_offsets and key_offsets differ, lightning attention has one token axis");
  }
};

}  // namespace HEED_ISA
}  // namespace heed::lightning::detail
