// SPDX-License-Identifier: BSD-3-Clause

// tensor_view, and what becomes one: by concept (what is refused must not compile) and by pointer, extents, strides.

#include <Eigen/Core>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/view.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;
using heed::tensor_view;
using heed::viewable;

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T, int Rank> struct strided {  // has the members of an mdspan, is none
  T* p;
  std::array<std::ptrdiff_t, std::size_t{Rank}> n, s;
  static constexpr std::size_t rank() { return std::size_t{Rank}; }
  T* data_handle() const { return p; }
  std::size_t extent(std::size_t a) const { return static_cast<std::size_t>(n[a]); }
  std::ptrdiff_t stride(std::size_t a) const { return s[a]; }
};

struct span_of_unsigned {  // a range whose size is no index_t
  float* p;
  float* begin() const { return p; }
  float* end() const { return p + 3; }
  std::uint8_t size() const { return 3; }
};

template <class X, class T, int Rank = 4> constexpr bool binds = std::is_convertible_v<X, tensor_view<T, Rank>>;

template <class X> constexpr bool can_view = requires { heed::view(std::declval<X>()); };

template <class X> constexpr bool refused = !binds<X, float> && !binds<X, const float> && !can_view<X>;

// the type itself:
using view4 = tensor_view<float, 4>;
static_assert(std::is_trivially_copyable_v<view4> && std::is_trivially_destructible_v<view4>);
static_assert(std::is_standard_layout_v<view4> && sizeof(view4) == 9 * sizeof(void*));
static_assert(std::is_nothrow_default_constructible_v<view4>);
static_assert(std::is_same_v<decltype(std::declval<const view4&>().data()), float*>);  // const is shallow
static_assert(viewable<view4> && viewable<const view4&> && viewable<tensor_view<const bool, 2>>);
static_assert(std::is_same_v<heed::element_t<const view4>, float>);
static_assert(std::is_same_v<heed::element_t<tensor_view<const float, 4>>, const float>);

// what is viewable:
static_assert(viewable<row_major> && viewable<const row_major&> && viewable<Eigen::MatrixXf>);
static_assert(viewable<Eigen::VectorXf> && viewable<Eigen::RowVectorXd> && viewable<Eigen::ArrayXXf>);
static_assert(viewable<Eigen::Map<const row_major>> && viewable<Eigen::Ref<row_major>>);
static_assert(viewable<Eigen::Transpose<row_major>> && viewable<Eigen::Block<const row_major>>);
static_assert(viewable<Eigen::Map<Eigen::MatrixXf, 0, Eigen::Stride<-1, -1>>>);
static_assert(viewable<decltype(std::declval<row_major&>().diagonal())>);
static_assert(viewable<strided<float, 3>> && viewable<const strided<const float, 1>&>);
static_assert(viewable<std::vector<float>> && viewable<std::span<const double>> && viewable<std::array<float, 3>>);
static_assert(viewable<float[3]> && viewable<const float (&)[3]> && viewable<span_of_unsigned>);
static_assert(!viewable<float> && !viewable<float*> && !viewable<std::vector<bool>> && !viewable<strided<float, 0>>);
static_assert(!viewable<decltype(std::declval<row_major&>() * 2.0f)>);  // an expression has no memory
static_assert(!viewable<decltype(std::declval<Eigen::VectorXf&>().array() + 1.0f)>);
static_assert(!viewable<decltype(std::declval<row_major&>() * std::declval<row_major&>())>);

static_assert(std::is_same_v<heed::element_t<row_major>, float> && std::is_same_v<heed::element_t<row_major&>, float>);
static_assert(std::is_same_v<heed::element_t<const row_major&>, const float>);
static_assert(std::is_same_v<heed::element_t<Eigen::Map<const row_major>>, const float>);
static_assert(std::is_same_v<heed::element_t<const std::vector<double>>, const double>);
static_assert(std::is_same_v<heed::element_t<const std::span<double>>, double>);
static_assert(std::is_same_v<heed::acc_of<const row_major&>, float>);
static_assert(std::is_same_v<heed::acc_of<std::span<const double>>, double>);
static_assert(std::is_same_v<heed::acc_of<tensor_view<const heed::bf16_t, 4>>, float>);

