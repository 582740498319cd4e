// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How the references read and write tensors: numbers of any storage type as double or long double, and rows of them.

#include "heed/reference/eigen.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Returns x, read from or about to be written to a T, or 0 of its sign where x is subnormal in the type that the
// kernels sum in (double for double, else float). Between reading and writing the references keep subnormal numbers.
template <class T, class Real> Real normal_or_zero(Real x) {
  using sums = heed::detail::acc_t<std::remove_const_t<T>>;
  return std::abs(x) < static_cast<Real>(std::numeric_limits<sums>::min()) ? std::copysign(Real(0), x) : x;
}

// 16-bit types widen to float exactly and have no conversion from double.
template <class Real = double, class T> Real number(const T& x) {
  if constexpr (sizeof(T) == 2)
    return normal_or_zero<T>(static_cast<Real>(static_cast<float>(x)));
  else
    return normal_or_zero<T>(static_cast<Real>(x));
}
template <class T, class Real> void store(T& to, Real x) {
  x = normal_or_zero<T>(x);
  if constexpr (sizeof(T) == 2)
    to = T(static_cast<float>(x));
  else
    to = static_cast<T>(x);
}

// The element of a bias or keep tensor, whose axes of extent 1 hold for every index.
template <class T> T& broadcast_element(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  return x(x.extent(0) == 1 ? 0 : b, x.extent(1) == 1 ? 0 : h, x.extent(2) == 1 ? 0 : i, x.extent(3) == 1 ? 0 : j);
}

template <class Real = double, class T>
Eigen::Matrix<Real, Eigen::Dynamic, 1> row_of(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i) {
  Eigen::Matrix<Real, Eigen::Dynamic, 1> row(x.extent(3));
  for (index_t d = 0; d < x.extent(3); ++d) row(d) = number<Real>(x(b, h, i, d));
  return row;
}
// Rows [first, first + count) of one head
template <class T> row_major rows_of(const tensor_view<T, 4>& x, index_t b, index_t h, index_t first, index_t count) {
  row_major rows(count, x.extent(3));
  for (index_t i = 0; i < count; ++i) rows.row(i) = row_of(x, b, h, first + i).transpose();
  return rows;
}
template <class T, class Row>
void store_row(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, const Row& row) {
  for (index_t d = 0; d < x.extent(3); ++d) store(x(b, h, i, d), row(d));
}

// The matrix (feature, value) of a head of a recurrent state. Where the view is null: zeros are loaded, nothing is
// stored.
template <class T>
row_major load_state(const tensor_view<T, 4>& s, index_t b, index_t h, index_t features, index_t value_dim) {
  return s.data() != nullptr ? rows_of(s, b, h, 0, features) : row_major(row_major::Zero(features, value_dim));
}
template <class T> void store_state(const tensor_view<T, 4>& s, index_t b, index_t h, const row_major& from) {
  for (index_t i = 0; i < from.rows() && s.data() != nullptr; ++i) store_row(s, b, h, i, from.row(i));
}

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
