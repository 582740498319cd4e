// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Views over raw memory, and views of views. The axes of a result are always (batch, head, seq, dim); the strides say
// where they lie. _Float16 and other 16-bit types are viewed as f16_t or bf16_t. What cannot be a view (negative
// extents, parts outside) throws.

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>

#include "heed/core/config.hpp"
#include "heed/core/message.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {
inline namespace HEED_ISA {

// Numbers of type T viewed as what they are stored as
template <class T, int Rank> using stored_view = tensor_view<storage_of<T>, Rank>;
template <class T> HEED_INLINE constexpr storage_of<T>* stored(T* p) noexcept { return stored_as<storage_of<T>>(p); }

struct named_extent {
  const char* name;
  index_t extent;
};

template <std::size_t N> void check_extents(const char* call, const named_extent (&extents)[N]) {
  for (const auto& [name, extent] : extents)
    if (extent < 0) fail("%: % is %, must be at least 0", call, name, extent);
}

// Of extents that no tensor has it may be any number; a call refuses them.
template <class... More> index_t product(index_t first, More... more) {
  return static_cast<index_t>((static_cast<std::size_t>(first) * ... * static_cast<std::size_t>(more)));
}

inline void check_axis(const char* call, int axis) {
  if (axis < 0 || axis > 3) fail("%: axis is %, must be 0 to 3", call, axis);
}

// x with one axis replaced.
template <class T>
tensor_view<T, 4> with_axis(const tensor_view<T, 4>& x, T* data, int axis, index_t extent, index_t stride) {
  std::array<index_t, 4> extents{}, strides{};
  for (int a = 0; a < 4; ++a) {
    extents[static_cast<std::size_t>(a)] = a == axis ? extent : x.extent(a);
    strides[static_cast<std::size_t>(a)] = a == axis ? stride : x.stride(a);
  }
  return {data, extents, strides};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Contiguous memory, head-major: [batch][head][seq][dim].
template <class T>
[[nodiscard]] detail::stored_view<T, 4> bhsd(T* p, index_t batch, index_t heads, index_t seq, index_t dim) {
  detail::check_extents("bhsd", {{"batch", batch}, {"heads", heads}, {"seq", seq}, {"dim", dim}});
  return {detail::stored(p),
          {batch, heads, seq, dim},
          {detail::product(heads, seq, dim), detail::product(seq, dim), dim, 1}};
}

// Contiguous memory, token-major: [batch][seq][head][dim].
template <class T>
[[nodiscard]] detail::stored_view<T, 4> bshd(T* p, index_t batch, index_t seq, index_t heads, index_t dim) {
  detail::check_extents("bshd", {{"batch", batch}, {"seq", seq}, {"heads", heads}, {"dim", dim}});
  return {detail::stored(p),
          {batch, heads, seq, dim},
          {detail::product(seq, heads, dim), dim, detail::product(heads, dim), 1}};
}

// One head of one sequence: [seq][dim].
template <class T> [[nodiscard]] detail::stored_view<T, 4> matrix(T* p, index_t seq, index_t dim) {
  detail::check_extents("matrix", {{"seq", seq}, {"dim", dim}});
  return {detail::stored(p), {1, 1, seq, dim}, {detail::product(seq, dim), detail::product(seq, dim), dim, 1}};
}

// Contiguous memory of any rank, such as contiguous(p, {batch, heads, seq}) for lse and gates.
template <class T, std::size_t Rank>
[[nodiscard]] detail::stored_view<T, static_cast<int>(Rank)> contiguous(T* p, const index_t (&extents)[Rank]) {
  std::array<index_t, Rank> sizes{}, strides{};
  index_t stride = 1;
  for (std::size_t axis = Rank; axis-- > 0;) {
    if (extents[axis] < 0)
      detail::fail("contiguous: extent % is %, must be at least 0", static_cast<index_t>(axis), extents[axis]);
    sizes[axis] = extents[axis], strides[axis] = stride;
    stride = detail::product(stride, extents[axis]);
  }
  return {detail::stored(p), sizes, strides};
}

// q, k and v of one buffer, as a fused projection writes it: [batch][seq][q heads, then k heads, then v heads][dim].
template <class T>
[[nodiscard]] std::array<detail::stored_view<T, 4>, 3> packed_qkv(T* p, index_t batch, index_t seq, index_t heads,
                                                                  index_t kv_heads, index_t dim) {
  detail::check_extents("packed_qkv",
                        {{"batch", batch}, {"seq", seq}, {"heads", heads}, {"kv_heads", kv_heads}, {"dim", dim}});
  // numbers of a token: places are counted without overflow
  constexpr double most = static_cast<double>(std::numeric_limits<index_t>::max() / 32);
  const double numbers =
      (static_cast<double>(heads) + 2 * static_cast<double>(kv_heads)) * static_cast<double>(std::max<index_t>(dim, 1));
  if (numbers > most) detail::fail("packed_qkv: a token has % numbers, must have at most %", numbers, most);
  const index_t token = (heads + 2 * kv_heads) * dim;
  const bool none = p == nullptr || batch == 0 || seq == 0;
  const auto part = [&](index_t first, index_t count) -> detail::stored_view<T, 4> {
    return {detail::stored(none ? p : p + first * dim),
            {batch, count, seq, dim},
            {detail::product(seq, token), dim, token, 1}};
  };
  return {part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)};
}

// (seq, heads * dim) -> (1, heads, seq, dim); (batch, 1, seq, heads * dim) -> (batch, heads, seq, dim).
template <viewable X>
  requires detail::borrowable<X> && (detail::axes<X> <= 4)
[[nodiscard]] auto split_heads(X&& x, index_t heads) -> tensor_view<element_t<X>, 4> {
  const tensor_view<element_t<X>, 4> rows(x);
  if (rows.extent(1) != 1) detail::fail("split_heads: x has % heads already, must have 1", rows.extent(1));
  if (heads < 1) detail::fail("split_heads: heads is %, must be at least 1", heads);
  if (rows.extent(3) % heads != 0)
    detail::fail("split_heads: x has % columns, heads is %: not a multiple", rows.extent(3), heads);
  const index_t dim = rows.extent(3) / heads;
  return {rows.data(),
          {rows.extent(0), heads, rows.extent(2), dim},
          {rows.stride(0), detail::product(dim, rows.stride(3)), rows.stride(2), rows.stride(3)}};
}

// count entries of one axis from first on.
template <class T> [[nodiscard]] tensor_view<T, 4> slice(tensor_view<T, 4> x, int axis, index_t first, index_t count) {
  detail::check_axis("slice", axis);
  detail::check_extents("slice", {{"first", first}, {"count", count}});
  if (x.extent(axis) < 0) detail::fail("slice: axis % has extent %, must be at least 0", axis, x.extent(axis));
  if (count > x.extent(axis) - first)  // no sum that could overflow
    detail::fail("slice: first is % and count is %, axis % has extent %", first, count, axis, x.extent(axis));
  const bool moves = count > 0 && first > 0 && x.data() != nullptr && !x.empty();
  T* const data = moves ? x.data() + first * x.stride(axis) : x.data();
  return detail::with_axis(x, data, axis, count, x.stride(axis));
}

// An axis of extent 1 repeated count times, without a copy.
template <class T> [[nodiscard]] tensor_view<T, 4> broadcast(tensor_view<T, 4> x, int axis, index_t count) {
  detail::check_axis("broadcast", axis);
  detail::check_extents("broadcast", {{"count", count}});
  if (x.extent(axis) != 1) detail::fail("broadcast: axis % has extent %, must be 1", axis, x.extent(axis));
  return detail::with_axis(x, x.data(), axis, count, 0);
}

}  // namespace HEED_ISA
}  // namespace heed
