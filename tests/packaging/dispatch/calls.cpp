// SPDX-License-Identifier: BSD-3-Clause
// Says which level runs, and checks a call, its plan and an error of each kind against the headers' own code.
#include <heed/heed.hpp>
#include <heed/level.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

using numbers = std::vector<float>;
numbers through_headers(const numbers& q, heed::index_t tokens, heed::index_t dim);  // other.cpp

int main() {
  constexpr heed::index_t tokens = 37, dim = 24;
  numbers x(tokens * dim), o(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i) * 0.37F);
  const auto in = heed::matrix(x.data(), tokens, dim);
  const auto out = heed::matrix(o.data(), tokens, dim);
  const auto half = [](float s, heed::position) { return s * 0.5F; };
  const heed::softmax::options<> options{.mask = heed::causal(), .score = half};
  const heed::plan plan = heed::softmax::plan_forward(in, in, in, out, options);
  if (!plan.ok() || std::strcmp(plan.isa, heed::level()) != 0) return std::printf("plan: %s\n", plan.isa), 1;
  heed::softmax::forward(in, in, in, out, options);
  const numbers expected = through_headers(x, tokens, dim);
  for (std::size_t i = 0; i < o.size(); ++i)
    if (!(std::abs(o[i] - expected[i]) < 1e-5F)) return std::puts("not the result of the headers"), 1;

  try {
    heed::softmax::forward(in, in, in, heed::matrix(o.data(), tokens - 1, dim), options);
    return std::puts("no error"), 1;
  } catch (const heed::error& e) {
    if (std::strstr(e.what(), "36") == nullptr || std::strstr(e.what(), "37") == nullptr) return std::puts(e.what()), 1;
  }
  try {  // one step is not enough
    heed::local_linear::forward(in, in, in, 1e-6, out,
                                {.solver = heed::local_linear::solver::conjugate_gradient, .max_iterations = 1});
    return std::puts("no error of rows that did not converge"), 1;
  } catch (const heed::not_converged&) {
  }
  std::puts(heed::level());
}
