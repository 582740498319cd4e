// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The numbers of a law_call in memory of its storage type, and the options that view it.

#include <cstddef>
#include <type_traits>
#include <utility>

#include "heed/linear/options.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "support/law_call.hpp"
#include "support/recurrent_run.hpp"

namespace heed_test {

template <class T> void put(const law_numbers& from, const buffer<T>& to) {
  const auto [n0, n1, n2, n3] = from.size();
  for (index_t b = 0; b < n0; ++b)
    for (index_t h = 0; h < n1; ++h)
      for (index_t i = 0; i < n2; ++i)
        for (index_t d = 0; d < n3; ++d) to(b, h, i, d) = static_cast<T>(from(b, h, i, d));
}
template <class T> law_numbers numbers_of(const buffer<T>& x) {
  return law_numbers(x.size(),
                     [&](index_t b, index_t h, index_t i, index_t d) { return static_cast<double>(x(b, h, i, d)); });
}
inline stored stored_as(number_type type) {
  return type == number_type::bf16 ? stored::bf16 : type == number_type::f16 ? stored::f16 : stored::f32;
}

// A tensor of a call whose sums are T: of T = float in any storage type
template <class T> struct law_tensor;
template <> struct law_tensor<double> {
  buffer<double> memory;

  static law_tensor input(number_type, const law_numbers& x, layout in, index_t skew) {
    law_tensor to{buffer<double>::input(x.size(), in, skew)};
    put(x, to.memory);
    return to;
  }
  static law_tensor output(number_type, const extents& n, layout in, index_t skew) {
    return {buffer<double>::output(n, in, skew)};
  }
  heed_test::input<double> cview() const { return memory.cview(); }
  heed_test::output<double> view() const { return memory.view(); }
  law_numbers numbers() const { return numbers_of(memory); }
  bool canaries_alive() const { return memory.canaries_alive(); }
};
template <> struct law_tensor<float> {
  stored_buffer memory;
  extents n;

  static law_tensor input(number_type type, const law_numbers& x, layout in, index_t skew) {
    const auto exact = buffer<float>::input(x.size());
    put(x, exact);
    law_tensor to{stored_buffer::input(stored_as(type), x.size(), in, skew), x.size()};
    to.memory.take(exact);
    return to;
  }
  static law_tensor output(number_type type, const extents& n, layout in, index_t skew) {
    return {stored_buffer::output(stored_as(type), n, in, skew), n};
  }
  any_input cview() const { return memory.cview(); }
  any_output view() const { return memory.view(); }
  law_numbers numbers() const {
    const auto exact = buffer<float>::input(n);
    return memory.copy_to(exact), numbers_of(exact);
  }
  bool canaries_alive() const { return memory.canaries_alive(); }
};

// Everything that a call reads and writes, in memory
template <class T> struct law_memory {
  const law_call& x;
  law_tensor<T> q, k, v, o, dout;
  buffer<T> gates, bias, lse, s0, z0, s1, z1, slope, mean;
  buffer<T> dq, dk, dv, dgates, dbias, dheads, ds0, dz0;

  law_memory(const law_call& call, const layouts& in)
      : x(call),
        q(law_tensor<T>::input(x.type, x.q, in.q, in.skew)),
        k(law_tensor<T>::input(x.type, x.k, in.k, in.skew)),
        v(law_tensor<T>::input(x.type, x.v, in.v, in.skew)),
        o(law_tensor<T>::output(out_type(), {x.batch(), x.out_heads(), x.queries(), x.v.extent(3)}, in.o, in.skew)),
        dout(law_tensor<T>::input(out_type(), x.dout, in.o, in.skew)),
        gates(given(x.gates, in)),
        bias(given(x.bias, in)),
        lse(wanted(per_row(1), in)),
        s0(given(x.s0, in)),
        z0(given(x.z0, in)),
        s1(wanted(states(x.v.extent(3)), in)),
        z1(wanted(states(1), in)),
        slope(wanted(per_row(x.q.extent(3)), in)),
        mean(wanted(per_row(x.q.extent(3)), in)),
        dq(wanted(x.q.size(), in)),
        dk(wanted(x.k.size(), in)),
        dv(wanted(x.v.size(), in)),
        dgates(wanted(x.gates.size(), in)),
        dbias(wanted(x.bias.size(), in)),
        dheads(wanted({1, 1, 1, std::max<index_t>(x.out_heads(), 1)}, {})),
        ds0(wanted(x.s0.size(), in)),
        dz0(wanted(x.z0.size(), in)) {}

  number_type out_type() const { return std::is_same_v<T, double> || x.narrow_o ? x.type : number_type::f32; }
  extents per_row(index_t dim) const { return {x.batch(), x.out_heads(), x.queries(), dim}; }
  extents states(index_t columns) const {
    if (!is_recurrent(x.of)) return {0, 0, 0, 1};
    return {x.batch(), x.state_heads(), x.features(), columns};
  }
  static buffer<T> given(const law_numbers& from, const layouts& in) {
    buffer<T> to = buffer<T>::input(from.size(), in.lse, in.skew);
    put(from, to);
    return to;
  }
  static buffer<T> wanted(const extents& n, const layouts& in) { return buffer<T>::output(n, in.lse, in.skew); }

  // A gradient by heads, where there are such numbers
  heed::tensor_view<T, 1> by_head(std::size_t count) const {
    if (count == 0) return {};
    return {&dheads(0, 0, 0), {static_cast<index_t>(count)}, {1}};
  }
  law_numbers heads_gradient(std::size_t count) const {
    if (count == 0) return {};
    return numbers_of(dheads).part(3, 0, static_cast<index_t>(count));
  }
  heed::tensor_view<const T, 4> bias_view() const {
    return x.bias.empty() ? heed::tensor_view<const T, 4>{} : bias.cview();
  }
  template <class Options> Options scored() const {
    Options how{.mask = x.mask, .align = x.align, .scale = x.scale, .softcap = x.softcap};
    if (x.alibi > 0) how.alibi_slopes = x.alibi;
    how.bias = bias_view();
    how.lse = lse.view3();
    return how;
  }
  heed::softmax::options<T> softmax() const {
    auto how = scored<heed::softmax::options<T>>();
    if (!x.sinks.empty()) how.sink_logits = x.sinks;
    return how;
  }
  heed::local_linear::options<T> local_linear() const {
    auto how = scored<heed::local_linear::options<T>>();
    how.solver = x.solver;
    how.slope = slope.view(), how.mean_key = mean.view();
    how.report = x.report;
    return how;
  }
  heed::linear::options<T> linear() const {
    heed::linear::options<T> how{.mask = x.mask,
                                 .align = x.align,
                                 .scale = x.scale.value_or(1),
                                 .feature = x.feature,
                                 .normalize = x.normalize,
                                 .eps = x.eps,
                                 .chunk = x.chunk};
    how.initial_state = {x.s0.empty() ? input<T>{} : s0.cview(), z0_view()};
    how.final_state = {s1.view(), x.normalize ? z1.view3() : heed::tensor_view<T, 3>{}};
    return how;
  }
  heed::lightning::options<T> lightning() const {
    heed::lightning::options<T> how{.mask = x.mask, .scale = x.scale.value_or(1), .chunk = x.chunk};
    if (!x.s0.empty()) how.initial_state.s = s0.cview();
    how.final_state.s = s1.view();
    return how;
  }
  heed::tensor_view<const T, 3> z0_view() const {
    return x.z0.empty() || !x.normalize ? heed::tensor_view<const T, 3>{} : heed::tensor_view<const T, 3>(z0.view3());
  }
  heed::decay<T> decay() const {
    return x.gates.empty() ? heed::decay<T>(x.slopes) : heed::decay<T>(heed::tensor_view<const T, 3>(gates.view3()));
  }
  heed::tensor_view<const T, 3> gate_view() const { return gates.view3(); }

  law_results written() const {
    law_results all;
    all.add("o", o.numbers());
    if (is_recurrent(x.of)) {
      all.add("s", numbers_of(s1));
      if (x.of == kernel::linear && x.normalize) all.add("z", numbers_of(z1));
    } else {
      all.add("lse", numbers_of(lse));
    }
    if (x.of == kernel::local_linear) all.add("slope", numbers_of(slope)), all.add("mean_key", numbers_of(mean));
    return all;
  }
  bool canaries_alive() const {
    bool alive = o.canaries_alive();
    for (const buffer<T>* each : {&lse, &s1, &z1, &slope, &mean, &dq, &dk, &dv, &dgates, &dbias, &dheads, &ds0, &dz0})
      alive = alive && each->canaries_alive();
    return alive;
  }
};

}  // namespace heed_test
