// SPDX-License-Identifier: BSD-3-Clause

#include "support/law_call.hpp"

#include <cstddef>
#include <cstring>
#include <span>
#include <stdexcept>

#include "support/decode_case.hpp"
#include "support/law_memory.hpp"
#include "support/local_linear_run.hpp"
#include "support/mixture_run.hpp"
#include "support/softmax_run.hpp"
#include "support/stored_run.hpp"

namespace heed_test {
namespace {

stored_call call_of(const law_memory<float>& m) { return {m.q.cview(), m.k.cview(), m.v.cview(), m.o.view()}; }
any_input read_o(const law_memory<float>& m) { return m.o.memory.cview(); }
template <class T> recurrent_call<T> recurrent_of(const law_memory<T>& m) {
  return {m.q.cview(), m.k.cview(), m.v.cview(), m.o.view()};
}

heed::plan plan(const law_memory<double>& m, const heed::context& at) {
  const auto q = m.q.cview(), k = m.k.cview(), v = m.v.cview();
  const auto o = m.o.view();
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return run_mixture_plan<double>(q, k, v, m.gate_view(), o, m.softmax(), at);
    case kernel::linear:
      return run_plan<double>(recurrent_of(m), m.linear(), at);
    case kernel::lightning:
      return run_plan<double>(recurrent_of(m), m.decay(), m.lightning(), at);
    case kernel::local_linear:
      return run_plan_forward<double>(q, k, v, m.x.ridge, o, m.local_linear(), at);
    default:
      return run_plan<double>(q, k, v, o, m.softmax(), at);
  }
}
heed::plan plan(const law_memory<float>& m, const heed::context& at) {
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return plan_stored_mixture(call_of(m), m.gate_view(), m.softmax(), at);
    case kernel::linear:
      return plan_stored(call_of(m), m.linear(), at);
    case kernel::lightning:
      return plan_stored(call_of(m), m.decay(), m.lightning(), at);
    case kernel::local_linear:
      return plan_stored_local_linear(call_of(m), m.x.ridge, nullptr, m.local_linear(), at);
    default:
      return plan_stored(call_of(m), m.softmax(), at);
  }
}
void run(const law_memory<double>& m, const heed::context& at) {
  const auto q = m.q.cview(), k = m.k.cview(), v = m.v.cview();
  const auto o = m.o.view();
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return run_mixture<double>(q, k, v, m.gate_view(), o, m.softmax(), at);
    case kernel::linear:
      return run_forward<double>(recurrent_of(m), m.linear(), at);
    case kernel::lightning:
      return run_forward<double>(recurrent_of(m), m.decay(), m.lightning(), at);
    case kernel::local_linear:
      return run_forward<double>(q, k, v, m.x.ridge, o, m.local_linear(), at);
    default:
      return run_forward<double>(q, k, v, o, m.softmax(), at);
  }
}
void run(const law_memory<float>& m, const heed::context& at) {
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return run_stored_mixture(call_of(m), m.gate_view(), m.softmax(), at);
    case kernel::linear:
      return run_stored(call_of(m), m.linear(), at);
    case kernel::lightning:
      return run_stored(call_of(m), m.decay(), m.lightning(), at);
    case kernel::local_linear:
      return run_stored_local_linear(call_of(m), m.x.ridge, nullptr, m.local_linear(), at);
    default:
      return run_stored(call_of(m), m.softmax(), at);
  }
}

template <class T> heed::softmax::gradients<T> softmax_gradients(const law_memory<T>& m) {
  return {.dq = m.dq.view(),
          .dk = m.dk.view(),
          .dv = m.dv.view(),
          .dbias = m.x.bias.empty() ? output<T>{} : m.dbias.view(),
          .dsink_logits = m.by_head(m.x.sinks.size())};
}
template <class T> heed::mixture_of_head::gradients<T> mixture_gradients(const law_memory<T>& m) {
  return {.dq = m.dq.view(),
          .dk = m.dk.view(),
          .dv = m.dv.view(),
          .dbias = m.x.bias.empty() ? output<T>{} : m.dbias.view(),
          .dgates = m.dgates.view3()};
}
template <class T> heed::local_linear::gradients<T> local_linear_gradients(const law_memory<T>& m) {
  return {.dq = m.dq.view(),
          .dk = m.dk.view(),
          .dv = m.dv.view(),
          .dbias = m.x.bias.empty() ? output<T>{} : m.dbias.view(),
          .dridge = m.by_head(m.x.ridge.size())};
}
template <class T> heed::linear::gradients<T> linear_gradients(const law_memory<T>& m) {
  heed::linear::gradients<T> to{.dq = m.dq.view(), .dk = m.dk.view(), .dv = m.dv.view()};
  if (!m.x.s0.empty()) to.dinitial_state.s = m.ds0.view();
  if (!m.x.z0.empty() && m.x.normalize) to.dinitial_state.z = m.dz0.view3();
  return to;
}
template <class T> heed::lightning::gradients<T> lightning_gradients(const law_memory<T>& m) {
  heed::lightning::gradients<T> to{.dq = m.dq.view(), .dk = m.dk.view(), .dv = m.dv.view()};
  to.dslopes = m.by_head(m.x.slopes.size());
  if (!m.x.gates.empty()) to.dlog_gates = m.dgates.view3();
  if (!m.x.s0.empty()) to.dinitial_state.s = m.ds0.view();
  return to;
}

