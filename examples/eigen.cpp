// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a grouped-query attention layer with Eigen: projections, split_heads, causal attention, output projection.
// heed takes Eigen matrices as they are. split_heads views a (tokens, heads * dim) matrix as heads without a copy.

// The reference and Eigen come after heed: heed/softmax.hpp keeps g++ 12 from warning about its own AVX-512 intrinsics.
#include "heed/softmax.hpp"

#include <Eigen/Core>
#include <cmath>
#include <cstdio>

#include "heed/reference/softmax.hpp"

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct attention_layer {
  heed::index_t heads, kv_heads, head_dim;
  matrix wq, wk, wv, wo;  // (width, heads * dim), (width, kv_heads * dim) twice, (heads * dim, width)

  attention_layer(heed::index_t width, heed::index_t heads_, heed::index_t kv_heads_)
      : heads(heads_), kv_heads(kv_heads_), head_dim(width / heads_) {
    const float size = 1.7f / std::sqrt(static_cast<float>(width));  // keeps the variance of unit inputs
    wq = size * matrix::Random(width, heads * head_dim);
    wk = size * matrix::Random(width, kv_heads * head_dim);
    wv = size * matrix::Random(width, kv_heads * head_dim);
    wo = size * matrix::Random(heads * head_dim, width);
  }

  // Returns the heads of all tokens, before the output projection.
  template <class Forward> matrix heads_of(const matrix& x, Forward forward) const {
    const matrix q = x * wq, k = x * wk, v = x * wv;
    matrix o(x.rows(), heads * head_dim);
    forward(heed::split_heads(q, heads), heed::split_heads(k, kv_heads), heed::split_heads(v, kv_heads),
            heed::split_heads(o, heads));
    return o;
  }

  matrix operator()(const matrix& x) const {
    return heads_of(x, [](auto q, auto k, auto v,
                          auto o) { heed::softmax::forward(q, k, v, o, {.mask = heed::causal()}); }) *
           wo;
  }
};

int main() {
  const attention_layer layer(256, 8, 2);
  const matrix x = matrix::Random(100, 256) * 1.7f;
  const matrix y = layer(x);

  const matrix exact = layer.heads_of(x, [](auto q, auto k, auto v, auto o) {
    heed::reference::softmax::forward(q, k, v, o, {.mask = heed::causal()});  // double inside
  }) * layer.wo;
  const double error = static_cast<double>((y - exact).cwiseAbs().maxCoeff());
  std::printf("%td tokens, width %td, %td query heads on %td key/value heads of %td\n", y.rows(), y.cols(), layer.heads,
              layer.kv_heads, layer.head_dim);
  std::printf("first outputs %.4f %.4f %.4f; largest difference to the reference %.1e\n", static_cast<double>(y(0, 0)),
              static_cast<double>(y(0, 1)), static_cast<double>(y(0, 2)), error);
  return error < 1e-4 ? 0 : 1;
}
