// SPDX-License-Identifier: BSD-3-Clause

// What caches refuse: the words of the error, and that nothing changed.

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "heed/cache.hpp"
#include "support/catch.hpp"
#include "support/messages.hpp"

using namespace heed_test;
using heed::index_t;
using heed::cache::lengths_per;

namespace {

// All that a view shows
template <class T> std::string bytes_of(const heed::kv_cache_view<T>& x) {
  std::string all;
  const auto add = [&](const auto& rows) {
    index_t n = 1;
    for (const index_t extent : rows.extents()) n *= extent;
    if (rows.data() != nullptr)
      all.append(reinterpret_cast<const char*>(rows.data()), static_cast<std::size_t>(n) * sizeof(*rows.data()));
  };
  add(x.k), add(x.v), add(x.blocks);
  for (index_t b = 0; b < x.k.extent(0); ++b)
    if (x.layout != heed::cache_layout::paged)
      for (index_t h = 0; h < x.k.extent(1); ++h) {
        all += std::to_string(x.lengths.at(b, h)) + ' ';
        if (x.layout == heed::cache_layout::ring) all += std::to_string(x.oldest.at(b, h)) + ' ';
      }
  return all;
}

// The error says so, and the cache is as before.
template <class Cache, class F> void refuses(Cache& cache, const std::string& text, const F& call) {
  const std::string before = bytes_of(cache.view());
  CHECK(thrown_by(call) == text);
  CHECK(bytes_of(cache.view()) == before);
}

std::vector<float> numbers(400, 1.5f);
heed::tensor_view<float, 4> rows(index_t b, index_t h, index_t n, index_t d) {
  return heed::bhsd(numbers.data(), b, h, n, d);
}

constexpr index_t huge = std::numeric_limits<index_t>::max() / 2;

// What every kind says; B 2, Hk 3, D 5, E 4
template <class Cache> void check_shared(Cache& c) {
  refuses(c, "append: k has batch 1, must be 2 (sequences)", [&] { c.append(rows(1, 3, 1, 5), rows(2, 3, 1, 4)); });
  refuses(c, "append: v has batch 3, must be 2 (sequences)", [&] { c.append(rows(2, 3, 1, 5), rows(3, 3, 1, 4)); });
  refuses(c, "append: k has batch 2, must be 1 (sequences)", [&] { c.append(1, rows(2, 3, 1, 5), rows(1, 3, 1, 4)); });
  refuses(c, "append: k has 2 heads, must be 3", [&] { c.append(rows(2, 2, 1, 5), rows(2, 3, 1, 4)); });
  refuses(c, "append: v has 4 heads, must be 3", [&] { c.append(rows(2, 3, 1, 5), rows(2, 4, 1, 4)); });
  refuses(c, "append: k has head dim 4, the cache has 5", [&] { c.append(rows(2, 3, 1, 4), rows(2, 3, 1, 4)); });
  refuses(c, "append: v has head dim 5, the cache has 4", [&] { c.append(rows(2, 3, 1, 5), rows(2, 3, 1, 5)); });
  refuses(c, "append: k has 2 tokens, v has 1", [&] { c.append(rows(2, 3, 2, 5), rows(2, 3, 1, 4)); });
  refuses(c, "append: sequence is 2, must be at least 0 and below 2",
          [&] { c.append(2, rows(1, 3, 1, 5), rows(1, 3, 1, 4)); });
  refuses(c, "k is null but has elements",
          [&] { c.append(heed::bhsd<float>(nullptr, 2, 3, 1, 5), rows(2, 3, 1, 4)); });
  refuses(c, "truncate: sequence is -1, must be at least 0 and below 2", [&] { c.truncate(-1, 0); });
  refuses(c, "truncate: length is -1, must be 0 to 3 (sequence 1)", [&] { c.truncate(1, -1); });
  refuses(c, "truncate: length is 4, must be 0 to 3 (sequence 1)", [&] { c.truncate(1, 4); });
  refuses(c, "fork: from is 2, must be at least 0 and below 2", [&] { c.fork(2, 0); });
  refuses(c, "fork: to is -1, must be at least 0 and below 2", [&] { c.fork(0, -1); });
  refuses(c, "fork: from is 1 and to is 1, must differ", [&] { c.fork(1, 1); });
  refuses(c, "release: sequence is 2, must be at least 0 and below 2", [&] { c.release(2); });
  refuses(c, "length: sequence is 9, must be at least 0 and below 2", [&] { static_cast<void>(c.length(9)); });
  const auto x = c.view();
  const heed::tensor_view<const float, 4> own(x.k.data(), {2, 3, 1, 5}, x.k.strides());
  refuses(c, "append: k is memory of the cache itself", [&] { c.append(own, rows(2, 3, 1, 4)); });
}

}  // namespace

