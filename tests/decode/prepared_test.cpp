// SPDX-License-Identifier: BSD-3-Clause

// prepare_decode: the same bits as decode at every step of a loop, without allocations, with decode's errors.

#include <cstdint>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"

namespace {

using heed::index_t;

constexpr index_t heads = 2, group = 4, dim = 24, value_dim = 40, capacity = 900;

std::vector<float> numbers(index_t count, int seed) {
  std::vector<float> x(static_cast<std::size_t>(count));
  std::uint32_t at = static_cast<std::uint32_t>(seed) * 2654435761u + 1;
  for (float& y : x) at = at * 1664525u + 1013904223u, y = static_cast<float>(at >> 8) / 8388608.0f - 1;
  return x;
}

struct step {
  explicit step(index_t sequences)
      : q(numbers(sequences * heads * group * dim, 1)),
        o(static_cast<std::size_t>(sequences * heads * group * value_dim)),
        expected(o),
        batch(sequences) {}
  auto queries() const { return heed::bhsd(q.data(), batch, heads * group, 1, dim); }
  auto outputs() { return heed::bhsd(o.data(), batch, heads * group, 1, value_dim); }
  auto reference() { return heed::bhsd(expected.data(), batch, heads * group, 1, value_dim); }

  std::vector<float> q, o, expected;
  index_t batch;
};

template <class Cache> void append(Cache& cache, index_t batch, index_t tokens, int seed) {
  const std::vector<float> k = numbers(batch * heads * tokens * dim, seed),
                           v = numbers(batch * heads * tokens * value_dim, seed + 1);
  cache.append(heed::bhsd(k.data(), batch, heads, tokens, dim), heed::bhsd(v.data(), batch, heads, tokens, value_dim));
}

template <class Cache> void compare_steps(Cache& cache, index_t batch) {
  step at(batch);
  auto call = heed::softmax::prepare_decode(at.queries(), cache, at.outputs());
  for (const index_t tokens : {0, 1, 15, 100, 400, 384}) {
    if (tokens > 0) append(cache, batch, tokens, static_cast<int>(tokens));
    heed::softmax::decode(at.queries(), cache, at.reference());
    const long before = heed_test::allocations;
    call();
    CHECK(heed_test::allocations == before);
    CHECK(at.o == at.expected);
  }
}

}  // namespace

TEST_CASE("a prepared decode has the bits of decode while its cache grows, and allocates nothing") {
  heed::cache::contiguous<float> contiguous(2, heads, capacity, dim, value_dim);
  compare_steps(contiguous, 2);
  heed::cache::ring<heed::bf16_t> ring(1, heads, 333, dim, value_dim, 5);
  compare_steps(ring, 1);
  heed::cache::paged<std::int8_t> paged(200, 16, heads, dim, value_dim, 2);
  compare_steps(paged, 2);
}

TEST_CASE("a prepared decode runs on other q and o of the same shapes, and on any executor") {
  heed::cache::contiguous<float> cache(1, heads, capacity, dim, value_dim);
  append(cache, 1, 700, 3);
  step at(1);
  heed_test::test_executor workers(4, heed_test::order::shuffled, false);
  auto call = heed::softmax::prepare_decode(at.queries(), cache, at.outputs(), {}, {.executor = workers});
  call();
  heed::softmax::decode(at.queries(), cache, at.reference());
  CHECK(at.o == at.expected);
  step other(1);
  for (float& x : other.q) x = -x;
  call(other.queries(), other.outputs());
  heed::softmax::decode(other.queries(), cache, other.reference());
  CHECK(other.o == other.expected);
}

TEST_CASE("a prepared decode refuses what decode refuses, and writes nothing") {
  std::vector<float> k = numbers(heads * capacity * dim, 5), v = numbers(heads * capacity * value_dim, 6);
  std::vector<std::int32_t> lengths{10};
  step at(1);
  auto call = heed::softmax::prepare_decode(
      at.queries(),
      heed::contiguous_cache(heed::bhsd(k.data(), 1, heads, capacity, dim),
                             heed::bhsd(v.data(), 1, heads, capacity, value_dim), lengths),
      at.outputs());
  call();
  const std::vector<float> before = at.o;
  using heed_test::thrown_by;
  lengths[0] = 901;
  CHECK(thrown_by([&] { call(); }) == "cache lengths of sequence 0, head 0 is 901, must be 0 to 900 (the capacity)");
  lengths[0] = -1;
  CHECK(thrown_by([&] { call(); }) == "cache lengths of sequence 0, head 0 is -1, must be 0 to 900 (the capacity)");
  lengths[0] = 900;
  std::vector<float> wide(2 * at.q.size());
  CHECK(thrown_by([&] { call(heed::bhsd(wide.data(), 2, heads * group, 1, dim), at.outputs()); }) ==
        "q has extent 2 on axis 0, was prepared with 1");
  CHECK(thrown_by([&] { call(at.queries(), heed::bhsd(k.data(), 1, heads * group, 1, value_dim)); }) ==
        "o is the same memory as cache k");
  CHECK(at.o == before);
  call();
}
