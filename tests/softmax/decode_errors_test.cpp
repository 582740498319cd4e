// SPDX-License-Identifier: BSD-3-Clause

// What softmax::decode refuses: the text names the argument and both numbers, and nothing is written.

#include <limits>
#include <vector>

#include "support/decode_errors.hpp"

using namespace heed_test;

namespace {

using call = decode_to_bend<float>;
using numbers = std::vector<std::int32_t>;

const decode_problem contiguous{4, 2, 2, 8, 6, {20, 11}, {cache_kind::contiguous, 23}},
    ring{4, 2, 2, 8, 6, {20, 11}, {cache_kind::ring, 13, 3}},
    paged{4, 2, 2, 8, 6, {20, 11}, {cache_kind::paged, 0, 0, 5}};
const decode_problem all_kinds[] = {contiguous, ring, paged};

template <class T, int Rank>
heed::tensor_view<T, Rank> with_extent(const heed::tensor_view<T, Rank>& x, int axis, index_t extent) {
  std::array<index_t, Rank> extents, strides;
  for (int a = 0; a < Rank; ++a)
    extents[static_cast<std::size_t>(a)] = a == axis ? extent : x.extent(a),
                           strides[static_cast<std::size_t>(a)] = x.stride(a);
  return {x.data(), extents, strides};
}
void see(call& c, const heed::mask& mask) { c.options.mask = mask; }

}  // namespace

TEST_CASE("decode errors: what the cache says already may not be said again") {
  for (const decode_problem& p : all_kinds) {
    refused_decode(p, {"key_lengths"}, [](call& c) { see(c, heed::key_lengths({5, 5})); });
    refused_decode(p, {"packed"}, [](call& c) { see(c, heed::packed({0, 2}, {0, 20})); });
    refused_decode(p, {"top_left"}, [](call& c) { c.options.align = heed::top_left; });
    refused_decode(p, {"end_of_lengths"}, [](call& c) { c.options.align = heed::end_of_lengths; });
  }
}

TEST_CASE("decode errors: lengths") {
  numbers each;
  const auto lengths = [&each](std::int32_t a, std::int32_t b) {
    return [&each, a, b](call& c) { each = {a, b}, c.cache.lengths = each; };
  };
  refused_decode(contiguous, {"length", "24", "23"}, lengths(24, 3));
  refused_decode(contiguous, {"length", "1000000", "23"}, lengths(3, 1000000));
  refused_decode(paged, {"length", "31", "30"}, lengths(3, 31));  // six pages of 5
  for (const decode_problem& p : all_kinds) {
    refused_decode(p, {"length", "-1", "0"}, lengths(3, -1));
    refused_decode(p, {"length", "3", "2"}, [&](call& c) { each = {1, 2, 3}, c.cache.lengths = each; });
    refused_decode(p, {"length", "1", "2"}, [&](call& c) { each = {1}, c.cache.lengths = each; });
    refused_decode(p, {"length", "3", "2"}, [&](call& c) {
      each.assign(6, 1), c.cache.lengths = heed::tensor_view<const std::int32_t, 2>(each.data(), {2, 3}, {3, 1});
    });
    refused_decode(p, {"length", "3", "2"}, [&](call& c) {
      each.assign(6, 1), c.cache.lengths = heed::tensor_view<const std::int32_t, 2>(each.data(), {3, 2}, {2, 1});
    });
  }
  decode_problem heads = contiguous;
  heads.per_head = true, heads.lengths = {1, 2, 3, 4};
  refused_decode(heads, {"length", "24", "23"}, [&](call& c) {
    each = {1, 2, 24, 4}, c.cache.lengths = heed::tensor_view<const std::int32_t, 2>(each.data(), {2, 2}, {2, 1});
  });
  // of a ring: all that were ever appended
  accepted_decode<float>(ring, lengths(std::numeric_limits<std::int32_t>::max(), 14));
}

