// SPDX-License-Identifier: BSD-3-Clause

// softmax::decode beside the reference: kinds of caches, storage types, groups, new tokens, head dims and lengths.

#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "support/decode_case.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;
constexpr index_t groups[] = {1, 2, 3, 4, 7, 8, 16}, new_tokens[] = {1, 2, 4, 5, 17};
constexpr std::int32_t lengths_of_tiles[] = {0, 1, 15, 16, 17, 127, 128, 129, 300, 1000, 5000};

// Problems that go round all that is not given at their own pace
decode_problem problem(std::size_t turn, index_t group, index_t n, index_t d, const numbers& lengths) {
  const std::int32_t longest = *std::max_element(lengths.begin(), lengths.end());
  const index_t kv_heads = longest > 300 ? 1 : std::array<index_t, 3>{1, 2, 3}[turn % 3];
  const index_t e = turn % 3 == 0 ? d : head_dims[(turn * 5 + 3) % std::size(head_dims)];
  decode_problem p{group * kv_heads, kv_heads, n, d, e, lengths, some_cache(turn, longest)};
  p.stored_kv = all_kept[turn / 2 % 4];
  p.stored_q = turn % 7 == 1 ? all_stored[turn / 7 % 3] : stored::f32;
  p.stored_o = turn % 5 == 1 ? all_stored[turn / 5 % 3] : stored::f32;
  return p;
}
heed::softmax::options<float> causal_or_not(std::size_t turn) {
  return {.mask = turn % 3 == 0 ? heed::mask{} : heed::causal()};
}

}  // namespace

TEST_CASE("decode: every group, number of new tokens and head dim") {
  std::size_t turn = 0;
  const numbers lengths[] = {{40}, {129, 3}, {300, 0, 17}, {16}, {64, 65}};
  for (const index_t group : groups)
    for (const index_t n : new_tokens)
      for (const index_t d : head_dims)
        if (turn++ % thinning == 0)
          check_decode(problem(turn, group, n, d, lengths[turn % std::size(lengths)]), causal_or_not(turn / 2));
}

TEST_CASE("decode: every length in every kind of cache and storage type") {
  std::size_t turn = 0;
  for (const std::int32_t length : lengths_of_tiles)
    for (std::size_t kind = 0; kind < 9; ++kind)
      for (const kept type : all_kept) {
        if (turn++ % thinning != 0) continue;
        const index_t n = length == 5000 ? 1 : new_tokens[turn % std::size(new_tokens)];
        decode_problem p = problem(kind, groups[turn * 3 % std::size(groups)], n,
                                   head_dims[turn * 5 % std::size(head_dims)], numbers{length});
        if (turn % 4 == 3 && length < 1000) p.lengths = {length, length / 2, 0, std::min(length, 3)};
        p.stored_kv = type, p.stored_q = turn % 5 == 0 && type == kept::bf16 ? stored::bf16 : p.stored_q;
        check_decode(p, causal_or_not(turn));
      }
}

TEST_CASE("decode: lengths per sequence and head") {
  std::size_t turn = 0;
  for (const auto& [batch, kv_heads] : std::vector<std::array<index_t, 2>>{{1, 2}, {2, 3}, {3, 1}, {4, 4}})
    for (const index_t group : {1, 4, 8})
      for (const index_t n : {1, 3}) {
        numbers lengths;
        for (index_t i = 0; i < batch * kv_heads; ++i)
          lengths.push_back(lengths_of_tiles[(turn + 3 * lengths.size()) % 9]);
        for (std::size_t kind = 0; kind < 8; ++kind) {  // without pages that sequences share
          if (turn++ % thinning != 0) continue;
          decode_problem p = problem(kind, group, n, 20, lengths);
          p.heads = group * kv_heads, p.kv_heads = kv_heads, p.per_head = true;
          check_decode(p, causal_or_not(turn));
        }
      }
}

TEST_CASE("decode: more key/value heads than query heads") {
  std::size_t turn = 0;
  for (const auto& [heads, kv_heads] : std::vector<std::array<index_t, 2>>{{1, 2}, {1, 6}, {2, 6}, {4, 8}})
    for (const index_t n : {1, 5, 17})
      for (std::size_t kind = 0; kind < 9; ++kind) {
        if (turn++ % thinning != 0) continue;
        decode_problem p = problem(kind, 1, n, 12, {70, 33});
        p.heads = heads, p.kv_heads = kv_heads, p.stored_kv = all_kept[turn % 4];
        check_decode(p, causal_or_not(turn));
      }
}

