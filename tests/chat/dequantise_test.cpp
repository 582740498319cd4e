// SPDX-License-Identifier: BSD-3-Clause

// The numbers of quantised tensors of examples/chat, against the formulas in double.

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "../examples/chat/dequantise.hpp"
#include "chat/gguf_file.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

// Blocks of random bytes with scales in f16 at their begin, and the numbers that they stand for
struct blocks {
  std::vector<std::byte> bytes;
  std::vector<double> numbers;
};

void append_half(std::vector<std::byte>& to, heed::f16_t x) {
  to.push_back(static_cast<std::byte>(x.bits & 0xff));
  to.push_back(static_cast<std::byte>(x.bits >> 8));
}

blocks random_q4_1(std::size_t count) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-2, 2);
  blocks x;
  for (std::size_t i = 0; i < count; ++i) {
    const heed::f16_t scale(uniform(random)), offset(uniform(random));
    append_half(x.bytes, scale), append_half(x.bytes, offset);
    std::array<unsigned, 32> n{};
    for (auto& number : n) number = random() % 16;
    for (std::size_t j = 0; j < 16; ++j) x.bytes.push_back(static_cast<std::byte>(n[j] | n[j + 16] << 4));
    for (const auto number : n)
      x.numbers.push_back(double{static_cast<float>(scale)} * number + double{static_cast<float>(offset)});
  }
  return x;
}

blocks random_q8_0(std::size_t count) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-2, 2);
  blocks x;
  for (std::size_t i = 0; i < count; ++i) {
    const heed::f16_t scale(uniform(random));
    append_half(x.bytes, scale);
    for (std::size_t j = 0; j < 32; ++j) {
      const int n = static_cast<int>(random() % 256) - 128;
      x.bytes.push_back(static_cast<std::byte>(n & 0xff));
      x.numbers.push_back(double{static_cast<float>(scale)} * n);
    }
  }
  return x;
}

// A product of f16 and 8 bits is exact in float, so float rounds once, as the double is rounded once here.
void check(const blocks& x, std::uint32_t type) {
  const std::uint64_t columns = 64, rows = x.numbers.size() / columns;
  gguf_file file;
  file.floats("first", {1}, {1}).tensor("t", {columns, rows}, type, x.bytes);
  const auto bytes = file.bytes();
  const chat::gguf read(bytes);
  const chat::tensor& t = read.find("t", {columns, rows});
  const auto floats = chat::dequantise<float>(t);
  const auto halves = chat::dequantise<heed::bf16_t>(t);
  REQUIRE(floats.size() == x.numbers.size());
  REQUIRE(halves.size() == x.numbers.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const auto expected = static_cast<float>(x.numbers[i]);
    wrong += std::memcmp(&floats[i], &expected, sizeof(float)) != 0;
    wrong += halves[i].bits != heed::bf16_t(expected).bits;
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("Q4_1 is scale * n + offset") { check(random_q4_1(64), 3); }
TEST_CASE("Q8_0 is scale * n") { check(random_q8_0(64), 8); }

TEST_CASE("F32, F16 and BF16 are what they are") {
  const std::vector<float> x{1, -2.5f, 0.125f, 65504, 0, -0.f, 3e-5f, 1};
  blocks f32, f16, bf16;
  for (int repeat = 0; repeat < 8; ++repeat)
    for (const float number : x) {
      const auto* const bytes = reinterpret_cast<const std::byte*>(&number);
      f32.bytes.insert(f32.bytes.end(), bytes, bytes + sizeof(float));
      f32.numbers.push_back(double{number});
      append_half(f16.bytes, heed::f16_t(number));
      f16.numbers.push_back(double{static_cast<float>(heed::f16_t(number))});
      append_half(bf16.bytes, heed::f16_t::from_bits(heed::bf16_t(number).bits));
      bf16.numbers.push_back(double{static_cast<float>(heed::bf16_t(number))});
    }
  check(f32, 0), check(f16, 1), check(bf16, 30);
}
