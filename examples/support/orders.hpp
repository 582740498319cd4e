// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Computes the mixture-of-head rows of next_byte.cpp: six heads, one for each length of context. Head h compares only
// the last h + 1 bytes (its key and query are a random code of their hash), so its softmax averages the bytes that
// followed the same context before. A new context predicts nothing: its gate is 0, and the other heads share its
// weight. Longer contexts weigh more. Softmax attention computes all heads and multiplies some by 0; mixture_of_head
// skips these, which gives the same bits per byte in less time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "heed/mixture_of_head.hpp"
#include "heed/softmax.hpp"
#include "memory.hpp"
#include "peak.hpp"

namespace next_byte {

class orders {
 public:
  static constexpr index_t heads = longest_context, dim = 32;

  // base: the weight of a context over that of one a byte shorter
  orders(const std::string& text, double base)
      : size_(static_cast<index_t>(text.size())),
        codes_(at(heads * (size_ + 1) * dim)),
        values_(at(size_ * E)),
        gates_(at(heads * size_)),
        o(at(heads * size_ * E)) {
    for (index_t t = 0; t < size_; ++t) values_[at(t * E + static_cast<unsigned char>(text[at(t)]))] = 1;
    std::set<std::pair<index_t, std::uint64_t>> seen;
    for (index_t t = 0; t <= size_; ++t) {
      double sum = 0;
      std::uint64_t hash = 0;
      for (index_t h = 0; h < std::min(heads, t); ++h) {
        hash = mix(hash ^ static_cast<unsigned char>(text[at(t - 1 - h)]));
        for (index_t d = 0; d < dim; ++d)
          codes_[at((h * (size_ + 1) + t) * dim + d)] = (hash >> d & 1 ? 1.f : -1.f) / std::sqrt(float{dim});
        if (!seen.insert({h, hash}).second && t > 0) {  // row t - 1 predicts byte t
          gates_[at(h * size_ + t - 1)] = static_cast<float>(std::pow(base, h));
          sum += std::pow(base, h);
        }
      }
      for (index_t h = 0; sum > 0 && h < heads; ++h) gates_[at(h * size_ + t - 1)] /= static_cast<float>(sum);
    }
  }

  void gated(double scale) {
    heed::mixture_of_head::forward(queries(), keys(), values(), gates(), out(),
                                   {.mask = heed::causal(), .scale = scale});
  }
  void all_heads(double scale) {
    heed::softmax::forward(queries(), keys(), values(), out(), {.mask = heed::causal(), .scale = scale});
    for (std::size_t row = 0; row < gates_.size(); ++row)
      for (std::size_t e = 0; e < at(E); ++e) o[row * at(E) + e] *= gates_[row];
  }
  heed::plan plan() {
    return heed::mixture_of_head::plan_forward(queries(), keys(), values(), gates(), out(), {.mask = heed::causal()});
  }
  // Returns the distributions over bytes, (size, E): the sum of the heads.
  std::vector<float> predictions() const {
    std::vector<float> sum(at(size_ * E));
    for (std::size_t i = 0; i < o.size(); ++i) sum[i % sum.size()] += o[i];
    return sum;
  }
  index_t size() const { return size_; }
  double active_pairs() const {  // as a share of the causal pairs
    double active = 0, all = 0;
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < size_; ++i) {
        all += static_cast<double>(i + 1);
        active += gates_[at(h * size_ + i)] == 0 ? 0 : static_cast<double>(i + 1);
      }
    return active / all;
  }

 private:
  const_rows codes(index_t first) const {
    return {codes_.data() + first * dim, {1, heads, size_, dim}, {0, (size_ + 1) * dim, dim, 1}};
  }
  const_rows keys() const { return codes(0); }
  const_rows queries() const { return codes(1); }                                             // one position later
  const_rows values() const { return {values_.data(), {1, heads, size_, E}, {0, 0, E, 1}}; }  // all heads share them
  heed::tensor_view<const float, 3> gates() const { return {gates_.data(), {1, heads, size_}, {0, size_, 1}}; }
  heed::tensor_view<float, 4> out() { return heed::bhsd(o.data(), 1, heads, size_, E); }

  index_t size_;
  std::vector<float> codes_, values_, gates_;

 public:
  std::vector<float> o;
};

struct orders_result {
  double bits = 0, all_bits = 0, seconds = 0, all_seconds = 0, scale = 0, base = 0, floor = 0, difference = 0,
         pairs = 0;
  std::string active;
  index_t size = 0;
};

// Chooses scale, base and floor on the first half of the text, and measures with them. score(predictions, text, first,
// end, floor) returns the bits per byte of first .. end - 1; row t - 1 predicts byte t.
template <class Score> orders_result run_orders(const std::string& whole, Score score) {
  const std::string text = whole.substr(0, 8192), half = text.substr(0, text.size() / 2);
  orders_result r;
  r.size = static_cast<index_t>(text.size());
  const auto first = static_cast<index_t>(half.size());
  double best = 1e9;
  for (const double base : {1.5, 2.0, 4.0}) {
    orders m(half, base);
    for (const double scale : {8.0, 12.0, 16.0}) {
      m.gated(scale);
      for (const double floor : {0.005, 0.01, 0.02, 0.05, 0.1})
        if (const double b = score(m.predictions(), half, 1, first, floor); b < best)
          best = b, r.scale = scale, r.base = base, r.floor = floor;
    }
  }
  orders m(text, r.base);
  r.seconds = r.all_seconds = 1e9;
  std::vector<float> all;
  for (int round = 0; round < 2; ++round) {
    double start = now();
    m.all_heads(r.scale);
    r.all_seconds = std::min(r.all_seconds, now() - start);
    all = m.o;
    start = now();
    m.gated(r.scale);
    r.seconds = std::min(r.seconds, now() - start);
  }
  r.bits = score(m.predictions(), text, first, r.size, r.floor);
  for (std::size_t i = 0; i < all.size(); ++i)
    r.difference = std::max(r.difference, static_cast<double>(std::abs(all[i] - m.o[i])));
  m.o = all;
  r.all_bits = score(m.predictions(), text, first, r.size, r.floor);
  r.active = m.plan().why.data(), r.pairs = m.active_pairs();
  return r;
}

inline void print_orders(const orders_result& r) {
  std::printf("\nsix heads, one for each length of context, off where it is new; the first %td bytes, scored on half\n",
              r.size);
  std::printf("%-28s %9s %8s %9s\n", "", "bits/byte", "ms", "tokens/s");
  const auto row = [&](const char* name, double bits, double seconds) {
    std::printf("%-28s %9.3f %8.1f %9.0f\n", name, bits, seconds * 1e3, static_cast<double>(r.size) / seconds);
  };
  row("softmax, all heads, * gates", r.all_bits, r.all_seconds);
  row("mixture_of_head", r.bits, r.seconds);
  std::printf("    %s\n", r.active.c_str());
  std::printf(
      "    %.2f of the pairs in %.2f of the time; largest difference %.1e; scale %.0f, a byte more weighs %.1f\n",
      r.pairs, r.seconds / r.all_seconds, r.difference, r.scale, r.base);
}

}  // namespace next_byte