TEST_CASE("decode: every mix of storage types") {
  for (const kept kv : all_kept)
    for (const stored q : all_stored)
      for (const stored o : all_stored)
        for (const index_t group : {1, 8})
          for (const index_t n : {1, 4}) {
            decode_problem p{group * 2, 2, n, 24, 40, {130, 19}, {cache_kind::ring, 100, 3}};
            p.stored_kv = kv, p.stored_q = q, p.stored_o = o;
            check_decode<float>(p, {.mask = heed::causal()});
          }
}

TEST_CASE("decode: any number of rows on a cache of bf16, which may run on dot products") {
  std::size_t turn = 0;
  for (const index_t group : {4, 5, 8, 16, 24, 33})
    for (const index_t n : {1, 3, 20})
      for (const index_t d : {32, 64, 96}) {
        if (turn++ % thinning != 0) continue;
        decode_problem p{group * 2, 2, n, d, d == 64 ? 32 : d, {150, 47}, some_cache(turn, 150)};
        p.stored_kv = kept::bf16, p.stored_q = turn % 2 == 0 ? stored::bf16 : stored::f32;
        check_decode<float>(p, {.mask = turn % 3 == 0 ? heed::mask{} : heed::causal()});
      }
}

// On dot products, values that are not finite take a pass that goes through each tile in blocks of 32 keys.
TEST_CASE("decode: values of bf16 that some rows of a tile must not see") {
  constexpr index_t keys = 128, hidden = 3;
  bool visible[2 * keys];
  for (index_t j = 0; j < keys; ++j) visible[j] = j != hidden, visible[keys + j] = true;
  for (const double bad : {HUGE_VAL, std::numeric_limits<double>::quiet_NaN()}) {
    decode_problem p{8, 1, 2, 32, 32, {keys}};
    p.stored_kv = kept::bf16;
    decode_case<float> x(p, {.mask = heed::keep({visible, {1, 1, 2, keys}, {0, 0, keys, 1}})});
    x.values(0, 0, hidden, 7) = bad;
    x.write_all();
    check(x);
    CHECK(std::isfinite(x.o(0, 0, 0, 7)));
    CHECK(!std::isfinite(x.o(0, 0, 1, 7)));
  }
}

TEST_CASE("decode: in double") {
  std::size_t turn = 0;
  for (const index_t group : groups)
    for (const index_t n : new_tokens)
      for (const numbers& lengths : {numbers{129}, numbers{17, 0, 300}}) {
        if (turn++ % thinning != 0) continue;
        const decode_problem p = problem(turn, group, n, head_dims[turn * 3 % std::size(head_dims)], lengths);
        check_decode<double>(p, {.mask = turn % 2 == 0 ? heed::causal() : heed::mask{}});
      }
}

TEST_CASE("decode: many sequences of any length") {
  random_numbers random(5);
  for (const index_t group : {1, 4, 8}) {
    numbers lengths;
    for (int i = 0; i < 24; ++i) lengths.push_back(random.below(i % 5 == 0 ? 1500 : 60));
    check_decode<float>({group * 2, 2, 1, 16, 16, lengths, {cache_kind::paged}});
    check_decode<float>({group * 2, 2, 3, 16, 16, lengths, {cache_kind::ring, 200, 4}}, {.mask = heed::causal()});
  }
}

TEST_CASE("decode: nothing to do") {
  check_decode<float>({4, 2, 0, 8, 8, {5, 9}});  // no new token
  check_decode<float>({4, 2, 3, 8, 8, {}});      // no sequence
  check_decode<float>({0, 2, 3, 8, 8, {5}});     // no head
  for (const index_t capacity : {0, 50})         // no token
    for (const index_t group : {1, 8})
      for (const cache_kind kind : {cache_kind::contiguous, cache_kind::paged}) {
        check_decode<float>({group, 1, 2, 8, 8, {0, 0}, {kind, capacity}}, {.mask = heed::causal()});
        check_decode<float>({group, 1, 2, 8, 8, {0, 0}, {kind, capacity}}, {.sink_logits = 0.5});
      }
  check_decode<float>({2, 1, 1, 8, 8, {0}, {cache_kind::ring, 10, 3}});
}

TEST_CASE("decode: lse is left out where it is not asked for") {
  decode_case<float> x({8, 2, 1, 16, 16, {300, 20}}), y({8, 2, 1, 16, 16, {300, 20}});
  x.options.lse = {};
  check(x), check(y);
  CHECK(x.lse.untouched());
  CHECK(same_bits(x.o, y.o));
}
