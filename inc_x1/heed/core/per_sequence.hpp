// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

class per_sequence;

namespace detail {

template <class X>
concept sequence_numbers = !std::same_as<bare<X>, per_sequence> && std::is_convertible_v<lvalue<X>, lengths>;

// A temporary that would be gone before the call reads its elements.
template <class X> concept passing = !std::is_lvalue_reference_v<X> && !std::ranges::enable_borrowed_range<bare<X>>;

// Integers of another size, or a pointer to some
template <class X>
concept mistaken_numbers =
    !sequence_numbers<X> && (pointer_or_null<X> || (viewable<X> && std::is_integral_v<typename element<X>::type>));

}  // namespace detail

// Lengths, offsets or places, one per sequence (offsets have one more), as masks and alignments keep them. Arrays that
// have a name, and spans, are viewed: they must live until the call. Temporaries and braces are copied, up to
// most_owned entries; more of them are an error.
class per_sequence {
 public:
  static constexpr std::size_t most_owned = 129;  // lengths or offsets of 128 sequences

  HEED_INLINE constexpr per_sequence() noexcept {}

  template <class X>
    requires detail::sequence_numbers<X>
  HEED_INLINE constexpr per_sequence(X&& each) noexcept(!detail::passing<X>) {
    const lengths all = each;
    if constexpr (detail::passing<X>)
      own(all);
    else
      viewed_ = all.data(), size_ = all.size();
  }
  HEED_INLINE per_sequence(std::initializer_list<std::int32_t> each) { own(lengths(each.begin(), each.size())); }

  HEED_INLINE constexpr std::size_t size() const noexcept { return size_; }
  HEED_INLINE constexpr bool empty() const noexcept { return size_ == 0; }
  HEED_INLINE constexpr const std::int32_t* data() const noexcept { return owns_ ? owned_ : viewed_; }
  HEED_INLINE constexpr const std::int32_t& operator[](std::size_t i) const noexcept { return data()[i]; }
  HEED_INLINE constexpr const std::int32_t& back() const noexcept { return data()[size_ - 1]; }
  HEED_INLINE constexpr operator lengths() const& noexcept { return {data(), size_}; }
  operator lengths() const&& = delete;  // what it owns would be gone

 private:
  template <class X>
    requires detail::mistaken_numbers<X>
  per_sequence(X&&) {
    static_assert(detail::sequence_numbers<X>, "heed: lengths, offsets and places are ranges of std::int32_t");
  }

  HEED_INLINE void own(lengths all) {
    if (all.size() > most_owned)
      detail::fail(
          "lengths, offsets or places: a temporary has % entries, at most % are kept: pass an array that lives until "
          "the call",
          all.size(), most_owned);
    for (std::size_t i = 0; i < all.size(); ++i) owned_[i] = all[i];
    size_ = all.size(), owns_ = true;
  }

  union {
    const std::int32_t* viewed_ = nullptr;
    std::int32_t owned_[most_owned];
  };
  std::size_t size_ = 0;
  bool owns_ = false;
};

}  // namespace heed
