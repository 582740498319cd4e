// SPDX-License-Identifier: BSD-3-Clause

// softmax::decode on caches that are read from memory, not from the processor's caches: what is prefetched where rows
// and pages end, pages read side by side, every storage type.

#include <cmath>
#include <cstdint>
#include <iterator>

#include "support/decode_case.hpp"

using namespace heed_test;

namespace {

constexpr cache_setup far_caches[] = {
    {cache_kind::contiguous},
    {cache_kind::contiguous, 0, 0, 16, false, layout::bshd},
    {cache_kind::ring, 0, 5},
    {cache_kind::paged},
    {cache_kind::paged, 0, 0, 16, false, layout::bshd},
    {cache_kind::paged, 0, 0, 100},
    {cache_kind::paged, 0, 0, 32},
    {cache_kind::paged, 0, 0, 7},
};
struct head_dim {
  index_t d, e;
};
constexpr head_dim dims[] = {{128, 128}, {64, 64}, {72, 136}, {200, 40}, {256, 256}};

// A problem whose K and V are a little more than 8 MiB
decode_problem far_problem(std::size_t turn, index_t group, index_t n, const cache_setup& cache, kept type) {
  constexpr index_t bytes[] = {4, 2, 2, 1};
  const head_dim at = dims[turn % std::size(dims)];
  const index_t row = (at.d + at.e) * bytes[static_cast<int>(type)], kv_heads = turn % 2 == 0 ? 2 : 1;
  const index_t length = (index_t{8} << 20) / (row * kv_heads) + 50 + static_cast<index_t>(turn % 37);
  decode_problem p{group * kv_heads, kv_heads, n, at.d, at.e, {static_cast<std::int32_t>(length)}, cache};
  if (cache.kind == cache_kind::ring) p.cache.capacity = length - 333;
  p.stored_kv = type;
  return p;
}
const std::size_t far_thinning = thinning == 1 ? 5 : 29;

}  // namespace

TEST_CASE("decode from memory: every cache, storage type and number of rows") {
  std::size_t turn = 0;
  for (const cache_setup& cache : far_caches)
    for (const kept type : all_kept)
      for (const index_t group : {1, 2, 3, 4, 8, 12})
        if (turn++ % far_thinning == 0) check_decode<float>(far_problem(turn, group, 1, cache, type));
  check_decode<float>(far_problem(1, 1, 1, far_caches[3], kept::i8));  // pages side by side, with scales
}

TEST_CASE("decode from memory: masks and changed scores") {
  std::size_t turn = 0;
  for (const cache_setup& cache : far_caches)
    for (const index_t n : {1, 2, 4})
      for (int option = 0; option < 4; ++option) {
        if (turn++ % far_thinning != 0) continue;
        decode_problem p = far_problem(turn * 2 + 1, n == 1 ? 4 : 1, n, cache, all_kept[turn % 4]);
        heed::softmax::options<float> how{.mask = heed::causal()};
        if (option == 1) how.mask = heed::causal() & heed::window(3000, 0, 4);
        if (option == 2) how.softcap = 3;
        if (option == 3) how.alibi_slopes = 0.003;
        check_decode<float>(p, how);
      }
}

TEST_CASE("decode from memory: numbers that are not finite") {
  for (const std::size_t kind : {0u, 3u, 5u})
    for (const index_t group : {1, 2, 4}) {
      decode_case<float> x(far_problem(3, group, 1, far_caches[kind], kept::f32),
                           {.mask = heed::causal() & heed::window(2000)});
      x.spoil(0, x.s.keys - 2001, NAN);
      check(x);
    }
}

TEST_CASE("decode from memory: the same bits for every place of the tokens but small pages") {
  for (const index_t group : {1, 2, 4, 8})
    for (const kept type : {kept::f32, kept::i8}) {
      decode_problem p = far_problem(0, group, 1, {}, type);
      decode_case<float> plain(p);
      plain.decode();
      for (const cache_setup& cache : {cache_setup{cache_kind::contiguous, 0, 0, 16, false, layout::bshd},
                                       cache_setup{cache_kind::paged, 0, 0, 1000}}) {
        p.cache = cache;
        decode_case<float> x(p);
        x.decode();
        CHECK(same_results(x, plain));
      }
    }
}
