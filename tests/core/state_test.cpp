// SPDX-License-Identifier: BSD-3-Clause

// heed::state: zeros at first, a value that is copied and moved, two views that share no number, extents that it
// refuses.

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/error.hpp"
#include "heed/core/state.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;
using heed::state;
using heed::state_view;

static_assert(std::is_same_v<state<>, state<float>>);
static_assert(std::is_nothrow_move_constructible_v<state<float>>);
static_assert(std::is_convertible_v<state<float>&, state_view<float>>);
static_assert(std::is_convertible_v<const state<float>&, state_view<const float>>);
static_assert(std::is_convertible_v<state_view<float>, state_view<const float>>);
static_assert(!std::is_convertible_v<const state<float>&, state_view<float>>);  // would let a const state be written
static_assert(!std::is_convertible_v<state_view<const float>, state_view<float>>);

// f(number), first all of s, then all of z
template <class T, class F> void each(const state_view<T>& x, F f) {
  for (index_t n = 0; n < x.s.extent(0); ++n)
    for (index_t h = 0; h < x.s.extent(1); ++h)
      for (index_t i = 0; i < x.s.extent(2); ++i)
        for (index_t e = 0; e < x.s.extent(3); ++e)
          f(x.s.data()[n * x.s.stride(0) + h * x.s.stride(1) + i * x.s.stride(2) + e * x.s.stride(3)]);
  for (index_t n = 0; n < x.z.extent(0); ++n)
    for (index_t h = 0; h < x.z.extent(1); ++h)
      for (index_t i = 0; i < x.z.extent(2); ++i)
        f(x.z.data()[n * x.z.stride(0) + h * x.z.stride(1) + i * x.z.stride(2)]);
}
template <class T> void count_from(state<T>& x, T first) {
  each(state_view<T>(x), [&](T& number) { number = first++; });
}
template <class T> bool counts_from(const state<T>& x, T first) {
  bool counts = true;
  each(state_view<const T>(x), [&](const T& number) { counts = counts && number == first++; });
  return counts;
}
template <class T> bool all_zero(const state<T>& x) {
  bool zero = true;
  each(state_view<const T>(x), [&](const T& number) { zero = zero && number == T(0); });
  return zero;
}
template <class T> const T* data_of(const state<T>& x) { return state_view<const T>(x).s.data(); }

template <class T> void check_views(index_t sequences, index_t heads, index_t features, index_t value_dim) {
  state<T> x(sequences, heads, features, value_dim);
  const state_view<T> view = x;
  const std::array<index_t, 4> n{sequences, heads, features, value_dim};
  for (int axis = 0; axis < 4; ++axis) CHECK(view.s.extent(axis) == n[static_cast<std::size_t>(axis)]);
  for (int axis = 0; axis < 3; ++axis) CHECK(view.z.extent(axis) == n[static_cast<std::size_t>(axis)]);
  CHECK(view.s.stride(3) == 1);
  CHECK(view.s.stride(2) == value_dim);
  CHECK(view.s.stride(1) == features * value_dim);
  CHECK(view.s.stride(0) == heads * features * value_dim);
  CHECK(view.z.stride(2) == 1);
  CHECK(view.z.stride(1) == features);
  CHECK(view.z.stride(0) == heads * features);
  CHECK(reinterpret_cast<std::uintptr_t>(view.s.data()) % 64 == 0);
  CHECK(all_zero(x));
  count_from(x, T(1));  // numbers that share memory would not all be read back
  CHECK(counts_from(x, T(1)));
  x.reset();
  CHECK(all_zero(x));
  const state_view<const T> read = std::as_const(x);
  CHECK((read.s.data() == view.s.data() && read.z.data() == view.z.data()));
}

}  // namespace

TEST_CASE("states: extents, strides, alignment, zeros at first and after reset") {
  check_views<float>(2, 3, 5, 7);
  check_views<double>(3, 1, 4, 9);
  check_views<float>(1, 1, 1, 1);
}

