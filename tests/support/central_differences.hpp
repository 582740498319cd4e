// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients beside central differences of what they are the gradients of.

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "support/random.hpp"

namespace heed_test {

// Numbers that a loss depends on, and the gradient that is claimed for them
struct claimed_gradient {
  const char* name;
  std::vector<double>* numbers;
  const std::vector<double>* gradient;
};

// f'(0) by central differences of fourth order: off by about h^4 |f'''''| / 30 and 1e-16 |f| / h
template <class F> double slope_of(const F& f, double h) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

// What is wrong with the gradients of loss(), or nothing. Each is tried along random directions of length 1: a wrong
// element shows unless the direction happens to miss it. worst, if given: raised to the largest error relative to the
// sum of magnitudes of gradient times direction, plus 1.
template <class Loss>
std::string wrong_gradients(const std::vector<claimed_gradient>& all, const Loss& loss, random_numbers& random,
                            int directions = 2, double allowed = 1e-8, double* worst = nullptr) {
  std::string wrong;
  for (const claimed_gradient& each : all) {
    std::vector<double>& x = *each.numbers;
    if (x.size() != each.gradient->size()) return std::string(each.name) + " has a gradient of another size";
    const std::vector<double> before = x;
    for (int turn = 0; turn < directions && !x.empty(); ++turn) {
      std::vector<double> direction(x.size());
      double length = 0, claimed = 0, size = 1;
      for (double& d : direction) d = random.normal(), length += d * d;
      for (std::size_t i = 0; i < x.size(); ++i) {
        direction[i] /= std::sqrt(length);
        claimed += direction[i] * (*each.gradient)[i], size += std::abs(direction[i] * (*each.gradient)[i]);
      }
      const double measured = slope_of(
          [&](double t) {
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = before[i] + t * direction[i];
            return loss();
          },
          1e-3);
      x = before;
      const double error = std::abs(claimed - measured) / size;
      if (worst != nullptr) *worst = std::fmax(*worst, error);
      if (error <= allowed) continue;
      char text[160];
      std::snprintf(text, sizeof text, "%s: derivative %.12g, central difference %.12g; ", each.name, claimed,
                    measured);
      wrong += text;
    }
  }
  return wrong;
}

}  // namespace heed_test