TEST_CASE("contiguous caches refuse") {
  heed::cache::contiguous<float> c(2, 3, 6, 5, 4);
  c.append(rows(2, 3, 3, 5), rows(2, 3, 3, 4));
  check_shared(c);
  c.append(1, rows(1, 3, 2, 5), rows(1, 3, 2, 4));
  refuses(c, "append: k has 2 tokens, sequence 1 has room for 1",
          [&] { c.append(rows(2, 3, 2, 5), rows(2, 3, 2, 4)); });
  refuses(c, "append: k has 4 tokens, sequence 0 has room for 3",
          [&] { c.append(0, rows(1, 3, 4, 5), rows(1, 3, 4, 4)); });
  const std::string per_sequence =
      ": kv_head is given, the cache counts tokens per sequence (lengths_per::kv_head counts both)";
  refuses(c, "append" + per_sequence, [&] { c.append(0, 0, rows(1, 1, 1, 5), rows(1, 1, 1, 4)); });
  refuses(c, "truncate" + per_sequence, [&] { c.truncate(0, 0, 0); });
  refuses(c, "append: kv_head is 3, must be at least 0 and below 3",
          [&] { c.append(0, 3, rows(1, 1, 1, 5), rows(1, 1, 1, 4)); });
  refuses(c, "length: kv_head is -1, must be at least 0 and below 3", [&] { static_cast<void>(c.length(0, -1)); });
}

TEST_CASE("caches with lengths per head refuse") {
  heed::cache::contiguous<float> c(2, 3, 6, 5, 4, lengths_per::kv_head);
  c.append(1, 2, rows(1, 1, 5, 5), rows(1, 1, 5, 4));
  refuses(c, "append: k has 2 tokens, head 2 of sequence 1 has room for 1",
          [&] { c.append(rows(2, 3, 2, 5), rows(2, 3, 2, 4)); });
  refuses(c, "append: k has 2 tokens, head 2 of sequence 1 has room for 1",
          [&] { c.append(1, 2, rows(1, 1, 2, 5), rows(1, 1, 2, 4)); });
  refuses(c, "append: k has 2 heads, must be 1", [&] { c.append(1, 2, rows(1, 2, 1, 5), rows(1, 1, 1, 4)); });
  refuses(c, "truncate: length is 1, must be 0 to 0 (head 0 of sequence 1)", [&] { c.truncate(1, 1); });
  refuses(c, "truncate: length is 6, must be 0 to 5 (head 2 of sequence 1)", [&] { c.truncate(1, 2, 6); });
}

TEST_CASE("rings refuse") {
  heed::cache::ring<float> c(2, 3, 4, 5, 4, 1);
  c.append(rows(2, 3, 3, 5), rows(2, 3, 3, 4));
  check_shared(c);
  // a length near the end of what is counted, without as many appends: one row 2^31 - 4 times
  heed::cache::ring<float> long_ring(1, 1, 2, 1, 1);
  float one = 1;
  const heed::tensor_view<float, 4> many(&one, {1, 1, 2147483640, 1}, {0, 0, 0, 1});
  long_ring.append(many, many);
  CHECK(long_ring.length(0) == 2147483640);
  CHECK(long_ring.view().oldest.at(0, 0) == 2147483638);
  refuses(long_ring, "append: k has 8 tokens, sequence 0 has room for 7",
          [&] { long_ring.append(rows(1, 1, 8, 1), rows(1, 1, 8, 1)); });
}

