// SPDX-License-Identifier: BSD-3-Clause
#include "dispatch/calls.hpp"
#include "heed/level.hpp"
#include "heed/softmax.hpp"

namespace heed_bench {

template <class S> void through_dispatch(const call<S>& x) {
  heed::softmax::forward(x.q, x.k, x.v, x.o, {}, {.workspace = x.workspace});
}
template void through_dispatch(const call<float>&);
template void through_dispatch(const call<heed::bf16_t>&);

const char* level() { return heed::level(); }

}  // namespace heed_bench
