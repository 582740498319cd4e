// SPDX-License-Identifier: BSD-3-Clause
#include "dispatch/calls.hpp"
#include "heed/softmax.hpp"

namespace heed_bench {

template <class S> void through_headers(const call<S>& x) {
  heed::softmax::forward(x.q, x.k, x.v, x.o, {}, {.workspace = x.workspace});
}
template void through_headers(const call<float>&);
template void through_headers(const call<heed::bf16_t>&);

}  // namespace heed_bench