TEST_CASE("paged caches refuse") {
  heed::cache::paged<float> c(4, 2, 3, 5, 4, 2);
  c.append(1, rows(1, 3, 3, 5), rows(1, 3, 3, 4));
  check_shared(c);
  c.fork(1, 0);  // one free token each in a shared page
  const auto lengths_kept = [&] { return c.length(0) == 3 && c.length(1) == 3 && c.free_pages() == 2; };
  refuses(c, "append: 4 tokens need 5 pages, 2 are free", [&] { c.append(rows(2, 3, 4, 5), rows(2, 3, 4, 4)); });
  CHECK(lengths_kept());
  refuses(c, "append: 5 tokens need 3 pages, 2 are free", [&] { c.append(0, rows(1, 3, 5, 5), rows(1, 3, 5, 4)); });
  CHECK(lengths_kept());
  c.append(rows(2, 3, 1, 5), rows(2, 3, 1, 4));  // one copy
  CHECK(c.free_pages() == 1);
}

TEST_CASE("caches refuse sizes that are none") {
  using heed::cache::contiguous;
  using heed::cache::paged;
  using heed::cache::ring;
  CHECK(thrown_by([] { contiguous<float>(-1, 1, 1, 1, 1); }) ==
        "cache::contiguous: sequences is -1, must be 0 to 2147483647");
  CHECK(thrown_by([] { contiguous<float>(1, -2, 1, 1, 1); }) ==
        "cache::contiguous: kv_heads is -2, must be 0 to 2147483647");
  CHECK(thrown_by([] { contiguous<float>(1, 1, huge, 1, 1); }) ==
        "cache::contiguous: capacity is 4611686018427387903, must be 0 to 2147483647");
  CHECK(thrown_by([] { contiguous<float>(1, 1, 1, 0, 1); }) == "cache::contiguous: dim is 0, must be 1 to 2147483647");
  CHECK(thrown_by([] { contiguous<float>(1, 1, 1, 1, -1); }) ==
        "cache::contiguous: value_dim is -1, must be 1 to 2147483647");
  CHECK(thrown_by([] { contiguous<float>(2147483647, 2147483647, 0, 2, 2); }).find("numbers, must be at most") !=
        std::string::npos);
  CHECK(thrown_by([] { ring<float>(1, 1, 4, 1, 1, 4); }) == "cache::ring: keep_first is 4, must be 0 to 3");
  CHECK(thrown_by([] { ring<float>(1, 1, 4, 1, 1, -1); }) == "cache::ring: keep_first is -1, must be 0 to 3");
  CHECK(thrown_by([] { ring<float>(1, 1, 0, 1, 1, 1); }) == "cache::ring: keep_first is 1, must be 0 to 0");
  CHECK(thrown_by([] { ring<float>(1, 1, 0, 1, 1, 0); }).empty());
  CHECK(thrown_by([] { paged<float>(1, 0, 1, 1, 1, 1); }) == "cache::paged: page is 0, must be 1 to 2147483647");
  CHECK(thrown_by([] { paged<float>(-1, 1, 1, 1, 1, 1); }) == "cache::paged: pages is -1, must be 0 to 2147483647");
  CHECK(thrown_by([] { paged<float>(1, 1, 1, 1, 1, -3); }) ==
        "cache::paged: most_sequences is -3, must be 0 to 2147483647");
  CHECK(thrown_by([] { paged<float>(1 << 20, 1 << 12, 1, 1, 1, 1); }) ==
        "cache::paged: 1048576 pages of 4096 tokens, must be at most 2147483647 tokens");
  CHECK(thrown_by([] { paged<float>(0, 1, 1, 1, 1, 0); }).empty());
}