void run_back(const law_memory<double>& m, const heed::context& at) {
  const backward_tensors<double> x{m.q.cview(), m.k.cview(), m.v.cview(), m.o.cview(), m.dout.cview()};
  const backward_call<double> tokens{x.q, x.k, x.v, x.o, x.dout};
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return run_mixture_backward<double>(x, m.gate_view(), mixture_gradients(m), m.softmax(), at);
    case kernel::linear:
      return run_backward<double>(tokens, linear_gradients(m), m.linear(), at);
    case kernel::lightning:
      return run_backward<double>(tokens, m.decay(), lightning_gradients(m), m.lightning(), at);
    case kernel::local_linear: {
      const fitted_tensors<double> fitted{x.q, x.k, x.v, x.dout};
      return run_backward<double>(fitted, m.x.ridge, local_linear_gradients(m), m.local_linear(), at);
    }
    default:
      return run_backward<double>(x, softmax_gradients(m), m.softmax(), at);
  }
}
void run_back(const law_memory<float>& m, const heed::context& at) {
  const stored_backward x{call_of(m), m.dout.cview()};
  const stored_backward_call tokens{m.q.cview(), m.k.cview(), m.v.cview(), read_o(m), m.dout.cview()};
  switch (m.x.of) {
    case kernel::mixture_of_head:
      return run_stored_mixture_backward(x, m.gate_view(), mixture_gradients(m), m.softmax(), at);
    case kernel::linear:
      return run_stored_backward(tokens, linear_gradients(m), m.linear(), at);
    case kernel::lightning:
      return run_stored_backward(tokens, m.decay(), lightning_gradients(m), m.lightning(), at);
    case kernel::local_linear:
      return run_stored_local_linear_backward(x, m.x.ridge, local_linear_gradients(m), m.local_linear(), at);
    default:
      return run_stored_backward(x, softmax_gradients(m), m.softmax(), at);
  }
}

template <class T> law_results forward_in(const law_call& x, const law_run& where) {
  law_memory<T> m(x, where.in);
  heed::context at = where.context;
  const heed::plan planned = plan(m, at);
  std::vector<std::byte> workspace(planned.workspace_bytes + 1, std::byte{0xff});
  if (where.planned) at.workspace = std::span<std::byte>(workspace).subspan(1);
  run(m, at);
  if (!m.canaries_alive()) throw std::logic_error("forward wrote beside its outputs");
  law_results all = m.written();
  all.rounded_weights = decode_rounds_weights(planned);
  return all;
}
template <class T> law_results backward_in(const law_call& x, const law_run& where) {
  law_memory<T> m(x, where.in);
  run(m, where.context);
  run_back(m, where.context);
  if (!m.canaries_alive()) throw std::logic_error("backward wrote beside its outputs");
  law_results all;
  all.add("dq", numbers_of(m.dq)), all.add("dk", numbers_of(m.dk)), all.add("dv", numbers_of(m.dv));
  if (x.of == kernel::lightning || x.of == kernel::mixture_of_head) all.add("dgates", numbers_of(m.dgates));
  all.add("dslopes", m.heads_gradient(x.slopes.size()));
  if (!is_recurrent(x.of)) all.add("dbias", numbers_of(m.dbias));
  if (x.of == kernel::softmax || x.of == kernel::sparse_query) all.add("dsinks", m.heads_gradient(x.sinks.size()));
  if (x.of == kernel::local_linear) all.add("dridge", m.heads_gradient(x.ridge.size()));
  if (is_recurrent(x.of)) all.add("ds0", numbers_of(m.ds0));
  if (x.of == kernel::linear && x.normalize) all.add("dz0", numbers_of(m.dz0));
  return all;
}

