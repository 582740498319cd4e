// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of mixture_of_head.safetensors: a call of the kernel, a routing, or both.

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "heed/mixture_of_head/options.hpp"
#include "support/golden_case.hpp"

namespace heed_test {

template <class T> struct golden_mixture : golden_case<T> {
  golden_tensor<T> gates, ones, o, lse, head;        // the calls write o, lse, and, with gates of 1, head
  heed::mixture_of_head::options<T> options, plain;  // plain: without lse

  golden_mixture(const golden_file& file, const std::string& name) : golden_case<T>(file, name) {
    gates = this->tensor("gates");
    ones = gates;
    std::fill(ones.data.begin(), ones.data.end(), T(1));
    o_ = this->expect("o", o), lse_ = this->expect("lse", lse), head_ = this->expect("head", head);
    for (std::size_t i = 0; i < lse_.values.data.size(); ++i)  // theirs is of every head
      if (gates.data[i] == 0) lse_.values.data[i] = -std::numeric_limits<double>::infinity();
    lse_.template allow<T>(this->number("naive_f32_error_lse"));
    options.scale = this->number("scale");
    options.mask = this->causal_and_window(true);
    this->aligned({"bottom_right"});
    if (this->has("bias")) bias_ = this->tensor("bias"), options.bias = bias_.template cview<4>();
    plain = options;
    options.lse = lse.template view<3>();
    if (this->has("authors_o")) authors_o_.values = this->template tensor<double>("authors_o");
    authors_o_.template allow<float>(0);
  }

  bool right() const { return o_.right(o) && lse_.right(lse) && head_.right(head); }
  // Their tensors are not rounded to float: about 1e-6 apart
  bool as_authors() const { return authors_o_.values.data.empty() || authors_o_.right(o); }

 private:
  golden_output o_, lse_, head_, authors_o_;
  golden_tensor<T> bias_;
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
    expected_.values = file.tensor<double>(at + "router_gates");
    expected_.template allow<T>(0);
    gates = {std::vector<T>(expected_.values.data.size(), std::numeric_limits<T>::quiet_NaN()), expected_.values.shape};
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

  bool right() const { return expected_.right(gates); }

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

  golden_output expected_;
};

// A view of logits, null where there are none
template <class T> heed::tensor_view<const T, 3> logits_view(const golden_tensor<T>& x) {
  return x.data.empty() ? heed::tensor_view<const T, 3>{} : x.template cview<3>();
}

// Cases that hold a call, and cases that hold a routing
inline bool has_call(const golden_file& file, const std::string& name) { return file.has(name + "/gates"); }
inline bool has_routing(const golden_file& file, const std::string& name) { return file.has(name + "/router_gates"); }

}  // namespace heed_test
