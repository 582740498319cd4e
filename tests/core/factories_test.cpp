// SPDX-License-Identifier: BSD-3-Clause

// Factories: every element through the strides, and every refusal with its text.

#include <Eigen/Core>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;
using heed::tensor_view;

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T> T& at(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t d) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + d * x.stride(3)];
}

// Whether x has these extents, and x(b, h, i, d) is expected(b, h, i, d) everywhere.
template <class T, class Expected>
bool equals(const tensor_view<T, 4>& x, std::array<index_t, 4> n, const Expected& expected) {
  for (int axis = 0; axis < 4; ++axis)
    if (x.extent(axis) != n[static_cast<std::size_t>(axis)]) return false;
  for (index_t b = 0; b < n[0]; ++b)
    for (index_t h = 0; h < n[1]; ++h)
      for (index_t i = 0; i < n[2]; ++i)
        for (index_t d = 0; d < n[3]; ++d)
          if (static_cast<index_t>(at(x, b, h, i, d)) != expected(b, h, i, d)) return false;
  return true;
}

std::vector<float> counting(index_t n) {  // every element tells where it lies
  std::vector<float> x(static_cast<std::size_t>(n));
  std::iota(x.begin(), x.end(), 0.0f);
  return x;
}

template <class Call> std::string text_of(const Call& call) {
  try {
    call();
  } catch (const heed::error& e) {
    return e.what();
  }
  return "no error";
}

TEST_CASE("bhsd, bshd and matrix lay contiguous memory out by name") {
  std::vector<float> x = counting(2 * 3 * 5 * 7);
  CHECK(equals(heed::bhsd(x.data(), 2, 3, 5, 7), {2, 3, 5, 7},
               [](index_t b, index_t h, index_t i, index_t d) { return ((b * 3 + h) * 5 + i) * 7 + d; }));
  CHECK(equals(heed::bshd(x.data(), 2, 5, 3, 7), {2, 3, 5, 7},
               [](index_t b, index_t h, index_t i, index_t d) { return ((b * 5 + i) * 3 + h) * 7 + d; }));
  CHECK(equals(heed::matrix(x.data(), 30, 7), {1, 1, 30, 7},
               [](index_t, index_t, index_t i, index_t d) { return i * 7 + d; }));
  STATIC_REQUIRE(std::is_same_v<decltype(heed::bhsd(x.data(), 1, 1, 1, 1)), tensor_view<float, 4>>);
  const std::vector<double> constant(4);
  STATIC_REQUIRE(std::is_same_v<decltype(heed::matrix(constant.data(), 2, 2)), tensor_view<const double, 4>>);
  CHECK(heed::bhsd(x.data(), 2, 0, 5, 7).empty());
  CHECK(heed::matrix(static_cast<float*>(nullptr), 0, 4).empty());
}

TEST_CASE("numbers beyond any memory: refused, or without a step") {
  constexpr index_t most = std::numeric_limits<index_t>::max(), large = index_t{1} << 62;
  float x[8] = {};
  for (const auto& [heads, kv_heads, dim] : {std::array<index_t, 3>{1, large, 1},
                                             {4, most, 1},
                                             {most, 1, 1},
                                             {4, 1, large},
                                             {1, index_t{1} << 30, most >> 32}})
    CHECK(text_of([&, h = heads, k = kv_heads, d = dim] {
            return heed::packed_qkv(x, 1, 1, h, k, d);
          }).starts_with("packed_qkv: a token has "));
  CHECK(heed::packed_qkv(x, 0, 1, 1000, 1000, 1000)[2].data() == x);
  CHECK(text_of([&] {
          const tensor_view<float, 4> negative(x, {1, 1, std::numeric_limits<index_t>::min(), 4}, {4, 4, 4, 1});
          return heed::slice(negative, 2, 1, 1);
        }) == "slice: axis 2 has extent -9223372036854775808, must be at least 0");
  CHECK(heed::slice(heed::bhsd(static_cast<float*>(nullptr), 1, 1, 4, 4), 2, 1, 2).data() == nullptr);
  CHECK(heed::split_heads(tensor_view<float, 4>(nullptr, {1, 1, 0, 8}, {8, 8, 8, most}), 4).empty());
}

