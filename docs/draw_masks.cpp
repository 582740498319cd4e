// SPDX-License-Identifier: BSD-3-Clause
//
// Draws the pictures of docs/masks.md from the visibility of the reference, and prints them. From the folder above:
// g++ -std=c++20 -I include -I /usr/include/eigen3 docs/draw_masks.cpp -o draw_masks && ./draw_masks docs/masks
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "heed/reference/softmax.hpp"

using heed::index_t;

constexpr index_t tile = 4;  // real tiles are larger
enum class cell { skipped, hidden, tested, plain };
constexpr std::array colours{"#ffffff", "#d8dee4", "#6cb0ff", "#0a56b8"};  // of cells, in the same order

// Names how heed runs a mask: as ranges of keys; by tests of pairs, except in tiles wholly hidden or visible;
// by a test of every pair that its ranges leave.
enum class routine { ranges, pairs, always };

struct picture {
  index_t queries, keys;
  std::vector<cell> cells;
  std::vector<index_t> places;  // one per query

  cell& at(index_t i, index_t j) { return cells[static_cast<std::size_t>(i * keys + j)]; }
};

using rules = heed::reference::detail::pair_rules<float, heed::softmax::options<>>;
using heed::reference::detail::sequence;

bool visible(const rules& r, const sequence& s, index_t query, index_t key) {
  return r.visible(s, r.at(s, 0, query, key));
}

// Classifies the pairs of a mask. ranges: the part of the mask that runs as ranges, where the rest is always tested.
picture classify(const heed::mask& mask, const heed::mask& ranges, const heed::alignment& align, routine run,
                 index_t queries, index_t keys) {
  const heed::softmax::options<> options{.mask = mask, .align = align}, range_options{.mask = ranges, .align = align};
  const rules all_rules{options}, range_rules{range_options};
  picture out{queries, keys, std::vector<cell>(static_cast<std::size_t>(queries * keys), cell::skipped), {}};
  for (const sequence& s : heed::reference::detail::sequences_of(mask, 1, queries, keys)) {
    const auto sees = [&](index_t i, index_t j) { return visible(all_rules, s, i, j); };
    const auto in_range = [&](index_t i, index_t j) {
      return run == routine::always ? visible(range_rules, s, i, j) : sees(i, j);
    };
    for (index_t i = 0; i < s.queries; ++i) out.places.push_back(s.first_key + all_rules.place_of(s, i));
    for (index_t i = 0; i < s.queries; i += tile)
      for (index_t j = 0; j < s.keys; j += tile) {
        const index_t i_end = std::min(i + tile, s.queries), j_end = std::min(j + tile, s.keys);
        bool none = true, all = true, alike = true;  // alike: all rows see the same keys
        for (index_t a = i; a < i_end; ++a)
          for (index_t b = j; b < j_end; ++b)
            none = none && !in_range(a, b), all = all && sees(a, b), alike = alike && sees(a, b) == sees(i, b);
        if (none) continue;
        const bool plain = run != routine::always && (all || (alike && run == routine::ranges));
        for (index_t a = i; a < i_end; ++a)
          for (index_t b = j; b < j_end; ++b)
            out.at(s.first_query + a, s.first_key + b) =
                sees(a, b) ? (plain ? cell::plain : cell::tested) : (plain ? cell::skipped : cell::hidden);
      }
  }
  return out;
}

// Returns the outline of all cells of one kind, as squares of size 1.
std::string path(picture& x, cell kind) {
  std::string d;
  for (index_t i = 0; i < x.queries; ++i)
    for (index_t j = 0, end = 0; j < x.keys; j = end + 1) {
      for (end = j; end < x.keys && x.at(i, end) == kind;) ++end;
      if (end == j) continue;
      const std::string width = std::to_string(end - j);
      d += "M" + std::to_string(j) + " " + std::to_string(i) + "h" + width + "v1h-" + width + "z";
    }
  return d;
}
std::string lines(index_t queries, index_t keys, index_t step) {
  std::string d;
  for (index_t i = 0; i <= queries; i += step) d += "M0 " + std::to_string(i) + "h" + std::to_string(keys);
  for (index_t j = 0; j <= keys; j += step) d += "M" + std::to_string(j) + " 0v" + std::to_string(queries);
  return d;
}

