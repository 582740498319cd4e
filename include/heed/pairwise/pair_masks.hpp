// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks that are asked pair by pair: segments, keep, visible_if. Segments and keep say of a step of keys whether a
// vector of lanes sees none or all of it, so that tiles without a visible pair are never visited and visible ones not
// tested; what a user's predicate says is known only by calling it.

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "heed/core/mask.hpp"
#include "heed/pairwise/score_mods.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class pair_mask {
 public:
  using kind = heed::detail::mask_parts;
  static constexpr index_t w = simd::width<T>;

  static bool asked_by(const kind& mask) {
    return (mask.present & (kind::segments | kind::keep | kind::visible_if)) != 0;
  }

  // Before the first set() of a tile of lanes
  void begin(const kind& mask, const sequence_origin& s) {
    mask_ = &mask;
    segments_ = mask.has(kind::segments), keep_ = mask.has(kind::keep), user_ = mask.has(kind::visible_if);
    if (segments_) {
      const auto &q = mask.query_ids, &k = mask.key_ids;
      query_ids_ = q.data() + s.batch * q.stride(0) + s.first_query * q.stride(1);
      id_stride_ = k.extent(1) > 1 ? k.stride(1) : 0;
      if (!k.empty()) key_ids_ = k.data() + s.batch * k.stride(0) + s.first_key * id_stride_;
    }
    if (keep_) kept_.begin(mask.keep_tensor, s);
  }
  bool any() const { return segments_ || keep_ || user_; }

  void set(index_t lane, index_t head, index_t query) {
    const auto l = static_cast<std::size_t>(lane);
    if (segments_) id_[l] = query_ids_[query * mask_->query_ids.stride(1)];
    if (keep_) row_[l] = kept_.row(head, query);
  }
  // What is behind the last lane, up to whole vectors, repeats it.
  void complete(index_t lanes) {
    const auto last = static_cast<std::size_t>(lanes - 1);
    for (auto l = static_cast<std::size_t>(lanes); l % static_cast<std::size_t>(w) != 0; ++l) {
      if (segments_) id_[l] = id_[last];
      if (keep_) row_[l] = row_[last];
    }
    for (index_t x = 0; segments_ && x * w < lanes; ++x) {
      const std::int32_t* const ids = &id_[static_cast<std::size_t>(x * w)];
      vector_ids_[static_cast<std::size_t>(x)] = {*std::min_element(ids, ids + w), *std::max_element(ids, ids + w)};
    }
  }

  // The keys that of() and overlook() speak about: one step of a tile after the other, from the tile's first key on.
  void begin_tile(index_t first) { tile_ = end_ = first, slot_ = -1; }
  void look(index_t first, index_t end) {
    if (first == tile_) step_ = end - first;
    first_ = first, end_ = end, ++slot_;
    if (!segments_) return;
    std::int32_t least = std::numeric_limits<std::int32_t>::max(), most = std::numeric_limits<std::int32_t>::min();
    const std::int32_t* id = key_ids_ + first * id_stride_;
    for (index_t j = first; j < end; ++j, id += id_stride_) least = std::min(least, *id), most = std::max(most, *id);
    step_ids_ = {least, most};
  }
  sight of(index_t vector) {
    sight seen = user_ ? sight::some : sight::all;
    if (segments_) {
      const ids_range lanes = vector_ids_[static_cast<std::size_t>(vector)];
      if (step_ids_.most < lanes.least || step_ids_.least > lanes.most) return sight::none;
      if (step_ids_.least != step_ids_.most || lanes.least != lanes.most) seen = sight::some;
    }
    if (keep_) {
      const sight kept = read_kept(vector);
      if (kept != sight::all) seen = kept;
    }
    return seen;
  }

  // Whether none of the first `lanes` lanes sees any of the keys looked at, whatever the user's predicate says
  bool overlook(index_t lanes) const {
    for (std::size_t l = 0; l < static_cast<std::size_t>(lanes); ++l) {
      if (segments_ && (id_[l] < step_ids_.least || id_[l] > step_ids_.most)) continue;
      bool any = !keep_;
      for (index_t j = first_; !any && j < end_; ++j) any = row_[l][j * kept_.key];
      if (any) return false;
    }
    return true;
  }

  // One pair, but for the user's predicate
  bool sees(index_t lane, index_t key) const {
    const auto l = static_cast<std::size_t>(lane);
    return (!segments_ || key_ids_[key * id_stride_] == id_[l]) && (!keep_ || row_[l][key * kept_.key]);
  }

  // -inf for the hidden pairs of a step that of() has seen, of one vector of lanes, but for the user's predicate
  void hide(const score_region<T>& r) const {
    if (segments_) hide_segments(r);
    if (keep_) hide_dropped(r);
  }
  // -inf where the user's predicate is false
  void hide_by_user(const score_region<T>& r, const score_steps<T>& lanes) const {
    if (user_) lanes.call(r, [&](const auto& tile) { heed::detail::hide(*mask_, tile); });
  }

 private:
  using bits = simd::integer<T>;  // bit y of a lane: it keeps key y of the step
  static constexpr index_t most_bits = 1024;
  struct ids_range {
    std::int32_t least, most;
  };

  // Reads what the lanes of a vector keep of the step, and says whether that is none, some or all.
  HEED_NOINLINE sight read_kept(index_t vector) {
    const index_t keys = end_ - first_;
    bits* const out = step_bits(slot_, vector);
    const bits full = static_cast<bits>((std::uint32_t{1} << keys) - 1);
    bits any = 0, all = full;
    for (index_t i = 0; i < w; ++i) {
      const bool* const row = row_[static_cast<std::size_t>(vector * w + i)] + first_ * kept_.key;
      bits kept = 0;
      index_t j = 0;
      if (kept_.key == 1) {
        if (first_ % 64 < keys) simd::prefetch(row, 256);
        for (; j + 8 <= keys; j += 8) {  // eight bytes of 0 or 1 to eight bits
          std::uint64_t eight;
          std::memcpy(&eight, row + j, 8);
          if constexpr (std::endian::native == std::endian::big) break;
          kept |= static_cast<bits>((eight * 0x0102040810204080u) >> 56) << j;
        }
      }
      for (; j < keys; ++j) kept |= static_cast<bits>(row[j * kept_.key] ? 1 : 0) << j;
      out[i] = kept;
      any |= kept, all &= kept;
    }
    return all == full ? sight::all : any != 0 ? sight::some : sight::none;
  }
  HEED_INLINE bits* step_bits(index_t step, index_t vector) {
    HEED_ASSERT((step * most_vectors + vector + 1) * w <= most_bits);
    return &kept_bits_[static_cast<std::size_t>((step * most_vectors + vector) * w)];
  }
  HEED_INLINE const bits* step_bits(index_t step, index_t vector) const {
    return &kept_bits_[static_cast<std::size_t>((step * most_vectors + vector) * w)];
  }

  // Ids are compared in two halves, each of which a float holds exactly.
  HEED_NOINLINE void hide_segments(const score_region<T>& r) const {
    using batch = simd::batch<T>;
    T high[std::size_t{w}], low[std::size_t{w}];
    for (index_t i = 0; i < w; ++i) {
      const std::int32_t id = id_[static_cast<std::size_t>(r.from * w + i)];
      high[i] = static_cast<T>(id >> 16), low[i] = static_cast<T>(id & 0xffff);
    }
    const batch lanes_high = simd::load(high), lanes_low = simd::load(low);
    const batch hidden(-std::numeric_limits<T>::infinity());
    for (index_t j = 0; j < r.keys; ++j) {
      const std::int32_t id = key_ids_[(r.first + j) * id_stride_];
      const auto same =
          (lanes_high == batch(static_cast<T>(id >> 16))) & (lanes_low == batch(static_cast<T>(id & 0xffff)));
      T* const s = r.scores + j * r.row;
      simd::store(s, simd::select<T>(same, simd::load(s), hidden));
    }
  }

  HEED_NOINLINE void hide_dropped(const score_region<T>& r) const {
    using batch = simd::batch<T>;
    const batch hidden(-std::numeric_limits<T>::infinity());
    const bits* const kept = step_bits((r.first - tile_) / step_, r.from);
    for (index_t j = 0; j < r.keys; ++j) {
      T* const s = r.scores + j * r.row;
      simd::store(s, simd::select_by_bit<T>(kept, j, simd::load(s), hidden));
    }
  }

  const kind* mask_ = nullptr;
  bool segments_ = false, keep_ = false, user_ = false;
  const std::int32_t *query_ids_ = nullptr, *key_ids_ = nullptr;
  index_t id_stride_ = 0, tile_ = 0, first_ = 0, end_ = 0, step_ = 1, slot_ = -1;
  pair_tensor<bool> kept_;
  ids_range step_ids_{};
  std::array<std::int32_t, most_lanes> id_;
  std::array<ids_range, most_vectors> vector_ids_;
  std::array<const bool*, most_lanes> row_;
  std::array<bits, most_bits> kept_bits_;
};

// Intervals and pairs together
template <class T> class joint_sight {
 public:
  // Of a tile of keys that begins at `first`
  joint_sight(const positions& p, pair_mask<T>& pairs, index_t first) : intervals_(p), pairs_(pairs) {
    pairs.begin_tile(first);
  }
  void look(index_t a, index_t b) { intervals_.look(a, b), pairs_.look(a, b); }
  sight of(index_t vector) {
    const sight seen = intervals_.of(vector);
    if (seen == sight::none) return seen;
    const sight kept = pairs_.of(vector);
    return kept == sight::all ? seen : kept;
  }

 private:
  interval_sight intervals_;
  pair_mask<T>& pairs_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
