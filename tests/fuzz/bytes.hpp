// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The input of a fuzz target, taken byte by byte. Behind its end there are zeros, and zeros mean the plainest call.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iostream>
#include <string>

#include "heed/core/types.hpp"

namespace heed_test {

using heed::index_t;

class bytes {
 public:
  bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  unsigned byte() { return at_ < size_ ? data_[at_++] : 0; }
  index_t below(index_t n) { return n <= 1 ? 0 : static_cast<index_t>(byte()) % n; }  // n <= 256
  index_t between(index_t a, index_t b) { return a + below(b - a + 1); }
  bool flip() { return (byte() & 1) != 0; }
  bool one_in(index_t n) { return below(n) == n - 1; }
  template <class X> X of(std::initializer_list<X> all) { return all.begin()[below(static_cast<index_t>(all.size()))]; }
  std::uint32_t number() {
    const std::uint32_t low = byte();
    return low + 256 * byte();
  }

  // Mostly few, so that a call takes microseconds; some beyond the tiles of every machine
  index_t tokens() {
    const auto x = static_cast<index_t>(byte());
    if (x == 0) return 3;
    if (x % 80 == 17) return 40 + x / 2;
    return x % 4 == 1 ? x % 42 : x % 11;
  }
  index_t dim() {
    const auto x = static_cast<index_t>(byte());
    if (x == 0) return 8;
    if (x % 50 == 27) return x < 100 ? 60 + x % 7 : 80;
    return 1 + (x % 8 == 1 ? x % 34 : x % 17);
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

// Whether to print what the bytes mean
inline bool telling() {
  static const bool asked = std::getenv("HEED_FUZZ_TELL") != nullptr;
  return asked;
}
template <class... X> void tell(const X&... x) {
  if (telling()) (std::cerr << ... << x) << '\n';
}

[[noreturn]] inline void report(const std::string& what) {
  std::fprintf(stderr, "heed fuzz: %s\n", what.c_str());
  std::abort();
}
inline void demand(bool holds, const std::string& otherwise) {
  if (!holds) report(otherwise);
}

}  // namespace heed_test
