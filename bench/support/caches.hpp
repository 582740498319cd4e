// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Describes a step of decode on a cache of any kind, the work that it cannot avoid, and its memory.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#include "heed/simd/huge_pages.hpp"
#include "heed/softmax.hpp"
#include "meters.hpp"
#include "rows.hpp"
#include "shapes.hpp"
#include "two_threads.hpp"

namespace heed_bench {

enum class cache_kind { contiguous, ring, paged, token_major };
inline constexpr const char* cache_names[] = {"contiguous", "ring", "paged", "token_major"};
inline const char* name(cache_kind kind) { return cache_names[static_cast<int>(kind)]; }

inline constexpr index_t page_rows = 16, ring_first = 4, ring_overwritten = 1000;

struct step_shape {
  cache_kind kind = cache_kind::contiguous;
  index_t batch = 1, n = 1, m = 1, d = 64, group = 1, kv_heads = 8;

  // Tokens of sequence b that the cache holds: m of the first, fewer of the others
  index_t tokens(index_t b) const {
    constexpr index_t eighths[] = {8, 6, 4, 1};
    return b == 0 ? m : m * eighths[b % 4] / 8 + 2 * b - 3;
  }
  double all_tokens() const {
    double sum = 0;
    for (index_t b = 0; b < batch; ++b) sum += static_cast<double>(tokens(b));
    return sum;
  }
  // N > 1: one token after the other
  double pairs() const {
    const double hidden = static_cast<double>(batch * n * (n - 1)) / 2;
    return static_cast<double>(kv_heads * group) * (all_tokens() * static_cast<double>(n) - hidden);
  }
  double flops() const { return pairs() * 4 * static_cast<double>(d); }
  // K and V once for each key/value head, with their scales
  template <class S> double bytes() const {
    const index_t scale = std::is_same_v<S, std::int8_t> ? 4 : 0;
    return all_tokens() * static_cast<double>(2 * kv_heads * (d * static_cast<index_t>(sizeof(S)) + scale));
  }
};

// Memory in huge pages, as an owning cache has it (in small ones with HEED_BENCH_SMALL_PAGES), with numbers about normally distributed. It is kept for all
// rows, because filling it takes longer than to time a row. The period of the numbers is no multiple of a row.
template <class S> class cache_numbers {
 public:
  S* at_least(std::size_t count) {
    if (count <= count_) return memory_.get();
    memory_.reset();
    constexpr std::size_t page = heed::simd::huge_page;
    memory_.reset(static_cast<S*>(std::aligned_alloc(page, (count * sizeof(S) + page - 1) / page * page)));
    if (std::getenv("HEED_BENCH_SMALL_PAGES") == nullptr)
      heed::simd::prefer_huge_pages(memory_.get(), count * sizeof(S));
    count_ = count;
    constexpr std::size_t period = 1'000'003;
    std::uint32_t seed = seed_;
    for (std::size_t i = 0; i < std::min(count, period); ++i) {
      std::int32_t sum = -2 * 65535;
      for (int part = 0; part < 4; ++part) {
        seed = seed * 1664525u + 1013904223u;
        sum += static_cast<std::int32_t>(seed >> 16);
      }
      const float value = static_cast<float>(sum) * 2.64e-5f;  // variance 1
      if constexpr (std::is_same_v<S, std::int8_t>)
        memory_.get()[i] = static_cast<S>(std::lround(std::clamp(value / int8_scale, -127.f, 127.f)));
      else
        memory_.get()[i] = static_cast<S>(value);
    }
    for (std::size_t i = period; i < count; ++i) memory_.get()[i] = memory_.get()[i - period];
    return memory_.get();
  }

  explicit cache_numbers(std::uint32_t seed) : seed_(seed) {}
  static constexpr float int8_scale = 0.03f;

 private:
  struct release {
    void operator()(S* p) const { std::free(p); }
  };
  std::uint32_t seed_;
  std::size_t count_ = 0;
  std::unique_ptr<S, release> memory_;
};

// Holds q, o and a cache of storage S. q and o are S; float for std::int8_t.
template <class S> class cache_step {
 public:
  using number = std::conditional_t<std::is_same_v<S, std::int8_t>, float, S>;
  using options = heed::softmax::options<float>;

  explicit cache_step(const step_shape& s, const heed::context& context = {})
      : at(s), q_(size(s.batch * s.kv_heads * s.group * s.n * s.d)), o_(q_.size()), context_(context) {
    static cache_numbers<S> keys(1), values(2);
    const std::size_t count = size(s.batch * s.kv_heads * s.m * s.d);
    k_ = keys.at_least(count), v_ = values.at_least(count);
    tensors<float> random({.n = s.batch * s.kv_heads * s.group * s.n, .d = s.d, .e = 1});
    for (std::size_t i = 0; i < q_.size(); ++i) q_[i] = static_cast<number>(random.q[i]);
    if (s.n > 1) options_.mask = heed::causal();
    for (index_t b = 0; b < s.batch; ++b)
      lengths_.push_back(static_cast<std::int32_t>(s.tokens(b) + overwritten(s, s.tokens(b))));
    set_view();
    workspace_.resize(plan().workspace_bytes);
    context_.workspace = workspace_;
  }
  cache_step(const cache_step&) = delete;
  cache_step& operator=(const cache_step&) = delete;

  void operator()() { heed::softmax::decode(q(), view_, o(), options_, context_); }
  auto prepared() { return heed::softmax::prepare_decode(q(), view_, o(), options_, context_); }
  heed::plan plan() { return heed::softmax::plan_decode(q(), view_, o(), options_, context_); }

  // Reads as many rows of K and of V as the call has to, on one thread, or K and V on a thread each. Returns GB/s.
  template <class Clock> double read_rate(const read_loop& loop, Clock clock, two_threads* pool = nullptr) const {
    const double rows = at.all_tokens() * static_cast<double>(at.kv_heads * at.d);
    const std::size_t lines = static_cast<std::size_t>(rows) * sizeof(S) / 1024 * 2;  // of 8 of k, and of v
    const auto* const k = reinterpret_cast<const std::byte*>(k_);
    const auto* const v = reinterpret_cast<const std::byte*>(v_);
    const double seconds = seconds_of(
        [&] {
          const auto read = [&](index_t i) { loop.run(i == 0 ? k : v, lines); };
          pool != nullptr ? pool->parallel_for(2, read) : (read(0), read(1));
        },
        clock);
    return static_cast<double>(lines) * 1024 / seconds * 1e-9;
  }

  step_shape at;

 private:
  // Only a full ring has wrapped.
  static index_t overwritten(const step_shape& s, index_t tokens) {
    return s.kind == cache_kind::ring && tokens == s.m ? ring_overwritten : 0;
  }
  static std::size_t size(index_t count) { return static_cast<std::size_t>(count); }
  heed::tensor_view<const number, 4> q() const {
    return heed::bhsd(q_.data(), at.batch, at.kv_heads * at.group, at.n, at.d);
  }
  heed::tensor_view<number, 4> o() { return heed::bhsd(o_.data(), at.batch, at.kv_heads * at.group, at.n, at.d); }

  void set_view() {
    const index_t batch = at.batch, m = at.m, kv_heads = at.kv_heads;
    const cache_kind kind = at.kind;
    const index_t pages = batch * m / page_rows;
    const auto tensor = [&](const S* p) -> heed::tensor_view<const S, 4> {
      if (at.kind == cache_kind::token_major) return heed::bshd(p, at.batch, at.m, at.kv_heads, at.d);
      if (at.kind == cache_kind::paged)
        return heed::bhsd(p, at.batch * at.m / page_rows, at.kv_heads, page_rows, at.d);
      return heed::bhsd(p, at.batch, at.kv_heads, at.m, at.d);
    };
    view_.k = tensor(k_), view_.v = tensor(v_), view_.lengths = lengths_;
    if (kind == cache_kind::ring) view_.layout = heed::cache_layout::ring, view_.keep_first = ring_first;
    if (kind == cache_kind::paged) {
      view_.layout = heed::cache_layout::paged;
      blocks_.resize(size(pages));
      std::iota(blocks_.begin(), blocks_.end(), 0);
      std::shuffle(blocks_.begin(), blocks_.end(), std::mt19937(1));
      view_.blocks = {blocks_.data(), {batch, m / page_rows}, {m / page_rows, 1}};
    }
    if constexpr (std::is_same_v<S, std::int8_t>) {
      scales_.assign(2 * size(batch * kv_heads * m), cache_numbers<S>::int8_scale);
      const auto& k = view_.k;
      using scales = heed::tensor_view<const float, 3>;
      view_.k_scale = scales(scales_.data(), {k.extent(0), k.extent(1), k.extent(2)},
                             {k.stride(0) / at.d, k.stride(1) / at.d, k.stride(2) / at.d});
      view_.v_scale = scales(scales_.data() + scales_.size() / 2, view_.k_scale.extents(), view_.k_scale.strides());
    }
  }

  std::vector<number> q_, o_;
  heed::context context_;
  const S* k_ = nullptr;
  const S* v_ = nullptr;
  std::vector<std::int32_t> lengths_, blocks_;
  std::vector<float> scales_;
  std::vector<std::byte> workspace_;
  options options_;
  heed::kv_cache_view<S> view_;
};

}  // namespace heed_bench
