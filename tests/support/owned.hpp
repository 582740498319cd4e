// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Options made of temporaries: moved, copied, and their first home overwritten, before they are used.

#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "heed/core/types.hpp"

namespace heed_test {

// A copy of what make() returns that outlives it, and everything that make() had.
template <class F> auto kept(const F& make) {
  using options = decltype(make());
  alignas(options) std::byte memory[sizeof(options)];
  options* const first = ::new (static_cast<void*>(memory)) options(make());
  auto copy = std::make_unique<options>(*first);
  std::memset(memory, 0xff, sizeof memory);  // trivially destructible
  return std::make_unique<options>(std::move(*copy));
}

// count numbers, different ones for different seeds
template <class T = float> std::vector<T> some_numbers(heed::index_t count, int seed) {
  std::vector<T> x;
  for (heed::index_t i = 0; i < count; ++i) x.push_back(static_cast<T>((i * 7 + seed * 5) % 17 - 8) / 8);
  return x;
}

}  // namespace heed_test
