// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// New tokens on their way into a cache: checks, and where they go.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "heed/cache/memory.hpp"
#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/append.hpp"
#else
#include "heed/cache/store_run.hpp"
#endif

namespace heed::detail {
inline namespace HEED_ISA {

// k and v of an append, in one format
template <class A> struct new_tokens {
  input_tensor k, v;
  row_source<A> source;

  index_t count() const { return k.extent(2); }
};

template <class T, viewable K, viewable V> HEED_INLINE new_tokens<acc_t<T>> tokens_to_append(const K& k, const V& v) {
  static_assert(axes<K> <= 4 && axes<V> <= 4, "heed: a tensor has at most 4 axes: (batch, head, seq, dim)");
  static_assert(is_storage<value_t<K>> && is_storage<value_t<V>>,
                "heed: append takes float, double, heed::bf16_t or heed::f16_t (or another 16-bit float)");
  static_assert(std::is_same_v<value_t<K>, value_t<V>>, "heed: k and v have one element type");
  static_assert(std::is_same_v<acc_of<K>, acc_t<T>>,
                "heed: a cache of double takes double alone; all others take float and 16-bit types");
  return {input_tensor(tensor_view<const value_t<K>, 4>(k)), input_tensor(tensor_view<const value_t<V>, 4>(v)),
          row_source_of<acc_t<T>, value_t<K>>()};
}

// The sequences and heads that an append goes to
struct cache_part {
  index_t first_sequence, sequences, first_head, heads;
};

inline bool inside(const void* p, const void* begin, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(p), from = reinterpret_cast<std::uintptr_t>(begin);
  return at >= from && at - from < bytes;
}

// Checks the shapes of k and v against the part of the cache that they go to, and that they are not its own memory.
template <class T>
void check_tokens(checker& check, const cache_memory<T>& c, const cache_part& part, const input_tensor& k,
                  const input_tensor& v) {
  const named_tensor x[] = {{"k", k}, {"v", v}};
  const index_t dims[] = {c.shape.dim, c.shape.value_dim};
  for (int i = 0; i < 2; ++i) {
    check.tensor(x[i], false);
    check.require(x[i].extent(0) == part.sequences, "append: % has batch %, must be % (sequences)", x[i].name,
                  x[i].extent(0), part.sequences);
    check.require(x[i].extent(1) == part.heads, "append: % has % heads, must be %", x[i].name, x[i].extent(1),
                  part.heads);
    check.require(x[i].extent(3) == dims[i], "append: % has head dim %, the cache has %", x[i].name, x[i].extent(3),
                  dims[i]);
    const bool own = inside(x[i].data, c.k.data(), static_cast<std::size_t>(c.k.size()) * sizeof(T)) ||
                     inside(x[i].data, c.v.data(), static_cast<std::size_t>(c.v.size()) * sizeof(T));
    check.require(!own || x[i].empty(), "append: % is memory of the cache itself", x[i].name);
  }
  check.require(k.extent(2) == v.extent(2), "append: k has % tokens, v has %", k.extent(2), v.extent(2));
}

// Writes tokens of k and v to the cache's rows from `row` on.
template <class T, class A>
void store_tokens(const cache_memory<T>& c, const new_tokens<A>& x, const token_run& run, index_t row) {
  constexpr bool scaled = cache_memory<T>::scaled;
  store_run(x.k, x.source, run, c.k.data() + row * c.shape.dim, scaled ? c.k_scale.data() + row : nullptr);
  store_run(x.v, x.source, run, c.v.data() + row * c.shape.value_dim, scaled ? c.v_scale.data() + row : nullptr);
}

// Refuses what is not a sequence (head) of a cache.
HEED_NOINLINE inline void check_index(const char* call, const char* name, index_t i, index_t count) {
  if (i < 0 || i >= count) fail("%: % is %, must be at least 0 and below %", call, name, i, count);
}
HEED_NOINLINE inline void check_fork(index_t from, index_t to, index_t sequences) {
  check_index("fork", "from", from, sequences), check_index("fork", "to", to, sequences);
  if (from == to) fail("fork: from is % and to is %, must differ", from, to);
}

}  // namespace HEED_ISA
}  // namespace heed::detail
