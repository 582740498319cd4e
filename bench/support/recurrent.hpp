// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Shapes and tensors for the recurrent kernels, and two neighbours: chunked matrix products by Eigen, and the
// recurrence in plain loops.

// Include it before anything else that includes Eigen or intrinsics.

#include "eigen_baseline.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "heed/lightning.hpp"
#include "heed/linear.hpp"

namespace heed_bench {

// Counts nominal work, whatever the chunk: each token reads and updates the state; causal calls have 65 pairs per two
// tokens more.
struct recurrent_shape {
  index_t n = 1, d = 64, e = 64, heads = 1;
  index_t features = 0;  // of the state; 0: d
  bool causal = true;

  double tokens() const { return static_cast<double>(n * heads); }
  double flops() const {
    return tokens() * static_cast<double>(4 * (features > 0 ? features : d) * e + (causal ? 65 * (d + e) : 0));
  }
  // Counts what causal chunks of c tokens multiply on vectors of w lanes. The first chunk reads no state, queries fill
  // whole vectors, and the pairs of a chunk are a staircase of steps of max(8, w) keys.
  double counted_flops(index_t c, index_t w) const {
    const index_t step = std::max<index_t>(8, w);
    double read = 0, pairs = 0;  // lanes of queries that read the state; lanes times keys
    for (index_t t = 0; t < n; t += c) {
      const index_t tokens = std::min(c, n - t), lanes = (tokens + w - 1) / w * w;
      if (t > 0) read += static_cast<double>(lanes);
      for (index_t j = 0; j < tokens; j += step)
        pairs += static_cast<double>(std::min(step, tokens - j) * (lanes - j / w * w));
    }
    const auto size = static_cast<double>(d * e), width = static_cast<double>(d + e);
    return static_cast<double>(heads) * 2 * (size * (read + static_cast<double>(n)) + width * pairs);
  }
  template <class T> double bytes() const {
    return tokens() * static_cast<double>(sizeof(T)) * static_cast<double>(2 * (d + e));
  }
};

// Allocates rows end to end, zero at first. huge: asks for pages of 2 MiB, which need less address translation.
template <class T> class pages {
 public:
  pages(index_t count, bool huge) {
    constexpr std::size_t page = std::size_t{2} << 20;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + page - 1) / page * page;
    memory_.reset(static_cast<T*>(std::aligned_alloc(page, bytes)));
    if (huge) madvise(memory_.get(), bytes, MADV_HUGEPAGE);
    std::fill(memory_.get(), memory_.get() + count, T(0));
    size_ = count;
  }
  T* data() const { return memory_.get(); }
  T* begin() const { return memory_.get(); }
  T* end() const { return memory_.get() + size_; }

 private:
  struct release {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], release> memory_;
  index_t size_ = 0;
};

// Holds random tensors in (head, seq, dim) order, about normally distributed, always the same.
template <class T> struct recurrent_tensors {
  recurrent_shape at;
  pages<T> q, k, v, o, gates;
  std::vector<double> slopes;

  explicit recurrent_tensors(const recurrent_shape& s, bool huge = false)
      : at(s),
        q(s.heads * s.n * s.d, huge),
        k(s.heads * s.n * s.d, huge),
        v(s.heads * s.n * s.e, huge),
        o(s.heads * s.n * s.e, huge),
        gates(s.heads * s.n, false),
        slopes(heed::alibi_slopes(s.heads)) {
    std::uint32_t seed = 1;
    const auto next = [&seed] {
      std::int32_t sum = -2 * 65535;
      for (int i = 0; i < 4; ++i) {
        seed = seed * 1664525u + 1013904223u;
        sum += static_cast<std::int32_t>(seed >> 16);
      }
      return static_cast<T>(sum) * T(2.64e-5);  // variance 1
    };
    for (auto* x : {&q, &k, &v})
      for (T& value : *x) value = next();
    for (T& g : gates) g = T(-0.05) * std::abs(next());
  }

  heed::tensor_view<const T, 4> q_view() const { return view(q, at.d); }
  heed::tensor_view<const T, 4> k_view() const { return view(k, at.d); }
  heed::tensor_view<const T, 4> v_view() const { return view(v, at.e); }
  heed::tensor_view<T, 4> o_view() const { return heed::bhsd(o.data(), 1, at.heads, at.n, at.e); }
  heed::decay<T> gate_decay() const {
    return heed::decay<T>(heed::tensor_view<const T, 3>(gates.data(), {1, at.heads, at.n}, {0, at.n, 1}));
  }

 private:
  heed::tensor_view<const T, 4> view(const pages<T>& x, index_t dim) const {
    return heed::bhsd(static_cast<const T*>(x.data()), 1, at.heads, at.n, dim);
  }
};