TEST_CASE("decode errors: pages and first tokens that are kept") {
  numbers table;
  const auto entry = [&table](std::size_t at, std::int32_t page) {
    return [&table, at, page](call& c) {
      table = c.x.rows.table, table[at] = page;
      c.cache.blocks = {table.data(), {2, 6}, {6, 1}};
    };
  };
  const decode_case<float> x(paged);  // 4 and 3 pages of 6 entries each are used, of 10
  REQUIRE((x.rows.blocks == 6 && x.rows.entries == 10));
  refused_decode(paged, {"blocks", "10", "9"}, entry(3, 10));
  refused_decode(paged, {"blocks", "-1", "9"}, entry(6, -1));
  refused_decode(paged, {"blocks", "1000000000", "9"}, entry(8, 1000000000));
  accepted_decode<float>(paged, entry(4, 1000000000));  // is behind the last token
  accepted_decode<float>(paged, entry(9, -1));
  refused_decode(paged, {"blocks", "3", "2"}, [&](call& c) {
    table.assign(18, 0), c.cache.blocks = {table.data(), {3, 6}, {6, 1}};
  });
  refused_decode(paged, {"blocks"}, [](call& c) { c.cache.blocks = {}; });
  refused_decode(ring, {"keep_first", "13", "12"}, [](call& c) { c.cache.keep_first = 13; });
  refused_decode(ring, {"keep_first", "40", "12"}, [](call& c) { c.cache.keep_first = 40; });
  refused_decode(ring, {"keep_first", "-2", "0"}, [](call& c) { c.cache.keep_first = -2; });
}

TEST_CASE("decode errors: shapes") {
  for (const decode_problem& p : all_kinds) {
    refused_decode(p, {"q", "k", "7", "8"}, [](call& c) { c.q = with_extent(c.q, 3, 7); });
    refused_decode(p, {"o", "v", "5", "6"}, [](call& c) { c.o = with_extent(c.o, 3, 5); });
    refused_decode(p, {"q", "o", "1", "2"}, [](call& c) { c.o = with_extent(c.o, 2, 1); });
    refused_decode(p, {"q", "o", "1", "2"}, [](call& c) { c.o = with_extent(c.o, 0, 1); });
    refused_decode(p, {"q", "k", "3", "2"}, [](call& c) { c.q = with_extent(c.q, 1, 3); });
    refused_decode(p, {"o", "3", "4"}, [](call& c) { c.o = with_extent(c.o, 1, 3); });
    refused_decode(p, {"k", "v", "1", "2"}, [](call& c) { c.cache.v = with_extent(c.cache.v, 1, 1); });
    refused_decode(p, {"k", "v", "4"}, [](call& c) { c.cache.v = with_extent(c.cache.v, 2, 4); });
    refused_decode(p, {"lse", "3", "4"}, [](call& c) { c.options.lse = with_extent(c.options.lse, 1, 3); });
    refused_decode(p, {"q", "0"}, [](call& c) { c.q = with_extent(c.q, 3, 0); });
    refused_decode(p, {"k", "null"}, [](call& c) {
      c.cache.k = {nullptr, {c.cache.k.extent(0), 2, c.cache.k.extent(2), 8}, {8, 8, 8, 1}};
    });
    refused_decode(p, {"q", "stride", "2"}, [](call& c) {
      c.q = {c.q.data(), {2, 4, 2, 2}, {64, 16, 8, 2}}, c.cache.k = with_extent(c.cache.k, 3, 2);
    });
  }
  for (const decode_problem& p : {contiguous, ring})
    refused_decode(p, {"q", "k", "1", "2"}, [](call& c) {
      c.cache.k = with_extent(c.cache.k, 0, 1), c.cache.v = with_extent(c.cache.v, 0, 1);
    });
}

