// SPDX-License-Identifier: BSD-3-Clause
//
// Runs attention over the squares of a board, as the networks of game engines do: 64 squares (chess) or 361 (Go), 8
// heads of 32, and a learned bias per head for every pair of squares. The first argument is the number of positions in
// one call.
// g++ -std=c++20 -O2 -march=native -I include board.cpp
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "heed/softmax.hpp"

using heed::index_t;
using const_view = heed::tensor_view<const float, 4>;

constexpr index_t heads = 8, dim = 32;

float element(const const_view& x, index_t b, index_t h, index_t i, index_t j) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + j * x.stride(3)];
}

// Returns the largest error of one position against plain loops in double.
double error_of(const const_view& q, const const_view& k, const const_view& v, const const_view& bias,
                const const_view& o, index_t position) {
  const index_t squares = q.extent(2);
  double worst = 0;
  std::vector<double> weight(static_cast<std::size_t>(squares));
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < squares; ++i) {
      double sum = 0;
      for (index_t j = 0; j < squares; ++j) {
        double score = 0;
        for (index_t d = 0; d < dim; ++d)
          score += double{element(q, position, h, i, d)} * element(k, position, h, j, d);
        score = score / std::sqrt(double{dim}) + element(bias, 0, h, i, j);
        sum += weight[static_cast<std::size_t>(j)] = std::exp(score);
      }
      for (index_t e = 0; e < dim; ++e) {
        double x = 0;
        for (index_t j = 0; j < squares; ++j) x += weight[static_cast<std::size_t>(j)] * element(v, position, h, j, e);
        worst = std::max(worst, std::abs(x / sum - element(o, position, h, i, e)));
      }
    }
  return worst;
}

double play(index_t squares, index_t positions) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto numbers = [&](index_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    return x;
  };

  // One projection writes q, k and v of every square side by side. The next matrix product reads o.
  const std::vector<float> qkv = numbers(positions * squares * 3 * heads * dim);
  const std::vector<float> bias_data = numbers(heads * squares * squares);
  std::vector<float> o_data(static_cast<std::size_t>(positions * squares * heads * dim));
  const auto [q, k, v] = heed::packed_qkv(qkv.data(), positions, squares, heads, heads, dim);
  const auto o = heed::bshd(o_data.data(), positions, squares, heads, dim);

  // One bias serves all positions: its batch extent is 1. For a bias per position, set the batch extent to `positions`.
  const const_view bias = heed::bhsd(bias_data.data(), 1, heads, squares, squares);
  const heed::softmax::options<> options{.bias = bias};

  std::vector<std::byte> scratch(heed::softmax::plan_forward(q, k, v, o, options).workspace_bytes);
  double best = 1e300;
  const auto start = std::chrono::steady_clock::now();
  for (auto now = start; now < start + std::chrono::milliseconds(500);) {
    heed::softmax::forward(q, k, v, o, options, {.workspace = scratch});
    const auto end = std::chrono::steady_clock::now();
    best = std::min(best, std::chrono::duration<double>(end - now).count());
    now = end;
  }

  const double pairs = static_cast<double>(positions * heads * squares * squares);
  const double error = error_of(q, k, v, bias, o, positions - 1);
  std::printf("%3td squares, %3td positions a call: %7.0f positions/s, %5.1f GFLOP/s; largest error %.1e\n", squares,
              positions, static_cast<double>(positions) / best, pairs * 4 * double{dim} / best * 1e-9, error);
  return error;
}

int main(int argc, char** argv) {
  const index_t positions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 16;
  double worst = 0;
  for (const index_t squares : {64, 361})
    for (const index_t count : {index_t{1}, positions}) worst = std::max(worst, play(squares, count));
  return worst < 1e-5 ? 0 : 1;
}
