// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a mixture-of-head attention layer. A router made of dense layers chooses the heads of each token, attention runs
// for those alone, and an output projection joins them. Half of the heads are on, so attention takes about half the
// time.

// The reference and Eigen come after heed: heed/softmax.hpp keeps g++ 12 from warning about its own AVX-512 intrinsics.
#include "heed/mixture_of_head.hpp"
#include "heed/softmax.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "heed/reference/mixture_of_head.hpp"

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using heed::index_t;

struct moh_layer {
  index_t heads, kv_heads, head_dim;
  heed::mixture_of_head::routing routing;
  matrix wq, wk, wv, wo;             // (width, heads * dim), (width, kv_heads * dim) twice, (heads * dim, width)
  matrix w_routed, w_shared, w_mix;  // (width, heads - shared), (width, shared), (width, 2)

  moh_layer(index_t width, index_t heads_, index_t kv_heads_, heed::mixture_of_head::routing routing_)
      : heads(heads_), kv_heads(kv_heads_), head_dim(width / heads_), routing(routing_) {
    const float size = 1.7f / std::sqrt(static_cast<float>(width));  // keeps the variance of unit inputs
    wq = size * matrix::Random(width, heads * head_dim);
    wk = size * matrix::Random(width, kv_heads * head_dim);
    wv = size * matrix::Random(width, kv_heads * head_dim);
    wo = size * matrix::Random(heads * head_dim, width);
    w_routed = size * matrix::Random(width, heads - routing.shared);
    w_shared = size * matrix::Random(width, routing.shared);
    w_mix = size * matrix::Random(width, 2);
  }

  // Returns the gates (tokens, heads) and the load-balance loss that training would add. The transposes are views.
  matrix route(const matrix& x, double& loss) const {
    const matrix routed = x * w_routed, shared = x * w_shared, mix = x * w_mix;
    matrix gates(x.rows(), heads);
    loss = heed::mixture_of_head::route_trained(routed.transpose(), shared.transpose(), mix.transpose(), routing,
                                                gates.transpose());
    return gates;
  }

  // Runs the layer; forward(q, k, v, o) is the attention and writes o (tokens, heads * dim), which wo then projects.
  template <class Forward> matrix operator()(const matrix& x, Forward forward) const {
    const matrix q = x * wq, k = x * wk, v = x * wv;
    matrix o(x.rows(), heads * head_dim);
    forward(heed::split_heads(q, heads), heed::split_heads(k, kv_heads), heed::split_heads(v, kv_heads),
            heed::split_heads(o, heads));
    return o * wo;
  }
};

template <class F> double milliseconds(F f) {  // the best of five runs
  double best = 1e300;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

int main() {
  const moh_layer layer(512, 8, 4, {.shared = 2, .active = 2});  // 4 of 8 heads for each token
  const matrix x = matrix::Random(1024, 512) * 1.7f;
  double loss = 0, mixture_ms = 0, all_ms = 0;
  const matrix gates = layer.route(x, loss);

  const matrix y = layer(x, [&](auto q, auto k, auto v, auto o) {
    heed::mixture_of_head::options<> options{.mask = heed::causal()};
    mixture_ms = milliseconds([&] { heed::mixture_of_head::forward(q, k, v, gates.transpose(), o, options); });
    const heed::plan plan = heed::mixture_of_head::plan_forward(q, k, v, gates.transpose(), o, options);
    std::printf("%s: %s\n", plan.path, plan.why.data());
  });
  layer(x, [&](auto q, auto k, auto v, auto o) {
    all_ms = milliseconds([&] { heed::softmax::forward(q, k, v, o, {.mask = heed::causal()}); });
  });
  std::printf("attention of the active heads %.2f ms, of all heads %.2f ms: %.2f\n", mixture_ms, all_ms,
              mixture_ms / all_ms);
  std::printf("load-balance loss %.3f; it is %td when all heads are kept equally often\n", loss, layer.routing.active);
  std::printf("gates of token 0:");
  for (index_t h = 0; h < layer.heads; ++h) std::printf(" %.2f", static_cast<double>(gates(0, h)));

  // The first tokens again in double: under a causal mask they do not see the others.
  const matrix exact = layer(x.topRows(200), [&](auto q, auto k, auto v, auto o) {
    heed::reference::mixture_of_head::forward(q, k, v, gates.topRows(200).transpose(), o, {.mask = heed::causal()});
  });
  const double error = static_cast<double>((y.topRows(200) - exact).cwiseAbs().maxCoeff());
  std::printf("\nlargest difference to the reference %.1e\n", error);
  const bool half = (gates.array() != 0).count() == 4 * x.rows();
  return error < 1e-4 && half ? 0 : 1;
}
