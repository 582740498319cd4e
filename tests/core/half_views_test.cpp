// SPDX-License-Identifier: BSD-3-Clause

// 16-bit types of compilers and other libraries, viewed as f16_t and bf16_t.

#include <array>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/reference/eigen.hpp"
#include "support/catch.hpp"

namespace {

struct pair_of_bytes {
  unsigned char a, b;
};
enum class code : short { a };

using heed::bf16_t;
using heed::f16_t;
using heed::index_t;
using heed::tensor_view;
using heed::detail::storage_of;

template <class T> using rows_of = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class A, class B> constexpr bool same = std::is_same_v<A, B>;

static_assert(same<storage_of<Eigen::half>, f16_t> && same<storage_of<const Eigen::half>, const f16_t>);
static_assert(same<storage_of<Eigen::bfloat16>, bf16_t> && same<storage_of<const Eigen::bfloat16>, const bf16_t>);
static_assert(same<storage_of<f16_t>, f16_t> && same<storage_of<const bf16_t>, const bf16_t>);
static_assert(same<storage_of<float>, float> && same<storage_of<const double>, const double>);
static_assert(same<storage_of<short>, short> && same<storage_of<char16_t>, char16_t>);
static_assert(same<storage_of<pair_of_bytes>, pair_of_bytes> && same<storage_of<code>, code>);
static_assert(same<storage_of<void>, void> && same<storage_of<const void>, const void>);
#if defined(__ARM_FP16_FORMAT_IEEE)  // g++ 12 has _Float16 for C alone
using compilers_half = __fp16;
#define HEED_COMPILER_HAS_HALF
#elif defined(__FLT16_MANT_DIG__)  // std::float16_t is this one
using compilers_half = _Float16;
#define HEED_COMPILER_HAS_HALF
#endif
#if defined(HEED_COMPILER_HAS_HALF)
static_assert(same<storage_of<compilers_half>, f16_t> && same<storage_of<const compilers_half>, const f16_t>);
#endif
#if defined(__BFLT16_MANT_DIG__) || (defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__))
static_assert(same<storage_of<__bf16>, bf16_t> && same<storage_of<const __bf16>, const bf16_t>);
#endif
// element_t and the sums follow; const is kept, and neither type is the other or float.
static_assert(same<heed::element_t<rows_of<Eigen::half>&>, f16_t>);
static_assert(same<heed::element_t<const rows_of<Eigen::bfloat16>&>, const bf16_t>);
static_assert(same<heed::element_t<std::span<const Eigen::half>>, const f16_t>);
static_assert(same<heed::acc_of<rows_of<Eigen::half>>, float>);
static_assert(same<decltype(heed::view(std::declval<rows_of<Eigen::half>&>())), tensor_view<f16_t, 4>>);
template <class X, class T> constexpr bool binds = std::is_constructible_v<tensor_view<T, 4>, X>;
static_assert(binds<rows_of<Eigen::bfloat16>&, const bf16_t> && binds<rows_of<Eigen::half>&, f16_t>);
static_assert(binds<const rows_of<Eigen::half>&, const f16_t> && !binds<const rows_of<Eigen::half>&, f16_t>);
static_assert(!binds<rows_of<Eigen::half>&, bf16_t> && !binds<rows_of<Eigen::half>&, float>);
static_assert(!binds<rows_of<float>&, f16_t> && !binds<std::vector<short>&, const f16_t>);
static_assert(!binds<rows_of<Eigen::half>, const f16_t>);  // a temporary that owns its elements
static_assert(binds<rows_of<Eigen::half>&, const Eigen::half> && binds<tensor_view<Eigen::half, 2>, const Eigen::half>);

// Writes through the view and reads through the owner's type, and the other way.
template <class Stored, class T> void check_memory(T* p, index_t rows, index_t columns, tensor_view<Stored, 4> x) {
  REQUIRE(static_cast<const void*>(x.data()) == p);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j) {
      T& own = p[i * columns + j];
      own = static_cast<T>(static_cast<float>(10 * i + j));
      CHECK(static_cast<float>(x(0, 0, i, j)) == static_cast<float>(10 * i + j));
      x(0, 0, i, j) = Stored(0.5f);
      CHECK(static_cast<float>(own) == 0.5f);
    }
}

template <class Stored, class T> void check_factories() {
  std::vector<T> memory(2 * 3 * 4 * 5);
  T* const p = memory.data();
  const T* const q = p;
  static_assert(same<decltype(heed::bhsd(p, 2, 3, 4, 5)), tensor_view<Stored, 4>>);
  static_assert(same<decltype(heed::bshd(q, 2, 4, 3, 5)), tensor_view<const Stored, 4>>);
  static_assert(same<decltype(heed::contiguous(q, {2, 3})), tensor_view<const Stored, 2>>);
  static_assert(same<decltype(heed::packed_qkv(p, 2, 4, 3, 1, 2)), std::array<tensor_view<Stored, 4>, 3>>);
  check_memory(p, 24, 5, heed::matrix(p, 24, 5));
  CHECK(static_cast<const void*>(heed::bhsd(p, 2, 3, 4, 5).data()) == p);
  CHECK(static_cast<const void*>(heed::bshd(q, 2, 4, 3, 5).data()) == q);
  CHECK(static_cast<const void*>(heed::contiguous(q, {2, 3}).data()) == q);
  CHECK(static_cast<const void*>(heed::packed_qkv(p, 2, 4, 3, 1, 2)[1].data()) == p + 6);
  CHECK(static_cast<const void*>(heed::split_heads(heed::matrix(p, 4, 6), 3).data()) == p);
}

}  // namespace

TEST_CASE("Eigen's half and bfloat16 are views of the same memory") {
  rows_of<Eigen::half> half(3, 4);
  check_memory<f16_t>(half.data(), 3, 4, heed::view(half));
  rows_of<Eigen::bfloat16> brain(3, 4);
  check_memory<bf16_t>(brain.data(), 3, 4, heed::view(brain));
  const auto block = heed::view(half.block(1, 1, 2, 2));
  CHECK(block.data() == heed::view(half).data() + 5);
  CHECK(block.stride(2) == 4);
}

TEST_CASE("factories make views of stored numbers out of pointers to other 16-bit types") {
  check_factories<f16_t, f16_t>();
  check_factories<bf16_t, bf16_t>();
  check_factories<f16_t, Eigen::half>();
  check_factories<bf16_t, Eigen::bfloat16>();
#if defined(HEED_COMPILER_HAS_HALF)
  check_factories<f16_t, compilers_half>();
#endif
#if defined(__BFLT16_MANT_DIG__)
  check_factories<bf16_t, __bf16>();
#endif
}
