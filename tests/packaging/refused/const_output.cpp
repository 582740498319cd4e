// SPDX-License-Identifier: BSD-3-Clause
// An output that cannot be written.
// flags: -O0
// says: o is written

#include "heed/softmax.hpp"

void attend(heed::tensor_view<const float, 4> x, heed::tensor_view<float, 4> o) {
#ifdef REFUSED
  const heed::tensor_view<const float, 4> read_only = o;
  heed::softmax::forward(x, x, x, read_only);
#else
  heed::softmax::forward(x, x, x, o);
#endif
}
