// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients beside central differences of what they are gradients of.

#include <algorithm>
#include <cmath>

#include "support/buffer.hpp"
#include "support/central_differences.hpp"
#include "support/comparison.hpp"

namespace heed_test {

// Returns d loss / d x of one element, of which loss() is a function.
template <class Loss> double difference(double& x, const Loss& loss, double step = 1e-3) {
  const double at = x;
  const double slope = slope_of([&](double by) { return x = at + by, loss(); }, step);
  x = at;
  return slope;
}

// Adds to `result` how far dx, the gradient of loss() by x, is from the differences. size: of the numbers in the loss
template <class Loss>
void add_differences(verdict& result, const char* what, const buffer<double>& x, const buffer<double>& dx, double size,
                     const Loss& loss) {
  double largest = 0;
  dx.each([&](double a) { largest = std::max(largest, std::abs(a)); });
  for (index_t b = 0; b < x.size()[0]; ++b)
    for (index_t h = 0; h < x.size()[1]; ++h)
      for (index_t i = 0; i < x.size()[2]; ++i)
        for (index_t d = 0; d < x.size()[3]; ++d)
          result.add(dx(b, h, i, d), difference(x(b, h, i, d), loss), 1e-9 * (largest + size), what, b, h, i, d);
}

inline buffer<double> random_input(const extents& n, std::uint32_t seed) {
  auto x = buffer<double>::input(n);
  random_numbers random(seed);
  x.each([&](double& a) {  // not near 0, where relu and elu_plus_one have a kink
    const double number = random.normal();
    a = number + (number < 0 ? -0.02 : 0.02);
  });
  return x;
}

inline bool all_zero(const buffer<double>& x) {
  bool zero = true;
  x.each([&](double a) { zero = zero && a == 0; });
  return zero;
}

// The sum of all a(i) b(i)
inline double inner(const buffer<double>& a, const buffer<double>& b) {
  double sum = 0;
  for (index_t i = 0; i < a.size()[0]; ++i)
    for (index_t h = 0; h < a.size()[1]; ++h)
      for (index_t n = 0; n < a.size()[2]; ++n)
        for (index_t d = 0; d < a.size()[3]; ++d) sum += a(i, h, n, d) * b(i, h, n, d);
  return sum;
}

}  // namespace heed_test
