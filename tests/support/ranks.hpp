// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Sequences cut among ranks that are threads: which tokens each has, and its part of a tensor of all.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/distributed/options.hpp"
#include "heed/distributed/threads.hpp"
#include "support/buffer.hpp"

namespace heed_test {

using net_of_threads = heed::distributed::thread_group::network;
using ranges = std::vector<std::array<heed::distributed::token_range, 2>>;  // for each rank

// f(network) for every rank; what each rank threw, "" where nothing.
template <class F> std::vector<std::string> thrown_by_ranks(index_t ranks, const F& f) {
  std::vector<std::string> texts(static_cast<std::size_t>(ranks));
  heed::distributed::thread_group group(ranks);
  group.run([&](net_of_threads net) {
    std::string& text = texts[static_cast<std::size_t>(net.rank())];
    try {
      f(net);
    } catch (const std::exception& e) {
      text = e.what();
      if (text.empty()) text = "an exception without a text";
    }
  });
  return texts;
}
inline bool none_threw(const std::vector<std::string>& texts) {
  return std::all_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); });
}

// How a test spreads tokens over ranks
enum class spread { even, ragged, some_empty, one_has_all };
inline constexpr spread spreads[] = {spread::even, spread::ragged, spread::some_empty, spread::one_has_all};
inline const char* name_of(spread how) {
  constexpr const char* names[] = {"even", "ragged", "some_empty", "one_has_all"};
  return names[static_cast<int>(how)];
}

// Chunk lengths in the order of the sequence
inline std::vector<index_t> chunk_lengths(spread how, index_t tokens, index_t chunks) {
  std::vector<index_t> lengths(static_cast<std::size_t>(chunks), 0);
  index_t left = tokens;
  for (index_t c = 0; c < chunks; ++c) {
    index_t& length = lengths[static_cast<std::size_t>(c)];
    if (how == spread::even) length = tokens / chunks + (c < tokens % chunks ? 1 : 0);
    if (how == spread::ragged) length = std::min(left, (c * 7 + 3) % 5 * (tokens / chunks) / 2 + 1);
    if (how == spread::some_empty) length = c % 2 == 0 ? 0 : std::min(left, 2 * (tokens / chunks));
    if (how == spread::one_has_all) length = c == chunks / 2 ? tokens : 0;
    left -= length;
  }
  lengths.back() += left;
  return lengths;
}

inline ranges ranges_of(heed::distributed::cut cut, spread how, index_t tokens, index_t ranks) {
  const bool contiguous = cut == heed::distributed::cut::contiguous;
  const std::vector<index_t> lengths = chunk_lengths(how, tokens, contiguous ? ranks : 2 * ranks);
  std::vector<heed::distributed::token_range> chunks;
  index_t first = 0;
  for (const index_t length : lengths) chunks.push_back({first, length}), first += length;
  ranges all;
  for (index_t r = 0; r < ranks; ++r) {
    const auto a = static_cast<std::size_t>(r), b = static_cast<std::size_t>(2 * ranks - 1 - r);
    all.push_back({chunks[a], contiguous ? heed::distributed::token_range{chunks[a].first, 0} : chunks[b]});
  }
  return all;
}
inline index_t count(const std::array<heed::distributed::token_range, 2>& r) { return r[0].count + r[1].count; }

// f(token of all, row of the rank)
template <class F> void each_token(const std::array<heed::distributed::token_range, 2>& tokens, const F& f) {
  index_t row = 0;
  for (const auto& range : tokens)
    for (index_t i = 0; i < range.count; ++i) f(range.first + i, row++);
}

// f(element of all, element of the part) for the tokens of a rank
template <class T, class F>
void each_element(const buffer<T>& all, const buffer<T>& part,
                  const std::array<heed::distributed::token_range, 2>& tokens, const F& f) {
  const extents n = all.size();
  each_token(tokens, [&](index_t token, index_t row) {
    for (index_t b = 0; b < n[0]; ++b)
      for (index_t h = 0; h < n[1]; ++h)
        for (index_t d = 0; d < n[3]; ++d) f(all(b, h, token, d), part(b, h, row, d));
  });
}
// Copies the rows of a rank out of a tensor of all tokens, or back.
template <class T>
buffer<T> part_of(const buffer<T>& all, const std::array<heed::distributed::token_range, 2>& tokens, layout how) {
  const extents n = all.size();
  buffer<T> part = buffer<T>::input({n[0], n[1], count(tokens), n[3]}, how);
  each_element(all, part, tokens, [](const T& x, T& y) { y = x; });
  return part;
}
template <class T>
void put_part(const buffer<T>& part, const std::array<heed::distributed::token_range, 2>& tokens,
              const buffer<T>& all) {
  each_element(all, part, tokens, [](T& x, const T& y) { x = y; });
}

// The largest difference in units of the largest expected number; infinite where one is NaN and the other is not.
template <class T> double difference(const buffer<T>& got, const buffer<T>& expected) {
  double largest = 1e-30, worst = 0;
  const auto [b, h, n, d] = expected.size();
  for (index_t i = 0; i < b; ++i)
    for (index_t j = 0; j < h; ++j)
      for (index_t s = 0; s < n; ++s)
        for (index_t x = 0; x < d; ++x) {
          const double a = static_cast<double>(got(i, j, s, x)), e = static_cast<double>(expected(i, j, s, x));
          if (std::isfinite(e)) largest = std::max(largest, std::abs(e));
          if (a == e || (std::isnan(a) && std::isnan(e))) continue;
          const double off = std::abs(a - e);
          worst = std::max(worst, std::isfinite(off) ? off : std::numeric_limits<double>::infinity());
        }
  return worst / largest;
}

}  // namespace heed_test