// what binds to what:
static_assert(binds<row_major&, float> && binds<row_major&, const float> && binds<const row_major&, const float>);
static_assert(!binds<const row_major&, float> && !binds<const std::vector<float>&, float>);  // const -> mutable
static_assert(!binds<std::span<const float>, float> && !binds<tensor_view<const float, 4>, float>);
static_assert(!binds<row_major&, double> && !binds<row_major&, const double>);  // no conversion of elements
static_assert(!binds<Eigen::MatrixXd&, const float> && !binds<std::vector<std::int32_t>&, const float>);
static_assert(binds<tensor_view<float, 4>, const float> && binds<tensor_view<float, 2>&, float>);
static_assert(!binds<tensor_view<float, 4>, float, 3> && !binds<row_major&, float, 1>);  // axes must fit
using view5 = tensor_view<float, 5>;  // a view like any other, until a call takes it
static_assert(std::is_trivially_copyable_v<view5> && std::is_copy_constructible_v<view5>);
static_assert(std::is_constructible_v<view5, view5&> && std::is_constructible_v<view5, const view5&>);
static_assert(binds<view5&, const float, 5> && binds<const view5, const float, 5> && !binds<view5&, float>);
static_assert(!binds<strided<float, 5>, float> && !can_view<strided<float, 5>&>);
static_assert(binds<Eigen::VectorXf&, float, 1> && binds<Eigen::RowVectorXf&, float, 1>);
static_assert(binds<float (&)[3], float, 1> && binds<std::span<float>&, float, 1>);
static_assert(binds<std::vector<std::int32_t>&, const std::int32_t, 2>);
static_assert(!binds<float*, float> && !binds<int, float> && !binds<std::nullptr_t, float>);

// temporaries that own their elements do not compile, temporaries that refer to them do:
static_assert(refused<row_major> && refused<const row_major> && refused<Eigen::VectorXf> && refused<Eigen::ArrayXXf>);
static_assert(refused<span_of_unsigned> && can_view<span_of_unsigned&>);  // it does not say that it only refers
static_assert(refused<Eigen::Matrix3f> && refused<std::vector<float>> && refused<std::array<float, 3>>);
static_assert(binds<Eigen::Map<row_major>, float> && binds<Eigen::Block<row_major>, float>);
static_assert(binds<Eigen::Ref<row_major>, float> && binds<Eigen::Ref<const row_major>&, const float>);
static_assert(binds<const Eigen::Ref<row_major>, const float> && binds<Eigen::Map<const row_major>, const float>);
static_assert(binds<Eigen::Map<const Eigen::VectorXf, 0, Eigen::InnerStride<>>, const float, 1>);
static_assert(refused<Eigen::Ref<const row_major>> && refused<const Eigen::Ref<const Eigen::MatrixXf>>);  // may own
static_assert(refused<Eigen::Ref<const Eigen::VectorXf>> && refused<Eigen::Ref<const Eigen::ArrayXXf>>);
static_assert(refused<Eigen::Ref<const row_major, 0, Eigen::Stride<-1, -1>>>);
static_assert(binds<Eigen::Transpose<Eigen::MatrixXf>, float> && binds<std::span<float>, float>);
static_assert(binds<strided<float, 3>, float> && binds<tensor_view<float, 4>, const float>);
static_assert(heed::detail::borrowable<row_major&> && heed::detail::borrowable<const row_major&>);
static_assert(!heed::detail::borrowable<row_major>);
static_assert(heed::detail::writable<row_major&> && heed::detail::writable<Eigen::Block<row_major>>);
static_assert(!heed::detail::writable<row_major> && !heed::detail::writable<const row_major&>);
static_assert(!heed::detail::writable<Eigen::Map<const row_major>> && !heed::detail::writable<std::span<const float>>);

// known at compile time to lie column by column:
using heed::detail::column_major;
template <class Stride> using map_of = Eigen::Map<Eigen::MatrixXf, 0, Stride>;
static_assert(column_major<Eigen::MatrixXf> && column_major<const Eigen::MatrixXd&> && column_major<Eigen::Matrix3f>);
static_assert(column_major<Eigen::Ref<Eigen::MatrixXf>> && column_major<Eigen::Transpose<row_major>>);
static_assert(column_major<Eigen::Block<Eigen::MatrixXf>> && column_major<map_of<Eigen::OuterStride<>>>);
static_assert(!column_major<row_major&> && !column_major<Eigen::Transpose<Eigen::MatrixXf>>);
static_assert(!column_major<Eigen::VectorXf> && !column_major<Eigen::RowVectorXf>);
static_assert(!column_major<Eigen::MatrixXf::RowXpr>);
static_assert(!column_major<map_of<Eigen::Stride<-1, -1>>> && !column_major<map_of<Eigen::InnerStride<>>>);
static_assert(!column_major<map_of<Eigen::Stride<1, -1>>>);  // rows are contiguous, said in another way
static_assert(!column_major<std::vector<float>> && !column_major<view4> && !column_major<strided<float, 2>>);