TEST_CASE("packed_qkv cuts one buffer into q, k and v") {
  std::vector<float> x = counting(2 * 5 * (4 + 2 + 2) * 3);
  const auto [q, k, v] = heed::packed_qkv(x.data(), 2, 5, 4, 2, 3);
  const auto part = [](index_t first) {
    return [first](index_t b, index_t h, index_t i, index_t d) { return ((b * 5 + i) * 8 + first + h) * 3 + d; };
  };
  CHECK(equals(q, {2, 4, 5, 3}, part(0)));
  CHECK(equals(k, {2, 2, 5, 3}, part(4)));
  CHECK(equals(v, {2, 2, 5, 3}, part(6)));
  for (const auto& none : heed::packed_qkv(static_cast<const float*>(nullptr), 0, 5, 4, 2, 3))
    CHECK((none.data() == nullptr && none.empty()));
}

TEST_CASE("split_heads of matrices in both storage orders, of blocks and of views") {
  row_major m(5, 12);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(i);
  const auto of_m = [](index_t, index_t h, index_t i, index_t d) { return i * 12 + h * 4 + d; };
  CHECK(equals(heed::split_heads(m, 3), {1, 3, 5, 4}, of_m));
  CHECK(heed::split_heads(m, 3).stride(3) == 1);
  STATIC_REQUIRE(std::is_same_v<decltype(heed::split_heads(m, 3)), tensor_view<float, 4>>);

  const Eigen::MatrixXf transposed = m.transpose();  // column-major, so its transpose is row-major again
  CHECK(equals(heed::split_heads(transposed.transpose(), 3), {1, 3, 5, 4}, of_m));
  CHECK(heed::split_heads(transposed.transpose(), 3).stride(3) == 1);
  Eigen::MatrixXf column_major = m;
  CHECK(equals(heed::split_heads(column_major, 3), {1, 3, 5, 4}, of_m));
  CHECK(heed::split_heads(column_major, 3).stride(3) == 5);

  CHECK(equals(heed::split_heads(m.middleCols(4, 8), 2), {1, 2, 5, 4},
               [](index_t, index_t h, index_t i, index_t d) { return i * 12 + 4 + h * 4 + d; }));
  CHECK(equals(heed::split_heads(m.row(2), 3), {1, 3, 1, 4},
               [](index_t, index_t h, index_t, index_t d) { return 24 + h * 4 + d; }));
  CHECK(equals(heed::split_heads(heed::bhsd(m.data(), 5, 1, 2, 6), 3), {5, 3, 2, 2},
               [](index_t b, index_t h, index_t i, index_t d) { return (b * 2 + i) * 6 + h * 2 + d; }));
  CHECK(equals(heed::split_heads(m, 1), {1, 1, 5, 12},
               [](index_t, index_t, index_t i, index_t d) { return i * 12 + d; }));
}

TEST_CASE("slice takes a part of one axis") {
  std::vector<float> x = counting(2 * 3 * 5 * 7);
  const auto all = heed::bhsd(x.data(), 2, 3, 5, 7);
  const auto place = [](index_t b, index_t h, index_t i, index_t d) { return ((b * 3 + h) * 5 + i) * 7 + d; };
  CHECK(equals(heed::slice(all, 0, 1, 1), {1, 3, 5, 7},
               [&](index_t b, index_t h, index_t i, index_t d) { return place(b + 1, h, i, d); }));
  CHECK(equals(heed::slice(all, 1, 1, 2), {2, 2, 5, 7},
               [&](index_t b, index_t h, index_t i, index_t d) { return place(b, h + 1, i, d); }));
  CHECK(equals(heed::slice(all, 2, 4, 1), {2, 3, 1, 7},
               [&](index_t b, index_t h, index_t i, index_t d) { return place(b, h, i + 4, d); }));
  CHECK(equals(heed::slice(all, 3, 2, 5), {2, 3, 5, 5},
               [&](index_t b, index_t h, index_t i, index_t d) { return place(b, h, i, d + 2); }));
  CHECK(heed::slice(all, 2, 5, 0).empty());
  CHECK(heed::slice(all, 2, 0, 5).extent(2) == 5);
}

