// SPDX-License-Identifier: BSD-3-Clause
// A translation unit of the same program that has the kernels of the headers in it, beside those of the library.
#undef HEED_DISPATCH
#include <heed/softmax.hpp>

#include <vector>

std::vector<float> through_headers(const std::vector<float>& x, heed::index_t tokens, heed::index_t dim);
std::vector<float> through_headers(const std::vector<float>& x, heed::index_t tokens, heed::index_t dim) {
  std::vector<float> o(x.size());
  const auto in = heed::matrix(x.data(), tokens, dim);
  const auto half = [](float s, heed::position) { return s * 0.5F; };
  heed::softmax::forward(in, in, in, heed::matrix(o.data(), tokens, dim),
                         {.mask = heed::causal(), .score = half});
  return o;
}