TEST_CASE("states are zero in memory that was used before") {
  for (int round = 0; round < 4; ++round) {
    std::vector<state<float>> used(8, state<float>(1, 2, 8, 8));
    for (state<float>& x : used) CHECK(all_zero(x));
    for (state<float>& x : used) count_from(x, 1.0f);
    used.clear();
    for (int i = 0; i < 8; ++i) used.emplace_back(1, 2, 8, 8);
    for (const state<float>& x : used) CHECK(all_zero(x));
    for (state<float>& x : used) count_from(x, 1.0f);
  }
}

TEST_CASE("states without numbers: an extent of 0") {
  for (std::size_t axis = 0; axis < 4; ++axis) {
    std::array<index_t, 4> n{2, 3, 4, 5};
    n[axis] = 0;
    state<float> x(n[0], n[1], n[2], n[3]), copy = x;
    copy.reset();
    const state_view<const float> view = std::as_const(copy);
    for (int a = 0; a < 4; ++a) CHECK(view.s.extent(a) == n[static_cast<std::size_t>(a)]);
    for (int a = 0; a < 3; ++a) CHECK(view.z.extent(a) == n[static_cast<std::size_t>(a)]);
    count_from(copy, 1.0f);  // without values there is still z
    CHECK(counts_from(copy, 1.0f));
    CHECK(all_zero(x));
  }
}

TEST_CASE("states: a copy is another memory with the same numbers") {
  state<float> x(2, 1, 3, 5);
  count_from(x, 1.0f);
  state<float> copy = x;
  CHECK(data_of(copy) != data_of(x));
  CHECK(counts_from(copy, 1.0f));
  copy.reset();
  CHECK(counts_from(x, 1.0f));

  state<float> other(1, 4, 2, 2);  // of other extents
  count_from(other, 50.0f);
  other = x;
  CHECK(counts_from(other, 1.0f));
  CHECK(state_view<const float>(other).s.extent(3) == 5);
  CHECK(data_of(other) != data_of(x));
  x.reset();
  CHECK(counts_from(other, 1.0f));
}

TEST_CASE("states: a move takes the memory along and leaves none behind") {
  state<float> x(2, 1, 3, 5);
  count_from(x, 1.0f);
  const float* const data = data_of(x);
  state<float> taken = std::move(x);
  CHECK(data_of(taken) == data);
  CHECK(counts_from(taken, 1.0f));
  const state_view<const float> left = std::as_const(x);  // NOLINT: what is left is a state without numbers
  CHECK((left.s.data() == nullptr && left.s.empty() && left.z.empty()));
  x.reset();
  const state<float> copy_of_none = x;
  CHECK(state_view<const float>(copy_of_none).s.empty());

  x = std::move(taken);
  CHECK(data_of(x) == data);
  CHECK(counts_from(x, 1.0f));
  state<float> other(1, 4, 2, 2);
  std::swap(x, other);
  CHECK(data_of(other) == data);
  CHECK(counts_from(other, 1.0f));
  CHECK(all_zero(x));
}

TEST_CASE("states: assigned to themselves") {
  state<float> x(2, 1, 3, 5);
  count_from(x, 1.0f);
  state<float>& same = x;
  x = same;
  CHECK(counts_from(x, 1.0f));
  x = std::move(same);
  CHECK(counts_from(x, 1.0f));
  CHECK(state_view<const float>(x).s.extent(2) == 3);
}

TEST_CASE("states with an extent below 0, or of more numbers than can be counted") {
  constexpr index_t most = std::numeric_limits<index_t>::max(), many = index_t{1} << 31;
  const std::vector<std::array<index_t, 4>> bad{
      {1, -1, 8, 8}, {many, many, 1, 3}, {most, most, most, most}, {0, many, many, 8}, {many, many, 0, 0}};
  for (const auto& n : bad) CHECK_THROWS_AS(state<float>(n[0], n[1], n[2], n[3]), heed::error);
  for (std::size_t axis = 0; axis < 4; ++axis) {
    std::array<index_t, 4> n{2, 0, 4, 5};
    n[axis] = -3;
    try {
      state<double>(n[0], n[1], n[2], n[3]);
      FAIL("an extent of -3");
    } catch (const heed::error& e) {
      CHECK(std::string(e.what()).find("-3") != std::string::npos);
    }
  }
}
