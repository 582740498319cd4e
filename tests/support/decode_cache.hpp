// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Caches of every kind and storage type with given tokens. Tokens are appended one after the other, a cursor says
// where; every number that belongs to no token is NaN.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "support/buffer.hpp"
#include "support/decode_run.hpp"

namespace heed_test {

enum class cache_kind { contiguous, ring, paged };
enum class kept { f32, bf16, f16, i8 };  // as in decode_types<float>::cache
inline constexpr kept all_kept[] = {kept::f32, kept::bf16, kept::f16, kept::i8};

inline const char* name_of(kept type) {
  constexpr const char* names[] = {"float", "bf16", "f16", "int8"};
  return names[static_cast<int>(type)];
}

struct cache_setup {
  cache_kind kind = cache_kind::contiguous;
  index_t capacity = 0;          // rows of contiguous and ring; less than the longest length: that length
  index_t keep_first = 0;        // ring
  index_t page = 16;             // paged
  bool shared = false;           // paged: whole pages that all sequences have are one page
  layout in = layout::bhsd;      // bhsd or bshd (token-major), of rows or of pages
};

inline std::string to_string(const cache_setup& c) {
  const auto n = [](index_t x) { return std::to_string(x); };
  const std::string text = c.kind == cache_kind::contiguous ? "contiguous " + n(c.capacity)
                           : c.kind == cache_kind::ring     ? "ring " + n(c.capacity) + " kept " + n(c.keep_first)
                                                            : "pages of " + n(c.page) + (c.shared ? " shared" : "");
  return text + " " + name_of(c.in);
}

// Which slots of a cache hold which tokens, and how many
struct cache_rows {
  index_t batch, kv_heads, longest;
  cache_setup setup;
  std::vector<std::int32_t> lengths;  // (batch) or (batch, kv_heads)
  std::vector<std::int32_t> oldest;   // ring: as many, or none
  index_t entries = 0, rows = 0, blocks = 0;
  std::vector<std::int32_t> table;  // paged

  struct slot {
    index_t entry, row;
  };

  cache_rows(index_t batch_size, index_t heads, const cache_setup& how, std::vector<std::int32_t> each)
      : batch(batch_size), kv_heads(heads), longest(0), setup(how), lengths(std::move(each)) {
    for (const std::int32_t n : lengths) longest = std::max<index_t>(longest, n);
    entries = batch, rows = setup.kind == cache_kind::ring ? setup.capacity : std::max(setup.capacity, longest);
    if (setup.kind == cache_kind::paged) number_pages();
  }
  bool per_head() const { return static_cast<index_t>(lengths.size()) != batch; }
  index_t length(index_t b, index_t h) const {
    return lengths[static_cast<std::size_t>(per_head() ? b * kv_heads + h : b)];
  }
  heed::cache_lengths view_of(const std::vector<std::int32_t>& each) const {
    if (!per_head() || each.empty()) return each;
    return heed::tensor_view<const std::int32_t, 2>(each.data(), {batch, kv_heads}, {kv_heads, 1});
  }
  // f(token, slot) of all tokens in the order of their arrival
  template <class F> void each(index_t b, index_t h, F f) const {
    index_t cursor = 0;
    for (index_t t = 0; t < length(b, h); ++t, ++cursor) {
      if (setup.kind == cache_kind::ring && cursor == rows) cursor = setup.keep_first;
      if (setup.kind != cache_kind::paged)
        f(t, slot{b, cursor});
      else
        f(t, slot{table[static_cast<std::size_t>(b * blocks + t / setup.page)], t % setup.page});
    }
  }

 private:
  // Pages in any order, three more than are used; numbers that are not used are out of range.
  void number_pages() {
    rows = setup.page, blocks = (longest + rows - 1) / rows + 2;
    table.assign(static_cast<std::size_t>(batch * blocks), std::numeric_limits<std::int32_t>::min());
    index_t shortest = longest;
    std::vector<index_t> used(static_cast<std::size_t>(batch), 0);
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < kv_heads; ++h) {
        index_t& most = used[static_cast<std::size_t>(b)];
        most = std::max(most, (length(b, h) + rows - 1) / rows), shortest = std::min(shortest, length(b, h));
      }
    const index_t common = setup.shared ? shortest / rows : 0;
    std::vector<std::int32_t*> numbers;
    for (index_t b = 0; b < batch; ++b)
      for (index_t i = b == 0 ? 0 : common; i < used[static_cast<std::size_t>(b)]; ++i)
        numbers.push_back(&table[static_cast<std::size_t>(b * blocks + i)]);
    entries = static_cast<index_t>(numbers.size()) + 3;
    random_numbers random(11);
    for (std::size_t i = numbers.size(); i > 1; --i)
      std::swap(numbers[i - 1], numbers[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(i)))]);
    for (std::size_t i = 0; i < numbers.size(); ++i) *numbers[i] = static_cast<std::int32_t>(i + 2);
    for (index_t b = 1; b < batch; ++b)
      for (index_t i = 0; i < common; ++i)
        table[static_cast<std::size_t>(b * blocks + i)] = table[static_cast<std::size_t>(i)];
  }
};

