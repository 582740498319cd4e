// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// tensor_view, and what can become one: Eigen objects, mdspans and contiguous ranges, recognised by the shape of their
// members, so that no header of theirs is needed and the order of includes does not matter.

#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed {

template <class T, int Rank> class tensor_view;

namespace detail {

template <class X> using bare = std::remove_cvref_t<X>;
template <class X> using lvalue = std::remove_reference_t<X>&;  // still const where X is

template <class X> inline constexpr int tensor_rank = 0;
template <class T, int Rank> inline constexpr int tensor_rank<tensor_view<T, Rank>> = Rank;

template <class X> concept tensor_like = (tensor_rank<bare<X>> > 0);

// Dense Eigen objects with direct access: matrices, arrays, Map, Ref, Block, Transpose, Diagonal, ...
template <class X>
concept eigen_like = requires(lvalue<X> x) {
  typename bare<X>::PlainObject;
  bare<X>::RowsAtCompileTime;
  bare<X>::ColsAtCompileTime;
  requires std::is_pointer_v<decltype(x.data())>;
  { x.rows() } -> std::convertible_to<index_t>;
  { x.cols() } -> std::convertible_to<index_t>;
  { x.rowStride() } -> std::convertible_to<index_t>;
  { x.colStride() } -> std::convertible_to<index_t>;
};

template <class X>
concept mdspan_like = requires(lvalue<X> x) {
  requires std::is_pointer_v<decltype(x.data_handle())>;
  requires(bare<X>::rank() >= 1);
  { x.extent(0) } -> std::convertible_to<index_t>;
  { x.stride(0) } -> std::convertible_to<index_t>;
};

template <class X> concept range_like = std::ranges::contiguous_range<lvalue<X>> && std::ranges::sized_range<lvalue<X>>;

template <class X> concept viewable = tensor_like<X> || eigen_like<X> || mdspan_like<X> || range_like<X>;

// How each kind is read: its axes (the last is dim), and whether it owns its elements. X may be const.
template <class X> struct tensor_traits {
  static constexpr int axes = tensor_rank<bare<X>>;
  static constexpr bool owns = false;
  HEED_INLINE static constexpr auto* data(X& x) noexcept { return x.data(); }
  HEED_INLINE static constexpr index_t extent(X& x, int axis) noexcept { return x.extent(axis); }
  HEED_INLINE static constexpr index_t stride(X& x, int axis) noexcept { return x.stride(axis); }
};

// Eigen::Ref<const Matrix>: a reference, or a copy of its own where what it was made of lies otherwise. A Map has
// parameters of the same kinds, but cannot be made of a matrix.
template <class X> inline constexpr bool may_own = false;
template <template <class, int, class> class R, class Plain, int Options, class Stride>
inline constexpr bool may_own<R<const Plain, Options, Stride>> =
    std::is_constructible_v<R<const Plain, Options, Stride>, const Plain&>;

// A vector known as such at compile time, row or column, has one axis: it is one row.
template <class X> struct eigen_traits {
  static constexpr bool row = X::RowsAtCompileTime == 1, column = !row && X::ColsAtCompileTime == 1;
  static constexpr int axes = row || column ? 1 : 2;
  static constexpr bool owns = std::is_base_of_v<typename X::PlainObject, X> || may_own<std::remove_cv_t<X>>;
  HEED_INLINE static constexpr bool down(int axis) noexcept { return column || (!row && axis == 0); }
  HEED_INLINE static constexpr auto* data(X& x) noexcept { return x.data(); }
  HEED_INLINE static constexpr index_t extent(X& x, int axis) noexcept { return down(axis) ? x.rows() : x.cols(); }
  HEED_INLINE static constexpr index_t stride(X& x, int axis) noexcept {
    return down(axis) ? x.rowStride() : x.colStride();
  }
};

template <class X> struct mdspan_traits {
  static constexpr int axes = static_cast<int>(X::rank());
  static constexpr bool owns = false;
  HEED_INLINE static constexpr auto* data(X& x) noexcept { return x.data_handle(); }
  HEED_INLINE static constexpr index_t extent(X& x, int axis) noexcept {
    return static_cast<index_t>(x.extent(static_cast<std::size_t>(axis)));
  }
  HEED_INLINE static constexpr index_t stride(X& x, int axis) noexcept {
    return static_cast<index_t>(x.stride(static_cast<std::size_t>(axis)));
  }
};

template <class X> struct range_traits {
  static constexpr int axes = 1;
  static constexpr bool owns = !std::ranges::enable_borrowed_range<std::remove_cv_t<X>>;
  HEED_INLINE static constexpr auto* data(X& x) noexcept { return std::ranges::data(x); }
  HEED_INLINE static constexpr index_t extent(X& x, int) noexcept { return static_cast<index_t>(std::ranges::size(x)); }
  HEED_INLINE static constexpr index_t stride(X&, int) noexcept { return 1; }
};

template <class X>  // Eigen vectors are ranges too: the order matters
using traits_of =
    std::conditional_t<tensor_like<X>, tensor_traits<X>,
                       std::conditional_t<eigen_like<X>, eigen_traits<X>,
                                          std::conditional_t<mdspan_like<X>, mdspan_traits<X>, range_traits<X>>>>;

template <viewable X> using traits = traits_of<std::remove_reference_t<X>>;
template <viewable X> inline constexpr int axes = traits<X>::axes;

template <viewable X> struct element {  // structs, not aliases: they keep the names of symbols short
  using own = std::remove_pointer_t<decltype(traits<X>::data(std::declval<lvalue<X>>()))>;  // such as Eigen::half
  using type = storage_of<own>;
};
template <viewable X> struct accumulator {
  using type = acc_t<std::remove_cv_t<typename element<X>::type>>;
};
template <viewable X> using element_t = typename element<X>::type;
template <viewable X> using value_t = std::remove_cv_t<element_t<X>>;
template <viewable X> using acc_of = typename accumulator<X>::type;

// X as deduced for a parameter X&&: an lvalue, or a temporary that only refers to its elements. A view of a temporary
// that owns them would dangle.
template <class X> concept borrowable = viewable<X> && (std::is_lvalue_reference_v<X> || !traits<X>::owns);

// float to const float; not the other way, and not float to double.
template <class From, class To> concept qualifies = std::is_convertible_v<From (*)[], To (*)[]>;

template <class X, class T, int Rank>
concept binds = borrowable<X> && !std::same_as<bare<X>, tensor_view<T, Rank>> && (axes<X> <= Rank) &&
                (qualifies<element_t<X>, T> || qualifies<typename element<X>::own, T>);

// p as a pointer to T, which is its type, more const perhaps, or what that is stored as: f16_t and bf16_t may alias.
template <class T, class From> HEED_INLINE constexpr T* stored_as(From* p) noexcept {
  if constexpr (std::is_convertible_v<From*, T*>)
    return p;
  else
    return reinterpret_cast<T*>(p);
}

// What a kernel may write to; X as for borrowable.
template <class X> concept writable = borrowable<X> && !std::is_const_v<element_t<X>>;

// An Eigen matrix that is known at compile time to lie column by column; vectors are rows, and no such.
template <class X>
concept column_major = eigen_like<X> && requires {
  requires axes<X> == 2 && !bare<X>::IsRowMajor;
  requires bare<X>::InnerStrideAtCompileTime != -1 && bare<X>::OuterStrideAtCompileTime != 1;
};

// Whether X can be q, k, v or o; a static_assert says why it cannot.
template <viewable X> constexpr bool tensor_argument() {
  static_assert(axes<X> <= 4, "heed: a tensor has at most 4 axes: (batch, head, seq, dim)");
  static_assert(!column_major<X>,
                "heed: a matrix of q, k, v or o is column-major (Eigen's default), its rows are not contiguous: "
                "pass .transpose() of a (dim x seq) matrix, or a row-major copy");
  return true;
}

// What is written in place of a view by mistake. Temporaries that own their elements, of any type, would dangle.
template <class X>
concept pointer_or_null = std::is_pointer_v<std::remove_cvref_t<X>> || std::is_null_pointer_v<std::remove_cvref_t<X>>;
template <class... X> concept any_pointer = (pointer_or_null<X> || ...);
template <class X> concept owning_temporary = viewable<X> && !borrowable<X>;

}  // namespace detail

