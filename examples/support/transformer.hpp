// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The transformer of byte_lm.cpp on one sequence, forward and backward by hand.
//
//   x = embedding[byte];   in every layer: x += attention(rotate(norm(x) qkv)) out;  x += relu(norm(x) up)^2 down
//   logits = norm(x) head;   norm(x) = x / root mean square of x, without gains: the next matrix has them

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "attention_layer.hpp"

namespace byte_lm {

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
inline double real(index_t i) { return static_cast<double>(i); }
inline const unsigned char* bytes(const std::string& x) { return reinterpret_cast<const unsigned char*>(x.data()); }
inline double now() {  // seconds
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct settings {
  kernel kind = kernel::softmax;
  index_t layers = 4, width = 128, heads = 4, seq = 256, batch = 4, steps = 1600, step = 0, seed = 1;
};

// Weights, or their gradients: the embedding, qkv, out, up and down of every layer, the head.
template <class T> std::vector<matrix<T>> parameters(const settings& s) {
  const heads h(s.kind, s.width, s.heads);
  std::vector<matrix<T>> w{matrix<T>::Zero(512, s.width)};
  for (index_t l = 0; l < s.layers; ++l)
    w.insert(w.end(), {matrix<T>::Zero(s.width, h.columns()), matrix<T>::Zero(h.out * h.dim, s.width),
                       matrix<T>::Zero(s.width, 4 * s.width), matrix<T>::Zero(4 * s.width, s.width)});
  w.push_back(matrix<T>::Zero(s.width, 256));
  return w;
}

// Names the matrix of a place in that list.
inline std::string name_of(const settings& s, index_t i) {
  constexpr std::array parts{".qkv", ".out", ".up", ".down"};
  if (i == 0 || i > 4 * s.layers) return i == 0 ? "embedding" : "head";
  return "layers." + std::to_string((i - 1) / 4) + parts[at((i - 1) % 4)];
}

template <class T> class transformer {
 public:
  // Refers to the weights. capacity: 0 to train, else forward takes the next tokens, of so many in all.
  transformer(const settings& s, const std::vector<matrix<T>>& weights, index_t capacity = 0)
      : gradient(parameters<T>(s)), w_(&weights), seq_(s.seq), h_(s.kind, s.width, s.heads) {
    for (index_t l = 0; l < s.layers; ++l) tape_.push_back({attention_layer<T>(s.kind, h_, s.seq, capacity)});
    const index_t places = std::max(capacity, s.seq), half = h_.dim / 2;
    const auto place = Eigen::VectorXd::LinSpaced(places, 0, real(places - 1));
    const auto rate = Eigen::ArrayXd::LinSpaced(half, 0, std::log(1e4) * (1 / real(half) - 1)).exp();
    const Eigen::ArrayXXd angle = place * rate.matrix().transpose();
    cos_ = angle.cos().cast<T>(), sin_ = angle.sin().cast<T>();
  }

  // Computes the logits of the bytes after text[0 .. seq - 1], which are at the places from `place` on.
  void forward(const unsigned char* text, index_t place = 0) {
    x_.resize(seq_, w_->front().cols());
    for (index_t t = 0; t < seq_; ++t) {
      x_.row(t) = w_->front().row(text[t]);
      if (place + t > 0) x_.row(t) += w_->front().row(256 + text[t - 1]);
    }
    for (std::size_t l = 0; l < tape_.size(); ++l) {
      layer& a = tape_[l];
      const auto &qkv = (*w_)[4 * l + 1], &out = (*w_)[4 * l + 2], &up = (*w_)[4 * l + 3], &down = (*w_)[4 * l + 4];
      a.scale1 = normalise(x_, a.h1);
      a.qkv.noalias() = a.h1 * qkv;
      rotate(a.qkv, place, T(1));
      a.o.resize(seq_, out.rows());
      attention_seconds -= now();
      a.attention.forward(a.qkv, a.o);
      attention_seconds += now();
      x_.noalias() += a.o * out;
      a.scale2 = normalise(x_, a.h2);
      a.z.noalias() = a.h2 * up;
      a.z = a.z.cwiseMax(T(0));
      x_.noalias() += a.z.cwiseAbs2() * down;
    }
    scale_ = normalise(x_, h_last_);
    logits.noalias() = h_last_ * w_->back();
  }

  // Returns the bits that the bytes after text[first .. seq - 1] cost, and turns the logits into the gradient of the
  // mean cost of a token, in nats.
  double bits(const unsigned char* text, index_t first = 0) {
    double sum = 0;
    for (index_t t = 0; t < seq_; ++t) {
      auto row = logits.row(t).array();
      row -= row.maxCoeff();
      row -= std::log(row.exp().sum());
      if (t >= first) sum -= static_cast<double>(row(text[t + 1])) / std::log(2.0);
      row = row.exp();
      row(text[t + 1]) -= T(1);
      row /= static_cast<T>(seq_);
    }
    return sum;
  }

  // Computes the gradient of the weights from that of the logits.
  void backward(const unsigned char* text) {
    gradient.back().noalias() = h_last_.transpose() * logits;
    matrix<T> dx = normalise_backward(logits * w_->back().transpose(), h_last_, scale_), dz, dout;
    for (std::size_t l = tape_.size(); l-- > 0;) {
      layer& a = tape_[l];
      const auto &qkv = (*w_)[4 * l + 1], &out = (*w_)[4 * l + 2], &up = (*w_)[4 * l + 3], &down = (*w_)[4 * l + 4];
      gradient[4 * l + 4].noalias() = a.z.cwiseAbs2().transpose() * dx;
      dz.noalias() = dx * down.transpose();
      dz.array() *= T(2) * a.z.array();
      gradient[4 * l + 3].noalias() = a.h2.transpose() * dz;
      dx += normalise_backward(dz * up.transpose(), a.h2, a.scale2);
      gradient[4 * l + 2].noalias() = a.o.transpose() * dx;
      dout.noalias() = dx * out.transpose();
      matrix<T> dqkv(seq_, qkv.cols());
      attention_seconds -= now();
      a.attention.backward(a.qkv, a.o, dout, dqkv);
      attention_seconds += now();
      rotate(dqkv, 0, T(-1));
      gradient[4 * l + 1].noalias() = a.h1.transpose() * dqkv;
      dx += normalise_backward(dqkv * qkv.transpose(), a.h1, a.scale1);
    }
    gradient[0].setZero();
    for (index_t t = 0; t < seq_; ++t) {
      gradient[0].row(text[t]) += dx.row(t);
      if (t > 0) gradient[0].row(256 + text[t - 1]) += dx.row(t);
    }
  }

  double attention_seconds = 0, seconds = 0;
  std::vector<matrix<T>> gradient;
  matrix<T> logits;

 private:
  struct layer {  // what forward keeps
    attention_layer<T> attention;
    matrix<T> h1 = {}, h2 = {}, qkv = {}, o = {}, z = {};
    column<T> scale1 = {}, scale2 = {};
  };

  // Turns the pairs (d, d + dim/2) of every head of q and k; sign -1 turns gradients back.
  void rotate(matrix<T>& x, index_t place, T sign) const {
    const index_t half = h_.dim / 2;
    const auto c = cos_.middleRows(place, seq_), s = sin_.middleRows(place, seq_);
    for (index_t h = 0; h < h_.query + h_.kv; ++h) {
      auto a = x.middleCols(2 * h * half, half).array(), b = x.middleCols((2 * h + 1) * half, half).array();
      const array turned = a * c - sign * b * s;
      b = sign * a * s + b * c;
      a = turned;
    }
  }

  using array = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const std::vector<matrix<T>>* w_;
  index_t seq_;
  heads h_;
  std::vector<layer> tape_;
  matrix<T> x_, h_last_;
  column<T> scale_;
  array cos_, sin_;
};

}  // namespace byte_lm
