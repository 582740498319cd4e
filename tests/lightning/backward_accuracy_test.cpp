// SPDX-License-Identifier: BSD-3-Clause

// lightning::backward in float: the errors of all gradients are at most twice those of naive loops in float, however
// long the sequence.

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_naive_backward.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<float>;

std::vector<index_t> lengths() {
  if (thinning > 1) return {200};
  return {200, 1000, 1024, 4000};
}

}  // namespace

TEST_CASE("backward: rounding errors beside those of naive loops, gates from none to steep") {
  for (const index_t n : lengths())
    for (const index_t d : {32, 64})
      for (const float steepness : {0.0f, 0.003f, 1.0f, 10.0f}) {
        INFO("N " << n << ", D " << d << ", gates of mean " << -0.15 * static_cast<double>(steepness));
        type x({1, 1, 1, n, n, d, d}, 1, 0);
        x.gates.each([&](float& a) { a *= steepness; });
        x.backward();
        const auto gates = mapped(x.gates, [](double a) { return a; });
        const lightning_gradients exact = reference_gradients(x, heed::decay<double>(gates.view3()), false);
        const naive_gradients naive = naive_backward(
            x, x, x.q, x.k, 1, false, [&](index_t t) { return std::exp(x.gates(0, 0, t)); },
            [](float) { return 1.0f; });
        check_accuracy("dq", x.dq, naive.dq, exact.dq), check_accuracy("dk", x.dk, naive.dk, exact.dk);
        check_accuracy("dv", x.dv, naive.dv, exact.dv);
        check_accuracy("gates", x.dgates, naive.dgates, exact.dgates);
      }
}

TEST_CASE("backward: rounding errors beside those of naive loops, slopes") {
  for (const index_t n : lengths())
    for (const double slope : {0.0, 1e-3, 0.1, 3.0}) {
      INFO("N " << n << ", slope " << slope);
      type x({1, 1, 1, n, n, 64, 48}, {slope});
      x.backward();
      const lightning_gradients exact = reference_gradients(x, heed::decay<double>(x.slopes), false);
      const float lambda = static_cast<float>(std::exp(-slope));
      const naive_gradients naive =
          naive_backward(x, x, x.q, x.k, 1, false, [&](index_t) { return lambda; }, [](float) { return 1.0f; });
      check_accuracy("dq", x.dq, naive.dq, exact.dq), check_accuracy("dk", x.dk, naive.dk, exact.dk);
      check_accuracy("dv", x.dv, naive.dv, exact.dv);
      float sum = 0;  // one number: beside the largest of what naive loops add up
      double largest = 0;
      naive.dgates.each([&](float a) { sum -= a, largest = std::max(largest, std::abs(static_cast<double>(sum))); });
      const double expected = exact.dslopes(0, 0, 0, 0);
      INFO("dslope " << x.dslopes(0, 0, 0, 0) << ", naive " << sum << ", expected " << expected);
      CHECK(std::abs(static_cast<double>(x.dslopes(0, 0, 0, 0)) - expected) <=
            std::max(2 * std::abs(static_cast<double>(sum) - expected), 1e-6 * largest));
    }
}
