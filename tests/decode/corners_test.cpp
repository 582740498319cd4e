// SPDX-License-Identifier: BSD-3-Clause

// Calls at the edges of what decode takes: caches without rows, prefixes of every state, memory planned for any
// lengths.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "heed/cache.hpp"
#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"  // to share the program of prepared_test.cpp
#include "support/messages.hpp"

namespace {

using heed::index_t;
using heed_test::thrown_by;
using numbers = std::vector<float>;

numbers random(index_t count, std::uint32_t seed) {
  numbers x(static_cast<std::size_t>(count));
  for (float& y : x) seed = seed * 1664525u + 1013904223u, y = static_cast<float>(seed >> 8) / 8388608.0f - 1;
  return x;
}

template <class Cache>
numbers decoded(const numbers& q, const Cache& cache, index_t batch, index_t heads, index_t dim) {
  numbers o(q.size(), -7.0f);
  heed::softmax::decode(heed::bhsd(q.data(), batch, heads, 1, dim), cache, heed::bhsd(o.data(), batch, heads, 1, dim));
  return o;
}

template <class Cache> void fill(Cache& cache, index_t tokens, index_t dim, std::uint32_t seed) {
  const numbers k = random(tokens * dim, seed), v = random(tokens * dim, seed + 1);
  cache.append(heed::bhsd(k.data(), 1, 1, tokens, dim), heed::bhsd(v.data(), 1, 1, tokens, dim));
}

}  // namespace

TEST_CASE("a ring that has lost tokens is no prefix, also after it was truncated") {
  heed::cache::ring<float> ring(1, 1, 8, 4, 4);
  heed::cache::contiguous<float> own(1, 1, 4, 4, 4);
  fill(own, 2, 4, 1);
  fill(ring, 8, 4, 3);
  const numbers q = random(4, 9);
  CHECK(std::isfinite(decoded(q, heed::shared_prefix(ring, own), 1, 1, 4)[0]));
  fill(ring, 4, 4, 5);
  CHECK(thrown_by([&] { static_cast<void>(decoded(q, heed::shared_prefix(ring, own), 1, 1, 4)); }) ==
        "prefix lengths is 12, must be at most 8 (a ring that has lost tokens is no prefix)");
  ring.truncate(0, 6);
  CHECK(thrown_by([&] { static_cast<void>(decoded(q, heed::shared_prefix(ring, own), 1, 1, 4)); }) ==
        "prefix oldest is 4, must be at most 0 (a ring that has lost tokens is no prefix)");
}

TEST_CASE("a prefix of 8-bit integers has its scales, whatever the cache behind it") {
  heed::cache::contiguous<std::int8_t> prefix(1, 1, 5, 8, 8);
  fill(prefix, 5, 8, 1);
  const std::vector<std::int32_t> none{0};
  const std::int8_t* const nothing = nullptr;
  const heed::tensor_view<const float, 3> no_scales(nullptr, {1, 1, 0}, {0, 0, 1});
  const auto rows = heed::bhsd(nothing, 1, 1, 0, 8);
  const auto empty = heed::contiguous_cache(rows, rows, no_scales, no_scales, none);
  const numbers q = random(8, 4);
  CHECK(decoded(q, heed::shared_prefix(prefix, empty), 1, 1, 8) == decoded(q, prefix, 1, 1, 8));
}

TEST_CASE("a cache without rows is legal, whatever its pointers") {
  const float* const nothing = nullptr;
  const auto rows = heed::bhsd(nothing, 1, 1, 0, 4);
  const std::vector<std::int32_t> appended{3}, none{0};
  const numbers q = random(4, 4), zero(4, 0.0f);
  CHECK(decoded(q, heed::ring_cache(rows, rows, appended), 1, 1, 4) == zero);
  CHECK(decoded(q, heed::contiguous_cache(rows, rows, none), 1, 1, 4) == zero);
  heed::cache::contiguous<float> prefix(1, 1, 5, 4, 4);
  fill(prefix, 5, 4, 1);
  CHECK(decoded(q, heed::shared_prefix(prefix, heed::contiguous_cache(rows, rows, none)), 1, 1, 4) ==
        decoded(q, prefix, 1, 1, 4));
}

TEST_CASE("lengths that are null are an error, and no heads are none to look at") {
  const numbers k = random(8, 1), q = random(4, 2);
  numbers o(4);
  const auto rows = heed::bhsd(k.data(), 1, 1, 2, 4);
  const heed::tensor_view<const std::int32_t, 2> null(nullptr, {1, 1}, {1, 1}), no_heads(nullptr, {2, 0}, {0, 1});
  CHECK(thrown_by([&] {
          heed::softmax::decode(heed::bhsd(q.data(), 1, 1, 1, 4), heed::contiguous_cache(rows, rows, null),
                                heed::bhsd(o.data(), 1, 1, 1, 4));
        }) == "cache lengths is null but has elements");
  const auto headless = heed::bhsd(k.data(), 2, 0, 2, 4);
  CHECK(heed::softmax::plan_decode(heed::bhsd(q.data(), 2, 0, 1, 4),
                                   heed::contiguous_cache(headless, headless, no_heads),
                                   heed::bhsd(o.data(), 2, 0, 1, 4), {.mask = heed::causal()})
            .ok());
}

