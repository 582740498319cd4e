// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Numbers of a tensor (batch, head, seq, dim) by value, for tests that take calls apart and join them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "support/buffer.hpp"

namespace heed_test {

// double holds every number of every storage type, so that equal tensors are equal bits.
class law_numbers {
 public:
  law_numbers() = default;
  explicit law_numbers(const extents& n) : n_(n), x_(static_cast<std::size_t>(n[0] * n[1] * n[2] * n[3])) {}
  template <class F> law_numbers(const extents& n, F f) : law_numbers(n) {  // f(b, h, i, d)
    std::size_t at = 0;
    for (index_t b = 0; b < n[0]; ++b)
      for (index_t h = 0; h < n[1]; ++h)
        for (index_t i = 0; i < n[2]; ++i)
          for (index_t d = 0; d < n[3]; ++d) x_[at++] = f(b, h, i, d);
  }

  bool empty() const { return x_.empty(); }
  const extents& size() const { return n_; }
  index_t extent(int axis) const { return n_[static_cast<std::size_t>(axis)]; }
  double operator()(index_t b, index_t h, index_t i, index_t d = 0) const { return x_[index(b, h, i, d)]; }
  double& operator()(index_t b, index_t h, index_t i, index_t d = 0) { return x_[index(b, h, i, d)]; }
  std::vector<double>& all() { return x_; }
  const std::vector<double>& all() const { return x_; }

  template <class F> law_numbers mapped(F f) const {  // f(number)
    law_numbers y = *this;
    for (double& x : y.x_) x = f(x);
    return y;
  }
  // Entries `order` of an axis
  law_numbers picked(std::size_t axis, const std::vector<index_t>& order) const {
    if (empty()) return *this;
    extents n = n_;
    n[axis] = static_cast<index_t>(order.size());
    return law_numbers(n, [&](index_t b, index_t h, index_t i, index_t d) {
      extents at{b, h, i, d};
      at[axis] = order[static_cast<std::size_t>(at[axis])];
      return (*this)(at[0], at[1], at[2], at[3]);
    });
  }
  // Entries [first, first + count) of an axis
  law_numbers part(std::size_t axis, index_t first, index_t count) const {
    if (empty()) return *this;
    std::vector<index_t> order;
    for (index_t i = 0; i < count; ++i) order.push_back(first + i);
    return picked(axis, order);
  }
  // Of what all entries may share: an axis of one entry stays
  law_numbers shared_part(std::size_t axis, index_t first, index_t count) const {
    return n_[axis] == 1 ? *this : part(axis, first, count);
  }
  double largest() const {
    double most = 0;
    for (const double x : x_) most = std::isfinite(x) ? std::max(most, std::abs(x)) : most;
    return most;
  }
  // The 2-norm of the longest row
  double longest_row() const {
    double most = 0;
    for (std::size_t row = 0; n_[3] > 0 && row < x_.size(); row += static_cast<std::size_t>(n_[3])) {
      double sum = 0;
      for (std::size_t d = row; d < row + static_cast<std::size_t>(n_[3]); ++d) sum += x_[d] * x_[d];
      most = std::max(most, std::sqrt(sum));
    }
    return most;
  }

 private:
  std::size_t index(index_t b, index_t h, index_t i, index_t d) const {
    return static_cast<std::size_t>(((b * n_[1] + h) * n_[2] + i) * n_[3] + d);
  }

  extents n_{};
  std::vector<double> x_;
};

// a, then b along an axis
inline law_numbers joined(std::size_t axis, const law_numbers& a, const law_numbers& b) {
  if (a.empty()) return b;
  extents n = a.size();
  n[axis] += b.size()[axis];
  return law_numbers(n, [&](index_t i0, index_t i1, index_t i2, index_t i3) {
    extents at{i0, i1, i2, i3};
    if (at[axis] < a.size()[axis]) return a(i0, i1, i2, i3);
    at[axis] -= a.size()[axis];
    return b(at[0], at[1], at[2], at[3]);
  });
}

// The sum of the entries of an axis that were made of one: `times` neighbours
inline law_numbers summed(std::size_t axis, const law_numbers& x, index_t times) {
  extents n = x.size();
  n[axis] /= times;
  return law_numbers(n, [&](index_t i0, index_t i1, index_t i2, index_t i3) {
    double sum = 0;
    for (index_t t = 0; t < times; ++t) {
      extents at{i0, i1, i2, i3};
      at[axis] = at[axis] * times + t;
      sum += x(at[0], at[1], at[2], at[3]);
    }
    return sum;
  });
}

}  // namespace heed_test
