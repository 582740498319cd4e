// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <limits>

#include "heed/softmax/options.hpp"
#include "heed/tile/problem.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> struct problem : tile::attention<T> {
  per_head sink_logits = {};

  // What the online softmax of a row starts from: nothing, or the sink. Units of log 2.
  HEED_INLINE void start(index_t head, T& top, T& sum) const {
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double sink = sink_logits.set() ? sink_logits.at(head) : none;
    top = sink == none ? std::numeric_limits<T>::lowest() : tile::finite_factor<T>(sink, tile::log2e);
    sum = sink == none ? T(0) : T(1);
  }
};

template <class T>
problem<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                        tensor_view<T, 4> o, const options<T>& opt) {
  return {tile::make_attention<T>(q, k, v, o, opt), opt.sink_logits};
}

template <class T> bool check_call(const problem<T>& p, heed::detail::problem_text& text) {
  heed::detail::checker check(text);
  tile::check_attention(check, p);
  if (check.ok())
    tile::check_per_head(check, "sink_logits", p.sink_logits, p, -std::numeric_limits<double>::infinity());
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