void run_tokens(const law_memory<double>& m, const heed::context& at) {
  const heed::state_view<double> memory{m.s0.view(), m.x.normalize ? m.z0.view3() : heed::tensor_view<double, 3>{}};
  if (m.x.of == kernel::linear) return run_decode<double>(recurrent_of(m), memory, m.linear(), at);
  run_decode<double>(recurrent_of(m), m.decay(), memory, m.lightning(), at);
}
void run_tokens(const law_memory<float>& m, const heed::context& at) {
  const heed::state_view<float> memory{m.s0.view(), m.x.normalize ? m.z0.view3() : heed::tensor_view<float, 3>{}};
  if (m.x.of == kernel::linear) return run_stored_decode(call_of(m), memory, m.linear(), at);
  run_stored_decode(call_of(m), m.decay(), memory, m.lightning(), at);
}
template <class T> law_results decode_tokens(const law_call& x, const heed::context& at) {
  law_call y = x;
  if (y.s0.empty()) y.s0 = law_numbers({x.batch(), x.state_heads(), x.features(), x.v.extent(3)});
  if (y.z0.empty()) y.z0 = law_numbers({x.batch(), x.state_heads(), x.features(), 1});
  y.mask = {}, y.align = heed::bottom_right;
  const law_memory<T> m(y, {});
  run_tokens(m, at);
  law_results all;
  all.add("o", m.o.numbers()), all.add("s", numbers_of(m.s0));
  if (x.of == kernel::linear && x.normalize) all.add("z", numbers_of(m.z0));
  return all;
}

template <class T> law_results decode_cached(const law_call& x, const law_cache& cache, const heed::context& at) {
  decode_problem p{x.heads(), x.kv_heads(), x.queries(), x.q.extent(3), x.v.extent(3), cache.lengths, cache.at};
  if (p.lengths.empty()) p.lengths.assign(static_cast<std::size_t>(x.batch()), static_cast<std::int32_t>(x.keys()));
  p.stored_kv = cache.as, p.stored_q = stored_as(x.type), p.stored_o = x.narrow_o ? p.stored_q : stored::f32;
  const law_memory<T> m(x, {});
  decode_case<T> c(p);
  put(x.q, c.q), put(x.k.part(2, 0, p.longest()), c.keys), put(x.v.part(2, 0, p.longest()), c.values);
  c.write_all();
  c.options = m.softmax();
  c.options.lse = c.lse.view3();
  auto fitted = m.local_linear();
  fitted.lse = c.lse.view3(), fitted.slope = {}, fitted.mean_key = {};
  c.run([&](const decode_call<T>& call) {
    if (x.of == kernel::mixture_of_head) return run_decode<T>(call, m.gate_view(), c.options, at);
    if (x.of == kernel::local_linear) return run_decode<T>(call, heed::per_head(x.ridge), fitted, at);
    run_decode<T>(call, c.options, at);
  });
  law_results all;
  all.add("o", numbers_of(c.o)), all.add("lse", numbers_of(c.lse));
  all.rounded_weights = decode_rounds_weights(c.plan(at));
  return all;
}

template <class T> law_results merged_in(const law_results& a, const law_results& b) {
  const auto memory = [](const law_numbers& x) {
    buffer<T> to = buffer<T>::input(x.size());
    put(x, to);
    return to;
  };
  const auto o = memory(a["o"]), lse = memory(a["lse"]), part = memory(b["o"]), part_lse = memory(b["lse"]);
  run_merge<T>(o.view(), lse.view3(), part.cview(), part_lse.view3(), 0);
  law_results all;
  all.add("o", numbers_of(o)), all.add("lse", numbers_of(lse));
  all.rounded_weights = a.rounded_weights || b.rounded_weights;
  return all;
}

}  // namespace

law_results forward(const law_call& x, const law_run& where) {
  return x.type == number_type::f64 ? forward_in<double>(x, where) : forward_in<float>(x, where);
}
law_results backward(const law_call& x, const law_run& where) {
  return x.type == number_type::f64 ? backward_in<double>(x, where) : backward_in<float>(x, where);
}
law_results decode(const law_call& x, const law_cache& cache, const heed::context& at) {
  if (is_recurrent(x.of))
    return x.type == number_type::f64 ? decode_tokens<double>(x, at) : decode_tokens<float>(x, at);
  return x.type == number_type::f64 ? decode_cached<double>(x, cache, at) : decode_cached<float>(x, cache, at);
}
law_results merged(const law_results& a, const law_results& b, number_type type) {
  return type == number_type::f64 ? merged_in<double>(a, b) : merged_in<float>(a, b);
}

}  // namespace heed_test
