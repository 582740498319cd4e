// SPDX-License-Identifier: BSD-3-Clause
// Keys of another type than the queries.
// flags: -O0
// says: q, k, v and the other tensors of a call have one element type

#include "heed/softmax.hpp"

void attend(heed::tensor_view<const float, 4> q, heed::tensor_view<const double, 4> k, heed::tensor_view<float, 4> o) {
#ifdef REFUSED
  heed::softmax::forward(q, k, q, o);
#else
  static_cast<void>(k);
  heed::softmax::forward(q, q, q, o);
#endif
}
