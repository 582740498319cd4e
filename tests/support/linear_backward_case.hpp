// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of linear::backward beside the reference: every element of every gradient.

#include "support/linear_gradient_sizes.hpp"
#include "support/recurrent_case.hpp"

namespace heed_test {

// Gradients of a recurrent call, and the cotangents of its outputs. They start as NaN between canaries. out: how q, k,
// v, dout and the states lie in the gradients and cotangents
template <class T> struct gradient_buffers {
  buffer<T> dout, ds1, dz1, dq, dk, dv, ds0, dz0;

  explicit gradient_buffers(const recurrent_tensors<T>& x, layouts out = {})
      : dout(buffer<T>::input(x.o.size(), out.o, out.skew)),
        ds1(buffer<T>::input(x.s0.size(), out.lse, out.skew)),
        dz1(buffer<T>::input(x.z0.size(), out.lse, out.skew)),
        dq(buffer<T>::output(x.q.size(), out.q, out.skew)),
        dk(buffer<T>::output(x.k.size(), out.k, out.skew)),
        dv(buffer<T>::output(x.v.size(), out.v, out.skew)),
        ds0(buffer<T>::output(x.s0.size(), out.lse, out.skew)),
        dz0(buffer<T>::output(x.z0.size(), out.lse, out.skew)) {
    random_numbers random(77);
    dout.randomize(random), ds1.randomize(random), dz1.randomize(random);
  }
  void poison_gradients() {
    for (buffer<T>* const x : {&dq, &dk, &dv, &ds0, &dz0}) x->poison();
  }
};

template <class T> bool same_gradients(const gradient_buffers<T>& a, const gradient_buffers<T>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) && same_bits(a.ds0, b.ds0) &&
         same_bits(a.dz0, b.dz0);
}

// forward() of the case writes o; then backward().
template <class T> struct linear_backward_case : linear_case<T>, gradient_buffers<T> {
  heed::linear::gradients<T> asked;

  explicit linear_backward_case(const shape& size, heed::linear::options<T> how = {}, layouts in = {},
                                index_t count = -1, layouts out = {})
      : linear_case<T>(size, how, in, count), gradient_buffers<T>(*this, out) {
    asked.dq = this->dq.view(), asked.dk = this->dk.view(), asked.dv = this->dv.view();
    asked.dinitial_state = {this->ds0.view(), this->dz0.view3()};
    asked.dfinal_state = {this->ds1.cview(), this->dz1.view3()};
    if (!how.normalize) this->options.initial_state.z = {}, this->options.final_state.z = {};
    if (!how.normalize) asked.dinitial_state.z = {}, asked.dfinal_state.z = {};
  }

  backward_call<T> back() const {
    return {this->q.cview(), this->k.cview(), this->v.cview(), this->o.cview(), this->dout.cview()};
  }
  void backward(const heed::context& ctx = {}) { run_backward<T>(back(), asked, this->options, ctx); }
  void run(const heed::context& ctx = {}) { this->forward(), backward(ctx); }
  heed::plan plan_backward(const heed::context& ctx = {}) const {
    return run_plan_backward<T>(back(), asked, this->options, ctx);
  }
};

// Gradients of the reference for the same numbers; finite: those that are not finite as 0, for the sizes
template <class T>
linear_backward_inputs inputs_of(const linear_backward_case<T>& x, const heed::feature_map<double>& feature,
                                 bool finite) {
  const auto f = [finite](double a) { return finite && !std::isfinite(a) ? 0 : a; };
  linear_backward_inputs in{mapped(x.q, f),
                            mapped(x.k, f),
                            mapped(x.v, f),
                            mapped(x.s0, f),
                            mapped(x.z0, f),
                            mapped(x.dout, f),
                            mapped(x.ds1, f),
                            mapped(x.dz1, f),
                            {},
                            true,
                            true};
  in.how.mask = x.options.mask, in.how.align = x.options.align, in.how.scale = x.options.scale;
  in.how.feature = feature, in.how.normalize = x.options.normalize, in.how.eps = x.options.eps;
  in.has_before = x.options.initial_state.s.data() != nullptr;
  in.has_after = x.asked.dfinal_state.s.data() != nullptr;
  return in;
}
inline linear_gradients reference_gradients(const linear_backward_inputs& x) {
  linear_gradients out = x.outputs();
  heed::linear::options<double> how = x.how;
  if (x.has_before) how.initial_state = {x.s0.cview(), x.z0.view3()};
  heed::linear::gradients<double> asked{out.dq.view(), out.dk.view(), out.dv.view(), {out.ds0.view(), out.dz0.view3()}};
  if (x.has_after) asked.dfinal_state = {x.ds1.cview(), x.dz1.view3()};
  heed::reference::linear::backward(x.q.cview(), x.k.cview(), x.v.cview(), x.dout.cview(), x.dout.cview(), asked, how);
  return out;
}

template <class T>
verdict compare_gradients(const linear_backward_case<T>& x, const heed::feature_map<double>& feature) {
  const linear_gradients expected = reference_gradients(inputs_of(x, feature, false)),
                         size = gradient_sizes(inputs_of(x, feature, true));
  const index_t group = x.s.kv_heads > 0 ? x.s.heads / x.s.kv_heads : 1;
  const double tolerance = gradient_tolerance<T>(group * std::max(x.s.queries, x.s.keys), x.features, x.s.value_dim);
  verdict result;
  const auto& a = x.asked;
  if (a.dq.data() != nullptr) compare(result, "dq", x.dq, expected.dq, size.dq, tolerance);
  if (a.dk.data() != nullptr) compare(result, "dk", x.dk, expected.dk, size.dk, tolerance);
  if (a.dv.data() != nullptr) compare(result, "dv", x.dv, expected.dv, size.dv, tolerance);
  if (a.dinitial_state.s.data() != nullptr) compare(result, "ds0", x.ds0, expected.ds0, size.ds0, tolerance);
  if (a.dinitial_state.z.data() != nullptr) compare(result, "dz0", x.dz0, expected.dz0, size.dz0, tolerance);
  return result;
}
template <class T> verdict compare_gradients(const linear_backward_case<T>& x) {
  return compare_gradients(x, heed::feature_map<double>(heed::detail::parts(x.options.feature).built_in));
}

// Runs forward, then backward, and checks the latter.
template <class T> void check_backward(linear_backward_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s) << " feature " << static_cast<int>(heed::detail::parts(x.options.feature).built_in)
                      << (x.options.normalize ? " normalised" : " sums") << " chunk " << x.options.chunk);
  x.forward();
  buffers<T> written;
  const auto& a = x.asked;
  if (a.dq.data() != nullptr) written.push_back(&x.dq);
  if (a.dk.data() != nullptr) written.push_back(&x.dk);
  if (a.dv.data() != nullptr) written.push_back(&x.dv);
  if (a.dinitial_state.s.data() != nullptr) written.push_back(&x.ds0);
  if (a.dinitial_state.z.data() != nullptr) written.push_back(&x.dz0);
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.s0, &x.z0, &x.o, &x.s1, &x.z1, &x.dout, &x.ds1, &x.dz1},
      {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dz0}, written, [&] { x.backward(ctx); }, [&] { return compare_gradients(x); });
}

}  // namespace heed_test
