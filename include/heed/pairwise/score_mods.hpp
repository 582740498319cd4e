// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What happens to scores between the product k . q and the mask, in this order:
//
//   scale (in the packed queries)  ->  c tanh(s / c)  ->  - slope |place - key|  ->  + bias  ->  f(s, position)
//
// Scores leave in units of log 2. Without a user function every step works in that unit already; with one, the steps
// before it work in natural units. A bias of -inf hides its key, whatever the score was.

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include "heed/core/per_head.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/view.hpp"
#include "heed/pairwise/row_tile.hpp"
#include "heed/simd/math.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// x * unit as T, kept finite where x is: a factor that overflows would turn a product with 0 into NaN
template <class T> T finite_factor(double x, double unit = 1) {
  constexpr double most = std::numeric_limits<T>::max();
  return static_cast<T>(std::isinf(x) || std::isnan(x) ? x : std::clamp(x * unit, -most, most));
}

// The score mods of one call, from the options that softmax and local-linear share.
template <class T> struct score_mod_rules {
  T query_factor = 0;  // scale and units, for the packed queries
  T cap = 0;           // 0: no soft-cap; else what tanh is multiplied with
  T unit = 0;          // of scores in the mods: log2(e), or 1 where a user function follows
  heed::detail::per_head_view slopes = {};
  tensor_view<const T, 4> bias = {};
  const heed::detail::score_parts<T>* function = nullptr;

  HEED_INLINE bool has_bias() const { return bias.data() != nullptr; }
  HEED_INLINE bool has_function() const { return function->map_value != nullptr; }
  HEED_INLINE bool has_cap() const { return !heed::detail::equals(cap, T(0)); }
  HEED_INLINE bool any() const { return has_cap() || slopes.set() || has_bias() || has_function(); }
};

template <class T, class Options> score_mod_rules<T> make_score_mod_rules(const Options& opt, index_t head_dim) {
  score_mod_rules<T> rules;
  rules.slopes = opt.alibi_slopes, rules.bias = opt.bias, rules.function = &heed::detail::parts(opt.score);
  const double unit = rules.has_function() ? 1 : std::numbers::log2e;
  const double scale = opt.scale ? *opt.scale : 1 / std::sqrt(static_cast<double>(head_dim));
  // a cap that no score of type T comes near is none, so that T holds scale / cap; one that T does not hold is its
  // smallest
  constexpr double least = double{std::numeric_limits<T>::min()}, most = 1e-8 * double{std::numeric_limits<T>::max()};
  const bool reached = !(std::abs(scale) > 0 && std::abs(scale) < least * opt.softcap);
  const bool capped = opt.softcap > 0 && opt.softcap < most && reached;
  rules.unit = static_cast<T>(unit);
  rules.cap = capped ? finite_factor<T>(std::max(opt.softcap * unit, least)) : T(0);
  // tanh is 1 long before the bound of a capped factor, which leaves room for a dot product
  constexpr double room = 1e-10 * double{std::numeric_limits<T>::max()};
  rules.query_factor = capped ? static_cast<T>(std::isnan(scale) ? scale : std::clamp(scale / opt.softcap, -room, room))
                              : finite_factor<T>(scale, unit);
  return rules;
}

// A tensor with one entry per pair, whose axes of extent 1 hold for every index, from a sequence's first pair on
template <class Element> struct pair_tensor {
  const Element* first = nullptr;
  index_t head = 0, query = 0, key = 0;  // strides

  HEED_INLINE void begin(const tensor_view<const Element, 4>& x, const heed::detail::sequence& s) {
    if (x.empty()) return static_cast<void>(*this = {});  // no pair will be asked for
    const auto stride = [&](int axis) { return x.extent(axis) == 1 ? 0 : x.stride(axis); };
    head = stride(1), query = stride(2), key = stride(3);
    first = x.data() + s.batch * stride(0) + s.first_query * query + s.first_key * key;
  }
  HEED_INLINE const Element* row(index_t h, index_t i) const { return first + h * head + i * query; }
};

