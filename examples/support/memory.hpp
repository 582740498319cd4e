// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Holds what the attention of next_byte.cpp reads: a key, a value and a query per position of a text that can grow.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "heed/softmax.hpp"

namespace next_byte {

using heed::index_t;
using const_rows = heed::tensor_view<const float, 4>;

inline constexpr index_t D = 128, E = 256, longest_context = 6;

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Stores codes (positions 0 .. size, D) and one-hot values (positions 0 .. size - 1, E) of a text that can grow.
class memory {
 public:
  explicit memory(const std::string& text) {
    add_code();
    for (const char byte : text) append(byte);
  }

  void append(char byte) {
    text_.push_back(byte);
    values_.resize(values_.size() + at(E));
    values_[values_.size() - at(E) + static_cast<unsigned char>(byte)] = 1;
    add_code();
  }

  index_t size() const { return static_cast<index_t>(text_.size()); }
  const std::string& text() const { return text_; }
  const_rows keys() const { return heed::matrix(codes_.data(), size(), D); }
  const_rows queries() const { return heed::matrix(codes_.data() + D, size(), D); }  // one position later
  const_rows values() const { return heed::matrix(values_.data(), size(), E); }

 private:
  void add_code() {  // for the position after the last byte
    codes_.resize(codes_.size() + at(D));
    float* const code = codes_.data() + codes_.size() - D;
    std::uint64_t hash = 0;
    for (index_t n = 1; n <= std::min(longest_context, size()); ++n) {
      hash = mix(hash ^ static_cast<unsigned char>(text_[at(size() - n)]));
      for (index_t d = 0; d < D; ++d) {
        const std::uint64_t bits = mix(hash + static_cast<std::uint64_t>(d / 64));
        code[d] += (bits >> d % 64 & 1 ? 1.f : -1.f) / std::sqrt(static_cast<float>(D));
      }
    }
  }

  std::string text_;
  std::vector<float> codes_, values_;
};

}  // namespace next_byte
