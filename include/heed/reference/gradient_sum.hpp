// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How the references of backward add up a gradient: in double, stored once at the end.

#include <cstddef>
#include <vector>

#include "heed/reference/scalar.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

// The sums of one gradient, 0 at first. An axis of extent 1 sums over its index. Where the caller's view is null,
// nothing is added or stored.
template <class T, int Rank> class gradient_sum {
  using per_axis = typename tensor_view<T, Rank>::per_axis;

 public:
  explicit gradient_sum(const tensor_view<T, Rank>& to) : to_(to) {
    std::size_t count = to.data() != nullptr ? 1 : 0;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      strides_[static_cast<std::size_t>(axis)] = to.extent(axis) == 1 ? 0 : static_cast<index_t>(count);
      count *= static_cast<std::size_t>(to.extent(axis));
    }
    sums_.assign(count, 0.0);
  }

  template <class Real, class... Index> void add(Real x, Index... at) {
    if (!sums_.empty()) sums_[element({static_cast<index_t>(at)...})] += static_cast<double>(x);
  }
  // Adds factor * x to the last axis.
  template <class Real, class Row, class... Index> void add_row(Real factor, const Row& x, Index... at) {
    if (sums_.empty()) return;
    const std::size_t first = element({static_cast<index_t>(at)..., 0});
    for (index_t d = 0; d < to_.extent(Rank - 1); ++d)
      sums_[first + static_cast<std::size_t>(d)] += static_cast<double>(factor * x(d));
  }

  void write() const {
    per_axis at{};
    for (const double sum : sums_) {
      T* to = to_.data();
      for (int axis = 0; axis < Rank; ++axis) to += at[static_cast<std::size_t>(axis)] * to_.stride(axis);
      store(*to, sum);
      for (int axis = Rank - 1; axis >= 0 && ++at[static_cast<std::size_t>(axis)] == to_.extent(axis); --axis)
        at[static_cast<std::size_t>(axis)] = 0;
    }
  }

 private:
  std::size_t element(const per_axis& at) const {
    index_t offset = 0;
    for (std::size_t axis = 0; axis < Rank; ++axis) offset += at[axis] * strides_[axis];
    return static_cast<std::size_t>(offset);
  }

  tensor_view<T, Rank> to_;
  per_axis strides_{};
  std::vector<double> sums_;
};

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
