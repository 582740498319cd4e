// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Tensors of a call as they are given: with strides of any size where no element depends on them, or broken.

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <variant>

#include "fuzz/bytes.hpp"
#include "heed/core/view.hpp"

namespace heed_test {

// f(view), of a view or of a variant of views
template <class T, int Rank, class F> void on_view(heed::tensor_view<T, Rank>& x, const F& f) { f(x); }
template <class... V, class F> void on_view(std::variant<V...>& x, const F& f) { std::visit(f, x); }

// Sets strides that no element depends on.
template <class View> void set_absurd_strides(bytes& in, View& any) {
  if (!in.one_in(8)) return;
  on_view(any, [&](auto& x) {
    auto strides = x.strides();
    for (int axis = 0; axis < static_cast<int>(strides.size()); ++axis)
      if (x.extent(axis) <= 1 || x.empty())
        strides[static_cast<std::size_t>(axis)] =
            in.of({std::numeric_limits<index_t>::max(), std::numeric_limits<index_t>::min(), index_t{-1},
                   index_t{1} << 62, index_t{3}, -(index_t{1} << 33)});
    x = {x.data(), x.extents(), strides};
  });
}

// Breaks a view such that the call must be refused. unit_last: of rank 4, its last axis has stride 1
template <class View> void break_view(bytes& in, View& any, bool written, bool unit_last = true) {
  on_view(any, [&](auto& x) {
    auto sizes = x.extents();
    auto strides = x.strides();
    constexpr int rank = static_cast<int>(std::tuple_size_v<decltype(sizes)>);
    auto* data = x.data();
    const auto axis = static_cast<std::size_t>(in.below(rank));
    const index_t kind = in.below(6);
    if (kind == 1 && !x.empty()) {
      data = nullptr;
    } else if (kind == 2) {
      sizes[axis] = -1;
    } else if (kind == 3 && rank == 4 && unit_last && x.extent(rank - 1) > 1 && !x.empty()) {
      strides[rank - 1] = 2;
    } else if (kind == 4) {
      sizes[axis] = index_t{1} << (31 + in.below(32));
    } else if (kind == 5 && written && x.extent(static_cast<int>(axis)) > 1 && !x.empty()) {
      strides[axis] = 0;
    } else {
      ++sizes[axis];
    }
    x = {data, sizes, strides};
  });
}

}  // namespace heed_test
