// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The numbers of a buffer at other places of memory: strides of any size and sign, the memory between the rows NaN.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/buffer.hpp"

namespace heed_test {

// How heads and rows lie: token-major rows `apart` elements apart, or head by head
struct far_layout {
  const char* name;
  index_t apart;  // from row to row, at least; token-major: at least those of all heads
  bool token_major;
  bool reversed = false;  // rows of falling addresses
  index_t skew = 0;       // elements off a 64-byte boundary
};
inline constexpr far_layout far_layouts[] = {{"token-major, 4 KiB", 1024, true},
                                             {"token-major, 12 KiB", 3072, true},
                                             {"token-major, reversed", 1024, true, true},
                                             {"token-major, misaligned", 1040, true, false, 3},
                                             {"head-major, rows of 4 KiB", 1024, false},
                                             {"head-major, 64 bytes behind each row", 80, false},
                                             {"head-major, reversed, misaligned", 1031, false, true, 5}};

template <class T> class moved {
 public:
  moved(const extents& n, const far_layout& how) : n_(n) {
    const auto [b, h, s, d] = n;
    const index_t apart = std::max(how.apart, how.token_major ? h * d : d);
    const index_t head = how.token_major ? d : s * apart, batch = how.token_major ? s * apart : h * s * apart;
    memory_.assign(static_cast<std::size_t>(b * batch + how.skew), std::numeric_limits<T>::quiet_NaN());
    first_ = how.skew + (how.reversed ? (s - 1) * apart : 0);
    strides_ = {batch, head, how.reversed ? -apart : apart, 1};
  }
  moved(const buffer<T>& x, const far_layout& how) : moved(x.size(), how) {
    for_each([&](T& y, index_t b, index_t h, index_t s, index_t d) { y = x(b, h, s, d); });
  }

  heed::tensor_view<T, 4> view() { return {memory_.data() + first_, n_, strides_}; }
  heed::tensor_view<const T, 4> cview() const { return {memory_.data() + first_, n_, strides_}; }

  // The bits of x where its numbers belong, and nothing written elsewhere
  bool holds(const buffer<T>& x) {
    index_t numbers = 0, different = 0;
    for_each([&](T& y, index_t b, index_t h, index_t s, index_t d) {
      different += std::memcmp(&y, &x(b, h, s, d), sizeof(T)) != 0;
      y = std::numeric_limits<T>::quiet_NaN();
    });
    for (const T y : memory_) numbers += !std::isnan(y);
    return different == 0 && numbers == 0;
  }

 private:
  template <class F> void for_each(F f) {
    for (index_t b = 0; b < n_[0]; ++b)
      for (index_t h = 0; h < n_[1]; ++h)
        for (index_t s = 0; s < n_[2]; ++s)
          for (index_t d = 0; d < n_[3]; ++d)
            f(memory_[static_cast<std::size_t>(first_ + b * strides_[0] + h * strides_[1] + s * strides_[2] + d)], b, h,
              s, d);
  }

  extents n_;
  std::array<index_t, 4> strides_ = {};
  index_t first_ = 0;
  std::vector<T> memory_;
};

}  // namespace heed_test
