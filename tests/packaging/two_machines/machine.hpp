// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/heed.hpp"

// heed compiled for one machine, called with heed's types from a translation unit compiled for another.
struct machine {
  void (*forward)(heed::tensor_view<const float, 4> q, heed::tensor_view<const float, 4> k,
                  heed::tensor_view<const float, 4> v, heed::tensor_view<float, 4> o,
                  const heed::softmax::options<>& options, const heed::context& ctx);
  heed::plan (*plan)(heed::tensor_view<const float, 4> x, heed::tensor_view<float, 4> o);
  bool (*every_verb)(const void* of_float, const void* of_double);
};
extern const machine sse2, avx2, avx512;
