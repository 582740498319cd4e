// SPDX-License-Identifier: BSD-3-Clause

// One million decode steps on a ring. At checkpoints the ring holds the bits of its tokens, the output has the bits of
// a decode from pages under a window and is that of forward and of plain loops in double, no result is subnormal,
// though input fades away and is zero for part of the way, and a step takes as many instructions as at the beginning.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"
#include "soak/steps.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace heed_test;

namespace {

// The tokens that a ring of `capacity` rows holds after `count` tokens, in order
std::vector<long> held_tokens(long count, index_t capacity, index_t sinks) {
  std::vector<long> held(static_cast<std::size_t>(std::min<long>(count, capacity)));
  std::iota(held.begin(), held.end(), 0L);
  for (auto i = static_cast<std::size_t>(sinks); i < held.size(); ++i)
    held[i] = count - static_cast<long>(held.size() - i);
  return held;
}

// softmax of one query over these tokens, in double; numbers as a cache of C stores them
template <class C>
double output_of(const token_rows& now, index_t head, index_t column, const std::vector<C>& keys,
                 const std::vector<C>& values, std::size_t rows, double& bound) {
  const auto d = static_cast<std::size_t>(now.dim), h = static_cast<std::size_t>(head);
  const std::size_t heads = static_cast<std::size_t>(now.heads);
  std::vector<double> score(rows);
  row_size size;
  for (std::size_t j = 0; j < rows; ++j) {
    for (std::size_t c = 0; c < d; ++c)
      score[j] += static_cast<double>(now.q[h * d + c]) * static_cast<double>(keys[(j * heads + h) * d + c]);
    score[j] /= std::sqrt(static_cast<double>(d));
    size.see_score(score[j]);
  }
  const double top = *std::max_element(score.begin(), score.end());
  double sum = 0, o = 0;
  for (std::size_t j = 0; j < rows; ++j) {
    const double p = std::exp(score[j] - top),
                 v = static_cast<double>(values[(j * heads + h) * d + static_cast<std::size_t>(column)]);
    size.see_value(v);
    sum += p, o += p * v;
  }
  bound = tolerance_of<float>(static_cast<index_t>(rows), now.dim).of_output(size);
  return o / sum;
}

// What an append stores: a number of the cache's own type as it is, else rounded, and a subnormal one as 0
template <class C> C stored(float x) {
  return C(!std::is_same_v<C, float> && std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x);
}

// A ring, token after token; beside it at each checkpoint a ring that gets the last tokens in one append, and pages
// under a window in which every token has its own number.
template <class C> void check_ring(const char* name, index_t heads, index_t dim, index_t capacity) {
  constexpr index_t sinks = 4, page = 8;
  heed::cache::ring<C> ring(1, heads, capacity, dim, dim, sinks);
  token_rows now(heads, dim);
  std::vector<float> o(now.q.size()), lse(static_cast<std::size_t>(heads)), other(o), other_lse(lse);
  const auto lse_of = [&](std::vector<float>& x) { return heed::contiguous(x.data(), {1, heads, 1}); };
  auto attend =
      heed::softmax::prepare_decode(now.view(now.q), ring, now.view(o), {.mask = heed::causal(), .lse = lse_of(lse)});
  const auto append_and_attend = [&] {
    ring.append(now.view(now.k), now.view(now.v));
    attend();
  };
  const auto step = [&](long token) {
    now.fill(token);
    append_and_attend();
  };
  step_watch watch(name);
  run_steps(step, [&](long count) {
    INFO(name << " after " << count << " tokens");
    const std::vector<long> held = held_tokens(count, capacity, sinks);
    // The rows of the ring are the tokens, to the bit. Nothing that is computed or rounded is subnormal.
    const auto k = numbers_of(ring.view().k), v = numbers_of(ring.view().v);
    CHECK(subnormals(o) + subnormals(lse) == 0);
    CHECK((std::is_same_v<C, float> || subnormals(k) + subnormals(v) == 0));
    std::vector<C> keys, values;
    bool same = true;
    for (const long token : held) {
      token_rows x(heads, dim);
      x.fill(token);
      const long row = token < sinks ? token : sinks + (token - sinks) % (capacity - sinks);
      for (index_t h = 0; h < heads; ++h)
        for (index_t c = 0; c < dim; ++c) {
          const auto from = static_cast<std::size_t>(h * dim + c),
                     to = static_cast<std::size_t>((h * capacity + row) * dim + c);
          keys.push_back(stored<C>(x.k[from])), values.push_back(stored<C>(x.v[from]));
          same = same && std::memcmp(&k[to], &keys.back(), sizeof(C)) == 0 &&
                 std::memcmp(&v[to], &values.back(), sizeof(C)) == 0;
        }
    }
    CHECK(same);
    // In pages: those before the window are never read, all of them are page 0.
    const long first_page = (count - capacity + sinks) / page, last_page = (count - 1) / page;
    std::vector<std::int32_t> table(static_cast<std::size_t>(last_page + 1), 0);
    const auto pages = static_cast<index_t>(last_page - std::max(first_page, 1L) + 2);
    for (long p = std::max(first_page, 1L); p <= last_page; ++p)
      table[static_cast<std::size_t>(p)] = static_cast<std::int32_t>(p - std::max(first_page, 1L) + 1);
    std::vector<C> paged_k(static_cast<std::size_t>(pages * heads * page * dim)), paged_v(paged_k);
    for (std::size_t j = 0; j < held.size(); ++j)
      for (index_t h = 0; h < heads; ++h)
        for (index_t c = 0; c < dim; ++c) {
          const index_t at = table[static_cast<std::size_t>(held[j] / page)];
          const auto to = static_cast<std::size_t>(((at * heads + h) * page + held[j] % page) * dim + c);
          const std::size_t from =
              (j * static_cast<std::size_t>(heads) + static_cast<std::size_t>(h)) * static_cast<std::size_t>(dim) +
              static_cast<std::size_t>(c);
          paged_k[to] = keys[from], paged_v[to] = values[from];
        }
    const std::vector<std::int32_t> length{static_cast<std::int32_t>(count)};
    const auto in_pages = heed::paged_cache(heed::bhsd(paged_k.data(), pages, heads, page, dim),
                                            heed::bhsd(paged_v.data(), pages, heads, page, dim),
                                            heed::contiguous(table.data(), {1, last_page + 1}), length);
    heed::softmax::decode(now.view(now.q), in_pages, now.view(other),
                          {.mask = heed::window(capacity - sinks - 1, 0, sinks), .lse = lse_of(other_lse)});
    CHECK(same_bytes(o, other));
    CHECK(same_bytes(lse, other_lse));
    // forward over the tokens of the window, and loops in double: up to rounding
    std::vector<float> wide_k(keys.size()), wide_v(keys.size());
    std::transform(keys.begin(), keys.end(), wide_k.begin(), [](C x) { return static_cast<float>(x); });
    std::transform(values.begin(), values.end(), wide_v.begin(), [](C x) { return static_cast<float>(x); });
    heed::softmax::forward(now.view(now.q), now.view(wide_k), now.view(wide_v), now.view(other));
    double worst = 0;
    for (index_t h = 0; h < heads; ++h)
      for (index_t c = 0; c < dim; ++c) {
        double bound = 0;
        const double exact = output_of(now, h, c, keys, values, held.size(), bound);
        for (const auto* x : {&o, &other})
          worst = std::max(worst, std::fabs(static_cast<double>((*x)[static_cast<std::size_t>(h * dim + c)]) - exact) /
                                      (bound + 1e-37));
      }
    CHECK(worst <= 1);
    watch.check(count, [&] {
      for (index_t i = 0; i < capacity - sinks; ++i) append_and_attend();
    });
  });
}

}  // namespace

TEST_CASE("a million steps with a ring") {
  const bool wide = soak_reports();
  check_ring<float>("ring of float", wide ? 4 : 1, wide ? 64 : 16, wide ? 260 : 20);
  check_ring<heed::bf16_t>("ring of bf16", wide ? 4 : 2, wide ? 64 : 16, wide ? 260 : 20);
}
