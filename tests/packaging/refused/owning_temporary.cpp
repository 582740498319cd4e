// SPDX-License-Identifier: BSD-3-Clause
// An output whose memory is gone when the call returns.
// flags: -O0
// says: owning temporary

#include <vector>

#include "heed/softmax.hpp"

void attend(heed::tensor_view<const float, 4> x, std::vector<float>& o) {
#ifdef REFUSED
  heed::softmax::forward(x, x, x, std::vector<float>(o));
#else
  heed::softmax::forward(x, x, x, o);
#endif
}