TEST_CASE("broadcast repeats an axis of extent 1 without a copy") {
  std::vector<float> x = counting(3 * 7);
  const auto repeated = heed::broadcast(heed::broadcast(heed::bhsd(x.data(), 1, 3, 1, 7), 0, 4), 2, 6);
  CHECK(equals(repeated, {4, 3, 6, 7}, [](index_t, index_t h, index_t, index_t d) { return h * 7 + d; }));
  CHECK(repeated.stride(0) == 0);
  CHECK(repeated.stride(2) == 0);
  CHECK(heed::broadcast(heed::bhsd(x.data(), 1, 3, 1, 7), 0, 0).empty());
}

TEST_CASE("contiguous: any rank, the last axis fastest") {
  const std::vector<float> x = counting(2 * 3 * 5);
  const tensor_view<const float, 3> lse = heed::contiguous(x.data(), {2, 3, 5});
  CHECK((lse.extent(0) == 2 && lse.extent(1) == 3 && lse.extent(2) == 5));
  CHECK((lse.stride(0) == 15 && lse.stride(1) == 5 && lse.stride(2) == 1));
  CHECK(&lse(1, 2, 3) == &x[15 + 10 + 3]);
  CHECK(heed::contiguous(x.data(), {30}).stride(0) == 1);
  CHECK(heed::contiguous(x.data(), {0, 4}).empty());
  const index_t large = std::numeric_limits<index_t>::max();
  CHECK(heed::contiguous(x.data(), {large, large, 2}).extent(0) == large);  // a call refuses it
  CHECK(text_of([&] { return heed::contiguous(x.data(), {2, -3}); }) ==
        "contiguous: extent 1 is -3, must be at least 0");
}

TEST_CASE("factories say what is wrong, with names and numbers") {
  float* const x = nullptr;  // nothing is read
  const auto four = heed::bhsd(x, 2, 2, 4, 4);
  CHECK(text_of([&] { return heed::bhsd(x, -1, 1, 1, 1); }) == "bhsd: batch is -1, must be at least 0");
  CHECK(text_of([&] { return heed::bhsd(x, 1, -2, 1, 1); }) == "bhsd: heads is -2, must be at least 0");
  CHECK(text_of([&] { return heed::bshd(x, 1, -3, 1, 1); }) == "bshd: seq is -3, must be at least 0");
  CHECK(text_of([&] { return heed::bshd(x, 1, 1, 1, -4); }) == "bshd: dim is -4, must be at least 0");
  CHECK(text_of([&] { return heed::matrix(x, 1, -5); }) == "matrix: dim is -5, must be at least 0");
  CHECK(text_of([&] { return heed::packed_qkv(x, 1, 1, 1, -6, 1); }) ==
        "packed_qkv: kv_heads is -6, must be at least 0");

  row_major m(3, 8);
  CHECK(text_of([&] { return heed::split_heads(m, 3); }) == "split_heads: x has 8 columns, heads is 3: not a multiple");
  CHECK(text_of([&] { return heed::split_heads(m, 0); }) == "split_heads: heads is 0, must be at least 1");
  CHECK(text_of([&] { return heed::split_heads(four, 2); }) == "split_heads: x has 2 heads already, must have 1");

  CHECK(text_of([&] { return heed::slice(four, 2, 3, 2); }) == "slice: first is 3 and count is 2, axis 2 has extent 4");
  CHECK(text_of([&] { return heed::slice(four, 2, 5, 0); }) == "slice: first is 5 and count is 0, axis 2 has extent 4");
  constexpr index_t largest = std::numeric_limits<index_t>::max();
  CHECK(text_of([&] { return heed::slice(four, 2, 1, largest); }).substr(0, 5) == "slice");
  CHECK(text_of([&] { return heed::slice(four, 2, -1, 2); }) == "slice: first is -1, must be at least 0");
  CHECK(text_of([&] { return heed::slice(four, 2, 1, -2); }) == "slice: count is -2, must be at least 0");
  CHECK(text_of([&] { return heed::slice(four, 4, 0, 0); }) == "slice: axis is 4, must be 0 to 3");

  CHECK(text_of([&] { return heed::broadcast(four, 1, 3); }) == "broadcast: axis 1 has extent 2, must be 1");
  CHECK(text_of([&] { return heed::broadcast(four, -1, 3); }) == "broadcast: axis is -1, must be 0 to 3");
  CHECK(text_of([&] { return heed::broadcast(heed::matrix(x, 4, 4), 1, -3); }) ==
        "broadcast: count is -3, must be at least 0");
}

}  // namespace
