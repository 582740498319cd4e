// SPDX-License-Identifier: BSD-3-Clause

// Rows that are copied or prefetched beside a product: the numbers of the product and of the copy do not change.

#include "heed/tile/row_stage.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::vector<float> numbers(index_t count, std::uint32_t seed) {
  heed_test::random_numbers random(seed);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

heed::tensor_view<const float, 4> rows_of(const std::vector<float>& x, index_t count, index_t dim, index_t stride) {
  return {x.data(), {1, 1, count, dim}, {0, 0, stride, 1}};
}

const std::byte* bytes_at(const float* x) { return reinterpret_cast<const std::byte*>(x); }

template <class S> struct stage {
  stage(const heed::tensor_view<const S, 4>& x, index_t most, tile::row_use use, double bytes)
      : counted(),
        memory(bytes_of(x, most, use, bytes)),
        scratch(memory, memory.size()),
        rows(heed::detail::input_tensor(x), tile::row_format_of<float, S>, most, use, bytes, scratch) {
    rows.begin(reinterpret_cast<const std::byte*>(x.data()));
  }
  static std::size_t bytes_of(const heed::tensor_view<const S, 4>& x, index_t most, tile::row_use use, double bytes) {
    heed::detail::arena count;
    const tile::row_format<float>& format = tile::row_format_of<float, S>;
    static_cast<void>(tile::row_stage<float>(heed::detail::input_tensor(x), format, most, use, bytes, count));
    return count.needed() + 64;
  }
  heed::detail::arena counted;
  std::vector<std::byte> memory;
  heed::detail::arena scratch;
  tile::row_stage<float> rows;
};

template <class S>
void check_rows(const heed::tensor_view<const S, 4>& x, const tile::lane_block<const float>& at, index_t first) {
  for (index_t r = 0; r < at.rows; ++r)
    for (index_t d = 0; d < x.extent(3); ++d)
      REQUIRE(at.data[r * at.stride + d] == static_cast<float>(x.data()[(first + r) * x.stride(2) + d]));
}

}  // namespace

TEST_CASE("rows far apart are copied, and a copy has their numbers, for any dim and direction") {
  for (const index_t dim : {1, 3, 16, 20, 64, 80, 128})
    for (const index_t stride : {1024, -1024, 1027}) {
      const index_t count = 70, apart = std::abs(stride);
      const std::vector<float> x = numbers(count * apart, 1);
      auto view = rows_of(x, count, dim, stride);
      if (stride < 0) view = {x.data() + (count - 1) * apart, {1, 1, count, dim}, {0, 0, stride, 1}};
      stage<float> s(view, 32, tile::row_use::again, 0);
      REQUIRE(s.rows.copies());
      for (const auto& [first, rows] : {std::pair<index_t, index_t>{0, 32}, {32, 31}, {63, 7}}) {
        CHECK(s.rows.at(first, rows).data == view.data() + first * stride);
        s.rows.copy(first, rows);
        CHECK(s.rows.at(first, rows).stride < apart);
        check_rows(view, s.rows.at(first, rows), first);
      }
    }
}

TEST_CASE("strides of tensors without elements may be any number") {
  constexpr index_t least = std::numeric_limits<index_t>::min(), most = std::numeric_limits<index_t>::max();
  CHECK((tile::far_rows(least, 64) && tile::far_rows(most, 64) && !tile::far_rows(-2047, 64)));
  for (const index_t stride : {least, most, least / 2 + 1, most / 3}) {
    const heed::detail::input_tensor x(heed::tensor_view<const float, 4>(nullptr, {1, 1, 7, 0}, {0, 0, stride, 1}));
    CHECK(static_cast<std::uint64_t>(x.row_bytes()) == 4 * static_cast<std::uint64_t>(stride));
  }
}

TEST_CASE("rows side by side, or read once, are read where they lie") {
  const std::vector<float> x = numbers(64 * 1024, 2);
  CHECK_FALSE(tile::far_rows(4096, 4096));  // long rows without a gap
  CHECK_FALSE(tile::far_rows(320, 256));    // padding
  CHECK(tile::far_rows(4096, 256));
  CHECK(tile::far_rows(-4096, 256));
  for (const tile::row_use use : {tile::row_use::as_stored, tile::row_use::once, tile::row_use::again}) {
    const auto view = rows_of(x, 64, 64, use == tile::row_use::again ? 80 : 1024);
    stage<float> s(view, 32, use, 1e9);
    CHECK(stage<float>::bytes_of(view, 32, use, 1e9) == 64);  // no scratch
    s.rows.copy(0, 32);
    CHECK(s.rows.at(0, 1).data == view.data());
    CHECK(s.rows.stream(32, 32).left() == 32 * 4);  // prefetched
  }
}

