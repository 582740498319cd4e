// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What gradients of a kernel must be, found by calls of its forward: the derivative of the loss
// L = <dout, o> + <ds1, s1> + <dz1, z1> along random directions of the inputs.

#include <cmath>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/lightning_backward_case.hpp"

namespace heed_test {

// A sum, and that of its terms' magnitudes
struct sum_and_size {
  double sum = 0, size = 0;
  void add(const buffer<double>& a, const buffer<double>& b, double factor = 1) {
    for (index_t i = 0; i < a.size()[0]; ++i)
      for (index_t h = 0; h < a.size()[1]; ++h)
        for (index_t n = 0; n < a.size()[2]; ++n)
          for (index_t d = 0; d < a.size()[3]; ++d) {
            const double term = factor * a(i, h, n, d) * b(i, h, n, d);
            sum += term, size += std::abs(term);
          }
  }
};

inline sum_and_size loss_of(linear_backward_case<double>& x) {
  x.forward();
  sum_and_size all;
  all.add(x.dout, x.o);
  if (x.asked.dfinal_state.s.data() != nullptr) all.add(x.ds1, x.s1);
  if (x.asked.dfinal_state.z.data() != nullptr) all.add(x.dz1, x.z1);
  return all;
}
inline sum_and_size loss_of(lightning_backward_case<double>& x) {
  x.forward();
  sum_and_size all;
  all.add(x.dout, x.o);
  if (x.asked.dfinal_state.s.data() != nullptr) all.add(x.ds1, x.s1);
  return all;
}

// Inputs, and what the gradients by them are
using inputs_and_gradients = std::vector<std::pair<const buffer<double>*, const buffer<double>*>>;

inline inputs_and_gradients all_of(const linear_backward_case<double>& x) {
  inputs_and_gradients all{{&x.q, &x.dq}, {&x.k, &x.dk}, {&x.v, &x.dv}};
  if (x.options.initial_state.s.data() != nullptr) all.push_back({&x.s0, &x.ds0});
  if (x.options.initial_state.z.data() != nullptr) all.push_back({&x.z0, &x.dz0});
  return all;
}
inline inputs_and_gradients all_of(const lightning_backward_case<double>& x) {
  inputs_and_gradients all{{&x.q, &x.dq}, {&x.k, &x.dk}, {&x.v, &x.dv}};
  if (x.options.initial_state.s.data() != nullptr) all.push_back({&x.s0, &x.ds0});
  if (x.gated) all.push_back({&x.gates, &x.dgates});
  return all;
}

// Moves inputs along one random direction and back.
class direction {
 public:
  direction(const inputs_and_gradients& all, std::uint32_t seed) : all_(all) {
    random_numbers random(seed);
    for (const auto& [x, dx] : all) {
      by_.push_back(buffer<double>::input(x->size()));
      by_.back().randomize(random);
      at_.push_back(mapped(*x, [](double a) { return a; }));
    }
  }
  void move(double step) const {
    for (std::size_t n = 0; n < all_.size(); ++n) {
      const buffer<double>& x = *all_[n].first;
      for (index_t i = 0; i < x.size()[0]; ++i)
        for (index_t h = 0; h < x.size()[1]; ++h)
          for (index_t t = 0; t < x.size()[2]; ++t)
            for (index_t d = 0; d < x.size()[3]; ++d)
              x(i, h, t, d) = at_[n](i, h, t, d) + (step == 0 ? 0 : step * by_[n](i, h, t, d));
    }
  }
  // The derivative of the loss, if the gradients are right
  sum_and_size derivative() const {
    sum_and_size all;
    for (std::size_t n = 0; n < all_.size(); ++n) all.add(*all_[n].second, by_[n]);
    return all;
  }

 private:
  inputs_and_gradients all_;
  std::vector<buffer<double>> by_, at_;
};

// The kernel's gradients along a direction beside differences of the kernel's forward: to about 1e-9 of the terms.
template <class Case> void check_direction(Case& x, std::uint32_t seed) {
  x.run();
  const direction along(all_of(x), seed);
  const sum_and_size gradient = along.derivative();
  const auto at = [&](double step) { return along.move(step), loss_of(x); };
  constexpr double h = 2e-5;
  const sum_and_size more = at(h), less = at(-h), twice = at(2 * h), minus_twice = at(-2 * h);
  along.move(0);
  const double difference = (8 * (more.sum - less.sum) - (twice.sum - minus_twice.sum)) / (12 * h);
  INFO("L changes by " << difference << ", the gradients say " << gradient.sum << ", terms of " << gradient.size);
  CHECK(std::abs(difference - gradient.sum) <= 1e-9 * (gradient.size + more.size));
}

// L is linear in each input alone: its change by any change of one input is the product with the gradient, to rounding.
template <class Case> void check_linear_changes(Case& x) {
  x.run();
  const sum_and_size before = loss_of(x);
  for (const auto& pair : all_of(x)) {
    const direction along({pair}, 5);
    const sum_and_size expected = along.derivative();
    along.move(1);
    const sum_and_size after = loss_of(x);
    along.move(0);
    INFO("L changes by " << after.sum - before.sum << ", the gradient says " << expected.sum);
    CHECK(std::abs(expected.sum) > 1e-6 * expected.size);  // there is something to see
    CHECK(std::abs(after.sum - before.sum - expected.sum) <= 1e-13 * (before.size + after.size + expected.size));
  }
}

// Both sums are equal to rounding.
inline void check_equal(const char* what, const sum_and_size& a, const sum_and_size& b) {
  INFO(what << ": " << a.sum << " and " << b.sum);
  CHECK(std::abs(a.sum - b.sum) <= 1e-12 * (a.size + b.size));
}

// For maps with a kink or an end at 0
inline void keep_off_zero(const buffer<double>& x) {
  x.each([](double& a) { a += a < 0 ? -0.01 : 0.01; });
}

}  // namespace heed_test
