// SPDX-License-Identifier: BSD-3-Clause
// Gates that would be cut to whole numbers.
// flags: -O0
// says: gates are float or double

#include "heed/mixture_of_head.hpp"

void route(heed::tensor_view<const float, 4> q, heed::tensor_view<int, 3> whole, heed::tensor_view<float, 3> gates) {
#ifdef REFUSED
  heed::mixture_of_head::route_by_norm(q, {}, whole);
#else
  static_cast<void>(whole);
  heed::mixture_of_head::route_by_norm(q, {}, gates);
#endif
}
