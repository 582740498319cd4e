// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The work of softmax::merge.

#include <cmath>
#include <limits>

#include "heed/core/check.hpp"
#include "heed/core/error.hpp"
#include "heed/core/view.hpp"
#include "heed/simd/float_control.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T>
void merge(tensor_view<T, 4> o, tensor_view<T, 3> lse, tensor_view<const T, 4> part, tensor_view<const T, 3> part_lse,
           double log_weight) {
  heed::detail::problem_text text{};
  heed::detail::checker check(text);
  const heed::detail::named_tensor into("o", o), into_lse("lse", lse), from("part", part),
      from_lse("part_lse", part_lse);
  for (const auto* const each : {&into, &from, &into_lse, &from_lse}) check.tensor(*each, false);
  check.written(into), check.written(into_lse);
  const char* const axes[] = {"batch", "heads", "queries", "head dim"};
  for (int axis = 0; axis < 4; ++axis) check.equal(into, from, axis, axes[axis]);
  for (int axis = 0; axis < 3; ++axis)
    check.equal(into, into_lse, axis, axes[axis]), check.equal(into, from_lse, axis, axes[axis]);
  check.distinct({&into, &into_lse}, {&from, &from_lse}), check.distinct(into, into_lse);
  check.require(log_weight < std::numeric_limits<double>::infinity(),
                "log_weight is %, must be a number less than infinity", log_weight);
  if (!check.ok()) heed::detail::fail(text.data());

  const simd::flush_to_zero numbers;
  for (index_t b = 0; b < o.extent(0); ++b)
    for (index_t h = 0; h < o.extent(1); ++h)
      for (index_t i = 0; i < o.extent(2); ++i) {
        T& to = lse(b, h, i);
        const double mine = static_cast<double>(to);
        const double other = static_cast<double>(part_lse(b, h, i)) + log_weight;
        constexpr double empty = -std::numeric_limits<double>::infinity();
        T* const x = o.empty() ? nullptr : &o(b, h, i, 0);
        const T* const y = o.empty() ? nullptr : &part(b, h, i, 0);
        if (heed::detail::equals(other, empty) && !std::isnan(mine)) {  // it changes nothing, whatever it holds
          for (index_t c = 0; heed::detail::equals(mine, empty) && c < o.extent(3); ++c) x[c * o.stride(3)] = T(0);
          continue;
        }
        tile::row_state<double> state{mine, 1};  // in natural logarithms
        const auto factors = state.merge({other, 1}, [](double difference) { return std::exp(difference); });
        const T keep = static_cast<T>(factors.first / state.l), add = static_cast<T>(factors.second / state.l);
        for (index_t c = 0; c < o.extent(3); ++c) {
          const T old = heed::detail::equals(mine, empty) ? T(0) : keep * x[c * o.stride(3)];
          x[c * o.stride(3)] = old + add * y[c * part.stride(3)];
        }
        to = static_cast<T>(state.m + std::log(state.l));
      }
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
