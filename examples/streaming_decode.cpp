// SPDX-License-Identifier: BSD-3-Clause
//
// Decodes a stream without end in fixed memory: a ring keeps the first 4 tokens (the attention sinks) and the last
// ones, in bf16 or in 8-bit integers. A step allocates nothing, which the program counts.
// g++ -std=c++20 -O2 -march=native -I include streaming_decode.cpp
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"

namespace {
std::size_t allocations = 0;
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++allocations;
  const auto unit = static_cast<std::size_t>(alignment);
  if (void* const memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes) { return operator new(bytes, std::align_val_t{alignof(std::max_align_t)}); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using heed::index_t;
constexpr index_t heads = 8, kv_heads = 2, dim = 64, rows = 1024, sinks = 4, steps = 4000;

// Writes what the layers before attention would make of token t: numbers that look random, the same for the same t.
void make(index_t t, std::uint32_t salt, std::vector<float>& x) {
  std::uint32_t i = static_cast<std::uint32_t>(t * 3) + salt;
  for (float& number : x) {
    std::uint32_t bits = (i += 2654435761u) * 2246822519u;
    bits = (bits ^ bits >> 15) * 3266489917u;
    number = static_cast<float>(bits ^ bits >> 13) / 1073741824.f - 2;
  }
}

// One token, and what attention makes of it
struct token {
  std::vector<float> q = std::vector<float>(heads * dim), k = std::vector<float>(kv_heads * dim), v = k, o = q;

  void make(index_t t) { ::make(t, 0, q), ::make(t, 1, k), ::make(t, 2, v); }
  static heed::tensor_view<float, 4> view(std::vector<float>& x) {
    return heed::bhsd(x.data(), 1, static_cast<index_t>(x.size()) / dim, 1, dim);
  }
};

// Returns the RMS of the difference between o of token t and attention in float, in units of the RMS of the latter.
// The ring should hold the sinks and the tokens from t - (rows - sinks) + 1 on.
double error(const token& last, index_t t) {
  token x;
  std::vector<float> k(kv_heads * rows * dim), v(k.size());
  for (index_t row = 0; row < rows; ++row) {
    x.make(row < sinks ? row : t - rows + 1 + row);
    for (index_t h = 0; h < kv_heads; ++h) {
      std::copy_n(x.k.begin() + h * dim, dim, k.begin() + (h * rows + row) * dim);
      std::copy_n(x.v.begin() + h * dim, dim, v.begin() + (h * rows + row) * dim);
    }
  }
  x.make(t);
  heed::softmax::forward(token::view(x.q), heed::bhsd(k.data(), 1, kv_heads, rows, dim),
                         heed::bhsd(v.data(), 1, kv_heads, rows, dim), token::view(x.o));
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < x.o.size(); ++i)
    difference += std::pow(double{x.o[i]} - double{last.o[i]}, 2), size += std::pow(double{x.o[i]}, 2);
  return std::sqrt(difference / size);
}

template <class T> bool stream(const char* storage, double most_error) {
  heed::cache::ring<T> cache(1, kv_heads, rows, dim, dim, sinks);
  token now;
  auto attend = heed::softmax::prepare_decode(token::view(now.q), cache, token::view(now.o));

  std::vector<double> microseconds(steps);
  const std::size_t before = allocations;
  for (index_t t = 0; t < steps; ++t) {
    now.make(t);
    const auto begin = std::chrono::steady_clock::now();
    cache.append(token::view(now.k), token::view(now.v));
    attend();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    microseconds[static_cast<std::size_t>(t)] = took.count();
  }
  const std::size_t allocated = allocations - before;

  const double last_error = error(now, steps - 1);
  const auto full = microseconds.begin() + rows, middle = full + (steps - rows) / 2;  // steps that read a full ring
  std::nth_element(full, middle, microseconds.end());
  std::printf("%s: %td tokens in room for %td, %zu allocations, RMS error %.2f %% of the RMS of o\n", storage,
              cache.length(0), cache.capacity(), allocated, 100 * last_error);
  std::printf("      a step with a full ring: median %.1f us, worst %.1f us\n", *middle,
              *std::max_element(full, microseconds.end()));
  return allocated == 0 && last_error < most_error;
}

}  // namespace

int main() {
  const bool good[] = {stream<heed::bf16_t>("bf16", 0.02), stream<std::int8_t>("int8", 0.05)};
  return good[0] && good[1] ? 0 : 1;
}
