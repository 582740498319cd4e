// SPDX-License-Identifier: BSD-3-Clause
// Element types that do not go together, or that no call sums.
// flags: -O0
// says: heed: double goes with double alone; float and 16-bit types go together
// says: heed: double goes with double alone; float and 16-bit types go together
// says: heed: double goes with double alone; float and 16-bit types go together
// says: heed: k and v have one element type
// says: heed: k and v have one element type
// says: heed: q, k, v and o hold float, double, heed::bf16_t or heed::f16_t
// says: heed: gates and slopes are float, or double where q, k, v and o are
// says: heed: gates and slopes are float, or double where q, k, v and o are
// says: heed: gates and slopes are float, or double where q, k, v and o are
// says: heed: the call was prepared for another element type

#include "heed/local_linear.hpp"
#include "heed/mixture_of_head.hpp"
#include "heed/softmax.hpp"

template <class T> using tensor = heed::tensor_view<T, 4>;

void attend(tensor<float> x, tensor<double> wide, tensor<heed::bf16_t> half, tensor<heed::f16_t> f16, tensor<int> whole,
            heed::tensor_view<float, 3> gates, heed::tensor_view<double, 3> wide_gates,
            heed::tensor_view<heed::f16_t, 3> half_gates) {
#ifndef REFUSED
  heed::softmax::forward(x, half, half, f16);
  heed::mixture_of_head::forward(half, f16, f16, gates, x);
  heed::local_linear::apply(f16, x, x, x, half);
  heed::softmax::forward(wide, wide, wide, wide);
#elif REFUSED == 1
  heed::softmax::forward(x, wide, wide, x);
#elif REFUSED == 2
  heed::softmax::forward(half, half, half, wide);
#elif REFUSED == 3
  heed::local_linear::forward(wide, x, x, 0.5, wide);
#elif REFUSED == 4
  heed::softmax::forward(x, half, f16, x);
#elif REFUSED == 5
  heed::mixture_of_head::forward(half, half, x, gates, half);
#elif REFUSED == 6
  heed::softmax::forward(whole, whole, whole, x);
#elif REFUSED == 7
  heed::mixture_of_head::forward(half, half, half, half_gates, half);
#elif REFUSED == 8
  heed::mixture_of_head::forward(x, x, x, wide_gates, x);
#elif REFUSED == 9
  heed::local_linear::apply(half, half, half, half, half);
#elif REFUSED == 10
  heed::softmax::prepare(half, half, half, half)(wide, wide, wide, wide);
#endif
  static_cast<void>(x), static_cast<void>(wide), static_cast<void>(half), static_cast<void>(f16);
  static_cast<void>(whole), static_cast<void>(gates), static_cast<void>(wide_gates), static_cast<void>(half_gates);
}
