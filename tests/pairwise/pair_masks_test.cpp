// SPDX-License-Identifier: BSD-3-Clause

// Segments, keep and visible_if over the steps of a tile, beside the definition pair by pair: what they say of a vector
// and a step, what they hide, and that runs of steps hold every visible pair.

#include "heed/pairwise/pair_masks.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace pairwise = heed::pairwise;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// Tensors of 2 batch entries, 3 heads, 40 queries, 120 keys; a sequence of entry 1 from query 4 and key 9 on.
constexpr index_t batches = 2, heads = 3, queries = 40, keys = 120;
constexpr heed::detail::sequence origin{1, 1, 4, 9};

struct tensors {
  explicit tensors(std::uint32_t seed, int documents, double share, index_t block) {
    heed_test::random_numbers random(seed);
    for (index_t i = 0; i < batches * queries; ++i)
      query_ids.push_back(id(documents == 1 ? 0 : (i / block) % documents));
    for (index_t j = 0; j < batches * keys; ++j) key_ids.push_back(id(documents == 1 ? 0 : (j / block) % documents));
    visible = std::make_unique<bool[]>(at(batches * heads * queries * keys));
    for (index_t i = 0; i < batches * heads * queries * keys; ++i)
      visible[at(i)] = share >= 1 || (i % keys / block + i / keys / block) % 3 != 0 || random.uniform() < share;
  }
  static std::int32_t id(index_t document) {  // differ in the low half, in the high half, in the sign
    constexpr std::int32_t ids[] = {5, 6, 5 + 0x10000, -5, std::numeric_limits<std::int32_t>::min()};
    return ids[document % 5];
  }
  std::vector<std::int32_t> query_ids, key_ids;
  std::unique_ptr<bool[]> visible;
};
bool sees_odd(const heed::position& p) { return (p.key + p.query + p.head + p.place) % 3 != 0 && p.batch == 1; }

enum : unsigned { segments = 1, keep = 2, user = 4 };

struct masks {
  masks(const tensors& t, unsigned which, int arrangement) {
    if ((which & segments) != 0)
      mask = mask & heed::segments({t.query_ids.data(), {batches, queries}, {queries, 1}},
                                   {t.key_ids.data(), {batches, keys}, {keys, 1}});
    const bool* const v = t.visible.get();
    constexpr index_t pairs = queries * keys;
    const heed::tensor_view<const bool, 4> views[] = {
        {v, {batches, heads, queries, keys}, {heads * pairs, pairs, keys, 1}},
        {v, {1, 1, queries, keys}, {0, 0, keys, 1}},
        {v, {batches, 1, 1, keys}, {keys, 0, 0, 1}},
        {v, {1, heads, queries, 1}, {0, queries, 1, 0}},
        {v, {1, heads, queries, keys}, {0, pairs, 1, queries}},
        {v + pairs - 1, {1, 1, queries, keys}, {0, 0, -keys, -1}},
        {v + queries, {1, 1, queries, keys}, {0, 0, -1, 1}}};
    if ((which & keep) != 0) mask = mask & heed::keep(views[arrangement]);
    if ((which & user) != 0) mask = mask & heed::visible_if(sees_odd);
  }
  heed::mask mask;
};

struct lane {
  index_t head, query, place;
};

bool sees(const heed::detail::mask_parts& m, const lane& l, index_t key) {
  const index_t i = origin.first_query + l.query, j = origin.first_key + key;
  if (m.has(m.segments) && m.query_ids.data()[origin.batch * m.query_ids.stride(0) + i * m.query_ids.stride(1)] !=
                               m.key_ids.data()[origin.batch * m.key_ids.stride(0) + j * m.key_ids.stride(1)])
    return false;
  if (m.has(m.keep)) {
    const auto& x = m.keep_tensor;
    const auto part = [&](int axis, index_t n) { return x.extent(axis) == 1 ? 0 : n * x.stride(axis); };
    if (!x.data()[part(0, origin.batch) + part(1, l.head) + part(2, i) + part(3, j)]) return false;
  }
  const auto n = [](index_t x) { return static_cast<std::int32_t>(x); };
  return !m.has(m.visible_if) || sees_odd({n(origin.number), n(l.head), n(l.query), n(key), n(l.place)});
}

