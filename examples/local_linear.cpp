// SPDX-License-Identifier: BSD-3-Clause
//
// Runs local linear attention on raw memory: a linear regression of the values at every query, under the softmax
// weights. Shows the report of the solver, the slopes, and apply, which runs the last pass alone.
//   g++ -std=c++20 -O2 -march=native -I include local_linear.cpp
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"

int main() {
  constexpr heed::index_t heads = 8, kv_heads = 2, seq = 256, dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto numbers = [&](heed::index_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    return x;
  };
  const std::vector<float> q_data = numbers(heads * seq * dim), k_data = numbers(kv_heads * seq * dim),
                           v_data = numbers(kv_heads * seq * dim);
  std::vector<float> o_data(q_data.size()), slope_data(q_data.size()), again_data(q_data.size());
  const auto q = heed::bhsd(q_data.data(), 1, heads, seq, dim);
  const auto k = heed::bhsd(k_data.data(), 1, kv_heads, seq, dim), v = heed::bhsd(v_data.data(), 1, kv_heads, seq, dim);
  const auto o = heed::bhsd(o_data.data(), 1, heads, seq, dim),
             slope = heed::bhsd(slope_data.data(), 1, heads, seq, dim),
             again = heed::bhsd(again_data.data(), 1, heads, seq, dim);

  // The ridge is in units of |k|^2. Pass one number, or one for each head.
  heed::local_linear::report report;
  heed::local_linear::options<> options{.mask = heed::causal()};
  options.slope = slope, options.report = &report;
  heed::local_linear::forward(q, k, v, 1.0, o, options);

  const heed::plan plan = heed::local_linear::plan_forward(q, k, v, 1.0, o, options);
  std::printf("%s on %s\n  %s\n  %td queries a tile, %zu bytes of scratch\n", plan.path, plan.isa, plan.why.data(),
              plan.query_tile, plan.workspace_bytes);
  // The automatic solver runs conjugate gradients, except where a tile sees few keys or they do not converge.
  std::printf("%td rows: %td solved directly, the others in %.1f iterations on average and at most %td\n", heads * seq,
              report.direct_rows, report.mean_iterations, report.max_iterations);
  std::printf("largest residual %.1e, %td rows above the tolerance\n", report.max_residual, report.unconverged);

  // The slopes give the same result without a solve. You may pass your own slopes (a trained probe), too.
  const auto difference = [](const std::vector<float>& a, const std::vector<float>& b) {
    float most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
  };
  heed::local_linear::apply(q, k, v, slope, again, {.mask = heed::causal()});
  const float from_slopes = difference(o_data, again_data);

  // An infinite ridge makes the slope 0, which gives softmax attention.
  heed::local_linear::forward(q, k, v, INFINITY, o, {.mask = heed::causal()});
  heed::softmax::forward(q, k, v, again, {.mask = heed::causal()});
  const float from_softmax = difference(o_data, again_data);
  std::printf("forward and apply with its slopes: largest difference %.1e; infinite ridge and softmax: %.1e\n",
              static_cast<double>(from_slopes), static_cast<double>(from_softmax));
  return report.unconverged == 0 && from_slopes < 1e-3f && from_softmax < 1e-5f ? 0 : 1;
}
