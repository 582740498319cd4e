// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax's driver on a matrix unit as a table of functions: a program compiles it where its q, k and v are bf16.

#include <array>
#include <new>
#include <type_traits>

#include "heed/core/message.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/pairwise/queries_on_unit.hpp"
#include "heed/tile/unit_choice.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> struct unit_driver {
  index_t most_rows, most_keys, lane_multiple;  // of a tile
  std::size_t object_bytes;                     // of a driver itself, a multiple of the arena's alignment
  std::array<char, 64> softmax_path, mixture_path;
  const char* why;  // of the unit, for a plan
  // What softmax_driver's functions of these names do; begin makes a driver at `object`, for the calling thread.
  std::size_t (*bytes)(const softmax_problem<T>& p);
  std::size_t (*shared_bytes)(const softmax_problem<T>& p);
  void (*clear)(const softmax_problem<T>& p, std::byte* shared);
  void (*begin)(void* object, const softmax_problem<T>& p, std::byte* shared, heed::detail::arena& memory);
  void (*run)(void* driver, const sequence& s, index_t kv_head, const row_tile& rows, const T* gate);
  void (*end)();
};

namespace detail {

// The driver of this machine's unit, or null; made once
inline const unit_driver<float>* bf16_driver() {
  static const unit_driver<float> driver = [] {
    unit_driver<float> x{};
    const tile::matrix_unit* const unit = tile::bf16_unit();
    if (unit == nullptr) return x;
    heed::detail::message(x.softmax_path) << "softmax: queries in lanes on " << unit->name;
    heed::detail::message(x.mixture_path) << "mixture_of_head: active queries in lanes on " << unit->name;
    x.why = tile::why_unit();
    x.most_rows = queries_on_unit::most_rows, x.most_keys = queries_on_unit::most_keys;
    x.lane_multiple = std::max(unit->lane_multiple, simd::width<float>);
    constexpr std::size_t line = heed::detail::arena::alignment;
    x.object_bytes = (sizeof(queries_on_unit) + line - 1) / line * line;
    x.bytes = [](const softmax_problem<float>& p) {
      heed::detail::arena memory;
      const bool shares = value_blocks::shared_bytes(p) > 0;
      static_cast<void>(queries_on_unit(p, *tile::bf16_unit(), shares, nullptr, memory));
      return memory.used();
    };
    x.shared_bytes = [](const softmax_problem<float>& p) { return value_blocks::shared_bytes(p); };
    x.clear = [](const softmax_problem<float>& p, std::byte* shared) { value_blocks::clear(p, shared); };
    x.begin = [](void* object, const softmax_problem<float>& p, std::byte* shared, heed::detail::arena& memory) {
      tile::bf16_unit()->begin();
      static_assert(std::is_trivially_destructible_v<queries_on_unit>);
      new (object) queries_on_unit(p, *tile::bf16_unit(), shared != nullptr, shared, memory);
    };
    x.run = [](void* at, const sequence& s, index_t kv_head, const row_tile& rows, const float* gate) {
      static_cast<queries_on_unit*>(at)->run(s, kv_head, rows, gate);
    };
    x.end = tile::bf16_unit()->end;
    return x;
  }();
  return driver.run == nullptr ? nullptr : &driver;
}

// The driver of a call with these storage types, null: the float engine's
template <class Q, class K, class V> HEED_INLINE const unit_driver<acc_of<Q>>* unit_driver_for() {
  using heed::detail::value_t;
  if constexpr (std::is_same_v<value_t<Q>, bf16_t> && std::is_same_v<value_t<K>, bf16_t> &&
                std::is_same_v<value_t<V>, bf16_t>)
    return bf16_driver();
  else
    return nullptr;
}

}  // namespace detail

template <class Q, class K, class V, class O>
HEED_INLINE softmax_rows<acc_of<Q>> rows_of_softmax(const Q& q, const K& k, const V& v, O& o) {
  return {tile::rows_of_call(q, k, v, o), &few_rows_format_of<acc_of<Q>, heed::detail::value_t<K>>,
          detail::unit_driver_for<Q, K, V>()};
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
