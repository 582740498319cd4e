// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Small safetensors files in memory, and what a reader says of them.

#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/random.hpp"

namespace heed_test {

template <class T> std::string bytes_of(const T& x) {
  const auto bytes = std::bit_cast<std::array<char, sizeof(T)>>(x);
  return {bytes.begin(), bytes.end()};
}

inline std::string safetensors_file(const std::string& header, const std::string& data) {
  return bytes_of(std::uint64_t{header.size()}) + header + data;
}

// One float tensor after the other.
class safetensors_writer {
 public:
  void add(const std::string& name, const std::string& shape, const std::vector<float>& numbers) {
    header_ += (header_.empty() ? "{\"" : ",\"") + name + R"(":{"dtype":"F32","shape":[)" + shape +
               R"(],"data_offsets":[)" + std::to_string(data_.size()) + ",";
    for (const float x : numbers) data_ += bytes_of(x);
    header_ += std::to_string(data_.size()) + "]}";
  }
  std::string file() const { return safetensors_file(header_ + "}", data_); }

 private:
  std::string header_, data_;
};

// Changes up to four places of a text: a byte becomes another, goes or comes, a piece comes twice, or a digit changes.
inline std::string mutated(std::string text, random_numbers& random) {
  const auto place = [&] { return static_cast<std::size_t>(random.below(static_cast<std::int32_t>(text.size()))); };
  for (std::int32_t count = 1 + random.below(4); count > 0 && !text.empty(); --count) {
    const std::size_t at = place();
    switch (random.below(5)) {
      case 0:
        text[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        text.erase(at, 1 + static_cast<std::size_t>(random.below(3)));
        break;
      case 2:
        text.insert(at, 1, "\"{}[],:0123456789-.e\\u"[random.below(22)]);
        break;
      case 3:
        text.insert(place(), text.substr(at, static_cast<std::size_t>(random.below(20))));
        break;
      default:
        for (std::size_t i = at; i < text.size(); ++i)
          if (text[i] >= '0' && text[i] <= '9') {
            text[i] = static_cast<char>('0' + random.below(10));
            break;
          }
    }
  }
  return text;
}

// Returns what f throws as an Error says; "" where it throws nothing. Other exceptions pass through.
template <class Error = std::runtime_error> std::string text_thrown_by(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace heed_test