using numbers = std::vector<index_t>;

template <class T, int Rank> numbers extents(const tensor_view<T, Rank>& x) {
  numbers all;
  for (int axis = 0; axis < Rank; ++axis) all.push_back(x.extent(axis));
  return all;
}

template <class T, int Rank> numbers strides(const tensor_view<T, Rank>& x) {
  numbers all;
  for (int axis = 0; axis < Rank; ++axis) all.push_back(x.stride(axis));
  return all;
}

template <class T> T& at(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t d) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + d * x.stride(3)];
}

// Whether view(m)(0, 0, i, d) is the element m(i, d) itself, for all i and d.
template <class M> bool same_elements(M&& m) {
  const auto x = heed::view(m);
  bool same = extents(x) == numbers{1, 1, m.rows(), m.cols()};
  for (index_t i = 0; i < m.rows(); ++i)
    for (index_t d = 0; d < m.cols(); ++d) same = same && &at(x, 0, 0, i, d) == &m.coeffRef(i, d);
  return same;
}

TEST_CASE("a default-constructed view is null and without elements") {
  constexpr tensor_view<float, 3> none;
  STATIC_REQUIRE(none.data() == nullptr);
  STATIC_REQUIRE(none.empty());
  CHECK(extents(none) == numbers{0, 0, 0});
}

TEST_CASE("a view keeps pointer, extents and signed strides, and copies refer to the same elements") {
  float x[24] = {};
  const tensor_view<float, 2> flipped(x + 23, {4, 6}, {-6, -1});
  CHECK(flipped.data() == x + 23);
  CHECK(extents(flipped) == numbers{4, 6});
  CHECK(strides(flipped) == numbers{-6, -1});
  CHECK_FALSE(flipped.empty());
  CHECK(tensor_view<float, 2>(x, {4, 0}, {0, 1}).empty());
  const tensor_view<float, 2> copy = flipped;
  *copy.data() = 3;
  CHECK(x[23] == 3);
}

TEST_CASE("views of fewer axes gain leading axes of extent 1") {
  float x[24] = {};
  const tensor_view<float, 2> two(x, {4, 6}, {6, 1});
  const tensor_view<const float, 4> four = two;
  CHECK(extents(four) == numbers{1, 1, 4, 6});
  CHECK(four.stride(2) == 6);
  CHECK(four.stride(3) == 1);
  CHECK(four.data() == x);
  CHECK(extents(heed::view<3>(two)) == numbers{1, 4, 6});
  const auto same = heed::view(four);
  STATIC_REQUIRE(std::is_same_v<decltype(same), const tensor_view<const float, 4>>);
  CHECK(heed::detail::same(same, four));
  CHECK_FALSE(heed::detail::same(four, tensor_view<const float, 4>(x, {1, 1, 4, 6}, {0, 0, 7, 1})));
  const tensor_view<float, 4> none = tensor_view<float, 2>();
  CHECK(none.data() == nullptr);
  CHECK(none.empty());
}

TEST_CASE("Eigen objects, whatever their storage order and strides") {
  row_major m = row_major::Random(6, 8);
  Eigen::MatrixXf c = Eigen::MatrixXf::Random(6, 8);
  CHECK(same_elements(m));
  CHECK(same_elements(c));
  CHECK(strides(heed::view(m)) == numbers{0, 0, 8, 1});
  CHECK(strides(heed::view(c)) == numbers{0, 0, 1, 6});  // a view, with a last stride that q, k, v and o must not have
  CHECK(strides(heed::view(c.transpose())) == numbers{0, 0, 6, 1});
  CHECK(same_elements(c.transpose()));
  CHECK(same_elements(m.middleRows(2, 3)));
  CHECK(same_elements(m.leftCols(5)));
  CHECK(same_elements(m.block(1, 2, 3, 4)));
  CHECK(same_elements(Eigen::Ref<row_major>(m)));
  CHECK(same_elements(Eigen::Map<row_major, 0, Eigen::Stride<-1, -1>>(m.data(), 3, 4, Eigen::Stride<-1, -1>(16, 2))));
  Eigen::ArrayXXf array(3, 4);
  CHECK(same_elements(array));
  Eigen::Matrix<float, 3, 5, Eigen::RowMajor> fixed;
  CHECK(same_elements(fixed));

  const row_major& constant = m;
  STATIC_REQUIRE(std::is_same_v<decltype(heed::view(constant)), tensor_view<const float, 4>>);
  CHECK(heed::view(constant).data() == m.data());
  row_major none(0, 8);
  CHECK(extents(heed::view(none)) == numbers{1, 1, 0, 8});
  CHECK(heed::view(none).empty());
}