TEST_CASE("decode errors: options") {
  std::vector<float> bias(2 * 4 * 2 * 30);
  const bool visible[60] = {};
  const numbers ids(60, 1);
  constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
  for (const decode_problem& p : all_kinds) {
    for (const index_t keys : {2, 19}) {
      refused_decode(p, {"bias", std::to_string(keys), "20"}, [&](call& c) {
        c.options.bias = {bias.data(), {1, 1, 1, keys}, {0, 0, 0, 1}};
      });
      refused_decode(p, {"keep", std::to_string(keys), "20"}, [&](call& c) {
        see(c, heed::keep({visible, {1, 1, 1, keys}, {0, 0, 0, 1}}));
      });
    }
    refused_decode(p, {"bias", "3", "2"}, [&](call& c) {
      c.options.bias = {bias.data(), {1, 1, 3, 20}, {0, 0, 20, 1}};
    });
    refused_decode(p, {"segments", "19", "20"}, [&](call& c) {
      see(c, heed::segments({ids.data(), {2, 2}, {2, 1}}, {ids.data(), {2, 19}, {19, 1}}));
    });
    for (const index_t keys : {20, 29})
      accepted_decode<float>(p, [&](call& c) {
        see(c, heed::segments({ids.data(), {2, 2}, {2, 1}}, {ids.data(), {2, keys}, {30, 1}}));
      });
    for (const index_t keys : {1, 20, 29})
      accepted_decode<float>(p, [&](call& c) { c.options.bias = {bias.data(), {1, 1, 1, keys}, {0, 0, 0, 1}}; });
    refused_decode(p, {"first_place", "1", "2"}, [](call& c) { c.options.align = heed::first_place({1}); });
    refused_decode(p, {"prefix_lm", "1", "2"}, [](call& c) { see(c, heed::prefix_lm({1})); });
    refused_decode(p, {"window", "-2", "-1"}, [](call& c) { see(c, heed::window(-2)); });
    refused_decode(p, {"window"}, [](call& c) { see(c, heed::window(3, 0, 1) & heed::window(4, 0, 2)); });
    refused_decode(p, {"scale", "NaN"}, [=](call& c) { c.options.scale = not_a_number; });
    refused_decode(p, {"softcap", "-1", "0"}, [](call& c) { c.options.softcap = -1; });
    refused_decode(p, {"alibi_slopes", "-1", "0"}, [](call& c) { c.options.alibi_slopes = -1; });
    refused_decode(p, {"sink_logits", "2", "4"}, [](call& c) { c.options.sink_logits = std::vector<float>{1, 2}; });
  }
}

TEST_CASE("decode errors: an output that is an input") {
  for (const decode_problem& p : all_kinds) {
    refused_decode(p, {"o", "q"}, [](call& c) {
      c.o = {const_cast<float*>(c.q.data()), {2, 4, 2, 6}, {48, 12, 6, 1}};
    });
    refused_decode(p, {"o", "v"}, [](call& c) {
      c.o = {const_cast<float*>(c.cache.v.data()), {2, 4, 2, 6}, {48, 12, 6, 1}};
    });
    refused_decode(p, {"lse", "k"}, [](call& c) {
      c.options.lse = {const_cast<float*>(c.cache.k.data()), {2, 4, 2}, {8, 2, 1}};
    });
  }
}

TEST_CASE("decode errors: scales of std::int8_t") {
  using bent = decode_to_bend<std::int8_t>;
  for (decode_problem p : all_kinds) {
    p.stored_kv = kept::i8;
    refused_decode<std::int8_t>(p, {"k_scale"}, [](bent& c) { c.cache.k_scale = {}; });
    refused_decode<std::int8_t>(p, {"v_scale"}, [](bent& c) { c.cache.v_scale = {}; });
    refused_decode<std::int8_t>(p, {"k_scale", "1", "2"}, [](bent& c) {
      c.cache.k_scale = with_extent(c.cache.k_scale, 1, 1);
    });
    refused_decode<std::int8_t>(p, {"v_scale", "3"}, [](bent& c) {
      c.cache.v_scale = with_extent(c.cache.v_scale, 2, 3);
    });
  }
}

TEST_CASE("decode errors: a workspace that is too small") {
  for (const index_t group : {1, 8}) {
    decode_problem p = contiguous;
    p.heads = 2 * group, p.lengths = {600, 20};
    decode_case<float> x(p);
    const std::size_t bytes = x.plan().workspace_bytes;
    if (bytes == 0) continue;
    std::vector<std::byte> memory(bytes);
    for (const std::size_t size : {std::size_t{1}, bytes - 1}) {
      const heed::context where{.workspace = std::span(memory).first(size)};
      const std::string text = thrown_by([&] { x.decode(where); });
      INFO(text);
      CHECK(text == x.plan(where).problem.data());
      CHECK(mentions(text, "workspace"));
      CHECK((mentions(text, std::to_string(size)) && mentions(text, std::to_string(bytes))));
      CHECK(x.stored_o.untouched());
      CHECK(x.plan(where).workspace_bytes == bytes);
    }
    CHECK(thrown_by([&] { x.decode({.workspace = memory}); }) == "");
  }
}
