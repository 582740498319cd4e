// SPDX-License-Identifier: BSD-3-Clause

// Values transposed for a matrix unit, which workers share: each block is made once and is whole for all who read it.
// The thread sanitizer sees reads that nothing orders behind the writes.

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <thread>
#include <vector>

#include "heed/pairwise/value_blocks.hpp"
#include "heed/softmax/options.hpp"
#include "support/catch.hpp"

namespace {

using heed::bf16_t;
using heed::index_t;
using heed::pairwise::value_blocks;

constexpr index_t heads = 2, queries = 600, keys = 1000, dim = 8, columns = 20, workers = 4;
std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

struct call {
  std::vector<bf16_t> q, k, v, o;
  heed::softmax::options<float> options;

  call()
      : q(at(heads * queries * dim)),
        k(at(heads * keys * dim)),
        v(at(heads * keys * columns)),
        o(at(heads * queries * columns)) {
    for (index_t i = 0; i < heads * keys * columns; ++i) v[at(i)] = bf16_t(static_cast<float>(i * 37 % 251));
    v[at((300 * columns) + 3)] = bf16_t(std::numeric_limits<float>::quiet_NaN());  // head 0, block 1
  }
  template <class S> static heed::tensor_view<S, 4> rows(S* x, index_t count, index_t width) {
    return {x, {1, heads, count, width}, {heads * count * width, count * width, width, 1}};
  }
  heed::pairwise::attention<float> problem() {
    const auto out = rows<bf16_t>(o.data(), queries, columns);
    return {options, heed::tile::rows_of_call(rows<const bf16_t>(q.data(), queries, dim),
                                              rows<const bf16_t>(k.data(), keys, dim),
                                              rows<const bf16_t>(v.data(), keys, columns), out)};
  }
};

// The numbers of a worker's blocks that are wrong. It begins with another head and block than its neighbour.
index_t wrong_numbers(const call& x, value_blocks& blocks, const heed::detail::sequence& s, index_t worker) {
  index_t wrong = 0;
  constexpr index_t all = (keys + value_blocks::keys - 1) / value_blocks::keys;
  for (index_t turn = 0; turn < heads * all; ++turn) {
    const index_t number = (turn + worker) % (heads * all), head = number / all;
    const index_t first = number % all * value_blocks::keys, count = std::min(value_blocks::keys, keys - first);
    blocks.begin(s, head);
    const heed::pairwise::value_block block = blocks.at(first + worker);
    wrong += block.finite != (number != 1);
    for (index_t c = 0; c < columns; ++c)
      for (index_t j = 0; j < count; ++j) {
        const bf16_t want = x.v[at((head * keys + first + j) * columns + c)];
        const bool spoiled = number == 1 && first + j == 300 && c == 3;
        wrong += block.first[c * blocks.stride() + j].bits != (spoiled ? bf16_t().bits : want.bits);
      }
  }
  return wrong;
}

}  // namespace

TEST_CASE("blocks of values are made once, whoever comes first, and are whole for all workers") {
  call x;
  const auto p = x.problem();
  const std::size_t bytes = value_blocks::shared_bytes(p);
  REQUIRE(bytes > 0);
  std::vector<std::byte> memory(bytes + 64, std::byte{0xff});
  std::byte* const shared = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
  const heed::detail::sequence s = p.sequence_at(0);
  for (int round = 0; round < 20; ++round) {
    value_blocks::clear(p, shared);
    std::array<index_t, std::size_t{workers}> wrong = {};
    std::atomic<index_t> ready{0};
    std::vector<std::thread> threads;
    for (index_t worker = 0; worker < workers; ++worker)
      threads.emplace_back([&, worker] {
        heed::detail::arena none;
        value_blocks blocks(p, true, shared, none);
        for (ready.fetch_add(1, std::memory_order_relaxed); ready.load(std::memory_order_relaxed) < workers;)
          std::this_thread::yield();
        wrong[at(worker)] = wrong_numbers(x, blocks, s, worker);
      });
    for (std::thread& thread : threads) thread.join();
    for (const index_t n : wrong) CHECK(n == 0);
  }
}

TEST_CASE("where K and V are longer than the caches, up to four tiles of queries make their own blocks") {
  constexpr index_t tile = heed::pairwise::vector_capacity * heed::simd::width<float>, width = 64;
  const auto shares = [](index_t tiles, index_t count) {  // K and V of a head: 256 bytes a key
    const heed::softmax::options<float> options;
    const auto rows = [](index_t n) { return call::rows<const bf16_t>(nullptr, n, width); };
    const auto out = call::rows<bf16_t>(nullptr, tiles * tile, width);
    const heed::pairwise::attention<float> p(
        options, heed::tile::rows_of_call(rows(tiles * tile), rows(count), rows(count), out));
    return value_blocks::shared_bytes(p) > 0;
  };
  CHECK((!shares(1, 16384) && shares(2, 16384)));
  CHECK((!shares(4, 16385) && shares(5, 16385)));
}

TEST_CASE("a worker's own block lasts until the second next one") {
  call x;
  const auto p = x.problem();
  heed::detail::arena counting;
  static_cast<void>(value_blocks(p, false, nullptr, counting));
  std::vector<std::byte> memory(counting.needed(), std::byte{0xff});
  heed::detail::arena own(memory, memory.size());
  value_blocks blocks(p, false, nullptr, own);
  const heed::detail::sequence s = p.sequence_at(0);
  CHECK(wrong_numbers(x, blocks, s, 0) == 0);
  blocks.begin(s, 1);
  const heed::pairwise::value_block first = blocks.at(0), second = blocks.at(256);
  CHECK(first.first != second.first);
  CHECK(first.first[0].bits == x.v[at(keys * columns)].bits);
  CHECK(blocks.at(511).first == second.first);
}
