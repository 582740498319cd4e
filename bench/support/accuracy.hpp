// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What accuracy_bench measures with: seeded tensors that bench/accuracy_torch.py makes again bit for bit, errors of
// results, and rows for the terminal and for a file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "heed/level.hpp"
#include "report.hpp"
#include "shapes.hpp"

namespace heed_bench::accuracy {

// Returns number i of a tensor: about normal, variance 1, a function of (seed, i) in 32-bit integers alone.
inline float number(std::uint32_t seed, std::uint32_t i) {
  const auto mixed = [](std::uint32_t h) {  // the end of MurmurHash3
    h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u;
    return h ^ h >> 16;
  };
  const std::uint32_t a = mixed(i * 0x9e3779b9u + seed), b = mixed(a + 0x6a09e667u);
  const auto sum = static_cast<std::int32_t>((a >> 16) + (a & 0xffff) + (b >> 16) + (b & 0xffff)) - 2 * 65535;
  return static_cast<float>(sum) * 2.64e-5f;
}
inline std::vector<float> numbers(std::uint32_t seed, index_t count, float mean = 0) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = mean + number(seed, static_cast<std::uint32_t>(i));
  return x;
}

// mild: scores of variance 1. times4, times16: so many times as large. dominant: one key has nearly all of the weight.
// equal: all keys and all values are the same, so that the rounding of a long sum has one direction.
enum class scores { mild, times4, times16, dominant, equal };
inline const char* name(scores kind) {
  constexpr const char* names[] = {"mild", "4x", "16x", "dominant", "equal"};
  return names[static_cast<int>(kind)];
}
inline double factor(scores kind) { return kind == scores::times4 ? 4 : kind == scores::times16 ? 16 : 1; }

// One head. Values have mean 1: sums over keys grow with their number, as those of weights do.
struct problem {
  index_t n = 1, m = 1, d = 64;
  accuracy::scores scores = accuracy::scores::mild;
  std::vector<float> q, k, v;

  problem(index_t queries, index_t keys, index_t dim, accuracy::scores kind = accuracy::scores::mild)
      : n(queries), m(keys), d(dim), scores(kind), q(numbers(1, n * d)), k(numbers(2, m * d)), v(numbers(3, m * d, 1)) {
    if (kind == scores::dominant) {  // score about 30 for each of the first 8 queries
      float* const key = k.data() + m / 2 * d;
      for (index_t i = 0; i < std::min<index_t>(n, 8); ++i) {
        float square = 0;
        for (index_t c = 0; c < d; ++c) square += q[at(i, c)] * q[at(i, c)];
        for (index_t c = 0; c < d; ++c) key[c] += 30 * std::sqrt(static_cast<float>(d)) * q[at(i, c)] / square;
      }
    }
    if (kind == scores::equal)
      for (index_t j = 1; j < m; ++j)
        std::copy_n(k.data(), d, k.data() + j * d), std::copy_n(v.data(), d, v.data() + j * d);
  }
  double scale() const { return factor(scores) / std::sqrt(static_cast<double>(d)); }

 private:
  std::size_t at(index_t i, index_t c) const { return static_cast<std::size_t>(i * d + c); }
};

// Relative to the results: largest error over largest result; root of the mean square of errors over that of results
struct error {
  double max = 0, rms = 0;
};
class error_sum {
 public:
  template <class Got, class Expected> void add(Got got, Expected expected) {
    const auto d = static_cast<double>(static_cast<Expected>(got) - expected), x = static_cast<double>(expected);
    max_ = std::max(max_, std::abs(d)), most_ = std::max(most_, std::abs(x));
    squares_ += d * d, all_ += x * x;
    finite_ = finite_ && std::isfinite(d);
  }
  template <class Got, class Expected> void add(const Got* got, const Expected* expected, index_t count) {
    for (index_t i = 0; i < count; ++i) add(got[i], expected[i]);
  }
  accuracy::error error() const {
    if (!finite_) return {HUGE_VAL, HUGE_VAL};
    return most_ > 0 ? accuracy::error{max_ / most_, std::sqrt(squares_ / all_)} : accuracy::error{};
  }

 private:
  double max_ = 0, most_ = 0, squares_ = 0, all_ = 0;
  bool finite_ = true;
};
template <class Got, class Expected>
error error_of(const std::vector<Got>& got, const std::vector<Expected>& expected) {
  error_sum sum;
  sum.add(got.data(), expected.data(), static_cast<index_t>(std::min(got.size(), expected.size())));
  return sum.error();
}

// One measured case: of which kernel on which path, its sizes, and the error of each who computed it
struct row {
  std::string kernel, path, type, scores;
  index_t m = 0, d = 0;
  double decay = -1;      // lambda of lightning, else below 0
  std::string plan = {};  // where heed says which way a call takes
  std::vector<std::pair<std::string, error>> by;
};

class results {
 public:
  void add(const row& x) {
    if (rows_.empty())
      std::printf("%-13s %-18s %-6s %-8s %8s %4s  error, largest (root mean square)\n", "kernel", "path", "type",
                  "scores", "M", "D");
    std::printf("%-13s %-18s %-6s %-8s %8td %4td", x.kernel.c_str(), x.path.c_str(), x.type.c_str(), x.scores.c_str(),
                x.m, x.d);
    if (x.decay >= 0) std::printf("  decay %.6g", x.decay);
    if (!x.plan.empty()) std::printf("  %s", x.plan.c_str());
    for (const auto& [who, e] : x.by) std::printf("  %s %.2e (%.2e)", who.c_str(), e.max, e.rms);
    std::printf("\n");
    std::fflush(stdout);
    rows_.push_back(x);
  }

  bool write(const std::string& file) const {
    std::ofstream out(file);
    out << "{\n \"machine\": \"" << processor() << "\",\n \"build\": \"" << build_flags() << "\",\n \"level\": \""
        << heed::level() << "\",\n \"check\": " << number(1, 0) + number(2, 1) + number(3, 2) << ",\n \"rows\": [";
    const char* between = "\n";
    for (const row& x : rows_)
      for (const auto& [who, e] : x.by) {
        char text[500];
        std::snprintf(text, sizeof text,
                      "%s  {\"kernel\": \"%s\", \"path\": \"%s\", \"type\": \"%s\", \"scores\": \"%s\", \"m\": %td, "
                      "\"d\": %td, \"decay\": %.9g, \"plan\": \"%s\", \"by\": \"%s\", \"max\": %.3e, \"rms\": %.3e}",
                      between, x.kernel.c_str(), x.path.c_str(), x.type.c_str(), x.scores.c_str(), x.m, x.d, x.decay,
                      x.plan.c_str(), who.c_str(), e.max, e.rms);
        out << text, between = ",\n";
      }
    out << "\n ]\n}\n";
    return static_cast<bool>(out.flush());
  }
  bool empty() const { return rows_.empty(); }

 private:
  static std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return "unknown";
  }
  std::vector<row> rows_;
};

}  // namespace heed_bench::accuracy