template <class X> concept viewable = detail::viewable<X>;
template <viewable X> using element_t = detail::element_t<X>;  // const float for a const matrix; f16_t for Eigen::half
template <viewable X> using acc_of = detail::acc_of<X>;        // what a kernel sums in: double for double, else float

// Pointer, extents and signed strides in elements. Copies refer to the same elements; const is shallow.
// Default-constructed (null): "not supplied".
template <class T, int Rank> class tensor_view {
  static_assert(Rank >= 1);

 public:
  using element_type = T;
  using per_axis = std::array<index_t, std::size_t{Rank}>;

  HEED_INLINE constexpr tensor_view() noexcept {}
  HEED_INLINE constexpr tensor_view(T* data, per_axis extents, per_axis strides) noexcept
      : data_(data), extents_(extents), strides_(strides) {}

  // Anything viewable with at most Rank axes. Missing leading axes have extent 1 and stride 0.
  template <viewable X>
    requires detail::binds<X, T, Rank>
  HEED_INLINE constexpr tensor_view(X&& x) noexcept : data_(detail::stored_as<T>(detail::traits<X>::data(x))) {
    constexpr int missing = Rank - detail::axes<X>;
    for (int axis = 0; axis < Rank; ++axis) {
      const bool given = axis >= missing;
      extents_[static_cast<std::size_t>(axis)] = given ? detail::traits<X>::extent(x, axis - missing) : 1;
      strides_[static_cast<std::size_t>(axis)] = given ? detail::traits<X>::stride(x, axis - missing) : 0;
    }
  }

  HEED_INLINE constexpr T* data() const noexcept { return data_; }
  HEED_INLINE constexpr index_t extent(int axis) const noexcept { return extents_[static_cast<std::size_t>(axis)]; }
  HEED_INLINE constexpr index_t stride(int axis) const noexcept { return strides_[static_cast<std::size_t>(axis)]; }
  HEED_INLINE constexpr const per_axis& extents() const noexcept { return extents_; }
  HEED_INLINE constexpr const per_axis& strides() const noexcept { return strides_; }

  // The element at (i...), one index per axis; unchecked.
  template <std::convertible_to<index_t>... Index>
    requires(sizeof...(Index) == Rank)
  HEED_INLINE constexpr T& operator()(Index... i) const noexcept {
    int axis = 0;
    index_t at = 0;
    ((at += static_cast<index_t>(i) * stride(axis++)), ...);
    return data_[at];
  }

  // Without elements, whatever the pointer.
  HEED_INLINE constexpr bool empty() const noexcept {
    for (int axis = 0; axis < Rank; ++axis)
      if (extent(axis) == 0) return true;
    return false;
  }

 private:
  template <class X>
    requires detail::pointer_or_null<X>
  constexpr tensor_view(X&&) {
    static_assert(!detail::pointer_or_null<X>,
                  "heed: a pointer has no shape: heed::bhsd(pointer, batch, heads, seq, dim), or contiguous()");
  }
  template <viewable X>
    requires(detail::owning_temporary<X> || (detail::axes<X> > 4 && detail::axes<X> > Rank))
  constexpr tensor_view(X&&) {
    static_assert(!detail::owning_temporary<X>,
                  "heed: a tensor is viewed, this temporary would be gone before the call: give it a name");
    static_assert(detail::axes<X> <= 4, "heed: a tensor has at most 4 axes: (batch, head, seq, dim)");
  }

  T* data_ = nullptr;
  per_axis extents_{}, strides_{};
};

