// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Mixture-of-head attention of new tokens with a cache: the rows of a key/value head whose gate is not 0 are gathered
// into tiles of softmax's decode. A key/value head without any is not read.

#include <algorithm>
#include <limits>

#include "heed/mixture_of_head/active_rows.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/pairwise/decode.hpp"

namespace heed::mixture_of_head::detail {
inline namespace HEED_ISA {

// The active rows of a tile, in its place: the first ones of the head fill its first tile.
template <class T> struct active_rows {
  static constexpr bool chosen = true;
  const problem<T>& p;
  tile::lane_array<T, pairwise::lane_capacity> gates = {};

  const T* take(const pairwise::piece_tile& x, pairwise::row_tile& rows) {
    index_t number = 0;
    rows.count = 0;
    each_row(x, [&](const pairwise::lane_row& row, T gate) {
      if (!is_active(gate)) return;
      if (number >= x.first && rows.count < x.rows) gates[rows.count] = gate, rows.row[rows.count++] = row;
      ++number;
    });
    return gates.data();
  }
  // Clears the rows that have no work.
  void begin_head(const pairwise::piece_tile& x) {
    each_row(x, [&](const pairwise::lane_row& row, T gate) {
      if (is_active(gate)) return;
      std::byte* const o = p.output(x.s, row.head, row.query);
      std::fill(o, o + p.e * p.o.element_bytes(), std::byte{0});
      if (p.lse.data() != nullptr) *p.lse_at(x.s, row.head, row.query) = -std::numeric_limits<T>::infinity();
    });
  }

 private:
  template <class F> void each_row(const pairwise::piece_tile& x, F f) const {
    for (index_t i = 0; i < x.s.queries; ++i)
      for (index_t head = x.kv_head * p.group; head < (x.kv_head + 1) * p.group; ++head)
        f(pairwise::lane_row{head, i}, *p.gate(x.s, head, i));
  }
};

template <class T> struct decode_call : pairwise::decode_call<T, problem<T>, active_rows> {
  void check(heed::detail::checker& check) const {
    check_heads(check, this->p);
    pairwise::decode_call<T, problem<T>, active_rows>::check(check);
    check_gates(check, this->p);
  }
  void describe(plan& out) const {
    pairwise::decode_call<T, problem<T>, active_rows>::describe(out);
    out.path = this->cut.many         ? "mixture_of_head: decode, active queries in lanes"
               : this->runs_on_dots() ? "mixture_of_head: decode, head dim in lanes on bf16 dot products"
                                      : "mixture_of_head: decode, head dim in lanes";
  }
};

// f(call), which lives as long as that
template <class T, class View, class F>
auto with_decode(const pairwise::query_rows<T>& x, const View& cache, const tensor_view<const T, 3>& gates,
                 const options<T>& opt, F f) {
  const pairwise::cache_shapes shapes(cache, x.q.extent(0));
  decode_call<T> call{{{gates, opt, pairwise::softmax_rows_of_cache(x, cache, shapes)}, shapes}};
  pairwise::set_cache(call.p, cache, shapes);
  return f(call);
}
template <class Q, class Cache, class G, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, const G& gates, O& o, const options<acc_of<Q>>& opt, F f) {
  return with_decode(pairwise::query_rows_of(q, o), heed::detail::view_of_cache(cache),
                     tensor_view<const acc_of<Q>, 3>(gates), opt, f);
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head::detail