// Rows of numbers of a storage type C
template <class C> struct cache_memory {
  buffer<C> k, v;
  buffer<float> k_scale, v_scale;  // std::int8_t: one each row, else none

  cache_memory(const cache_rows& at, index_t dim, index_t value_dim)
      : k(buffer<C>::input({at.entries, at.kv_heads, at.rows, dim}, at.setup.in)),
        v(buffer<C>::input({at.entries, at.kv_heads, at.rows, value_dim}, at.setup.in)),
        k_scale(scales(at)),
        v_scale(scales(at)) {
    k.poison(), v.poison(), k_scale.poison(), v_scale.poison();
  }
  // Writes one row and leaves in it what is stored.
  void write(const cache_rows::slot& s, index_t h, std::vector<double>& key, std::vector<double>& value) {
    write(k, k_scale, s, h, key), write(v, v_scale, s, h, value);
  }
  void spoil(const cache_rows::slot& s, index_t h, float with) {
    for (index_t d = 0; d < k.size()[3]; ++d) k(s.entry, h, s.row, d) = spoiled(with);
    for (index_t e = 0; e < v.size()[3]; ++e) v(s.entry, h, s.row, e) = spoiled(with);
    if constexpr (std::is_same_v<C, std::int8_t>) k_scale(s.entry, h, s.row) = v_scale(s.entry, h, s.row) = with;
  }
  heed::kv_cache_view<C> view(const cache_rows& at) const {
    const heed::tensor_view<const std::int32_t, 2> table(at.table.data(), {at.batch, at.blocks}, {at.blocks, 1});
    const heed::cache_lengths n = at.view_of(at.lengths);
    const auto make = [&](auto... x) {
      if (at.setup.kind == cache_kind::ring) return heed::ring_cache(x..., n, at.setup.keep_first);
      if (at.setup.kind == cache_kind::paged) return heed::paged_cache(x..., table, n);
      return heed::contiguous_cache(x..., n);
    };
    heed::kv_cache_view<C> x;
    if constexpr (std::is_same_v<C, std::int8_t>) {
      using scale = heed::tensor_view<const float, 3>;
      x = make(k.cview(), v.cview(), scale(k_scale.view3()), scale(v_scale.view3()));
    } else {
      x = make(k.cview(), v.cview());
    }
    x.oldest = at.view_of(at.oldest);
    return x;
  }
  std::uint64_t hash() const { return k.hash() ^ 3 * v.hash() ^ 5 * k_scale.hash() ^ 7 * v_scale.hash(); }

 private:
  static buffer<float> scales(const cache_rows& at) {
    if (!std::is_same_v<C, std::int8_t>) return buffer<float>::input({0, 0, 0, 1});
    return buffer<float>::input({at.entries, at.kv_heads, at.rows, 1}, at.setup.in);
  }
  static C spoiled(float with) {
    if constexpr (std::is_same_v<C, std::int8_t>)
      return C(127);
    else
      return static_cast<C>(with);
  }
  static void write(buffer<C>& to, buffer<float>& scale, const cache_rows::slot& s, index_t h,
                    std::vector<double>& row) {
    double unit = 1;
    if constexpr (std::is_same_v<C, std::int8_t>) {
      double largest = 0x1p-20;
      for (const double x : row) largest = std::max(largest, std::abs(x));
      unit = static_cast<double>(scale(s.entry, h, s.row) = static_cast<float>(largest / 127));
    }
    for (std::size_t d = 0; d < row.size(); ++d) {
      C& x = to(s.entry, h, s.row, static_cast<index_t>(d));
      if constexpr (std::is_same_v<C, std::int8_t>)
        x = static_cast<C>(std::clamp(std::nearbyint(row[d] / unit), -127.0, 127.0));
      else if constexpr (sizeof(C) == 2)
        x = C(static_cast<float>(row[d]));
      else
        x = static_cast<C>(row[d]);
      row[d] = unit * static_cast<double>(x);
    }
  }
};

}  // namespace heed_test