void draw(const std::string& folder, const std::string& name, const heed::mask& mask, routine run = routine::ranges,
          const heed::mask& ranges = {}, const heed::alignment& align = heed::bottom_right, index_t queries = 12,
          index_t keys = 12) {
  constexpr index_t size = 14, left = 26, top = 26;
  picture x = classify(mask, ranges, align, run, queries, keys);
  std::ofstream svg(folder + "/" + name + ".svg");
  const index_t width = left + size * keys + 6, height = top + size * queries + 6;
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height
      << "\" viewBox=\"0 0 " << width << " " << height << "\">\n<title>" << name << "</title>\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
      << "<g font-family=\"sans-serif\" font-size=\"9\" fill=\"#57606a\">\n";
  for (index_t j = 0; j < keys; j += tile)
    svg << "<text x=\"" << left + j * size + 4 << "\" y=\"22\">" << j << "</text>\n";
  for (index_t i = 0; i < queries; i += std::min(tile, queries))
    svg << "<text x=\"16\" y=\"" << top + i * size + 10 << "\">" << i << "</text>\n";
  svg << "<text x=\"26\" y=\"10\">keys</text>\n<text transform=\"translate(10 " << height - 6
      << ") rotate(-90)\">queries</text>\n</g>\n<g transform=\"translate(" << left << " " << top << ") scale(" << size
      << ")\" fill=\"none\">\n";
  for (const cell kind : {cell::hidden, cell::tested, cell::plain})
    if (const std::string d = path(x, kind); !d.empty())
      svg << "<path fill=\"" << colours[static_cast<std::size_t>(kind)] << "\" d=\"" << d << "\"/>\n";
  svg << "<path stroke=\"#eaeef2\" stroke-width=\".06\" d=\"" << lines(queries, keys, 1) << "\"/>\n"
      << "<path stroke=\"#8c959f\" stroke-width=\".06\" d=\"" << lines(queries, keys, tile) << "M0 " << queries << "h"
      << keys << "M" << keys << " 0v" << queries << "\"/>\n";
  for (index_t i = 0; i < queries; ++i)
    if (const index_t place = x.places[static_cast<std::size_t>(i)]; place >= 0 && place < keys)
      svg << "<circle cx=\"" << place << ".5\" cy=\"" << i << ".5\" r=\".16\" fill=\"#24292f\"/>\n";
  svg << "</g>\n</svg>\n";

  std::printf("%s\n", name.c_str());
  for (index_t i = 0; i < queries; ++i) {
    for (index_t j = 0; j < keys; ++j) std::putchar(".-xX"[static_cast<std::size_t>(x.at(i, j))]);
    std::putchar('\n');
  }
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: draw_masks FOLDER\n", stderr);
    return 1;
  }
  const std::string folder = argv[1];
  const std::vector<std::int32_t> nine{9}, five{5}, two{2}, offsets{0, 5, 8, 12},
      ids{0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2};
  std::array<bool, 144> blocks{};
  for (std::size_t i = 0; i < 12; ++i)
    for (std::size_t j = 0; j < 12; ++j) blocks[i * 12 + j] = j == 0 || i / 4 == j / 4 || i / 4 == j / 4 + 2;
  const heed::mask third = heed::visible_if([](const heed::position& at) { return (at.place - at.key) % 3 == 0; });

  draw(folder, "causal", heed::causal());
  draw(folder, "window", heed::window(3));
  draw(folder, "window_both_sides", heed::window(2, 2));
  draw(folder, "window_keep_first", heed::window(3, 0, 2));
  draw(folder, "key_lengths", heed::key_lengths(nine));
  draw(folder, "packed", heed::packed(offsets, offsets));
  draw(folder, "packed_causal", heed::packed(offsets, offsets) & heed::causal());
  draw(folder, "prefix_lm", heed::prefix_lm(five));
  draw(folder, "segments", heed::segments(ids, ids), routine::pairs);
  draw(folder, "keep", heed::keep({blocks.data(), {1, 1, 12, 12}, {0, 0, 12, 1}}), routine::pairs);
  draw(folder, "visible_if", third, routine::always);
  draw(folder, "causal_and_visible_if", heed::causal() & third, routine::always, heed::causal());
  draw(folder, "causal_window_lengths", heed::causal() & heed::window(4) & heed::key_lengths(nine));
  draw(folder, "bottom_right", heed::causal(), routine::ranges, {}, heed::bottom_right, 3, 8);
  draw(folder, "top_left", heed::causal(), routine::ranges, {}, heed::top_left, 3, 8);
  draw(folder, "first_place", heed::causal(), routine::ranges, {}, heed::first_place(two), 3, 8);
}
