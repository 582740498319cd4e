// SPDX-License-Identifier: BSD-3-Clause

// linear::backward in float: the errors of all gradients are at most twice those of naive loops in float, however long
// the sequence.

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_naive_backward.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using type = linear_backward_case<float>;

// phi(x) or phi'(x) in float
buffer<float> each(const buffer<float>& x, float (*f)(float)) {
  auto y = buffer<float>::input(x.size());
  for (index_t i = 0; i < x.size()[2]; ++i)
    for (index_t d = 0; d < x.size()[3]; ++d) y(0, 0, i, d) = f(x(0, 0, i, d));
  return y;
}
void multiply(const buffer<float>& x, const buffer<float>& by) {
  for (index_t i = 0; i < x.size()[2]; ++i)
    for (index_t d = 0; d < x.size()[3]; ++d) x(0, 0, i, d) *= by(0, 0, i, d);
}

}  // namespace

TEST_CASE("backward: rounding errors beside those of naive loops, normalised and not") {
  for (const index_t n : thinning > 1 ? std::vector<index_t>{200} : std::vector<index_t>{200, 2000})
    for (const bool normalize : {true, false})
      for (const feature map : {feature::elu_plus_one, feature::exp}) {
        INFO("N " << n << (normalize ? ", normalised" : "") << ", feature " << static_cast<int>(map));
        type x({1, 1, 1, n, n, 64, 48}, {.mask = heed::causal(), .feature = map, .normalize = normalize});
        x.run();
        const linear_gradients exact = reference_gradients(inputs_of(x, map, false));
        const auto phi = map == feature::exp ? [](float a) { return std::exp(a); }
                                             : [](float a) { return a > 0 ? a + 1 : std::exp(a); };
        const auto slope =
            map == feature::exp ? [](float a) { return std::exp(a); } : [](float a) { return a > 0 ? 1 : std::exp(a); };
        const naive_gradients naive = naive_backward(
            x, x, each(x.q, phi), each(x.k, phi), 1, normalize, [](index_t) { return 1.0f; },
            [](float sum) { return sum + 1e-6f; });
        multiply(naive.dq, each(x.q, slope)), multiply(naive.dk, each(x.k, slope));
        check_accuracy("dq", x.dq, naive.dq, exact.dq), check_accuracy("dk", x.dk, naive.dk, exact.dk);
        check_accuracy("dv", x.dv, naive.dv, exact.dv);
      }
}
