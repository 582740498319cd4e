// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of mixture_of_head.safetensors: a call of the kernel, a routing, or both.

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "heed/core/mask.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "support/golden.hpp"

namespace heed_test {

// The largest difference that is allowed: float by the rule of the golden files, double by rounding.
template <class T> double golden_tolerance(const golden_tensor<double>& x, double naive_error = 0) {
  double largest = 0;
  for (const double value : x.data)
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  return std::is_same_v<T, double> ? 1e-12 * std::max(1.0, largest) : std::max(2 * naive_error, 1e-5 * largest);
}

// Infinities are equal to themselves; a NaN is equal to nothing.
template <class T> bool golden_equal(const std::vector<T>& got, const golden_tensor<double>& expected, double allowed) {
  if (got.size() != expected.data.size()) return false;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double x = static_cast<double>(got[i]), y = expected.data[i];
    if (x != y && !(std::abs(x - y) <= allowed)) return false;
  }
  return true;
}

template <class T> golden_tensor<T> like(const golden_tensor<double>& x) {
  return {std::vector<T>(x.data.size(), std::numeric_limits<T>::quiet_NaN()), x.shape};
}

template <class T> struct golden_mixture {
  golden_tensor<T> q, k, v, gates, ones, o, lse, head;  // the calls write o, lse, and, with gates of 1, head
  heed::mixture_of_head::options<T> options, plain;     // plain: without lse

  golden_mixture(const golden_file& file, const std::string& name) {
    const std::string at = name + "/";
    q = file.tensor<T>(at + "q"), k = file.tensor<T>(at + "k"), v = file.tensor<T>(at + "v");
    gates = file.tensor<T>(at + "gates");
    ones = gates;
    std::fill(ones.data.begin(), ones.data.end(), T(1));
    o_ = file.tensor<double>(at + "o"), lse_ = file.tensor<double>(at + "lse"),
    head_ = file.tensor<double>(at + "head");
    o = like<T>(o_), lse = like<T>(lse_), head = like<T>(head_);
    for (std::size_t i = 0; i < lse_.data.size(); ++i)  // theirs is of every head
      if (gates.data[i] == 0) lse_.data[i] = -std::numeric_limits<double>::infinity();
    options.scale = file.number(at + "scale");
    if (file.number(at + "causal") != 0) options.mask = heed::causal();
    if (file.text(at + "align") != "bottom_right") throw std::runtime_error(at + ": unknown alignment");
    if (file.has(at + "bias")) bias_ = file.tensor<T>(at + "bias"), options.bias = bias_.template cview<4>();
    plain = options;
    options.lse = lse.template view<3>();
    allowed_o_ = golden_tolerance<T>(o_, file.number(at + "naive_f32_error_o"));
    allowed_lse_ = golden_tolerance<T>(lse_, file.number(at + "naive_f32_error_lse"));
    allowed_head_ = golden_tolerance<T>(head_, file.number(at + "naive_f32_error_head"));
    if (file.has(at + "authors_o")) authors_o_ = file.tensor<double>(at + "authors_o");
  }
  golden_mixture(const golden_mixture&) = delete;
  golden_mixture& operator=(const golden_mixture&) = delete;

  bool right() const {
    return golden_equal(o.data, o_, allowed_o_) && golden_equal(lse.data, lse_, allowed_lse_) &&
           golden_equal(head.data, head_, allowed_head_);
  }
  // Their tensors are not rounded to float: about 1e-6 apart
  bool as_authors() const {
    return authors_o_.data.empty() || golden_equal(o.data, authors_o_, golden_tolerance<float>(authors_o_));
  }

 private:
  golden_tensor<double> o_, lse_, head_, authors_o_;
  golden_tensor<T> bias_;
  double allowed_o_ = 0, allowed_lse_ = 0, allowed_head_ = 0;
};

// Logits as the layer makes them, and what its router returned
template <class T> struct golden_router {
  golden_tensor<T> routed, shared, mix, q, gates;  // logits (batch, head, n), empty where the case has none
  heed::mixture_of_head::routing how;
  bool by_norm = false, has_loss = false;
  double loss = 0;  // expected

  golden_router(const golden_file& file, const std::string& name) {
    const std::string at = name + "/";
    how = {static_cast<heed::index_t>(file.number(at + "shared_heads")),
           static_cast<heed::index_t>(file.number(at + "routed_heads"))};
    by_norm = file.text(at + "router") == "norm";
    expected_ = file.tensor<double>(at + "router_gates");
    gates = like<T>(expected_);
    if (by_norm) {
      q = file.tensor<T>(at + "router_q");
      return;
    }
    if (file.text(at + "router") != "trained") throw std::runtime_error(at + ": unknown router");
    const auto x = file.tensor<double>(at + "x");
    routed = logits(file, x, at + "w_routed"), shared = logits(file, x, at + "w_shared");
    mix = logits(file, x, at + "w_balance");
    has_loss = file.has(at + "router_loss");
    if (has_loss) loss = file.tensor<double>(at + "router_loss").data.at(0);
  }

  bool right() const { return golden_equal(gates.data, expected_, golden_tolerance<T>(expected_)); }

 private:
  // x (batch, n, width), w (head, width)
  static golden_tensor<T> logits(const golden_file& file, const golden_tensor<double>& x, const std::string& weights) {
    if (!file.has(weights)) return {};
    const auto w = file.tensor<double>(weights);
    const auto batch = static_cast<std::size_t>(x.shape[0]), n = static_cast<std::size_t>(x.shape[1]),
               width = static_cast<std::size_t>(x.shape[2]), heads = static_cast<std::size_t>(w.shape[0]);
    golden_tensor<T> out{{}, {x.shape[0], w.shape[0], x.shape[1]}};
    for (std::size_t b = 0; b < batch; ++b)
      for (std::size_t h = 0; h < heads; ++h)
        for (std::size_t i = 0; i < n; ++i) {
          double sum = 0;
          for (std::size_t c = 0; c < width; ++c) sum += x.data[(b * n + i) * width + c] * w.data[h * width + c];
          out.data.push_back(static_cast<T>(sum));
        }
    return out;
  }

  golden_tensor<double> expected_;
};

// A view of logits, null where there are none
template <class T> heed::tensor_view<const T, 3> logits_view(const golden_tensor<T>& x) {
  return x.data.empty() ? heed::tensor_view<const T, 3>{} : x.template cview<3>();
}

// Cases that hold a call, and cases that hold a routing
inline bool has_call(const golden_file& file, const std::string& name) { return file.has(name + "/gates"); }
inline bool has_routing(const golden_file& file, const std::string& name) { return file.has(name + "/router_gates"); }

}  // namespace heed_test
