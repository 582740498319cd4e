// SPDX-License-Identifier: BSD-3-Clause
// Tensors that no kernel takes.
// flags: -O0
// says: is column-major (Eigen's default), its rows are not contiguous
// says: is column-major (Eigen's default), its rows are not contiguous
// says: is column-major (Eigen's default), its rows are not contiguous
// says: is column-major (Eigen's default), its rows are not contiguous
// says: a pointer has no shape: give a view, heed::bhsd(pointer
// says: a pointer has no shape: give a view, heed::bhsd(pointer
// says: heed: q, k, v and o hold float, double, heed::bf16_t or heed::f16_t
// says: heed: q, k, v and o hold float, double, heed::bf16_t or heed::f16_t
// says: a tensor has at most 4 axes

#include <Eigen/Core>

#include "heed/heed.hpp"

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void calls(row_major& x, Eigen::MatrixXf& c, heed::tensor_view<const int, 4> whole, float* p, double* d,
           heed::tensor_view<float, 5> five) {
#ifndef REFUSED
  heed::softmax::forward(c.transpose(), c.transpose(), c.transpose(), c.transpose(), {.bias = c});
  heed::mixture_of_head::route_by_norm(x, {}, c);
#elif REFUSED == 1
  heed::softmax::forward(c, x, x, x, {.mask = heed::causal()});
#elif REFUSED == 2
  heed::linear::forward(x, x, x, c);
#elif REFUSED == 3
  heed::local_linear::apply(x, x, c, x, x);
#elif REFUSED == 4
  heed::mixture_of_head::route_by_norm(c, {}, x);
#elif REFUSED == 5
  heed::softmax::forward(d, d, d, d, {.mask = heed::causal()});
#elif REFUSED == 6
  heed::lightning::forward(x, p, p, heed::alibi_slopes(2), x);
#elif REFUSED == 7
  heed::softmax::forward(whole, whole, whole, x);
#elif REFUSED == 8
  heed::lightning::forward(whole, whole, whole, heed::alibi_slopes(2), x);
#elif REFUSED == 9
  heed::softmax::forward(x, five, x, x);
#endif
  static_cast<void>(whole), static_cast<void>(p), static_cast<void>(d), static_cast<void>(five);
}