TEST_CASE("an infinite value of the last key stays infinite for an odd number of keys") {
  for (const index_t keys : {7, 8})
    for (const index_t heads : {4, 8}) {
      std::vector<heed::bf16_t> k(static_cast<std::size_t>(keys * 32), heed::bf16_t(0.5f)), v(k);
      v[static_cast<std::size_t>((keys - 1) * 32 + 3)] = heed::bf16_t(std::numeric_limits<float>::infinity());
      const auto rows = [&](const auto& x) { return heed::bhsd(x.data(), 1, 1, keys, 32); };
      const std::vector<std::int32_t> length{static_cast<std::int32_t>(keys)};
      const numbers o = decoded(random(heads * 32, 3), heed::contiguous_cache(rows(k), rows(v), length), 1, heads, 32);
      INFO(keys << " keys, " << heads << " heads");
      CHECK(std::isinf(o[3]));
      CHECK(std::isfinite(o[2]));
    }
}

TEST_CASE("planned workspaces are enough for any lengths: shared prefix, local linear on a ring") {
  heed::cache::contiguous<float> prefix(1, 1, 40, 8, 8), own(64, 1, 10, 8, 8);
  fill(prefix, 40, 8, 1);
  const numbers q = random(64 * 2 * 8, 2), tokens = random(64 * 5 * 8, 3);
  numbers o(q.size());
  const auto in = heed::bhsd(q.data(), 64, 1, 2, 8);
  const auto out = heed::bhsd(o.data(), 64, 1, 2, 8);
  const heed::softmax::options<> causal{.mask = heed::causal()};
  std::vector<std::byte> bytes(
      heed::softmax::plan_decode(in, heed::shared_prefix(prefix, own), out, causal).workspace_bytes);
  own.append(heed::bhsd(tokens.data(), 64, 1, 5, 8), heed::bhsd(tokens.data(), 64, 1, 5, 8));
  CHECK_NOTHROW(heed::softmax::decode(in, heed::shared_prefix(prefix, own), out, causal, {.workspace = bytes}));

  heed::cache::ring<float> ring(1, 1, 64, 8, 8);
  fill(ring, 10, 8, 4);
  const auto one = heed::bhsd(q.data(), 1, 1, 1, 8);
  const auto result = heed::bhsd(o.data(), 1, 1, 1, 8);
  bytes.assign(heed::local_linear::plan_decode(one, ring, 0.1, result).workspace_bytes, std::byte{});
  fill(ring, 1000, 8, 5);
  CHECK_NOTHROW(heed::local_linear::decode(one, ring, 0.1, result, {}, {.workspace = bytes}));
}

TEST_CASE("no output is the memory of a cache's scales or lengths") {
  heed::cache::contiguous<std::int8_t> cache(1, 1, 8, 8, 8);
  fill(cache, 8, 8, 1);
  const heed::kv_cache_view<std::int8_t> view = cache.view();
  const numbers q = random(8, 2);
  for (const float* const scale : {view.k_scale.data(), view.v_scale.data()})
    CHECK(thrown_by([&] {
            heed::softmax::decode(heed::bhsd(q.data(), 1, 1, 1, 8), cache,
                                  heed::bhsd(const_cast<float*>(scale), 1, 1, 1, 8));
          }) == (scale == view.k_scale.data() ? "o is the same memory as cache k_scale"
                                              : "o is the same memory as cache v_scale"));
}

TEST_CASE("rows of a prefix are as far apart as its own memory says, for many queries of 16-bit rows too") {
  constexpr index_t before = 300, after = 7, heads = 20, dim = 40;
  const auto as_bf16 = [](const numbers& x) { return std::vector<heed::bf16_t>(x.begin(), x.end()); };
  const std::vector<heed::bf16_t> k = as_bf16(random((before + after) * dim, 1)),
                                  v = as_bf16(random((before + after) * dim, 2));
  std::vector<heed::bf16_t> wide_k(static_cast<std::size_t>(before * 2 * dim), heed::bf16_t(9.0f)), wide_v(wide_k);
  for (index_t j = 0; j < before; ++j)
    for (index_t c = 0; c < dim; ++c) {
      const auto from = static_cast<std::size_t>(j * dim + c), to = static_cast<std::size_t>(j * 2 * dim + c);
      wide_k[to] = k[from], wide_v[to] = v[from];
    }
  const auto rows = [&](const auto& x, index_t first, index_t count, index_t apart) {
    return heed::tensor_view<const heed::bf16_t, 4>(x.data() + first * dim, {1, 1, count, dim}, {0, 0, apart * dim, 1});
  };
  const std::vector<std::int32_t> all{before + after}, first{before}, last{after};
  const numbers q = random(heads * dim, 3);
  const numbers expected = decoded(
      q, heed::contiguous_cache(rows(k, 0, before + after, 1), rows(v, 0, before + after, 1), all), 1, heads, dim);
  const numbers o =
      decoded(q,
              heed::shared_prefix(heed::contiguous_cache(rows(wide_k, 0, before, 2), rows(wide_v, 0, before, 2), first),
                                  heed::contiguous_cache(rows(k, before, after, 1), rows(v, before, after, 1), last)),
              1, heads, dim);
  float most = 0;
  for (std::size_t i = 0; i < o.size(); ++i) most = std::max(most, std::abs(o[i] - expected[i]));
  CHECK(most < 1e-5f);
}
