// SPDX-License-Identifier: BSD-3-Clause
#include <heed/softmax.hpp>

#include <vector>

int main() {
  const std::vector<float> x(16 * 8, 0.5F);
  std::vector<float> o(16 * 8);
  const auto in = heed::matrix(x.data(), 16, 8);
  heed::softmax::forward(in, in, in, heed::matrix(o.data(), 16, 8), {.mask = heed::causal()});
  for (const float y : o) {   // every value is 0.5, so is every average of them
    if (!(y > 0.4999F && y < 0.5001F)) return 1;
  }
  return 0;
}