// Scores of keys [first, first + keys) for vectors [from, to) of lanes, from `scores` on, in rows `stride` apart. A row
// holds key_step keys: 1 where lanes are queries; more where lane i is row i % (width / key_step) at key
// i / (width / key_step) of the row's keys.
template <class T> struct score_region {
  T* scores;
  index_t stride, first, keys, from, to, key_step = 1;

  HEED_INLINE index_t rows() const { return (keys + key_step - 1) / key_step; }
};

// What backward multiplies with where a score went through a function, [key][lane] as the scores of a tile: the slope
// of the soft-cap, 1 - tanh^2, and that of the user's function, df/ds. null: not wanted
template <class T> struct score_slopes {
  const T* scores = nullptr;  // of the tile, from its first on
  T *cap = nullptr, *function = nullptr;
};

// The row of a tile that a lane stands for, and at which key of a row of scores
struct lane_place {
  index_t row, key_offset;
};
// Where lanes are queries
struct lane_per_row {
  HEED_INLINE lane_place operator()(index_t lane) const { return {lane, 0}; }
};

// What changes the scores of one tile of rows.
template <class T> class score_mods {
 public:
  using batch = simd::batch<T>;
  static constexpr index_t w = simd::width<T>;

  // Row r is at place first_place + its query; place_of(lane), for `lanes` lanes, says which row a lane stands for.
  // What is behind the last lane, up to whole vectors, repeats it. called: functions of the user's need positions.
  template <class PlaceOf>
  void begin(const score_mod_rules<T>& rules, const heed::detail::sequence& s, const row_tile& rows,
             index_t first_place, bool called, index_t lanes, PlaceOf place_of) {
    called_ = called, distances_ = rules.slopes.set(), biased_ = rules.has_bias();
    number_ = static_cast<std::int32_t>(s.number);
    bias_ = {};
    if (biased_) bias_.begin(rules.bias, s);
    const index_t end = (lanes + w - 1) / w * w;
    for (index_t l = 0; l < end; ++l) {
      const lane_place at = place_of(std::min(l, lanes - 1));
      set(rules, l, rows.row[at.row], first_place + rows.row[at.row].query, at.key_offset);
    }
    for (index_t x = 0; bias_.first != nullptr && x * w < lanes; ++x) shape_[x] = shape_of(x * w, lanes);
  }

  void apply(const score_mod_rules<T>& rules, const score_region<T>& r, const score_slopes<T>& slopes = {}) const {
    if (rules.has_cap()) soft_cap(rules.cap, r, slopes);
    if (distances_) add_distance(r);
    for (index_t x = r.from; biased_ && x < r.to; ++x) add_bias(rules.unit, r, x);
    if (!rules.has_function()) return;
    if (slopes.function != nullptr) differentiate(rules, r, slopes);
    call(r, [&](const auto& tile) { heed::detail::map_value(*rules.function, tile); });
    each_vector(r, [](T* s) {
      const batch x = simd::load(s);
      simd::store(s, unless_hidden(x, x * batch(static_cast<T>(std::numbers::log2e))));
    });
  }

  // sum(lane) += sum over keys of x(key, lane) * |place - key|; lanes are queries
  HEED_NOINLINE void sum_distances(const score_region<T>& x, T* sum) const {
    for (index_t v = x.from; v < x.to; ++v) {
      T from[std::size_t{w}];
      for (index_t i = 0; i < w; ++i) from[i] = static_cast<T>(distance_from_[v * w + i] - x.first);
      const batch place = simd::load(from), one(T(1));
      batch key(T(0)), total = simd::load(sum + v * w);
      const T* s = x.scores + (v - x.from) * w;
      for (index_t j = x.keys; j > 0; --j, s += x.stride, key = key + one)
        total = simd::fma(simd::load(s), simd::abs(place - key), total);
      simd::store(sum + v * w, total);
    }
  }

  // f(score_tile) over a region, for functions of the user
  template <class F> void call(const score_region<T>& r, F f) const {
    const index_t l = r.from * w, lanes = r.key_step == 1 ? (r.to - r.from) * w : w / r.key_step;
    f(heed::detail::score_tile<T>{r.scores, r.key_step == 1 ? r.stride : lanes, r.first, r.keys, lanes, number_,
                                  &head_[l], &query_[l], &place_[l]});
  }

 private:
  enum class shape { rows, adjacent, one_row, one_number };  // one_number: for all keys of a lane

  void set(const score_mod_rules<T>& rules, index_t lane, const lane_row& row, index_t place, index_t key_offset) {
    constexpr index_t least = std::numeric_limits<std::int32_t>::min(), most = std::numeric_limits<std::int32_t>::max();
    if (called_) {
      head_[lane] = static_cast<std::int32_t>(row.head);
      query_[lane] = static_cast<std::int32_t>(row.query);
      place_[lane] = static_cast<std::int32_t>(std::clamp(place, least, most));
    }
    if (distances_) {
      distance_from_[lane] = place - key_offset;
      slope_[lane] = finite_factor<T>(-rules.slopes.at(row.head), static_cast<double>(rules.unit));
    }
    if (biased_) row_[lane] = bias_.row(row.head, row.query) + key_offset * bias_.key, offset_[lane] = key_offset;
  }

  // How the bias of a vector of lanes lies in memory
  shape shape_of(index_t first, index_t lanes) const {
    if (bias_.key == 0) return shape::one_number;
    bool same = true, next = first + w <= lanes;
    for (index_t l = first + 1; (same || next) && l < first + w; ++l)
      same = same && row_[l] == row_[l - 1], next = next && row_[l] == row_[l - 1] + 1;
    return same ? shape::one_row : next ? shape::adjacent : shape::rows;
  }

  template <class F> HEED_INLINE static void each_vector(const score_region<T>& r, F f) {
    for (index_t j = 0; j < r.rows(); ++j)
      for (T* s = r.scores + j * r.stride; s < r.scores + j * r.stride + (r.to - r.from) * w; s += w) f(s);
  }

  HEED_NOINLINE static void soft_cap(T cap, const score_region<T>& r, const score_slopes<T>& slopes) {
    const batch c(cap), one(T(1));
    if (slopes.cap == nullptr) return each_vector(r, [c](T* s) { simd::store(s, simd::tanh(simd::load(s)) * c); });
    each_vector(r, [&, c, one](T* s) {
      const batch t = simd::tanh(simd::load(s));
      simd::store(slopes.cap + (s - slopes.scores), one - t * t);
      simd::store(s, t * c);
    });
  }

  HEED_NOINLINE void differentiate(const score_mod_rules<T>& rules, const score_region<T>& r,
                                   const score_slopes<T>& slopes) const {
    score_region<T> to = r;
    to.scores = slopes.function + (r.scores - slopes.scores);
    each_vector(r, [&](T* s) { simd::store(slopes.function + (s - slopes.scores), simd::load(s)); });
    call(to, [&](const auto& tile) { heed::detail::map_derivative(*rules.function, tile); });
  }

  HEED_NOINLINE void add_distance(const score_region<T>& r) const {
    for (index_t x = r.from; x < r.to; ++x) {
      T from[std::size_t{w}];
      for (index_t i = 0; i < w; ++i) from[i] = static_cast<T>(distance_from_[x * w + i] - r.first);
      const batch slope = simd::load(&slope_[x * w]), step(static_cast<T>(r.key_step));
      const batch place = simd::load(from);
      batch key(T(0));
      T* s = r.scores + (x - r.from) * w;
      for (index_t j = r.rows(); j > 0; --j, s += r.stride, key = key + step)
        simd::store(s, simd::fma(slope, simd::abs(place - key), simd::load(s)));
    }
  }

  // A score that underflows in units of log 2 (that of the lowest number as a bias) stays visible; -inf stays hidden.
  HEED_INLINE static batch unless_hidden(batch before, batch score) {
    const batch hidden(-std::numeric_limits<T>::infinity()), lowest(std::numeric_limits<T>::lowest());
    return simd::select<T>(before == hidden, score, simd::max(lowest, score));
  }
  HEED_INLINE static void add(T* s, batch term, batch unit) {
    const batch hidden(-std::numeric_limits<T>::infinity()), score = simd::load(s);
    simd::store(s, simd::select<T>(term == hidden, hidden, unless_hidden(score, simd::fma(term, unit, score))));
  }

  // Terms of ordinary size cannot hide or underflow: a sum will do.
  template <int... Y>
  HEED_INLINE static void add_square(T* s, index_t stride, index_t count, const simd::square<T>& terms, batch unit,
                                     std::integer_sequence<int, Y...>) {
    const batch ordinary(std::numeric_limits<T>::lowest() / 4);
    batch least(T(0));
    ((least = simd::min(terms[Y], least)), ...);  // in this order NaN is passed over
    if (count == w && !simd::any_below(least, ordinary))
      (simd::store(s + Y * stride, simd::fma(terms[Y], unit, simd::load(s + Y * stride))), ...);
    else
      ((Y < count ? add(s + Y * stride, terms[Y], unit) : void()), ...);
  }

  HEED_NOINLINE void add_bias(T unit_of_scores, const score_region<T>& r, index_t x) const {
    const batch unit(unit_of_scores);
    const T* const* rows = &row_[x * w];
    const T* const first = rows[0] + r.first * bias_.key;
    T* s = r.scores + (x - r.from) * w;
    shape lies = shape_[x];
    if (r.key_step != 1 && lies != shape::one_number) lies = shape::rows;
    if (lies == shape::one_number) {
      alignas(64) T numbers[std::size_t{w}];
      for (index_t i = 0; i < w; ++i) numbers[i] = *rows[i];
      for (index_t j = 0; j < r.rows(); ++j) add(s + j * r.stride, simd::load(numbers), unit);
    } else if (lies == shape::one_row) {
      for (index_t j = 0; j < r.keys; ++j) add(s + j * r.stride, batch(first[j * bias_.key]), unit);
    } else if (lies == shape::adjacent) {
      for (index_t j = 0; j < r.keys; ++j) add(s + j * r.stride, simd::load(first + j * bias_.key), unit);
    } else {
      const index_t* const offsets = &offset_[x * w];
      for (index_t j = 0; j < r.rows(); j += w, s += w * r.stride) {
        simd::square<T> terms;
        const index_t count = std::min(w, r.rows() - j), at = j * r.key_step;
        if (bias_.key == 1 && r.key_step == 1) {
          for (index_t i = 0; i < w; ++i) simd::prefetch(rows[i], r.first + at + 64);
          tile::read_square<T>(rows, r.first + at, count, terms);
          add_square(s, r.stride, count, terms, unit, tile::detail::lanes_of_vector<T>{});
          continue;
        }
        const auto there = [&](index_t i, index_t y) { return at + y * r.key_step + offsets[i] < r.keys; };
        for (index_t y = 0; y < count; ++y) {
          alignas(64) T cells[std::size_t{w}];
          for (index_t i = 0; i < w; ++i)
            cells[i] = there(i, y) ? rows[i][(r.first + at + y * r.key_step) * bias_.key] : T(0);
          add(s + y * r.stride, simd::load(cells), unit);
        }
      }
    }
  }

  bool called_ = false, distances_ = false, biased_ = false;
  std::int32_t number_ = 0;
  pair_tensor<T> bias_;
  tile::lane_array<std::int32_t, lane_capacity> head_, query_, place_;
  tile::lane_array<index_t, lane_capacity> offset_, distance_from_;
  tile::lane_array<T, lane_capacity> slope_;
  tile::lane_array<const T*, lane_capacity> row_;
  tile::lane_array<shape, vector_capacity> shape_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