// One tile of keys [first, first + count) for `rows` lanes, in steps as the softmax driver takes them
template <class T> void check_tile(const heed::mask& mask, index_t rows, index_t first, index_t count) {
  constexpr index_t w = heed::simd::width<T>, step = w < 8 ? 8 : w;
  const auto& m = heed::detail::parts(mask);
  std::vector<lane> lanes;
  pairwise::row_tile tile;
  tile.take(0, heads, 0, rows);
  for (index_t r = 0; r < rows; ++r) lanes.push_back({r % heads, r / heads, 7 + r / heads});
  pairwise::pair_masks<T> pairs;
  pairwise::score_mods<T> mods;
  pairs.begin(m, origin, tile);
  mods.begin({}, origin, tile, 7, true, rows, pairwise::lane_per_row{});
  CHECK(pairwise::pair_masks<T>::any_in(m) == (m.present != 0));
  const index_t vectors = (rows + w - 1) / w;
  pairwise::key_runs runs;
  const auto classify = [&](index_t a, index_t b, index_t number) {
    return [&pairs, keys_of = pairs.step(a, b, number)](index_t vector) { return pairs.classify(keys_of, vector); };
  };
  pairwise::make_runs(first, count, vectors, step, classify, runs);

  int wrong_sees = 0, wrong_hides_all = 0, wrong_coverage = 0, wrong_hidden = 0, left_out = 0;
  std::vector<T> memory(at(step * w) + 64 / sizeof(T));
  T* const scores = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64 / sizeof(T);
  for (index_t a = 0; a < count; a += step)
    for (index_t x = 0; x < vectors; ++x) {
      const index_t n = std::min(step, count - a), end = std::min(rows, (x + 1) * w);
      index_t visible = 0, but_for_user = 0;
      for (index_t l = x * w; l < end; ++l)
        for (index_t j = a; j < a + n; ++j) {
          heed::detail::mask_parts other = m;
          other.present &= ~static_cast<unsigned>(m.visible_if);
          const bool seen = sees(other, lanes[at(l)], first + j);
          wrong_sees += pairs.sees(l, first + j) != seen;
          but_for_user += seen, visible += sees(m, lanes[at(l)], first + j);
        }
      const pairwise::coverage said = runs.step_coverage[a / step][x];
      const bool all_hidden = pairs.hides_all(pairs.step(first + a, first + a + n, 0), rows);
      wrong_hides_all += all_hidden && visible > 0;
      const index_t area = (end - x * w) * n;
      // empty and full are promises; where keep alone or ids alone decide they are exact
      wrong_coverage += (said == pairwise::coverage::empty && visible > 0) ||
                        (said == pairwise::coverage::full && visible < area);
      if (m.has(m.keep) && !m.has(m.segments))
        wrong_coverage += said == pairwise::coverage::partial && but_for_user == 0;
      if (m.present == m.keep) wrong_coverage += said == pairwise::coverage::partial && visible == area;
      bool in_run = false;
      for (index_t r = 0; r < runs.count; ++r)
        in_run = in_run || (runs.run[r].first <= a && a < runs.run[r].first + runs.run[r].keys &&
                            runs.run[r].from <= x && x < runs.run[r].to);
      left_out += visible > 0 && !in_run;
      if (said != pairwise::coverage::partial) continue;
      std::fill_n(scores, step * w, T(2));
      const pairwise::score_region<T> region{scores, w, first + a, n, x, x + 1};
      pairs.hide(region, a / step), pairs.hide_by_user(region, mods);
      for (index_t l = x * w; l < end; ++l)
        for (index_t j = 0; j < n; ++j)
          wrong_hidden += scores[j * w + l - x * w] !=
                          (sees(m, lanes[at(l)], first + a + j) ? T(2) : -std::numeric_limits<T>::infinity());
      for (index_t j = n; j < step; ++j)
        for (index_t i = 0; i < w; ++i) wrong_hidden += scores[j * w + i] != T(2);  // behind the region
    }
  INFO("masks " << m.present << ", " << rows << " rows, " << count << " keys from " << first);
  CHECK(wrong_sees == 0);
  CHECK(wrong_hides_all == 0);
  CHECK(wrong_coverage == 0);
  CHECK(wrong_hidden == 0);
  CHECK(left_out == 0);
}

template <class T> void check_all() {
  constexpr index_t w = heed::simd::width<T>;
  constexpr index_t most = std::min<index_t>(pairwise::lane_capacity, pairwise::vector_capacity * w);
  for (const int documents : {1, 2, 5})
    for (const double share : {0.0, 0.6, 1.0})
      for (const index_t block : {1, 4, 16, 33}) {
        const tensors t(static_cast<std::uint32_t>(documents), documents, share, block);
        for (unsigned which = 0; which < 8; ++which)
          for (int arrangement = 0; arrangement < ((which & keep) != 0 ? 7 : 1); ++arrangement) {
            const masks mask(t, which, arrangement);
            for (const index_t rows : {index_t{1}, w - 1, w, w + 1, most})
              for (const index_t first : {0, 5, 48})
                for (const index_t count : {1, 7, 16, 39, 63}) check_tile<T>(mask.mask, rows, first, count);
          }
      }
}

}  // namespace

TEST_CASE("pair masks, float", "[pair_masks]") { check_all<float>(); }
TEST_CASE("pair masks, double", "[pair_masks]") { check_all<double>(); }
