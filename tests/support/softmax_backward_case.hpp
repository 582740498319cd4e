// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of backward beside the reference: of softmax and, with gates, of mixture-of-head attention.

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "support/softmax_case.hpp"

namespace heed_test {

// How the tensors that backward has beside those of forward lie in memory
struct gradient_layouts {
  layout dout = layout::bhsd, dlse = layout::bhsd, dq = layout::bhsd, dk = layout::bhsd, dv = layout::bhsd,
         dbias = layout::bhsd;
};

// q, k, v, dout and dlse hold random numbers. Every gradient that the options have is wanted, and dlse is given.
template <class T> struct backward_case : softmax_case<T> {
  using softmax_case<T>::s, softmax_case<T>::q, softmax_case<T>::k, softmax_case<T>::v, softmax_case<T>::o;
  using softmax_case<T>::lse, softmax_case<T>::options;
  buffer<T> dout, dlse, dq, dk, dv, dbias, dsinks, dslopes;  // the last two: (1, 1, 1, heads)
  heed::softmax::gradients<T> wanted;

  explicit backward_case(const shape& size, const heed::softmax::options<T>& how = {}, const layouts& in = {},
                         const gradient_layouts& of = {}, std::uint32_t seed = 1)
      : softmax_case<T>(size, how, in, seed),
        dout(buffer<T>::input(o.size(), of.dout, in.skew)),
        dlse(buffer<T>::input(lse.size(), of.dlse, in.skew)),
        dq(buffer<T>::output(q.size(), of.dq, in.skew)),
        dk(buffer<T>::output(k.size(), of.dk, in.skew)),
        dv(buffer<T>::output(v.size(), of.dv, in.skew)),
        dbias(buffer<T>::output(extents_of_bias(how), of.dbias, in.skew)),
        dsinks(buffer<T>::output({1, 1, 1, size.out_heads()}, layout::bhsd, in.skew)),
        dslopes(buffer<T>::output({1, 1, 1, size.out_heads()}, layout::bhsd, in.skew)) {
    random_numbers random(seed + 50);
    dout.randomize(random), dlse.randomize(random);
    wanted = {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
    if (how.bias.data() != nullptr) wanted.dbias = dbias.view();
    if (how.sink_logits.set()) wanted.dsink_logits = per_head_view(dsinks);
    if (how.alibi_slopes.set()) wanted.dalibi_slopes = per_head_view(dslopes);
    wanted.dlse = dlse.view3();
  }

  void backward(const heed::context& ctx = {}) { run_backward<T>(tensors(), wanted, options, ctx); }
  heed::plan backward_plan(const heed::context& ctx = {}) const {
    return run_plan_backward<T>(tensors(), wanted, options, ctx);
  }
  backward_tensors<T> tensors() const { return {q.cview(), k.cview(), v.cview(), o.cview(), dout.cview()}; }

  // All buffers that backward may write to, and those of them that this call must write
  buffers<T> outputs() const { return {&dq, &dk, &dv, &dbias, &dsinks, &dslopes}; }
  buffers<T> written_by_backward() const {
    buffers<T> all;
    const auto add = [&](const buffer<T>& x, const T* data) {
      if (data != nullptr) all.push_back(&x);
    };
    add(dq, wanted.dq.data()), add(dk, wanted.dk.data()), add(dv, wanted.dv.data()), add(dbias, wanted.dbias.data());
    add(dsinks, wanted.dsink_logits.data()), add(dslopes, wanted.dalibi_slopes.data());
    return all;
  }
  void poison_gradients() {
    for (buffer<T>* x : {&dq, &dk, &dv, &dbias, &dsinks, &dslopes}) x->poison();
  }

  static heed::tensor_view<T, 1> per_head_view(const buffer<T>& x) { return {x.view().data(), {x.size()[3]}, {1}}; }
  static extents extents_of_bias(const heed::softmax::options<T>& how) {
    return {how.bias.extent(0), how.bias.extent(1), how.bias.extent(2), how.bias.extent(3)};
  }
};

// What the reference says of one gradient, in double, and what a correct kernel may be off
struct expected_gradient {
  std::string name;
  extents n{};
  std::vector<double> value, allowed;

  double& value_at(index_t b, index_t h, index_t i, index_t d) { return value[at(b, h, i, d)]; }
  std::size_t at(index_t b, index_t h, index_t i, index_t d) const {  // an axis of extent 1 holds for every index
    const auto [nb, nh, nn, nd] = n;
    const index_t element = (((nb == 1 ? 0 : b) * nh + (nh == 1 ? 0 : h)) * nn + (nn == 1 ? 0 : i)) * nd;
    return static_cast<std::size_t>(element + (nd == 1 ? 0 : d));
  }
};
struct expected_gradients {
  expected_gradient dq, dk, dv, dbias, dsinks, dslopes, dgates;
};

// how: the exactness of o and lse, which forward wrote and backward reads. Compiled once for all tests, in
// softmax_backward_expected.cpp.
template <class T>
expected_gradients expected(const backward_case<T>& x, const heed::softmax::options<T>& options,
                            const exactness& how = {}, const heed::tensor_view<const T, 3>* gates = nullptr);

// Every element of `got`; where the reference has no number there must be none, of whichever kind.
template <class T> void compare(const buffer<T>& got, const expected_gradient& want, verdict& result) {
  for (index_t b = 0; b < want.n[0]; ++b)
    for (index_t h = 0; h < want.n[1]; ++h)
      for (index_t i = 0; i < want.n[2]; ++i)
        for (index_t d = 0; d < want.n[3]; ++d) {
          const std::size_t at = want.at(b, h, i, d);
          const double number = static_cast<double>(got(b, h, i, d)), should = want.value[at];
          if (!std::isfinite(should) && !std::isfinite(number)) continue;
          result.add(number, should, want.allowed[at], want.name.c_str(), b, h, i, d);
        }
}
// The gradients that the call was to write
template <class T> verdict compare(const backward_case<T>& x, const expected_gradients& want) {
  verdict result;
  const auto each = [&](const T* wanted, const buffer<T>& got, const expected_gradient& should) {
    if (wanted != nullptr) compare(got, should, result);
  };
  each(x.wanted.dq.data(), x.dq, want.dq), each(x.wanted.dk.data(), x.dk, want.dk);
  each(x.wanted.dv.data(), x.dv, want.dv), each(x.wanted.dbias.data(), x.dbias, want.dbias);
  each(x.wanted.dsink_logits.data(), x.dsinks, want.dsinks);
  each(x.wanted.dalibi_slopes.data(), x.dslopes, want.dslopes);
  return result;
}

// Runs forward and backward, and checks all that must hold of any call.
template <class T> void check(backward_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s));
  x.forward();
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.o, &x.lse, &x.dout, &x.dlse}, x.outputs(), x.written_by_backward(),
      [&] { x.backward(ctx); }, [&] { return compare(x, expected(x, x.options)); });
}
template <class T>
void check_backward(const shape& s, const heed::softmax::options<T>& options = {}, const layouts& in = {},
                    const gradient_layouts& of = {}) {
  backward_case<T> x(s, options, in, of);
  check(x);
}

template <class T> bool same_gradients(const backward_case<T>& a, const backward_case<T>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) && same_bits(a.dbias, b.dbias) &&
         same_bits(a.dsinks, b.dsinks) && same_bits(a.dslopes, b.dslopes);
}

}  // namespace heed_test