TEST_CASE("an Eigen vector known as such at compile time is one row") {
  row_major m = row_major::Random(6, 8);
  Eigen::MatrixXf c = Eigen::MatrixXf::Random(6, 8);
  Eigen::VectorXf column(5);
  Eigen::RowVectorXf row(5);
  CHECK(extents(heed::view(column)) == numbers{1, 1, 1, 5});
  CHECK(extents(heed::view(row)) == numbers{1, 1, 1, 5});
  CHECK(extents(heed::view<3>(column.head(2))) == numbers{1, 1, 2});
  CHECK(extents(heed::view<1>(m.col(3))) == numbers{6});
  CHECK(strides(heed::view<1>(m.col(3))) == numbers{8});
  CHECK(heed::view<1>(m.col(3)).data() == &m(0, 3));
  CHECK(strides(heed::view<1>(c.row(2))) == numbers{6});
  CHECK(extents(heed::view<1>(c.row(2))) == numbers{8});
  CHECK(strides(heed::view<1>(m.diagonal())) == numbers{9});
  CHECK(extents(heed::view<1>(m.diagonal())) == numbers{6});
  Eigen::Matrix<float, 1, 1> one;
  CHECK(extents(heed::view(one)) == numbers{1, 1, 1, 1});
  CHECK(extents(heed::view(column.transpose())) == numbers{1, 1, 1, 5});

  const row_major one_column(6, 1);  // known at run time only: six rows
  CHECK(extents(heed::view(one_column)) == numbers{1, 1, 6, 1});
}

TEST_CASE("x(i...) is the element at i..., in any strides") {
  float x[24] = {};
  const tensor_view<float, 4> backwards{x + 23, {2, 3, 2, 2}, {-12, -4, -2, -1}};
  CHECK(&backwards(0, 0, 0, 0) == x + 23);
  CHECK(&backwards(1, 2, 1, 1) == x);
  backwards(1, 0, std::size_t{1}, std::int32_t{0}) = 5;
  CHECK(x[23 - 14] == 5);
  constexpr tensor_view<const float, 1> none;
  static_assert(!std::is_invocable_v<decltype(none), int, int> && !std::is_invocable_v<decltype(none), const char*>);
}

TEST_CASE("mdspans, contiguous ranges and arrays") {
  float x[24] = {};
  const strided<float, 3> cube{x, {2, 3, 4}, {12, 4, 1}};
  CHECK(extents(heed::view(cube)) == numbers{1, 2, 3, 4});
  CHECK(strides(heed::view(cube)) == numbers{0, 12, 4, 1});
  CHECK(heed::view(cube).data() == x);
  const strided<const float, 4> backwards{x + 23, {2, 3, 2, 2}, {-12, -4, -2, -1}};
  CHECK(strides(heed::view(backwards)) == numbers{-12, -4, -2, -1});

  std::vector<float> vector(7);
  std::array<double, 3> array{};
  CHECK(extents(heed::view<1>(vector)) == numbers{7});
  CHECK(extents(heed::view(vector)) == numbers{1, 1, 1, 7});
  CHECK(strides(heed::view(vector)) == numbers{0, 0, 0, 1});
  CHECK(heed::view<1>(array).data() == array.data());
  CHECK(extents(heed::view<2>(x)) == numbers{1, 24});
  CHECK(extents(heed::view<1>(std::span(x).subspan(3))) == numbers{21});
  CHECK(heed::view<1>(std::span(x).subspan(3)).data() == x + 3);
  const span_of_unsigned three{x};
  CHECK(extents(heed::view<1>(three)) == numbers{3});
  const std::vector<std::int32_t> ids{1, 2};
  const tensor_view<const std::int32_t, 2> table = ids;
  CHECK(extents(table) == numbers{1, 2});
}

}  // namespace
