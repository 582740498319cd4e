// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A stream of a million tokens, the same in every run, and the checkpoints on its way.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/factories.hpp"
#include "soak/long_run.hpp"
#include "support/catch.hpp"
#include "support/count_instructions.hpp"

namespace heed_test {

// A number of a token, between -1 and 1, from its counters alone
inline float number_at(std::uint64_t token, std::uint64_t column) {
  std::uint64_t x = (token * 1000003 + column) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
  return static_cast<float>(static_cast<std::int64_t>(x >> 40) - (1 << 23)) * 0x1p-23f;
}

// What k and v of a token are multiplied with: 1, but in the middle of each decade of tokens they fade by powers of two
// to subnormal numbers (140 steps before 5 * 10^n) and are zero then (until 6 * 10^n).
inline float size_at(long token) {
  long decade = 1000;
  while (token >= 10 * decade) decade *= 10;
  const long rest = token - (5 * decade - 140);
  if (rest < 0 || token >= 6 * decade) return 1;
  return rest < 150 ? std::ldexp(1.0f, static_cast<int>(-rest)) : 0;
}

// Rows of q, k, v of the tokens from `first` on, token-major
struct token_rows {
  index_t heads, dim;
  std::vector<float> q, k, v;

  token_rows(index_t heads_, index_t dim_, long count = 1)
      : heads(heads_), dim(dim_), q(static_cast<std::size_t>(count * heads_ * dim_)), k(q), v(q) {}
  void fill(long first) {
    const std::size_t row = static_cast<std::size_t>(heads * dim);
    for (std::size_t i = 0; i < q.size(); ++i) {
      const long token = first + static_cast<long>(i / row);
      const auto t = static_cast<std::uint64_t>(token), c = static_cast<std::uint64_t>(i % row);
      const float size = size_at(token);
      q[i] = number_at(t, 3 * c);
      k[i] = size * number_at(t, 3 * c + 1);
      v[i] = size * number_at(t, 3 * c + 2);
    }
  }
  heed::tensor_view<float, 4> view(std::vector<float>& x) const {
    return heed::bshd(x.data(), 1, static_cast<index_t>(x.size()) / (heads * dim), heads, dim);
  }
};

template <class T> long subnormals(const std::vector<T>& x) {
  return std::count_if(x.begin(), x.end(), [](T y) { return std::fpclassify(static_cast<float>(y)) == FP_SUBNORMAL; });
}
template <class T> std::vector<std::remove_const_t<T>> numbers_of(heed::tensor_view<T, 4> x) {
  std::vector<std::remove_const_t<T>> all;
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i)
        for (index_t c = 0; c < x.extent(3); ++c) all.push_back(x(b, h, i, c));
  return all;
}
inline bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The steps of one stream: their time is printed where the run is long, and the instructions of some are the same after
// a million tokens as after a thousand, within a tenth (a window begins elsewhere in a tile of keys).
class step_watch {
 public:
  explicit step_watch(std::string name) : name_(std::move(name)) {}

  // some(): steps of one token each, in a copy of this process
  void check(long count, [[maybe_unused]] const std::function<void()>& some) {
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin_;
    if (soak_reports())
      std::printf("%s: token %ld, %.0f ns a token since the checkpoint before\n", name_.c_str(), count,
                  time.count() / static_cast<double>(count - count_));
#ifdef HEED_TEST_COUNTS_INSTRUCTIONS
    if (count == 1000 || count == soak_steps) {
      const long instructions = count_instructions(1, [&](int) { some(); }).front();
      if (first_ == 0) first_ = instructions;
      INFO(name_ << " after " << count << " tokens: " << instructions << " instructions, after 1000: " << first_);
      CHECK(instructions > 1000);
      CHECK(static_cast<double>(instructions) <= 1.1 * static_cast<double>(first_));
    }
#endif
    count_ = count, begin_ = std::chrono::steady_clock::now();
  }

 private:
  std::string name_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  long count_ = 0, first_ = 0;
};

// Runs body(token) for all tokens, and at(count) after 10^n, 5 * 10^n (input is subnormal) and 6 * 10^n (it is zero)
template <class Body, class At> void run_steps(Body body, At at) {
  long decade = 1000;
  for (long count = 1; count <= soak_steps; ++count) {
    body(count - 1);
    if (count == 10 * decade) decade = count;
    if (count == decade || count == 5 * decade || count == 6 * decade || count == soak_steps) at(count);
  }
}

}  // namespace heed_test
