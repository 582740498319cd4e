// SPDX-License-Identifier: BSD-3-Clause
//
// Shows biases that depend on the distance between key and query, without an N x N matrix: T5's buckets as a view of
// 2N - 1 numbers per head, ALiBi as an option and as such a view, Swin's bias over two axes as a score function.
// g++ -std=c++20 -O2 -march=native -I include relative_bias.cpp
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "heed/softmax.hpp"

using heed::index_t;
using bias_view = heed::tensor_view<const float, 4>;

constexpr index_t heads = 8;

std::mt19937 random_bits(1);
std::vector<float> numbers(index_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(count));
  std::generate(x.begin(), x.end(), [&] { return normal(random_bits); });
  return x;
}

// Makes one table of 2 seq - 1 numbers per head, f(head, query - key), and views it as the matrices
// bias(i, j) = table[seq - 1 + i - j]. One step along the keys is one step back, so the stride of the key axis is -1.
template <class F> std::vector<float> distance_table(index_t seq, const F& f) {
  std::vector<float> table;
  for (index_t h = 0; h < heads; ++h)
    for (index_t distance = 1 - seq; distance < seq; ++distance) table.push_back(f(h, distance));
  return table;
}
bias_view toeplitz(const std::vector<float>& table, index_t seq) {
  return {table.data() + seq - 1, {1, heads, seq, seq}, {0, 2 * seq - 1, 1, -1}};
}

// Writes the whole bias out, head after head, which the view makes unnecessary.
std::vector<float> written_out(const bias_view& x) {
  std::vector<float> all;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < x.extent(2); ++i)
      for (index_t j = 0; j < x.extent(3); ++j)
        all.push_back(x.data()[h * x.stride(1) + i * x.stride(2) + j * x.stride(3)]);
  return all;
}

// Returns T5's bucket of key - query, for both directions and 32 buckets: exact up to 8, then logarithmic up to 128.
int t5_bucket(index_t key_minus_query) {
  const int side = key_minus_query > 0 ? 16 : 0;
  const auto distance = std::abs(static_cast<double>(key_minus_query));
  if (distance < 8) return side + static_cast<int>(distance);
  return side + std::min(15, 8 + static_cast<int>(std::log(distance / 8) / std::log(128. / 8) * 8));
}

struct layer {
  index_t batch, seq, dim;
  std::vector<float> q = numbers(batch * heads * seq * dim), k = numbers(batch * heads * seq * dim),
                     v = numbers(batch * heads * seq * dim);

  std::vector<float> operator()(const char* name, const heed::softmax::options<>& options) const {
    std::vector<float> o(q.size());
    const auto rows = [&](auto& x) { return heed::bhsd(x.data(), batch, heads, seq, dim); };
    double best = 1e300;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      heed::softmax::forward(rows(q), rows(k), rows(v), rows(o), options);
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
      best = std::min(best, took.count());
    }
    std::printf("  %-46s %7.2f ms\n", name, best);
    return o;
  }
};

float difference(const std::vector<float>& a, const std::vector<float>& b) {
  float most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

int main() {
  constexpr index_t seq = 512, side = 8, squares = side * side;
  const layer text{1, seq, 64}, windows{16, squares, 32};

  std::printf("T5, %td tokens (its scores are not scaled)\n", seq);
  const std::vector<float> learned = numbers(32 * heads);  // [bucket][head], as a model stores it
  const std::vector<float> buckets = distance_table(seq, [&](index_t head, index_t distance) {
    return learned[static_cast<std::size_t>(t5_bucket(-distance) * heads + head)];
  });
  const bias_view view = toeplitz(buckets, seq);
  const std::vector<float> matrices = written_out(view);
  text("without bias", {.scale = 1});
  const auto from_table = text("table of 2N - 1 numbers a head", {.scale = 1, .bias = view});
  const auto from_matrix =
      text("N x N numbers a head", {.scale = 1, .bias = heed::bhsd(matrices.data(), 1, heads, seq, seq)});
  const bool same = std::memcmp(from_table.data(), from_matrix.data(), from_table.size() * sizeof(float)) == 0;
  std::printf("  the bits are %s; %zu numbers instead of %zu\n", same ? "the same" : "different", buckets.size(),
              matrices.size());

  std::printf("ALiBi, causal\n");
  std::vector<float> slopes;  // 2^(-8 / H), 2^(-16 / H), ...
  for (index_t h = 1; h <= heads; ++h) slopes.push_back(std::exp2(-8.f * static_cast<float>(h) / heads));
  const std::vector<float> lines = distance_table(seq, [&](index_t head, index_t distance) {
    return -slopes[static_cast<std::size_t>(head)] * std::abs(static_cast<float>(distance));
  });
  const auto alibi = text("alibi_slopes", {.mask = heed::causal(), .alibi_slopes = slopes});
  const auto alibi_table = text("the same as a table", {.mask = heed::causal(), .bias = toeplitz(lines, seq)});
  std::printf("  largest difference %.1e\n", static_cast<double>(difference(alibi, alibi_table)));

  // Two axes: bias(i, j) = table[y_i - y_j][x_i - x_j]. Two strides cannot express that. Read the table in a function,
  // or write the bias out once for all windows (batch extent 1).
  std::printf("Swin, %td windows of %td x %td\n", windows.batch, side, side);
  constexpr index_t width = 2 * side - 1;
  const std::vector<float> plane = numbers(heads * width * width);
  const auto read = [table = plane.data()](float score, const heed::position& at) {
    constexpr std::int32_t s = side, w = width;
    const std::int32_t dy = at.query / s - at.key / s + s - 1, dx = at.query % s - at.key % s + s - 1;
    return score + table[(at.head * w + dy) * w + dx];
  };
  std::vector<float> shared;
  for (std::int32_t h = 0; h < heads; ++h)
    for (std::int32_t i = 0; i < squares; ++i)
      for (std::int32_t j = 0; j < squares; ++j) shared.push_back(read(0, {0, h, i, j, i}));
  const auto by_function = windows("score function on the table", {.score = read});
  const auto by_matrix =
      windows("written out, one for all windows", {.bias = heed::bhsd(shared.data(), 1, heads, squares, squares)});
  std::printf("  largest difference %.1e\n", static_cast<double>(difference(by_function, by_matrix)));

  return same && difference(alibi, alibi_table) < 1e-5f && difference(by_function, by_matrix) < 1e-5f ? 0 : 1;
}
