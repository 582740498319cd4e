// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/gradient_problem.hpp"
#include "heed/local_linear/kept_weights.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// b_j = dout . v_j of one tile of queries, [key][lane], for loops over its weights. As many of them are kept as of the
// weights.
template <class T> class value_products {
 public:
  static constexpr index_t lanes = tile_weights<T>::lanes;

  value_products(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        dout_(memory.take<T>(p.wants_adjoint() ? lanes * p.e : 0)),
        capacity_(p.wants_adjoint() ? std::min(p.k.extent(2), tile_weights<T>::kept_keys) : 0),
        kept_(memory.take<T>(lanes * capacity_)),
        made_(memory.take<T>(p.wants_adjoint() ? lanes * pairwise::score_tiles<T>::most_keys : 0)) {}

  void begin(const pairwise::sequence& s, const pairwise::row_tile& rows, index_t row) {
    p_.dout_format->gather(pairwise::find_rows(rows, p_.dout, s).data(), rows.count, p_.e, T(1), dout_, row);
    row_ = row, known_ = 0, nonfinite_ = false;
  }
  // [e][lane]
  const T* dout() const { return dout_; }
  // Whether some of the values so far were not finite
  bool nonfinite() const { return nonfinite_; }

  // Before each loop
  void rewind() { next_ = 0; }
  // Of the next tile of the loop
  T* of(tile_weights<T>& weights, pairwise::key_tile<T>& keys) {
    const index_t first = next_;
    next_ += keys.keys;
    const bool keep = next_ <= capacity_;
    T* const b = keep ? kept_ + first * row_ : made_;
    if (keep && next_ <= known_) return b;
    weights.copy_values(keys);
    nonfinite_ = nonfinite_ || !tile::all_finite(keys.v.data, keys.v.stride, keys.keys, p_.e);
    for (index_t i = 0; i < keys.count; ++i) row_products<T>(keys.v, keys.block[i], {dout_, row_, p_.e, row_}, b);
    if (keep) known_ = next_;
    return b;
  }

 private:
  const gradient_problem<T>& p_;
  T* dout_;
  index_t capacity_;
  T *kept_, *made_;
  index_t row_ = 0, next_ = 0, known_ = 0;  // known: keys whose products are kept
  bool nonfinite_ = false;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
