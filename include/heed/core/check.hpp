// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/message.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"

namespace heed::detail {

// Which of q, k, v and o came with one axis (a range, a vector), bit by bit; it is taken as one row.
template <class Q, class K, class V, class O>
inline constexpr unsigned one_axis =
    (axes<Q> == 1 ? 1u : 0u) | (axes<K> == 1 ? 2u : 0u) | (axes<V> == 1 ? 4u : 0u) | (axes<O> == 1 ? 8u : 0u);

inline namespace HEED_ISA {

// The first thing that is wrong with a call, written into `problem` as text; true if nothing is.
class checker {
 public:
  explicit checker(problem_text& text) : text_(text) {}

  template <class... Parts> HEED_INLINE bool require(bool holds, Parts... otherwise) {
    if (!holds && ok_) [[unlikely]] {
      write(text_, otherwise...);
      ok_ = false;
    }
    return ok_;
  }
  bool ok() const { return ok_; }

  template <class T, int Rank> void tensor(const char* name, const tensor_view<T, Rank>& x, bool unit_last) {
    constexpr index_t most = std::numeric_limits<std::int32_t>::max();
    for (int axis = 0; axis < Rank; ++axis)
      require(x.extent(axis) >= 0 && x.extent(axis) <= most, name, " has extent ", x.extent(axis), " on axis ", axis,
              ", must be 0 to ", most);
    require(x.empty() || x.data() != nullptr, name, " is null but has elements");
    if (unit_last)
      require(x.empty() || x.extent(Rank - 1) <= 1 || x.stride(Rank - 1) == 1, name, " has stride ", x.stride(Rank - 1),
              " on its last axis, must be 1 (is it column-major?)");
  }
  template <class T, int Rank> void written(const char* name, const tensor_view<T, Rank>& x) {
    for (int axis = 0; axis < Rank; ++axis)
      require(x.extent(axis) <= 1 || x.stride(axis) != 0 || x.empty(), name, " is written but has stride 0 on axis ",
              axis, " of extent ", x.extent(axis));
  }
  void equal(const char* a, index_t x, const char* b, index_t y, const char* what) {
    require(x == y, a, " has ", what, " ", x, ", ", b, " has ", y);
  }

  template <class T, int R, class U, int S>
  void distinct(const char* a, const tensor_view<T, R>& x, const char* b, const tensor_view<U, S>& y) {
    require(x.empty() || y.empty() || static_cast<const void*>(x.data()) != static_cast<const void*>(y.data()), a,
            " is the same memory as ", b);
  }
  template <class T, int R>
  void distinct(const char* a, const tensor_view<T, R>& x, const char* b, const per_head_view& y) {
    require(x.empty() || !y.one_each() || static_cast<const void*>(x.data()) != y.data(), a, " is the same memory as ",
            b);
  }

 private:
  problem_text& text_;
  bool ok_ = true;
};

// Offsets that ascend from 0 and stay within count; whole: they end there
inline void check_offsets(checker& check, const char* name, lengths at, index_t count, bool whole) {
  check.require(!at.empty(), name, " is empty, must have at least 1 entry");
  for (std::size_t i = 0; check.ok() && i < at.size(); ++i) {
    const index_t least = i == 0 ? 0 : at[i - 1], most = i == 0 ? 0 : count;
    check.require(at[i] >= least && at[i] <= most, name, "[", i, "] is ", at[i], ", must be ", least, " to ", most);
  }
  if (whole && check.ok())
    check.require(at.back() == count, name, " ends at ", at.back(), ", must end at ", count, " (the queries of q)");
}

template <class T, int Rank>
void check_extents(checker& check, const char* name, const tensor_view<T, Rank>& x,
                   const std::array<index_t, static_cast<std::size_t>(Rank)>& full, bool broadcasts) {
  for (int axis = 0; axis < Rank; ++axis) {
    const index_t extent = x.extent(axis), needed = full[static_cast<std::size_t>(axis)];
    check.require(extent == needed || (broadcasts && extent == 1), name, " has extent ", extent, " on axis ", axis,
                  ", must be ", broadcasts ? "1 or " : "", needed);
  }
}

inline void check_ends(checker& check, const alignment_parts& align, const mask_parts& mask) {
  check.require(!align.end_of_lengths || mask.has(mask.key_lengths),
                "align is end_of_lengths, which needs key_lengths in the mask");
}

// A vector that holds a whole tensor, without its axes, is no row: it is longer than the dim of any head.
inline constexpr index_t longest_row = 1024;
template <class Problem> void check_one_axis(checker& check, const Problem& p) {
  const auto row = [&](unsigned bit, const char* name, index_t count) {
    check.require((p.one_axis & bit) == 0 || count <= longest_row, name, " has one axis of ", count,
                  " elements and is taken as one row, of at most ", longest_row,
                  "; if it holds a whole tensor, name the axes: bhsd()");
  };
  row(1, "q", p.q.extent(3)), row(2, "k", p.k.extent(3)), row(4, "v", p.v.extent(3)), row(8, "o", p.o.extent(3));
}

// For the `why` of a plan. place_of(sequence): of its query 0
template <class Place> void name_places(message& text, index_t sequences, Place place_of) {
  if (sequences < 1) return;
  index_t least = place_of(index_t{0}), most = least;
  for (index_t s = 1; s < sequences; ++s) {
    const index_t place = place_of(s);
    least = place < least ? place : least, most = place > most ? place : most;
  }
  text << "; query 0 at place " << least;
  if (least < most) text << " to " << most << ", by sequence";
}

}  // namespace HEED_ISA
}  // namespace heed::detail
