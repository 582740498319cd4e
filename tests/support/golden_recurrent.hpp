// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of linear.safetensors or lightning.safetensors as a call: tensors, options, and what o and the final state
// must be.

#include <stdexcept>
#include <string>

#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"
#include "support/golden_case.hpp"

namespace heed_test {

// What both families have.
template <class T> class golden_recurrent : public golden_case<T> {
 public:
  golden_recurrent(const golden_file& file, const std::string& name) : golden_case<T>(file, name) {
    o_ = this->expect("o", got_o);
    if (this->has("final_state")) s_ = this->expect("final_state", got_s_);
    if (this->has("final_z")) z_ = this->expect("final_z", got_z_);
    this->each_input({"slopes", "g"}, [&](const std::string& input) {
      if (input == "initial_state") initial_s_ = this->tensor(input);
      if (input == "initial_z") initial_z_ = this->tensor(input);
      return input == "initial_state" || input == "initial_z";
    });
  }

  golden_tensor<T> got_o;  // the call writes got_o and final_state()

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
  bool right() const { return o_.right(got_o) && s_.right(got_s_) && z_.right(got_z_); }

 private:
  golden_output o_, s_, z_;
  golden_tensor<T> initial_s_, initial_z_, got_s_, got_z_;
};

template <class T> class golden_linear : public golden_recurrent<T> {
 public:
  golden_linear(const golden_file& file, const std::string& name) : golden_recurrent<T>(file, name) {
    this->aligned({"bottom_right"});
    options.mask = this->causal_and_window(true);
    options.scale = this->number("scale");
    options.feature = named(this->text("feature"));
    options.normalize = this->number("normalize") != 0;
    options.eps = this->number("eps");
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
    const bool gated = this->text("decay") == "gates";
    numbers_ = this->tensor(gated ? "g" : "slopes");
    decay = gated ? heed::decay<T>(numbers_.template cview<3>()) : heed::decay<T>(numbers_.data);
    options.scale = this->number("scale");
    options.initial_state = this->initial_state();
    options.final_state = this->final_state();
  }

  heed::lightning::options<T> options;
  heed::decay<T> decay = heed::decay<T>(heed::tensor_view<const T, 3>());

 private:
  golden_tensor<T> numbers_;
};

}  // namespace heed_test