TEMPLATE_TEST_CASE("rows of 16 bits are widened, near or far, unless they are read as they are stored", "[half]",
                   heed::bf16_t, heed::f16_t) {
  using tile::row_use;
  const std::vector<float> full = numbers(64 * 1536, 8);
  std::vector<TestType> x;
  for (const float each : full) x.push_back(TestType(each));
  for (const index_t dim : {1, 3, 16, 20, 64, 128})
    for (const index_t apart : {index_t{160}, index_t{1536}})
      for (const row_use use : {row_use::once, row_use::again}) {
        const heed::tensor_view<const TestType, 4> view{x.data(), {1, 1, 64, dim}, {0, 0, apart, 1}};
        stage<TestType> s(view, 32, use, 0), stored(view, 32, row_use::as_stored, 0);
        CHECK((s.rows.copies() && !stored.rows.copies()));
        CHECK(s.rows.at(0, 32).data == nullptr);
        for (const index_t first : {0, 32, 33}) {
          tile::row_prefetcher<float> stream = s.rows.stream(first, 31);
          stream.finish();
          s.rows.copy(first, 31);
          check_rows(view, s.rows.at(first, 31), first);
          CHECK(stored.rows.stored(first) == reinterpret_cast<const std::byte*>(x.data() + first * apart));
        }
      }
}

TEST_CASE("a product with a stream beside it has its bits, and the stream its rows") {
  const index_t w = heed::simd::width<float>;
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors)
    for (const index_t rows : {1, 5, 24, 67})
      for (const index_t depth : {0, 1, 9, 64}) {
        const index_t lanes = vectors * w;
        const std::vector<float> a = numbers(rows * depth + 1, 3), b = numbers(depth * lanes + 1, 4);
        std::vector<float> plain(static_cast<std::size_t>(rows * lanes), -1.0f), beside = plain;
        tile::matrix_product<float> p;
        p.a = a.data(), p.a_row = depth, p.a_col = 1, p.b = b.data(), p.b_row = lanes;
        p.c = plain.data(), p.c_row = lanes, p.rows = rows, p.depth = depth;
        tile::multiply(p, vectors);
        const std::vector<float> x = numbers(40 * 1024, 5);
        const auto view = rows_of(x, 40, 64, 1024);
        stage<float> s(view, 40, tile::row_use::again, 0);
        tile::row_prefetcher<float> stream = s.rows.stream(0, 40);
        REQUIRE(stream.left() == 40 * 4);
        p.c = beside.data();
        tile::multiply_streaming(p, vectors, &stream);
        CHECK(plain == beside);
        stream.finish();
        check_rows(view, s.rows.at(0, 40), 0);
        tile::multiply_streaming(p, vectors, static_cast<tile::row_prefetcher<float>*>(nullptr));
        CHECK(plain == beside);
      }
}

TEST_CASE("a prefetcher takes the steps that a product has, a copy no more than its lines") {
  const std::vector<float> x = numbers(16 * 1024, 6);
  std::vector<float> copy(16 * 64, -1.0f);
  tile::row_span rows{bytes_at(x.data()), 4096, 16, 256};
  tile::row_prefetcher<float> prefetch(rows), copies(rows, copy.data());
  CHECK((prefetch.left() == 64 && copies.left() == 64));
  CHECK(prefetch.runs(60) == 2);  // the second goes past the last row
  CHECK(copies.runs(60) == 1);
  tile::row_steps<float, float> steps{{rows, 64, copy.data()}};
  for (int i = 0; i < 60; ++i) steps();
  CHECK(steps.walk.left == 4);
  CHECK((copy[15 * 64 - 1] == x[14 * 1024 + 63] && copy[15 * 64] == -1.0f));
  copies.finish(), prefetch.finish();
  CHECK((copies.left() == 0 && prefetch.left() == 0));
  for (index_t r = 0; r < 16; ++r)
    CHECK(std::equal(copy.data() + r * 64, copy.data() + (r + 1) * 64, x.data() + r * 1024));
}

TEST_CASE("products of a prefetch_queue have the bits of plain ones, with entries that end before or after them") {
  const index_t w = heed::simd::width<float>;
  const std::vector<float> x = numbers(40 * 64, 7);
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors)
    for (const index_t rows : {1, 24, 67})
      for (const index_t depth : {0, 1, 33})
        for (const index_t lines : {0, 1, 9, 40}) {
          const index_t lanes = vectors * w;
          const std::vector<float> a = numbers(rows * depth + 1, 3), b = numbers(depth * lanes + 1, 4);
          std::vector<float> plain(static_cast<std::size_t>(rows * lanes), 0.5f), queued = plain;
          tile::matrix_product<float> p;
          p.a = a.data(), p.a_row = depth, p.a_col = 1, p.b = b.data(), p.b_row = lanes;
          p.c = plain.data(), p.c_row = lanes, p.rows = rows, p.depth = depth, p.accumulate = tile::accumulate::keep;
          tile::multiply(p, vectors);
          tile::prefetch_queue<float> queue;
          queue.clear();
          for (const index_t number : {3, 1}) queue.set(number, {bytes_at(x.data()), 256, lines, 64}, true);
          p.c = queued.data();
          queue.multiply(p, vectors);
          CHECK(plain == queued);
          std::vector<float> again = plain;
          p.c = again.data();
          tile::multiply(p, vectors);
          p.c = queued.data();
          queue.multiply(p, vectors);
          CHECK(again == queued);
        }
}
