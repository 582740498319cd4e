// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of every kernel for the cost of other layouts than head by head with rows end to end.
//   layout/<layout>/H<H>/D<D>/N<N>   ratio: time over that of the same numbers as bhsd
// Layouts: bshd and packed_qkv (with o as bshd) are token-major; padded is bhsd with 64 bytes after each row. Where all
// heads would take long, the call has only some of the H heads: a view of the same rows.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "rows.hpp"

namespace heed_bench {

enum class laid { bhsd, bshd, packed_qkv, padded };

struct laid_shape {
  index_t heads = 1, d = 64, n = 1, used = 1;  // used: heads of the call, the first of `heads`
};

// Holds q, k, v, o of E = D, M = N, about normally distributed, and gates (head, seq), half of them 0. The numbers are
// the same in every layout.
class laid_tensors {
 public:
  laid_tensors(const laid_shape& s, laid how) : at(s) {
    const index_t row = how == laid::padded ? s.d + 16 : s.d, numbers = s.heads * s.n * row;
    if (how == laid::packed_qkv) {
      float* const qkv = take(3 * numbers);
      const auto [first, second, third] = heed::packed_qkv(qkv, 1, s.n, s.heads, s.heads, s.d);
      q_ = some(first), k_ = some(second), v_ = some(third), o = some(heed::bshd(take(numbers), 1, s.n, s.heads, s.d));
    } else {
      for (auto* x : {&q_, &k_, &v_, &o})
        *x = how == laid::bshd
                 ? some(heed::bshd(take(numbers), 1, s.n, s.heads, s.d))
                 : some({take(numbers), {1, s.heads, s.n, s.d}, {s.heads * s.n * row, s.n * row, row, 1}});
    }
    std::uint32_t seed = 1;
    for (auto* x : {&q_, &k_, &v_, &o}) fill(*x, seed);
    q = q_, k = k_, v = v_;
    for (index_t i = 0; i < s.used * s.n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      gates_.push_back(seed >> 31 == 0 ? 0.f : 1.f);
    }
  }

  laid_shape at;
  heed::tensor_view<const float, 4> q, k, v;
  heed::tensor_view<float, 4> o;
  heed::tensor_view<const float, 3> gates() const { return {gates_.data(), {1, at.used, at.n}, {0, at.n, 1}}; }

 private:
  using tensor = heed::tensor_view<float, 4>;

  float* take(index_t count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(float) + 63) / 64 * 64;
    memory_.emplace_back(static_cast<float*>(std::aligned_alloc(64, bytes)), &std::free);
    return memory_.back().get();
  }
  tensor some(const tensor& x) const { return heed::slice(x, 1, 0, at.used); }
  void fill(const tensor& x, std::uint32_t& seed) const {
    for (index_t h = 0; h < at.used; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t c = 0; c < at.d; ++c) {
          std::int32_t sum = -2 * 65535;
          for (int part = 0; part < 4; ++part) {
            seed = seed * 1664525u + 1013904223u;
            sum += static_cast<std::int32_t>(seed >> 16);
          }
          x.data()[h * x.stride(1) + i * x.stride(2) + c] = static_cast<float>(sum) * 2.64e-5f;  // variance 1
        }
  }

  std::vector<std::unique_ptr<float[], decltype(&std::free)>> memory_;
  tensor q_, k_, v_;
  std::vector<float> gates_;
};

// Adds the rows. prefix is "" or "<option>/". run(tensors) makes one call. flops(shape) returns about how many FLOPs
// one head of it takes, at half of the peak. Leaves out rows of more than `most_n` tokens.
template <class Run, class Flops>
void add_layout_rows(const std::string& prefix, Run run, Flops flops, index_t most_n = 4096) {
  constexpr struct {
    const char* name;
    laid how;
  } layouts[] = {{"bshd", laid::bshd}, {"packed_qkv", laid::packed_qkv}, {"padded", laid::padded}};
  constexpr index_t widths[][2] = {{16, 64}, {12, 64}, {32, 128}, {8, 128}};
  for (const auto& [layout, how] : layouts)
    for (const auto& [heads, d] : widths)
      for (const index_t n : {256, 1024, 4096}) {
        if (n > most_n) continue;
        laid_shape s{.heads = heads, .d = d, .n = n};
        const double each = flops(s);
        // enough heads that those of one call do not stay in the second-level cache until the next
        s.used = std::clamp<index_t>(static_cast<index_t>(8e9 / each), 2, heads);
        const double pairs = 30e9 / (each * static_cast<double>(s.used));
        add("layout/" + prefix + layout + number("/H", heads) + number("/D", d) + number("/N", n),
            [=, kind = how](benchmark::State& state, const std::string& row) {
              show_progress(row);
              const laid_tensors x(s, kind), plain(s, laid::bhsd);
              run(x), run(plain);
              std::vector<double> ratios;
              for (auto _ : state) {  // plain before and after: a change of speed affects both
                const double before = seconds_of([&] { run(plain); });
                const double ours = seconds_of([&] { run(x); });
                const double after = seconds_of([&] { run(plain); });
                state.SetIterationTime(ours);
                ratios.push_back(2 * ours / (before + after));
              }
              state.counters["ratio"] = median(ratios);
              state.SetLabel(std::to_string(s.used) + " heads");
            })
            ->UseManualTime()
            ->Iterations(std::clamp<index_t>(static_cast<index_t>(pairs), 3, 100));
      }
}

}  // namespace heed_bench
