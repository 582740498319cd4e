// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call in two translation units, compiled with and without heed::dispatch.

#include <cstddef>
#include <span>

#include "heed/core/view.hpp"

namespace heed_bench {

template <class S> struct call {
  heed::tensor_view<const S, 4> q, k, v;
  heed::tensor_view<S, 4> o;
  std::span<std::byte> workspace;
};

template <class S> void through_dispatch(const call<S>& x);
template <class S> void through_headers(const call<S>& x);
const char* level();  // of the library

}  // namespace heed_bench
