// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of linear.safetensors or lightning.safetensors as a call: tensors, options, and what o and the final state
// must be.

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "heed/core/mask.hpp"
#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"
#include "support/golden.hpp"

namespace heed_test {

// What both families have.
template <class T> class golden_recurrent {
 public:
  golden_recurrent(const golden_file& file, const std::string& name) : at_(name + "/") {
    q = file.tensor<T>(at_ + "q");
    k = file.tensor<T>(at_ + "k");
    v = file.tensor<T>(at_ + "v");
    expect(file, "o", o_, got_o);
    if (file.has(at_ + "final_state")) expect(file, "final_state", s_, got_s_);
    if (file.has(at_ + "final_z")) expect(file, "final_z", z_, got_z_);
    for (const std::string& input : file.words(at_ + "inputs")) {
      constexpr const char* elsewhere[] = {"q", "k", "v", "slopes", "g", "dout", "dfinal_state", "dfinal_z"};
      if (input == "initial_state")
        initial_s_ = file.tensor<T>(at_ + input);
      else if (input == "initial_z")
        initial_z_ = file.tensor<T>(at_ + input);
      else if (std::find(std::begin(elsewhere), std::end(elsewhere), input) == std::end(elsewhere))
        throw std::runtime_error(at_ + input + ": an input that no test knows");
    }
  }
  golden_recurrent(const golden_recurrent&) = delete;
  golden_recurrent& operator=(const golden_recurrent&) = delete;

  golden_tensor<T> q, k, v, got_o;  // the call writes got_o and final_state()

  heed::state_view<const T> initial_state() const {
    heed::state_view<const T> x;
    if (!initial_s_.data.empty()) x.s = initial_s_.template cview<4>();
    if (!initial_z_.data.empty()) x.z = initial_z_.template cview<3>();
    return x;
  }
  heed::state_view<T> final_state() {
    heed::state_view<T> x;
    if (!got_s_.data.empty()) x.s = got_s_.template view<4>();
    if (!got_z_.data.empty()) x.z = got_z_.template view<3>();
    return x;
  }

  // Whether what the call wrote is what the file says.
  bool right() const { return equal(got_o, o_) && equal(got_s_, s_) && equal(got_z_, z_); }

 protected:
  std::string at_;

 private:
  struct expected {
    golden_tensor<double> values;
    double allowed = 0;
  };

  // The rule of the golden files for float; double differs from them by rounding alone.
  void expect(const golden_file& file, const char* name, expected& x, golden_tensor<T>& got) {
    x.values = file.tensor<double>(at_ + name);
    got.shape = x.values.shape;
    got.data.assign(x.values.data.size(), std::numeric_limits<T>::quiet_NaN());
    double largest = 0;
    for (const double value : x.values.data) largest = std::max(largest, std::abs(value));
    const double naive = file.number(at_ + "naive_f32_error_" + name);
    x.allowed = std::is_same_v<T, double> ? 1e-12 * std::max(1.0, largest) : std::max(2 * naive, 1e-5 * largest);
  }
  static bool equal(const golden_tensor<T>& got, const expected& x) {
    for (std::size_t i = 0; i < x.values.data.size(); ++i)
      if (!(std::abs(static_cast<double>(got.data[i]) - x.values.data[i]) <= x.allowed)) return false;
    return true;
  }

  expected o_, s_, z_;
  golden_tensor<T> initial_s_, initial_z_, got_s_, got_z_;
};

template <class T> class golden_linear : public golden_recurrent<T> {
 public:
  golden_linear(const golden_file& file, const std::string& name) : golden_recurrent<T>(file, name) {
    const std::string& at = this->at_;
    if (file.text(at + "align") != "bottom_right") throw std::runtime_error(at + ": an alignment that no test knows");
    if (file.number(at + "causal") != 0) options.mask = heed::causal();
    options.scale = file.number(at + "scale");
    options.feature = named(file.text(at + "feature"));
    options.normalize = file.number(at + "normalize") != 0;
    options.eps = file.number(at + "eps");
    options.initial_state = this->initial_state();
    options.final_state = this->final_state();
  }

  heed::linear::options<T> options;

 private:
  static heed::feature named(const std::string& name) {
    if (name == "identity") return heed::feature::identity;
    if (name == "elu_plus_one") return heed::feature::elu_plus_one;
    if (name == "relu") return heed::feature::relu;
    if (name == "squared_relu") return heed::feature::relu_squared;
    if (name == "exp") return heed::feature::exp;
    if (name == "softmax") return heed::feature::softmax;
    if (name == "taylor") return heed::feature::taylor;
    throw std::runtime_error(name + ": a feature map that no test knows");
  }
};

// All cases but slope_tables, which is no call.
template <class T> class golden_lightning : public golden_recurrent<T> {
 public:
  golden_lightning(const golden_file& file, const std::string& name) : golden_recurrent<T>(file, name) {
    const std::string& at = this->at_;
    const bool gated = file.text(at + "decay") == "gates";
    numbers_ = file.tensor<T>(at + (gated ? "g" : "slopes"));
    decay = gated ? heed::decay<T>(numbers_.template cview<3>()) : heed::decay<T>(numbers_.data);
    options.scale = file.number(at + "scale");
    options.initial_state = this->initial_state();
    options.final_state = this->final_state();
  }

  heed::lightning::options<T> options;
  heed::decay<T> decay = heed::decay<T>(heed::tensor_view<const T, 3>());

 private:
  golden_tensor<T> numbers_;
};

}  // namespace heed_test
