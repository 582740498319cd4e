// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What softmax attention is asked beyond tile/problem.hpp: a sink in the sums; and what a plan says of its options.

#include <limits>

#include "heed/core/message.hpp"
#include "heed/tile/problem.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

template <class T> struct softmax_problem : attention<T> {
  per_head sink_logits = {};

  // What the online softmax of a row starts from: nothing, or the sink. Units of log 2.
  HEED_INLINE void start(index_t head, T& top, T& sum) const {
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double sink = sink_logits.set() ? sink_logits.at(head) : none;
    top = sink == none ? std::numeric_limits<T>::lowest() : finite_factor<T>(sink, log2e);
    sum = sink == none ? T(0) : T(1);
  }
};

template <class T, class Options>
softmax_problem<T> make_softmax_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                                        tensor_view<T, 4> o, const Options& opt) {
  return {make_attention<T>(q, k, v, o, opt), opt.sink_logits};
}

template <class T> void check_softmax(heed::detail::checker& check, const softmax_problem<T>& p) {
  check_attention(check, p);
  if (check.ok()) check_per_head(check, "sink_logits", p.sink_logits, p, -std::numeric_limits<double>::infinity());
}

// What the options change in the tiles of a call
template <class T> void explain_options(heed::detail::message& text, const softmax_problem<T>& p) {
  using kind = heed::detail::mask_parts;
  const char* before = "; scores changed by ";
  const auto name = [&](bool holds, const char* option) {
    if (holds) text << before << option, before = ", ";
  };
  name(p.scores.cap != T(0), "softcap"), name(p.scores.slopes.set(), "alibi_slopes");
  name(p.scores.has_bias(), "bias"), name(p.scores.has_function(), "score");
  before = "; tiles cut by ";
  name(p.mask.has(kind::causal), "causal"), name(p.mask.has(kind::window), "window");
  name(p.mask.has(kind::key_lengths), "key_lengths"), name(p.mask.has(kind::prefix_lm), "prefix_lm");
  name(p.mask.has(kind::segments), "segments"), name(p.mask.has(kind::keep), "keep");
  if (p.mask.has(kind::visible_if)) text << "; every pair tested by visible_if";
  if (p.sink_logits.set()) text << "; sums start from sink_logits";
}

}  // namespace HEED_ISA
}  // namespace heed::tile
