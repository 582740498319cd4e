// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The attention of one layer of byte_lm.cpp on one sequence: forward, decode and backward of the kernel that the
// command line names, with what forward keeps for backward and what decode keeps of the tokens so far.

#include <array>
#include <cstddef>
#include <optional>

#include "heed/cache.hpp"
#include "heed/heed.hpp"
// Eigen comes after heed, which keeps g++ 12 from warning about its own AVX-512 intrinsics.
#include <Eigen/Core>

namespace byte_lm {

using heed::index_t;
template <class T> using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T> using column = Eigen::Matrix<T, Eigen::Dynamic, 1>;

enum class kernel : std::size_t { softmax, linear, lightning, local_linear, mixture_of_head, sparse_query };
inline constexpr std::array kernel_names{"softmax",      "linear",          "lightning",
                                         "local_linear", "mixture_of_head", "sparse_query"};
constexpr const char* name_of(kernel kind) { return kernel_names[static_cast<std::size_t>(kind)]; }

// Writes y = x / its root mean square, row by row; returns the reciprocals of these.
template <class X, class Y> auto normalise(const X& x, Y&& y) {
  using T = typename X::Scalar;
  const column<T> scale = (x.rowwise().squaredNorm().array() / static_cast<T>(x.cols()) + T(1e-6)).rsqrt();
  y = scale.asDiagonal() * x;
  return scale;
}
// Returns dx from dy (or the product that dy is), y and what normalise returned.
template <class D, class Y, class S> auto normalise_backward(const D& product, const Y& y, const S& scale) {
  using T = typename Y::Scalar;
  const matrix<T> dy = product;
  const column<T> along = dy.cwiseProduct(y).rowwise().sum() / static_cast<T>(y.cols());
  return matrix<T>(scale.asDiagonal() * (dy - along.asDiagonal() * y));
}

// Counts of heads. A row of the fused projection holds q, k, v and, for mixture of head, the logits of the router.
struct heads {
  index_t query, kv, out, dim, routed = 0, active = 0;

