// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradient of a bias with a number per key: the gradients of the scores, added where the bias was read.

#include "heed/pairwise/key_tiles.hpp"
#include "heed/pairwise/row_tile.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class bias_gradient {
 public:
  static constexpr index_t w = simd::width<T>;

  void begin(const tensor_view<T, 4>& dbias, const sequence& s, const row_tile& rows) {
    const auto stride = [&](int axis) { return dbias.extent(axis) == 1 ? 0 : dbias.stride(axis); };
    T* const first = dbias.data() + s.batch * stride(0) + s.first_query * stride(2) + s.first_key * stride(3);
    key_ = stride(3), count_ = rows.count;
    for (index_t l = 0; l < rows.count; ++l)
      row_[l] = first + rows.row[l].head * stride(1) + rows.row[l].query * stride(2);
  }

  // Adds ds [key][lane] of a block of the tile whose first key is `key`. Lanes may share a row of the bias: each is
  // added after the one before it.
  HEED_NOINLINE void add(const tile::lane_block<const T>& ds, const weight_block& b, index_t key) const {
    for (index_t lane = b.from * w; lane < std::min(b.to * w, count_); lane += w)
      for (index_t j = 0; j < b.keys; j += w) {
        const index_t keys = std::min(w, b.keys - j), lanes = std::min(w, count_ - lane);
        alignas(64) T square[static_cast<std::size_t>(w * w)];  // [lane][key]
        transpose(ds.row(b.first + j) + lane, ds.stride, keys, square);
        for (index_t i = 0; i < lanes; ++i) add_row(row_[lane + i], key + b.first + j, square + i * w, keys);
      }
  }

 private:
  HEED_INLINE static void transpose(const T* x, index_t stride, index_t keys, T* out) {
    const tile::lane_block<const T> in{x, stride, keys, w};
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      const simd::batch<T> zero(T(0));
      simd::square<T> r;
      ((r[I] = I < in.rows ? simd::load(in.row(I)) : zero), ...);
      simd::transpose<T>(r);
      (simd::store(out + I * w, r[I]), ...);
    }
    (tile::detail::lanes_of_vector<T>{});
  }
  HEED_INLINE void add_row(T* row, index_t key, const T* x, index_t keys) const {
    if (key_ == 1) {
      T* const to = row + key;
      return simd::store_partial(to, simd::load_partial(to, keys) + simd::load(x), keys);
    }
    for (index_t j = 0; j < keys; ++j) row[(key + j) * key_] += x[j];
  }

  index_t key_ = 0, count_ = 0;
  tile::lane_array<T*, lane_capacity> row_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
