// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks that are asked pair by pair: segments, keep, visible_if. Segments and keep say of a step of keys whether a
// vector of lanes sees none or all of it, so that tiles without a visible pair are never visited and visible ones not
// tested; what a user's predicate says is known only by calling it.

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>

#include "heed/core/mask.hpp"
#include "heed/tile/scores.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

template <class T> class pair_mask {
 public:
  using kind = heed::detail::mask_parts;
  static constexpr index_t w = simd::width<T>;

  static bool asked_by(const kind& mask) { return (mask.present & (kind::segments | kind::keep | kind::visible_if)) != 0; }

  // Before the first set() of a tile
  void begin(const kind& mask, const sequence_origin& s) {
    mask_ = &mask;
    segments_ = mask.has(kind::segments), keep_ = mask.has(kind::keep), user_ = mask.has(kind::visible_if);
    if (segments_) {
      id_stride_ = mask.key_ids.stride(1);
      key_ids_ = mask.key_ids.data() + s.batch * mask.key_ids.stride(0) + s.first_key * id_stride_;
    }
    if (keep_) keep_stride_ = pair_stride(mask.keep_tensor);
  }
  bool any() const { return segments_ || keep_ || user_; }

  void set(const sequence_origin& s, index_t lane, index_t head, index_t query) {
    const auto l = static_cast<std::size_t>(lane);
    if (segments_) {
      const auto& ids = mask_->query_ids;
      id_[l] = ids.data()[s.batch * ids.stride(0) + (s.first_query + query) * ids.stride(1)];
    }
    if (keep_) row_[l] = pair_row(mask_->keep_tensor, s, head, query);
  }
  void complete(index_t lanes) {
    lanes_ = lanes;
    const auto last = static_cast<std::size_t>(lanes - 1);
    for (auto l = static_cast<std::size_t>(lanes); l % static_cast<std::size_t>(w) != 0; ++l)
      id_[l] = id_[last], row_[l] = row_[last];
    if (!segments_) return;
    for (index_t x = 0; x * w < lanes; ++x) {
      const std::int32_t* const ids = &id_[static_cast<std::size_t>(x * w)];
      vector_ids_[static_cast<std::size_t>(x)] = {*std::min_element(ids, ids + w), *std::max_element(ids, ids + w)};
    }
  }

  // The keys that of() and overlooks() speak about
  void look(index_t first, index_t end) {
    first_ = first, end_ = end;
    if (!segments_) return;
    std::int32_t least = std::numeric_limits<std::int32_t>::max(), most = std::numeric_limits<std::int32_t>::min();
    const std::int32_t* id = key_ids_ + first * id_stride_;
    for (index_t j = first; j < end; ++j, id += id_stride_) least = std::min(least, *id), most = std::max(most, *id);
    step_ids_ = {least, most};
  }
  sight of(index_t vector) const {
    sight seen = user_ ? sight::some : sight::all;
    if (segments_) {
      const ids_range lanes = vector_ids_[static_cast<std::size_t>(vector)];
      if (step_ids_.most < lanes.least || step_ids_.least > lanes.most) return sight::none;
      if (step_ids_.least != step_ids_.most || lanes.least != lanes.most) seen = sight::some;
    }
    if (keep_) {
      const sight kept = kept_of(vector);
      if (kept != sight::all) seen = kept;
    }
    return seen;
  }

  // One pair, but for the user's predicate
  bool sees(index_t lane, index_t key) const {
    const auto l = static_cast<std::size_t>(lane);
    return (!segments_ || key_ids_[key * id_stride_] == id_[l]) && (!keep_ || row_[l][key * keep_stride_]);
  }

  // -inf for the hidden pairs of a region of one vector of lanes, but for the user's predicate
  void hide(const score_region<T>& r) const {
    if (segments_) hide_segments(r);
    if (keep_) hide_dropped(r);
  }
  // -inf where the user's predicate is false
  void hide_by_user(const score_region<T>& r, const score_steps<T>& lanes) const {
    if (user_) lanes.call(r, [&](const auto& tile) { heed::detail::hide(*mask_, tile); });
  }

 private:
  struct ids_range {
    std::int32_t least, most;
  };

  // Whether the lanes of a vector keep none, some or all of the keys looked at
  HEED_NOINLINE sight kept_of(index_t vector) const {
    const index_t lanes = std::min(w, lanes_ - vector * w), keys = end_ - first_;
    bool any = false, all = true;
    const bool* before = nullptr;
    for (index_t i = 0; i < lanes; ++i) {
      const bool* const row = row_[static_cast<std::size_t>(vector * w + i)] + first_ * keep_stride_;
      if (row == before) continue;  // one row for many queries
      before = row;
      index_t j = 0;
      if (keep_stride_ == 1)
        for (; j + 8 <= keys; j += 8) {
          std::uint64_t eight;
          std::memcpy(&eight, row + j, 8);
          any = any || eight != 0, all = all && eight == 0x0101010101010101u;
        }
      for (; j < keys; ++j) any = any || row[j * keep_stride_], all = all && row[j * keep_stride_];
    }
    return all ? sight::all : any ? sight::some : sight::none;
  }

  // Ids are compared in two halves, each of which a float holds exactly.
  HEED_NOINLINE void hide_segments(const score_region<T>& r) const {
    using batch = simd::batch<T>;
    T high[w], low[w];
    for (index_t i = 0; i < w; ++i) {
      const std::int32_t id = id_[static_cast<std::size_t>(r.from * w + i)];
      high[i] = static_cast<T>(id >> 16), low[i] = static_cast<T>(id & 0xffff);
    }
    const batch lanes_high = simd::load(high), lanes_low = simd::load(low);
    const batch hidden(-std::numeric_limits<T>::infinity());
    for (index_t j = 0; j < r.keys; ++j) {
      const std::int32_t id = key_ids_[(r.first + j) * id_stride_];
      const auto same = (lanes_high == batch(static_cast<T>(id >> 16))) & (lanes_low == batch(static_cast<T>(id & 0xffff)));
      T* const s = r.scores + j * r.row;
      simd::store(s, simd::select<T>(same, simd::load(s), hidden));
    }
  }

  HEED_NOINLINE void hide_dropped(const score_region<T>& r) const {
    using batch = simd::batch<T>;
    const batch zero(T(0)), hidden(-std::numeric_limits<T>::infinity());
    const bool* const* rows = &row_[static_cast<std::size_t>(r.from * w)];
    for (index_t j = 0; j < r.keys; ++j) {
      alignas(64) T kept[w];
      for (index_t i = 0; i < w; ++i) kept[i] = static_cast<T>(rows[i][(r.first + j) * keep_stride_]);
      T* const s = r.scores + j * r.row;
      simd::store(s, simd::select<T>(simd::load(kept) == zero, hidden, simd::load(s)));
    }
  }

  const kind* mask_ = nullptr;
  bool segments_ = false, keep_ = false, user_ = false;
  index_t lanes_ = 0, id_stride_ = 0, keep_stride_ = 0, first_ = 0, end_ = 0;
  const std::int32_t* key_ids_ = nullptr;
  ids_range step_ids_{};
  std::array<std::int32_t, most_lanes> id_{};
  std::array<ids_range, most_vectors> vector_ids_{};
  std::array<const bool*, most_lanes> row_{};
};

// Intervals and pairs together
template <class T> class joint_sight {
 public:
  joint_sight(const positions& p, pair_mask<T>& pairs) : intervals_(p), pairs_(pairs) {}
  void look(index_t a, index_t b) { intervals_.look(a, b), pairs_.look(a, b); }
  sight of(index_t vector) const {
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
}  // namespace heed::tile
