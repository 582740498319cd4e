// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of lightning::backward beside the reference: every element of every gradient.

#include <algorithm>

#include "support/linear_backward_case.hpp"

namespace heed_test {

// dslopes: (1, 1, 1, states); dgates: (batch, states, N). The kernel writes one of them.
template <class T> struct lightning_backward_case : lightning_case<T>, gradient_buffers<T> {
  buffer<T> dslopes = buffer<T>::output({1, 1, 1, this->states}), dgates;
  heed::lightning::gradients<T> asked;

  lightning_backward_case(const shape& size, std::vector<double> numbers, heed::lightning::options<T> how = {},
                          layouts in = {}, index_t count = -1, layouts out = {})
      : lightning_case<T>(size, std::move(numbers), how, in, count),
        gradient_buffers<T>(*this, out),
        dgates(buffer<T>::output({0, 0, 0, 1})) {
    ask();
  }
  lightning_backward_case(const shape& size, index_t heads, std::int32_t cuts, heed::lightning::options<T> how = {},
                          layouts in = {}, index_t count = -1, layouts out = {})
      : lightning_case<T>(size, heads, cuts, how, in, count),
        gradient_buffers<T>(*this, out),
        dgates(buffer<T>::output(this->gates.size(), out.q == layout::bshd ? layout::bshd : layout::bhsd, out.skew)) {
    ask();
  }

  backward_call<T> back() const { return {this->q.cview(), this->k.cview(), this->v.cview(), {}, this->dout.cview()}; }
  void backward(const heed::context& ctx = {}) { run_backward<T>(back(), this->decay(), asked, this->options, ctx); }
  heed::plan plan_backward(const heed::context& ctx = {}) const {
    return run_plan_backward<T>(back(), this->decay(), asked, this->options, ctx);
  }

 private:
  void ask() {
    asked.dq = this->dq.view(), asked.dk = this->dk.view(), asked.dv = this->dv.view();
    asked.dinitial_state.s = this->ds0.view(), asked.dfinal_state.s = this->ds1.cview();
    if (this->gated)
      asked.dlog_gates = dgates.view3();
    else
      asked.dslopes = {&dslopes(0, 0, 0), {this->states}, {1}};
  }
};

template <class T> bool same_gradients(const lightning_backward_case<T>& a, const lightning_backward_case<T>& b) {
  const gradient_buffers<T>&x = a, &y = b;
  return same_gradients(x, y) && same_bits(a.dslopes, b.dslopes) && same_bits(a.dgates, b.dgates);
}

struct lightning_gradients {
  buffer<double> dq, dk, dv, ds0, dslopes, dgates;
};
// The reference's gradients for the same numbers, or of their magnitudes, those that are not finite as 0
template <class T>
lightning_gradients reference_gradients(const lightning_backward_case<T>& x, const heed::decay<double>& decay,
                                        bool magnitude) {
  const auto f = [magnitude](double a) { return !magnitude ? a : std::isfinite(a) ? std::abs(a) : 0; };
  const auto output = [](const extents& n) { return buffer<double>::output(n); };
  lightning_gradients out{output(x.q.size()),  output(x.k.size()),       output(x.v.size()),
                          output(x.s0.size()), output(x.dslopes.size()), output(x.dgates.size())};
  heed::lightning::options<double> how{.mask = x.options.mask, .scale = f(x.options.scale)};
  heed::lightning::gradients<double> asked{.dq = out.dq.view(), .dk = out.dk.view(), .dv = out.dv.view()};
  const auto q = mapped(x.q, f), k = mapped(x.k, f), v = mapped(x.v, f), dout = mapped(x.dout, f), s0 = mapped(x.s0, f),
             ds1 = mapped(x.ds1, f);
  if (x.options.initial_state.s.data() != nullptr) how.initial_state.s = s0.cview();
  if (x.asked.dfinal_state.s.data() != nullptr) asked.dfinal_state.s = ds1.cview();
  asked.dinitial_state.s = out.ds0.view();
  if (x.gated)
    asked.dlog_gates = out.dgates.view3();
  else
    asked.dslopes = {&out.dslopes(0, 0, 0), {x.states}, {1}};
  heed::reference::lightning::backward(q.cview(), k.cview(), v.cview(), decay, dout.cview(), asked, how);
  return out;
}

// decay: that of the case, unless a test lies about it
template <class T> verdict compare_gradients(const lightning_backward_case<T>& x, const heed::decay<double>& decay) {
  const lightning_gradients expected = reference_gradients(x, decay, false), size = reference_gradients(x, decay, true);
  const index_t group = x.s.kv_heads > 0 ? x.s.heads / x.s.kv_heads : 1;
  const double tolerance = gradient_tolerance<T>(group * x.s.queries, x.s.dim, x.s.value_dim);
  verdict result;
  const auto& a = x.asked;
  if (a.dq.data() != nullptr) compare(result, "dq", x.dq, expected.dq, size.dq, tolerance);
  if (a.dk.data() != nullptr) compare(result, "dk", x.dk, expected.dk, size.dk, tolerance);
  if (a.dv.data() != nullptr) compare(result, "dv", x.dv, expected.dv, size.dv, tolerance);
  if (a.dinitial_state.s.data() != nullptr) compare(result, "ds0", x.ds0, expected.ds0, size.ds0, tolerance);
  if (a.dslopes.data() != nullptr) {
    size.dslopes.each([](double& s) { s = std::abs(s); });
    compare(result, "dslopes", x.dslopes, expected.dslopes, size.dslopes, tolerance);
  }
  if (a.dlog_gates.data() != nullptr) compare(result, "dlog_gates", x.dgates, expected.dgates, size.dgates, tolerance);
  return result;
}
template <class T> verdict compare_gradients(const lightning_backward_case<T>& x) {
  if (!x.gated) return compare_gradients(x, heed::decay<double>(x.slopes));
  const auto gates = mapped(x.gates, [](double g) { return g; });
  return compare_gradients(x, heed::decay<double>(gates.view3()));
}

template <class T> void check_backward(lightning_backward_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s) << (x.gated ? " gates of " : " slopes of ") << x.states << " chunk " << x.options.chunk);
  buffers<T> written;
  const auto& a = x.asked;
  if (a.dq.data() != nullptr) written.push_back(&x.dq);
  if (a.dk.data() != nullptr) written.push_back(&x.dk);
  if (a.dv.data() != nullptr) written.push_back(&x.dv);
  if (a.dinitial_state.s.data() != nullptr) written.push_back(&x.ds0);
  if (a.dslopes.data() != nullptr) written.push_back(&x.dslopes);
  if (a.dlog_gates.data() != nullptr) written.push_back(&x.dgates);
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.s0, &x.s1, &x.dout, &x.ds1, &x.gates}, {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dslopes, &x.dgates},
      written, [&] { x.backward(ctx); }, [&] { return compare_gradients(x); });
}

}  // namespace heed_test
