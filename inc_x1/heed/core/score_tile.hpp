// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How user functions of (score, position) run: stored by value, called through one pointer per score tile.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

// Scores with keys down (rows `stride` elements apart) and lanes across. Row j is key first_key + j; lane l is
// query[l] of head[l] at place[l].
template <class Acc> struct score_tile {
  Acc* scores;
  index_t stride;
  index_t first_key, keys, lanes;
  std::int32_t batch;
  const std::int32_t *head, *query, *place;
};

template <class Acc> using tile_function = void (*)(const void* function, const score_tile<Acc>& tile);

// A user's function object by value.
struct function_bytes {
  alignas(16) std::byte bytes[32] = {};
};

template <class F>
concept stored_function =
    std::is_trivially_copyable_v<F> && sizeof(F) <= sizeof(function_bytes) && alignof(F) <= alignof(function_bytes);

template <class F> concept predicate = stored_function<F> && std::predicate<const F&, const position&>;

template <class F, class Acc>
concept score = stored_function<F> && std::is_invocable_r_v<Acc, const F&, Acc, const position&>;

inline namespace HEED_ISA {

template <stored_function F> function_bytes store(const F& function) noexcept {
  function_bytes stored{};
  ::new (static_cast<void*>(stored.bytes)) F(function);
  return stored;
}

// scores = replace(score, position) over the tile. Runs of 16 lanes, so that compilers at -O2 make vectors of them.
template <class Acc, class Replace> void replace_scores(const score_tile<Acc>& tile, const Replace& replace) {
  constexpr index_t run = 16;
  const index_t lanes = tile.lanes, whole = lanes - lanes % run;
  for (index_t j = 0; j < tile.keys; ++j) {
    Acc* const row = tile.scores + j * tile.stride;
    const auto at = [&, key = static_cast<std::int32_t>(tile.first_key + j)](index_t lane) {
      return position{tile.batch, tile.head[lane], tile.query[lane], key, tile.place[lane]};
    };
    for (index_t first = 0; first < whole; first += run)
      for (index_t lane = first; lane < first + run; ++lane) row[lane] = replace(row[lane], at(lane));
    for (index_t lane = whole; lane < lanes; ++lane) row[lane] = replace(row[lane], at(lane));
  }
}

// tile_function of a predicate: -inf where it is false.
template <class F, class Acc> void hide_scores(const void* stored, const score_tile<Acc>& tile) {
  const F visible = *std::launder(static_cast<const F*>(stored));  // a copy, which stores to the tile cannot change
  replace_scores(tile, [&visible](Acc score, const position& at) {
    return visible(at) ? score : -std::numeric_limits<Acc>::infinity();
  });
}

// tile_function of a score function or its derivative: f(score, position) in place of the score.
template <class F, class Acc> void map_scores(const void* stored, const score_tile<Acc>& tile) {
  const F function = *std::launder(static_cast<const F*>(stored));
  replace_scores(tile, [&function](Acc score, const position& at) { return static_cast<Acc>(function(score, at)); });
}

}  // namespace HEED_ISA
}  // namespace heed::detail
