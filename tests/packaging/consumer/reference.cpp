// SPDX-License-Identifier: BSD-3-Clause
#include <heed/heed.hpp>
#include <heed/reference/softmax.hpp>

#include <Eigen/Core>

int main() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix q = matrix::Random(9, 16), k = matrix::Random(9, 16), v = matrix::Random(9, 16);
  matrix o(9, 16), expected(9, 16);
  heed::softmax::options<> options{.mask = heed::causal() & heed::window(4)};
  heed::softmax::forward(q, k, v, o, options);
  heed::reference::softmax::forward(q, k, v, expected, options);
  return (o - expected).cwiseAbs().maxCoeff() < 1e-5F ? 0 : 1;
}