// Computes chunks of 64 tokens by Eigen's matrix products, as a careful user writes them.
template <class T> class eigen_lightning {
 public:
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static constexpr index_t chunk = 64;

  explicit eigen_lightning(const recurrent_shape& s) : s_(s.d, s.e), scores_(chunk, chunk), decayed_(chunk, s.d) {}

  void operator()(recurrent_tensors<T>& x) {
    const recurrent_shape& s = x.at;
    for (index_t h = 0; h < s.heads; ++h) {
      const T lambda = static_cast<T>(std::exp(-x.slopes[static_cast<std::size_t>(h)]));
      matrix weight = matrix::Zero(chunk, chunk);
      Eigen::Matrix<T, Eigen::Dynamic, 1> power(chunk + 1);
      for (index_t i = 0; i <= chunk; ++i) power(i) = static_cast<T>(std::pow(lambda, static_cast<T>(i)));
      for (index_t i = 0; i < chunk; ++i)
        for (index_t j = 0; j <= i; ++j) weight(i, j) = power(i - j);
      s_.setZero();
      for (index_t t = 0; t < s.n; t += chunk) {
        const index_t c = std::min(chunk, s.n - t), row = h * s.n + t;
        const Eigen::Map<const matrix> q(x.q.data() + row * s.d, c, s.d), k(x.k.data() + row * s.d, c, s.d),
            v(x.v.data() + row * s.e, c, s.e);
        Eigen::Map<matrix> o(x.o.data() + row * s.e, c, s.e);
        auto scores = scores_.topLeftCorner(c, c);
        scores.noalias() = q * k.transpose();
        scores.array() *= weight.topLeftCorner(c, c).array();
        o.noalias() = q * s_;
        o.array().colwise() *= power.segment(1, c).array();
        o.noalias() += scores * v;
        auto decayed = decayed_.topRows(c);
        decayed = k.array().colwise() * power.head(c).reverse().array();
        s_ *= power(c);
        s_.noalias() += decayed.transpose() * v;
      }
    }
  }

 private:
  matrix s_, scores_, decayed_;
};

// Computes S = lambda S + k v^T, o = q S, token by token.
template <class T> void naive_lightning(recurrent_tensors<T>& x, std::vector<T>& state) {
  const recurrent_shape& s = x.at;
  for (index_t h = 0; h < s.heads; ++h) {
    const T lambda = static_cast<T>(std::exp(-x.slopes[static_cast<std::size_t>(h)]));
    state.assign(static_cast<std::size_t>(s.d * s.e), T(0));
    for (index_t t = h * s.n; t < (h + 1) * s.n; ++t) {
      const T *q = x.q.data() + t * s.d, *k = x.k.data() + t * s.d, *v = x.v.data() + t * s.e;
      T* const o = x.o.data() + t * s.e;
      for (index_t e = 0; e < s.e; ++e) o[e] = 0;
      for (index_t d = 0; d < s.d; ++d) {
        T* const row = state.data() + d * s.e;
        for (index_t e = 0; e < s.e; ++e) {
          row[e] = lambda * row[e] + k[d] * v[e];
          o[e] += q[d] * row[e];
        }
      }
    }
  }
}

}  // namespace heed_bench
