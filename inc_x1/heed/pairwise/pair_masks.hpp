// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks that are asked pair by pair: segments, keep, visible_if. Segments and keep say of a step of keys whether a
// vector of lanes sees none or all of it, so that tiles without a visible pair are never visited and visible ones not
// tested; what a user's predicate says is known only by calling it.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "heed/core/mask.hpp"
#include "heed/pairwise/score_mods.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class pair_masks {
  struct ids_range {
    std::int32_t least, most;
  };

 public:
  using kind = heed::detail::mask_parts;
  static constexpr index_t w = simd::width<T>;

  // Keys [first, end), the number'th step of a tile
  struct key_step {
    index_t first, end, number;
    ids_range ids;
  };

  static bool any_in(const kind& mask) {
    return (mask.present & (kind::segments | kind::keep | kind::visible_if)) != 0;
  }

  // For a tile of rows, one in each lane; what is behind the last lane, up to whole vectors, repeats it.
  void begin(const kind& mask, const heed::detail::sequence& s, const row_tile& rows) {
    mask_ = &mask;
    segments_ = mask.has(kind::segments), keep_ = mask.has(kind::keep), user_ = mask.has(kind::visible_if);
    if (keep_) kept_.begin(mask.keep_tensor, s);
    for (index_t l = 0; keep_ && l < rows.padded(w); ++l) row_[l] = kept_.row(rows.at(l).head, rows.at(l).query);
    if (!segments_) return;
    const auto &q = mask.query_ids, &k = mask.key_ids;
    id_stride_ = k.extent(1) > 1 ? k.stride(1) : 0;
    if (!k.empty()) key_ids_ = k.data() + s.batch * k.stride(0) + s.first_key * id_stride_;
    const std::int32_t* const ids = q.data() + s.batch * q.stride(0) + s.first_query * q.stride(1);
    for (index_t l = 0; l < rows.padded(w); ++l) id_[l] = ids[rows.at(l).query * q.stride(1)];
    for (index_t x = 0; x * w < rows.count; ++x) {
      const auto [least, most] = std::minmax_element(&id_[x * w], &id_[x * w] + w);
      vector_ids_[x] = {*least, *most};
    }
  }

  // The steps of a tile all have as many keys, but for the last.
  key_step step(index_t first, index_t end, index_t number) const {
    ids_range ids{std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()};
    const std::int32_t* id = key_ids_ + first * id_stride_;
    for (index_t j = first; segments_ && j < end; ++j, id += id_stride_)
      ids = {std::min(ids.least, *id), std::max(ids.most, *id)};
    return {first, end, number, ids};
  }

  // Says what a vector of lanes sees of a step, and notes what hide() will need.
  coverage classify(const key_step& keys, index_t vector) {
    coverage seen = user_ ? coverage::partial : coverage::full;
    if (segments_) {
      const ids_range lanes = vector_ids_[vector];
      if (keys.ids.most < lanes.least || keys.ids.least > lanes.most) return coverage::empty;
      if (keys.ids.least != keys.ids.most || lanes.least != lanes.most) seen = coverage::partial;
    }
    if (keep_)
      if (const coverage kept = read_kept(keys, vector); kept != coverage::full) seen = kept;
    return seen;
  }

  // Whether none of the first `lanes` lanes sees any of the keys, whatever the user's predicate says
  bool hides_all(const key_step& keys, index_t lanes) const {
    for (index_t l = 0; l < lanes; ++l) {
      if (segments_ && (id_[l] < keys.ids.least || id_[l] > keys.ids.most)) continue;
      bool any = !keep_;
      for (index_t j = keys.first; !any && j < keys.end; ++j) any = row_[l][j * kept_.key];
      if (any) return false;
    }
    return true;
  }

  // Whether one pair is visible, but for the user's predicate
  bool sees(index_t lane, index_t key) const {
    return (!segments_ || key_ids_[key * id_stride_] == id_[lane]) && (!keep_ || row_[lane][key * kept_.key]);
  }

  // Sets scores of one vector of lanes to -inf where a step that was classified hides them, but for the predicate.
  void hide(const score_region<T>& r, index_t step) const {
    if (segments_) hide_segments(r);
    if (keep_) hide_dropped(r, step);
  }
  // Sets scores to -inf where the user's predicate is false.
  void hide_by_user(const score_region<T>& r, const score_mods<T>& lanes) const {
    if (user_) lanes.call(r, [&](const auto& tile) { heed::detail::hide(*mask_, tile); });
  }

 private:
  using bits = simd::integer<T>;  // bit y of a lane: it keeps key y of the step
  static constexpr index_t most_bits = 1024;

  // Reads what the lanes of a vector keep of a step.
  HEED_NOINLINE coverage read_kept(const key_step& step, index_t vector) {
    const index_t keys = step.end - step.first;
    bits* const out = &kept_bits_[bits_at(step.number, vector)];
    const bits full = static_cast<bits>((std::uint32_t{1} << keys) - 1);
    bits any = 0, all = full;
    for (index_t i = 0; i < w; ++i) {
      const bool* const row = row_[vector * w + i] + step.first * kept_.key;
      bits kept = 0;
      index_t j = 0;
      if (kept_.key == 1) {
        if (step.first % 64 < keys) simd::prefetch(row, 256);
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
    return all == full ? coverage::full : any != 0 ? coverage::partial : coverage::empty;
  }
  static index_t bits_at(index_t step, index_t vector) {
    HEED_ASSERT((step * vector_capacity + vector + 1) * w <= most_bits);
    return (step * vector_capacity + vector) * w;
  }

  // Ids are compared in two halves, each of which a float holds exactly.
  HEED_NOINLINE void hide_segments(const score_region<T>& r) const {
    using batch = simd::batch<T>;
    T high[std::size_t{w}], low[std::size_t{w}];
    for (index_t i = 0; i < w; ++i) {
      const std::int32_t id = id_[r.from * w + i];
      high[i] = static_cast<T>(id >> 16), low[i] = static_cast<T>(id & 0xffff);
    }
    const batch lanes_high = simd::load(high), lanes_low = simd::load(low);
    const batch hidden(-std::numeric_limits<T>::infinity());
    for (index_t j = 0; j < r.keys; ++j) {
      const std::int32_t id = key_ids_[(r.first + j) * id_stride_];
      const auto same =
          (lanes_high == batch(static_cast<T>(id >> 16))) & (lanes_low == batch(static_cast<T>(id & 0xffff)));
      T* const s = r.scores + j * r.stride;
      simd::store(s, simd::select<T>(same, simd::load(s), hidden));
    }
  }

  HEED_NOINLINE void hide_dropped(const score_region<T>& r, index_t step) const {
    using batch = simd::batch<T>;
    const batch hidden(-std::numeric_limits<T>::infinity());
    const bits* const kept = &kept_bits_[bits_at(step, r.from)];
    for (index_t j = 0; j < r.keys; ++j) {
      T* const s = r.scores + j * r.stride;
      simd::store(s, simd::select_by_bit<T>(kept, j, simd::load(s), hidden));
    }
  }

  const kind* mask_ = nullptr;
  bool segments_ = false, keep_ = false, user_ = false;
  const std::int32_t* key_ids_ = nullptr;
  index_t id_stride_ = 0;
  pair_tensor<bool> kept_;
  tile::lane_array<std::int32_t, lane_capacity> id_;
  tile::lane_array<ids_range, vector_capacity> vector_ids_;
  tile::lane_array<const bool*, lane_capacity> row_;
  tile::lane_array<bits, most_bits> kept_bits_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
