// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What softmax attention is asked beyond tile/problem.hpp: a sink in the sums.

#include <cmath>
#include <limits>

#include "heed/tile/problem.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

template <class T> struct softmax_problem : attention<T> {
  heed::detail::per_head_view sink_logits = {};

  // What the online softmax of a row starts from: nothing, or the sink. Units of log 2.
  HEED_INLINE void start(index_t head, T& top, T& sum) const {
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double sink = sink_logits.set() ? sink_logits.at(head) : none;
    top = heed::detail::equals(sink, none) ? std::numeric_limits<T>::lowest() : finite_factor<T>(sink, log2e);
    sum = heed::detail::equals(sink, none) ? T(0) : T(1);
  }

  // What a finished row is multiplied with: 1 / sum, times the gain. A gain that would lose digits so, or turn 0 into
  // NaN, waits: `first` scales the sums before, by 1 / sum. A row without a key is 0 under any gain.
  template <class Scale, class AllZero>
  HEED_INLINE T finish_factor(index_t head, T top, T sum, T gain, Scale first, AllZero all_zero) const {
    if (heed::detail::equals(sum, T(0))) return T(0);
    const T share = T(1) / sum;
    if (std::abs(gain) >= T(1e-30) && std::abs(gain) <= std::numeric_limits<T>::max()) [[likely]]
      return gain * share;
    T none_top, none_sum;
    start(head, none_top, none_sum);
    if (heed::detail::equals(top, none_top) && heed::detail::equals(sum, none_sum) && all_zero()) return T(0);
    first(share);
    return gain;
  }
};

template <class T, class Options>
softmax_problem<T> make_softmax_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                                        tensor_view<T, 4> o, const Options& opt, unsigned one_axis = 0) {
  return {make_attention<T>(q, k, v, o, opt, one_axis), opt.sink_logits};
}

template <class T> void check_softmax(heed::detail::checker& check, const softmax_problem<T>& p) {
  check_attention(check, p);
  if (check.ok()) check_per_head(check, "sink_logits", p.sink_logits, p, -std::numeric_limits<double>::infinity());
}

template <class T> void name_options(heed::detail::message& text, const softmax_problem<T>& p) {
  name_options(text, static_cast<const attention<T>&>(p));
  if (p.sink_logits.set()) text << "; sums start from sink_logits";
}

}  // namespace HEED_ISA
}  // namespace heed::tile
