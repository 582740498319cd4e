// SPDX-License-Identifier: BSD-3-Clause

// A step with a ring costs the same wherever the ring begins: instructions, counted one by one in a child process.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"
#include "support/catch.hpp"
#include "support/count_instructions.hpp"
#include "support/counting_new.hpp"  // to share the program of prepared_test.cpp

#ifdef HEED_TEST_COUNTS_INSTRUCTIONS

namespace {

using heed::index_t;

template <class C> void compare_steps(index_t group) {
  constexpr index_t heads = 1, dim = 16, capacity = 20, sinks = 4;
  heed::cache::ring<C> cache(1, heads, capacity, dim, dim, sinks);
  std::vector<float> token(static_cast<std::size_t>(heads * dim)),
      q(static_cast<std::size_t>(heads * group * dim), 0.1f), o(q.size());
  const auto one = heed::bhsd(token.data(), 1, heads, 1, dim);
  const auto append = [&](int i) {
    for (std::size_t c = 0; c < token.size(); ++c)
      token[c] = 0.01f * static_cast<float>((c * 7 + static_cast<std::size_t>(i)) % 23);
    cache.append(one, one);
  };
  for (int i = 0; i < 30; ++i) append(i);
  auto call = heed::softmax::prepare_decode(heed::bhsd(q.data(), 1, heads * group, 1, dim), cache,
                                            heed::bhsd(o.data(), 1, heads * group, 1, dim), {.mask = heed::causal()});
  call();
  std::vector<long> steps = heed_test::count_instructions(20, [&](int i) { append(i), call(); });
  std::vector<long> sorted = steps;
  std::sort(sorted.begin(), sorted.end());
  const long median = sorted[sorted.size() / 2];
  INFO("group " << group << ": " << sorted.front() << " to " << sorted.back() << " instructions, median " << median);
  CHECK(median > 500);
  CHECK(static_cast<double>(sorted.back()) <= 1.3 * static_cast<double>(median));
}

}  // namespace

TEST_CASE("no step with a ring costs more than 1.3 times the median") {
  compare_steps<float>(1);
  compare_steps<float>(8);
  compare_steps<heed::bf16_t>(4);
  compare_steps<std::int8_t>(1);
  compare_steps<float>(16);
}

#else

TEST_CASE("instructions of a step are counted on Linux, without sanitizers") { SUCCEED(); }

#endif
