// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradients of a case of linear.safetensors or lightning.safetensors. Every gradient that the file has is asked for
// and compared.

#include <string>

#include "support/golden_recurrent.hpp"

namespace heed_test {

// Base: golden_linear<T> or golden_lightning<T>
template <class T, class Base> class golden_backward : public Base {
 public:
  golden_tensor<T> dout;
  int count = 0;  // gradients that are compared

  golden_backward(const golden_file& file, const std::string& name) : Base(file, name) {
    dout = this->tensor("dout");
    if (this->has("dfinal_state")) dfinal_s_ = this->tensor("dfinal_state");
    if (this->has("dfinal_z")) dfinal_z_ = this->tensor("dfinal_z");
    for (gradient* x : {&dq_, &dk_, &dv_, &dinitial_s_, &dinitial_z_, &dslopes_, &dgates_})
      if (this->has(x->name)) x->expected = this->expect(x->name, x->got), ++count;
  }

  // Sets what the file has of heed::linear::gradients or heed::lightning::gradients.
  template <class Gradients> void ask(Gradients& x) {
    x.dq = dq_.got.template view<4>(), x.dk = dk_.got.template view<4>(), x.dv = dv_.got.template view<4>();
    if (!dinitial_s_.got.data.empty()) x.dinitial_state.s = dinitial_s_.got.template view<4>();
    if (!dinitial_z_.got.data.empty()) x.dinitial_state.z = dinitial_z_.got.template view<3>();
    if (!dfinal_s_.data.empty()) x.dfinal_state.s = dfinal_s_.template cview<4>();
    if (!dfinal_z_.data.empty()) x.dfinal_state.z = dfinal_z_.template cview<3>();
    if constexpr (requires { x.dslopes; }) {
      if (!dslopes_.got.data.empty()) x.dslopes = dslopes_.got.template view<1>();
      if (!dgates_.got.data.empty()) x.dlog_gates = dgates_.got.template view<3>();
    }
  }

  // The largest error in units of what is allowed, and of what
  double error(std::string& of) const {
    double worst = 0;
    for (const gradient* x : {&dq_, &dk_, &dv_, &dinitial_s_, &dinitial_z_, &dslopes_, &dgates_}) {
      const double mine = x->expected.error_of(x->got);
      if (mine >= worst && !x->got.data.empty()) worst = mine, of = x->name;
    }
    return worst;
  }

 private:
  struct gradient {
    const char* name;
    golden_output expected = {};
    golden_tensor<T> got = {};
  };
  gradient dq_{"dq"}, dk_{"dk"}, dv_{"dv"}, dinitial_s_{"dinitial_state"}, dinitial_z_{"dinitial_z"},
      dslopes_{"dslopes"}, dgates_{"dg"};
  golden_tensor<T> dfinal_s_, dfinal_z_;
};

}  // namespace heed_test
