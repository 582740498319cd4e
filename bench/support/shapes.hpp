// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Describes a benchmark's shape, the work that it cannot avoid, and its tensors.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "heed/softmax.hpp"

namespace heed_bench {

using heed::index_t;

enum class masking { dense, causal, window };
inline constexpr index_t window_keys = 256;  // keys that a query of a windowed row sees, its own included

inline const char* name(masking kind) {
  return kind == masking::dense ? "dense" : kind == masking::causal ? "causal" : "window";
}

struct shape {
  index_t n = 1, m = 1, d = 64, e = 64;
  index_t heads = 1, kv_heads = 1;
  masking mask = masking::dense;

  // Query i sees the keys first(i) <= j < end(i) (places are bottom right, heed's default).
  index_t first(index_t i) const {
    return mask == masking::window ? std::clamp<index_t>(i + m - n + 1 - window_keys, 0, m) : 0;
  }
  index_t end(index_t i) const { return mask == masking::dense ? m : std::clamp<index_t>(i + m - n + 1, 0, m); }

  double pairs() const {  // visible query-key pairs of all heads
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += static_cast<double>(std::max<index_t>(0, end(i) - first(i)));
    return sum * static_cast<double>(heads);
  }
  double flops() const { return pairs() * 2 * static_cast<double>(d + e); }
  template <class T> double bytes() const {  // q and o once, the keys and values that some query sees once
    const index_t keys = n > 0 ? end(n - 1) - first(0) : 0;
    return static_cast<double>(sizeof(T)) * static_cast<double>((heads * n + kv_heads * keys) * (d + e));
  }
};

// Holds random tensors in (head, seq, dim) order, about normally distributed, always the same.
template <class T> struct tensors {
  shape at;
  std::vector<T> q, k, v, o;

  explicit tensors(const shape& s)
      : at(s),
        q(size(s.heads, s.n, s.d)),
        k(size(s.kv_heads, s.m, s.d)),
        v(size(s.kv_heads, s.m, s.e)),
        o(size(s.heads, s.n, s.e)) {
    std::uint32_t seed = 1;
    for (auto* x : {&q, &k, &v})
      for (T& value : *x) {
        std::int32_t sum = -2 * 65535;
        for (int i = 0; i < 4; ++i) {
          seed = seed * 1664525u + 1013904223u;
          sum += static_cast<std::int32_t>(seed >> 16);
        }
        using float_type = heed::detail::acc_t<T>;
        value = static_cast<T>(static_cast<float_type>(sum) * float_type(2.64e-5));  // variance 1
      }
  }

  heed::tensor_view<const T, 4> q_view() const { return heed::bhsd(q.data(), 1, at.heads, at.n, at.d); }
  heed::tensor_view<const T, 4> k_view() const { return heed::bhsd(k.data(), 1, at.kv_heads, at.m, at.d); }
  heed::tensor_view<const T, 4> v_view() const { return heed::bhsd(v.data(), 1, at.kv_heads, at.m, at.e); }
  heed::tensor_view<T, 4> o_view() { return heed::bhsd(o.data(), 1, at.heads, at.n, at.e); }

 private:
  static std::size_t size(index_t a, index_t b, index_t c) { return static_cast<std::size_t>(a * b * c); }
};

template <class T> heed::softmax::options<T> options_of(const shape& s) {
  heed::softmax::options<T> options;
  if (s.mask == masking::causal) options.mask = heed::causal();
  if (s.mask == masking::window) options.mask = heed::causal() & heed::window(window_keys - 1);
  return options;
}

}  // namespace heed_bench
