// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// New tokens for a cache, written by the compiled library.

#include "heed/core/token_run.hpp"
#include "heed/dispatch/verbs.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

template <class> using row_source = dispatch::storage;
template <class, class S> HEED_INLINE dispatch::storage row_source_of() { return dispatch::storage_of<S>; }

// Writes rows of x to consecutive rows of the cache; scale: of these rows, null but for std::int8_t
template <class T>
void store_run(const input_tensor& x, dispatch::storage source, const token_run& run, T* to, float* scale) {
  const dispatch::append request{dispatch::tensor(x, source), run.batch, run.head, run.first, run.count, to,
                                 dispatch::storage_of<T>,     scale};
  dispatch::failure problem;
  dispatch::chosen<acc_t<T>>().append(request, {}, nullptr, problem);
  problem.raise();
}

}  // namespace HEED_ISA
}  // namespace heed::detail
