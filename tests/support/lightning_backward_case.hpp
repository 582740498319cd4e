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
  void run(const heed::context& ctx = {}) { backward(ctx); }  // needs nothing of forward
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

// Adds to the size of each gate's gradient what a kernel sums up that stores no state of every token. The sum over the
// pairs j < t <= i is, within a chunk, one over i >= t minus one over j >= t,
//
//   dlog_gate_t = sum_{u >= t, u in the chunk} (q_u.dq_u - k_u.dk_u) + what crosses the end of the chunk
//
// and what crosses the ends of chunks is summed up from the last token on. Terms are rounded one by one: their errors
// add up as in a random walk, as the root of the sum of their squares, up to the next gate of -inf.
template <class T>
void add_sums_of_gates(const lightning_backward_case<T>& x, const heed::decay<double>& decay, index_t chunk,
                       const lightning_gradients& size) {
  const buffer<double> after = answer(x, decay, true).s;
  const auto product = [](const auto& a, const buffer<double>& b, index_t i, index_t h, index_t n) {
    double sum = 0;
    for (index_t d = 0; d < b.size()[3]; ++d)
      if (const double number = static_cast<double>(a(i, h, n, d)); std::isfinite(number))
        sum += std::abs(number * b(i, h, n, d));
    return sum;
  };
  const auto head = [&](const auto& r, index_t from, index_t to, index_t kv_head) {
    const index_t batch = r.s.batch, first = r.s.first_query;
    std::vector<double> terms, crossing;  // by token; the last one crosses the end of the sequence
    double end = 0;
    for (index_t d = 0; d < x.s.dim && x.asked.dfinal_state.s.data() != nullptr; ++d)
      end += product(x.ds1, after, r.s.number, r.head, d);
    for (index_t t = 0; t < r.s.queries; ++t) {
      double queries = 0;
      for (index_t h = from; h < to; ++h) queries += product(x.q, size.dq, batch, h, first + t);
      if (t >= r.tokens) end += queries;  // padding reads the final state
      if (t >= r.tokens) continue;
      terms.push_back(queries + product(x.k, size.dk, batch, kv_head, first + t));
      crossing.push_back(size.dgates(batch, r.head, first + t));
    }
    crossing.push_back(end);
    index_t cut = r.tokens;  // the next one
    for (index_t t = r.tokens - 1; t >= 0; --t) {
      double inside = 0, across = 0;
      for (index_t u = t; u < std::min(cut, t + chunk); ++u)
        inside += terms[static_cast<std::size_t>(u)] * terms[static_cast<std::size_t>(u)];
      for (index_t u = t; u < cut; u += chunk)
        across += std::pow(crossing[static_cast<std::size_t>(std::min(cut, u + chunk))], 2);
      size.dgates(batch, r.head, first + t) += std::sqrt(inside) + std::sqrt(across);
      if (r.lambda(t) == 0) cut = t;
    }
  };
  heed::lightning::options<double> how{.mask = x.options.mask};
  heed::reference::lightning::detail::each_state(x.q.cview(), x.k.cview(), heed::detail::parts(decay), how, head);
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
  if (a.dlog_gates.data() == nullptr) return result;
  add_sums_of_gates(x, decay, std::max<index_t>(1, x.plan_backward().chunk), size);
  compare(result, "dlog_gates", x.dgates, expected.dgates, size.dgates, tolerance);
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
