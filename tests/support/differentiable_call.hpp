// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call of a reference in double whose numbers can all be moved: tensors, bias, slopes, sinks. The numbers of options
// are copied out of the options that it is made of, one per head.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "heed/core/per_head.hpp"
#include "heed/core/view.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"

namespace heed_test {

using numbers = std::vector<double>;

// Dense memory of so many axes, seen as one
template <class T, std::size_t Rank>
heed::tensor_view<T, static_cast<int>(Rank)> dense(T* data, const std::array<index_t, Rank>& all) {
  std::array<index_t, Rank> strides{};
  index_t stride = 1;
  for (std::size_t axis = Rank; axis-- > 0; stride *= all[axis]) strides[axis] = stride;
  return {data, all, strides};
}
inline numbers not_written(std::size_t count) { return numbers(count, std::numeric_limits<double>::quiet_NaN()); }

// Options: of softmax or local linear attention
template <class Options> struct differentiable_call {
  using array3 = std::array<index_t, 3>;
  using array4 = std::array<index_t, 4>;

  shape s;
  Options options;
  array4 bias_extents{};
  numbers q, k, v, dout, dlse, bias, slopes, sinks;  // the last three: empty where the options have none

  differentiable_call(const shape& size, const Options& how, std::uint32_t seed = 1) : s(size), options(how) {
    random_numbers random(seed);
    const auto fill = [&](numbers& x, index_t count) {
      for (index_t i = 0; i < count; ++i) x.push_back(random.normal());
    };
    const index_t rows = s.batch * s.out_heads() * s.queries;
    fill(q, s.batch * s.heads * s.queries * s.dim), fill(k, s.batch * s.kv_heads * s.keys * s.dim);
    fill(v, s.batch * s.kv_heads * s.keys * s.value_dim);
    fill(dout, rows * s.value_dim), fill(dlse, rows);
    own(how.alibi_slopes, slopes, options.alibi_slopes);
    if constexpr (requires { how.sink_logits; }) own(how.sink_logits, sinks, options.sink_logits);
    if (how.bias.data() != nullptr) own_bias(how.bias);
  }
  differentiable_call(const differentiable_call&) = delete;
  differentiable_call& operator=(const differentiable_call&) = delete;

  auto queries() const { return dense(q.data(), array4{s.batch, s.heads, s.queries, s.dim}); }
  auto keys() const { return dense(k.data(), array4{s.batch, s.kv_heads, s.keys, s.dim}); }
  auto values() const { return dense(v.data(), array4{s.batch, s.kv_heads, s.keys, s.value_dim}); }
  auto cotangent() const { return dense(dout.data(), out_extents()); }
  auto lse_cotangent() const { return dense(dlse.data(), row_extents()); }
  array4 out_extents() const { return {s.batch, s.out_heads(), s.queries, s.value_dim}; }
  array3 row_extents() const { return {s.batch, s.out_heads(), s.queries}; }

  // Sums of o times dout, and of lse, if there is one, times dlse where it is finite
  double loss_of(const numbers& o, const numbers& lse = {}) const {
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += dout[i] * o[i];
    for (std::size_t i = 0; i < lse.size(); ++i) sum += std::isfinite(lse[i]) ? dlse[i] * lse[i] : 0;
    return sum;
  }

 private:
  void own(const heed::per_head& from, numbers& to, heed::per_head& option) {
    if (!from.set()) return;
    for (index_t h = 0; h < s.out_heads(); ++h) to.push_back(from.at(h));
    option = to;
  }
  void own_bias(const heed::tensor_view<const double, 4>& from) {
    bias_extents = {from.extent(0), from.extent(1), from.extent(2), from.extent(3)};
    const auto [b, h, n, m] = bias_extents;
    for (index_t i = 0; i < b * h * n * m; ++i)
      bias.push_back(from(i / (h * n * m), i / (n * m) % h, i / m % n, i % m));
    options.bias = dense<const double>(bias.data(), bias_extents);
  }
};

}  // namespace heed_test