  heads(kernel kind, index_t width, index_t count) : query(count), kv(count), out(count), dim(width / count) {
    if (kind == kernel::sparse_query) {
      const heed::sparse_query::layout fewer = heed::sparse_query::choose_heads({.width = width, .heads = count});
      query = fewer.query_heads, kv = fewer.kv_heads, out = fewer.out_heads;
    }
    if (kind == kernel::mixture_of_head) routed = count, active = count / 2;
  }
  index_t columns() const { return (query + 2 * kv) * dim + routed; }
};

template <class T> class attention_layer {
 public:
  // capacity: 0 to train on `seq` tokens, else forward decodes the next `seq` tokens, `capacity` in all.
  attention_layer(kernel kind, const heads& h, index_t seq, index_t capacity) : kind_(kind), h_(h) {
    lse_.setZero(h.out, seq), gates_.setZero(seq, h.query), dgates_ = gates_;
    slope_.setZero(seq, h.out * h.dim), mean_key_ = slope_;
    soft_ = {.mask = heed::causal(), .lse = lse_};
    linear_ = {.mask = heed::causal()};
    local_ = {.mask = heed::causal(), .tolerance = sizeof(T) > 4 ? 1e-13 : 1e-5, .lse = lse_};
    local_.slope = heed::split_heads(slope_, h.out), local_.mean_key = heed::split_heads(mean_key_, h.out);
    lightning_.scale = 1 / static_cast<double>(h.dim);
    if (capacity == 0) return;
    const bool recurrent = kind == kernel::linear || kind == kernel::lightning;
    recurrent ? void(state_.emplace(1, h.kv, h.dim, h.dim)) : void(cache_.emplace(1, h.kv, capacity, h.dim, h.dim));
  }

  // o (seq, out * dim) = attention of x (seq, columns)
  void forward(matrix<T>& x, matrix<T>& o) {
    const auto [q, k, v] = qkv(x);
    const tensor out = heed::split_heads(o, h_.out);
    if (cache_) cache_->append(k, v);
    switch (kind_) {
      case kernel::softmax:
      case kernel::sparse_query:
        return cache_ ? heed::softmax::decode(q, *cache_, out, soft_) : heed::softmax::forward(q, k, v, out, soft_);
      case kernel::linear:
        return state_ ? heed::linear::decode(q, k, v, *state_, out, linear_)
                      : heed::linear::forward(q, k, v, out, linear_);
      case kernel::lightning:  // its sums have no denominator: every head is normalised
        state_ ? heed::lightning::decode(q, k, v, slopes(), *state_, out, lightning_)
               : heed::lightning::forward(q, k, v, slopes(), out, lightning_);
        scale_ = normalise(by_head(o), by_head(o));
        return;
      case kernel::local_linear:
        return cache_ ? heed::local_linear::decode(q, *cache_, ridge, out, local_)
                      : heed::local_linear::forward(q, k, v, ridge, out, local_);
      case kernel::mixture_of_head:
        heed::mixture_of_head::route_trained(x.rightCols(h_.routed).transpose(), unused, unused, {.active = h_.active},
                                             gates_.transpose());
        return cache_ ? heed::mixture_of_head::decode(q, *cache_, gates_.transpose(), out, soft_)
                      : heed::mixture_of_head::forward(q, k, v, gates_.transpose(), out, soft_);
    }
  }

  // dx = the gradient of x from dout, that of o. dout is scratch afterwards.
  void backward(matrix<T>& x, matrix<T>& o, matrix<T>& dout, matrix<T>& dx) {
    const auto [q, k, v] = qkv(x);
    const auto [dq, dk, dv] = qkv(dx);
    const tensor out = heed::split_heads(o, h_.out), d = heed::split_heads(dout, h_.out);
    switch (kind_) {
      case kernel::softmax:
      case kernel::sparse_query:
        return heed::softmax::backward(q, k, v, out, d, {.dq = dq, .dk = dk, .dv = dv}, soft_);
      case kernel::linear:
        return heed::linear::backward(q, k, v, out, d, {.dq = dq, .dk = dk, .dv = dv}, linear_);
      case kernel::lightning:
        by_head(dout) = normalise_backward(by_head(dout), by_head(o), scale_);
        return heed::lightning::backward(q, k, v, slopes(), d, {.dq = dq, .dk = dk, .dv = dv}, lightning_);
      case kernel::local_linear:
        return heed::local_linear::backward(q, k, v, ridge, d, {.dq = dq, .dk = dk, .dv = dv}, local_);
      case kernel::mixture_of_head:
        heed::mixture_of_head::backward(q, k, v, gates_.transpose(), out, d,
                                        {.dq = dq, .dk = dk, .dv = dv, .dgates = dgates_.transpose()}, soft_);
        dgates_.array() *= gates_.array();  // gates = active * softmax(logits kept)
        dx.rightCols(h_.routed) = dgates_ - (dgates_.rowwise().sum() / static_cast<T>(h_.active)).asDiagonal() * gates_;
    }
  }

 private:
  using tensor = heed::tensor_view<T, 4>;
  static constexpr double ridge = 1;
  static constexpr heed::tensor_view<const T, 3> unused = {};

  std::array<tensor, 3> qkv(matrix<T>& x) const {
    const tensor all = heed::split_heads(x.leftCols(x.cols() - h_.routed), h_.query + 2 * h_.kv);
    return {heed::slice(all, 1, 0, h_.query), heed::slice(all, 1, h_.query, h_.kv),
            heed::slice(all, 1, h_.query + h_.kv, h_.kv)};
  }
  auto by_head(matrix<T>& x) const { return Eigen::Map<matrix<T>>(x.data(), x.size() / h_.dim, h_.dim); }
  heed::decay<T> slopes() const { return heed::alibi_slopes(h_.query); }

  kernel kind_;
  heads h_;
  matrix<T> lse_, gates_, dgates_, slope_, mean_key_;
  column<T> scale_;
  heed::softmax::options<T> soft_;
  heed::linear::options<T> linear_;
  heed::lightning::options<T> lightning_;
  heed::local_linear::options<T> local_;
  std::optional<heed::cache::contiguous<T>> cache_;
  std::optional<heed::state<T>> state_;
};

}  // namespace byte_lm