inline namespace HEED_ISA {

// The elements of x as (batch, head, seq, dim), or the last Rank of these; missing leading axes have extent 1.
template <int Rank = 4, viewable X>
  requires(detail::borrowable<X> && detail::axes<X> <= Rank)
HEED_INLINE constexpr auto view(X&& x) noexcept -> tensor_view<element_t<X>, Rank> {
  return tensor_view<element_t<X>, Rank>(x);
}

}  // namespace HEED_ISA

namespace detail {

// Whether both are the same elements in the same order, null included.
template <class T, int Rank>
HEED_INLINE constexpr bool same(const tensor_view<T, Rank>& a, const tensor_view<T, Rank>& b) noexcept {
  return a.data() == b.data() && a.extents() == b.extents() && a.strides() == b.strides();
}

// Sets the stride of axes without a second entry to 0: the caller's may be any number there.
template <class T, int Rank>
HEED_INLINE constexpr tensor_view<T, Rank> with_canonical_strides(const tensor_view<T, Rank>& x) noexcept {
  auto strides = x.strides();  // without branches: every call does this for all of its tensors
  for (int axis = 0; axis < Rank; ++axis)
    strides[static_cast<std::size_t>(axis)] = x.extent(axis) > 1 ? x.stride(axis) : 0;
  return {x.data(), x.extents(), strides};
}

}  // namespace detail
}  // namespace heed
