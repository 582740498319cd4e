#include <heed/heed.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

using input = heed::tensor_view<const float, 4>;
using output = heed::tensor_view<float, 4>;
using per_row = heed::tensor_view<float, 3>;
#define PAGE_ARGUMENTS                                                                                            \
  [[maybe_unused]] input q, [[maybe_unused]] input k, [[maybe_unused]] input v, [[maybe_unused]] output o,        \
      [[maybe_unused]] per_row lse, [[maybe_unused]] output part, [[maybe_unused]] per_row part_lse,              \
      [[maybe_unused]] heed::context context
