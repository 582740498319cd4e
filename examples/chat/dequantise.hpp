// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Turns the tensors of a file into numbers to compute with: float, or bf16 with half the bytes.
//   Q4_1  blocks of 32: scale d and offset m in f16, then 16 bytes of two 4-bit numbers n. x = d n + m. The low halves
//         are the first 16 numbers, the high halves the last 16.
//   Q8_0  blocks of 32: scale d in f16, then 32 signed bytes n. x = d n.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gguf.hpp"
#include "heed/softmax.hpp"

namespace chat {

using heed::bf16_t;
using heed::f16_t;

// Reads a number from bytes of any alignment.
template <class T> T load(const std::byte* bytes) {
  T x;
  std::memcpy(&x, bytes, sizeof(T));
  return x;
}

// Calls write(i, x) for number i of a block at `from`.
template <class Write> void read_block(tensor_type type, const std::byte* from, Write write) {
  switch (type) {
    case tensor_type::f32:
      write(0, load<float>(from));
      break;
    case tensor_type::f16:
      write(0, static_cast<float>(load<f16_t>(from)));
      break;
    case tensor_type::bf16:
      write(0, static_cast<float>(load<bf16_t>(from)));
      break;
    case tensor_type::q4_1: {
      const float scale = load<f16_t>(from), offset = load<f16_t>(from + 2);
      for (std::size_t i = 0; i < 16; ++i) {
        const auto pair = std::to_integer<unsigned>(from[4 + i]);
        write(i, scale * static_cast<float>(pair & 15u) + offset);
        write(i + 16, scale * static_cast<float>(pair >> 4) + offset);
      }
      break;
    }
    case tensor_type::q8_0: {
      const float scale = load<f16_t>(from);
      for (std::size_t i = 0; i < 32; ++i) write(i, scale * static_cast<float>(load<std::int8_t>(from + 2 + i)));
      break;
    }
  }
}

// Returns all numbers of a tensor, each rounded once to T: float or bf16_t.
template <class T> std::vector<T> dequantise(const tensor& t) {
  const auto block = block_of(t.type);
  std::vector<T> numbers(t.count());
  T* to = numbers.data();
  for (std::size_t at = 0; at < t.bytes.size(); at += block.bytes, to += block.numbers)
    read_block(t.type, t.bytes.data() + at, [to](std::size_t i, float x) { to[i] = T(x); });
  return numbers;
}

}  // namespace chat
