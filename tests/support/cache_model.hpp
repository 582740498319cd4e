// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Owning caches against a plain model: tokens are numbers, a sequence is a std::vector of them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/core/kv_cache.hpp"
#include "support/random.hpp"

namespace heed_test {

using heed::index_t;

inline constexpr index_t model_dim = 6, model_value_dim = 4;

// Column c of the row of a token, a small integer, which every storage type but std::int8_t holds exactly
inline float token_number(int token, index_t head, index_t c, bool value) {
  const int even = token % 256 - 128, odd = token / 256 + static_cast<int>(head) * 16 + (value ? 100 : 0);
  return static_cast<float>((c % 2 == 0 ? even : odd) + (c == 0 && value ? 1 : 0));
}

// k and v (batch, heads, n, dim) of tokens: tokens[b * n + i]
struct token_rows_of {
  std::vector<float> k, v;
  index_t batch, heads, n;

  token_rows_of(const std::vector<int>& tokens, index_t of_batch, index_t of_heads, index_t first_head)
      : batch(of_batch), heads(of_heads), n(of_batch == 0 ? 0 : static_cast<index_t>(tokens.size()) / of_batch) {
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < n; ++i) {
          const int token = tokens[static_cast<std::size_t>(b * n + i)];
          for (index_t c = 0; c < model_dim; ++c) k.push_back(token_number(token, first_head + h, c, false));
          for (index_t c = 0; c < model_value_dim; ++c) v.push_back(token_number(token, first_head + h, c, true));
        }
  }
  heed::tensor_view<const float, 4> keys() const { return heed::bhsd(k.data(), batch, heads, n, model_dim); }
  heed::tensor_view<const float, 4> values() const { return heed::bhsd(v.data(), batch, heads, n, model_value_dim); }
};

// Where a view has a token
template <class T>
heed::detail::token_rows::place place_of(const heed::kv_cache_view<T>& x, index_t sequence, index_t token) {
  heed::detail::token_rows rows;
  rows.layout = x.layout, rows.rows = x.k.extent(2), rows.blocks = x.blocks;
  rows.keep_first = std::max<index_t>(x.keep_first, 0);
  return rows.at(sequence, token);
}

// Whether the view has that token there, in all columns
template <class T>
bool holds(const heed::kv_cache_view<T>& x, index_t sequence, index_t head, index_t t, int token) {
  const auto at = place_of(x, sequence, t);
  const auto same = [&](const auto& rows, const auto& scales, bool value) {
    for (index_t c = 0; c < rows.extent(3); ++c) {
      const double want = static_cast<double>(token_number(token, head, c, value));
      double got = static_cast<double>(rows(at.entry, head, at.row, c)), bound = 0;
      if constexpr (std::is_same_v<T, std::int8_t>) {
        const double scale = static_cast<double>(scales(at.entry, head, at.row));
        got *= scale, bound = 0.5001 * scale;
      }
      if (!(std::abs(got - want) <= bound)) return false;
    }
    return true;
  };
  return same(x.k, x.k_scale, false) && same(x.v, x.v_scale, true);
}

class cache_model {
 public:
  cache_model(index_t sequences, index_t kv_heads, index_t of_rows, heed::cache_layout how, index_t keep = 0)
      : batch(sequences), heads(kv_heads), rows(of_rows), keep_first(keep), layout(how) {
    sequence_.resize(static_cast<std::size_t>(batch * heads)), slots_ = sequence_;
    row_of_slot_ = sequence_;
    for (auto& each : slots_) each.assign(static_cast<std::size_t>(rows), -1);
    for (auto& each : row_of_slot_) each.assign(static_cast<std::size_t>(rows), -1);
    pages_.resize(static_cast<std::size_t>(batch));
  }

  std::vector<int>& tokens(index_t b, index_t h) { return sequence_[at(b, h)]; }
  index_t length(index_t b, index_t h) const { return static_cast<index_t>(sequence_[at(b, h)].size()); }

  void append(index_t b, index_t h, int token) {
    const index_t t = length(b, h);
    if (layout == heed::cache_layout::ring && (t < keep_first || rows > keep_first)) {
      const index_t row = t < keep_first ? t : keep_first + (t - keep_first) % (rows - keep_first);
      const auto slot = static_cast<std::size_t>(row);
      slots_[at(b, h)][slot] = token, row_of_slot_[at(b, h)][slot] = static_cast<int>(t);
    }
    sequence_[at(b, h)].push_back(token);
  }
  void truncate(index_t b, index_t h, index_t n) { tokens(b, h).resize(static_cast<std::size_t>(n)); }
  void fork(index_t from, index_t to) {
    for (index_t h = 0; h < heads; ++h) {
      sequence_[at(to, h)] = sequence_[at(from, h)], slots_[at(to, h)] = slots_[at(from, h)];
      row_of_slot_[at(to, h)] = row_of_slot_[at(from, h)];
    }
    pages_[static_cast<std::size_t>(to)] = pages_[static_cast<std::size_t>(from)];
  }

  // Pages of a paged cache as names: a name in two sequences is a shared page. n tokens follow the length.
  void append_pages(index_t b, index_t n) {
    auto& mine = pages_[static_cast<std::size_t>(b)];
    const index_t now = length(b, 0);
    if (n > 0 && now % rows != 0 && owners(mine.back()) > 1) mine.back() = next_page_++;
    while (static_cast<index_t>(mine.size()) * rows < now + n) mine.push_back(next_page_++);
  }
  void truncate_pages(index_t b, index_t n) {
    pages_[static_cast<std::size_t>(b)].resize(static_cast<std::size_t>((n + rows - 1) / rows));
  }
  index_t used_pages() const {
    std::set<int> all;
    for (const auto& each : pages_) all.insert(each.begin(), each.end());
    return static_cast<index_t>(all.size());
  }

  // Whether the view has every token that a ring did not overwrite, and says from which token on it has all.
  template <class T> bool is(const heed::kv_cache_view<T>& x) const {
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < heads; ++h) {
        if (x.lengths.at(b, h) != length(b, h)) return false;
        index_t oldest = keep_first;
        for (index_t t = 0; t < length(b, h); ++t) {
          if (!kept(b, h, t))
            oldest = std::max(oldest, t + 1);
          else if (!holds(x, b, h, t, sequence_[at(b, h)][static_cast<std::size_t>(t)]))
            return false;
        }
        if (layout == heed::cache_layout::ring && x.oldest.at(b, h) != oldest) return false;
        for (index_t t = keep_first; t < std::min(oldest, length(b, h)); ++t)
          if (kept(b, h, t)) return false;
      }
    return true;
  }

  index_t batch, heads, rows, keep_first;
  heed::cache_layout layout;

 private:
  std::size_t at(index_t b, index_t h) const { return static_cast<std::size_t>(b * heads + h); }
  bool kept(index_t b, index_t h, index_t t) const {
    if (layout != heed::cache_layout::ring) return true;
    const auto& token = slots_[at(b, h)];
    for (std::size_t slot = 0; slot < token.size(); ++slot)
      if (token[slot] == sequence_[at(b, h)][static_cast<std::size_t>(t)] &&
          row_of_slot_[at(b, h)][slot] == static_cast<int>(t))
        return true;
    return false;
  }
  index_t owners(int page) const {
    index_t n = 0;
    for (const auto& each : pages_) n += std::count(each.begin(), each.end(), page);
    return n;
  }

  std::vector<std::vector<int>> sequence_, slots_, row_of_slot_;  // slots: the last token written to each row
  std::vector<std::vector<int>> pages_;
  int next_page_ = 0;
};

}  // namespace heed_test
