// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One softmax call beside the reference: tensors in a layout of choice, the comparison row by row, and what must hold
// after every call (inputs unchanged, nothing written outside the outputs, every output element written).

#include <algorithm>
#include <cmath>

#include "heed/reference/softmax.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/comparison.hpp"
#include "support/layouts.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"
#include "support/softmax_run.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

template <class T> struct softmax_case {
  shape s;
  buffer<T> q, k, v, o, lse;
  heed::softmax::options<T> options;

  explicit softmax_case(const shape& size, heed::softmax::options<T> how = {}, layouts in = {}, std::uint32_t seed = 1)
      : s(size),
        q(buffer<T>::input({s.batch, s.heads, s.queries, s.dim}, in.q, in.skew)),
        k(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.dim}, in.k, in.skew)),
        v(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.value_dim}, in.v, in.skew)),
        o(buffer<T>::output({s.batch, s.out_heads(), s.queries, s.value_dim}, in.o, in.skew)),
        lse(buffer<T>::output({s.batch, s.out_heads(), s.queries, 1}, in.lse, in.skew)),
        options(how) {
    random_numbers random(seed);
    q.randomize(random);
    k.randomize(random);
    v.randomize(random);
    options.lse = lse.view3();
  }

  void forward(const heed::context& ctx = {}) {
    run_forward<T>(q.cview(), k.cview(), v.cview(), o.view(), options, ctx);
  }
  heed::plan plan(const heed::context& ctx = {}) const {
    return run_plan<T>(q.cview(), k.cview(), v.cview(), o.view(), options, ctx);
  }
};

// o and lse of a finished call beside the reference with `options` (those of the call, unless a test lies about them).
template <class T> verdict compare(const softmax_case<T>& x, heed::softmax::options<T> options) {
  namespace reference = heed::reference::softmax;
  const auto expected = buffer<double>::output(x.o.size());
  const auto expected_lse = buffer<T>::output(x.lse.size());
  options.lse = expected_lse.view3();
  reference::forward(x.q.cview(), x.k.cview(), x.v.cview(), expected.view(), options);

  verdict result;
  const tolerance allowed = tolerance_of<T>(x.s.keys, x.s.dim);
  const auto row = [&](const auto& sequence, index_t h, index_t i, const auto& scores, const auto& values) {
    row_size size;
    for (index_t j = 0; j < scores.size(); ++j) {
      if (scores(j) == -HUGE_VAL) continue;
      size.see_score(scores(j));
      for (index_t e = 0; e < values.cols(); ++e) size.see_value(values(j, e));
    }
    const auto number = [](T element) { return static_cast<double>(element); };
    const index_t b = sequence.batch, n = sequence.first_query + i;
    for (index_t e = 0; e < x.s.value_dim; ++e)
      result.add(number(x.o(b, h, n, e)), expected(b, h, n, e), allowed.of_output(size), "o", b, h, n, e);
    if (x.options.lse.data() == nullptr) return;
    result.add(number(x.lse(b, h, n)), number(expected_lse(b, h, n)), allowed.of_lse(size), "lse", b, h, n, 0);
  };
  reference::detail::each_row(x.q.cview(), x.k.cview(), x.v.cview(), options, row);
  return result;
}

template <class T> bool same(const softmax_case<T>& a, const softmax_case<T>& b, double tolerance) {
  return largest_difference(a.o, b.o) <= tolerance && largest_difference(a.lse, b.lse) <= tolerance;
}
inline softmax_case<double> ran(const shape& s, const heed::softmax::options<double>& how = {}) {
  softmax_case<double> x(s, how);
  x.forward();
  return x;
}

// Runs the call and checks all that must hold of any call.
template <class T> void check(softmax_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s));
  const std::uint64_t before[] = {x.q.hash(), x.k.hash(), x.v.hash()};
  x.forward(ctx);
  const std::uint64_t after[] = {x.q.hash(), x.k.hash(), x.v.hash()};
  const verdict result = compare(x, x.options);
  INFO(result.where);
  const bool inputs_unchanged = std::equal(std::begin(before), std::end(before), std::begin(after));
  const bool canaries_alive = x.o.canaries_alive() && x.lse.canaries_alive();
  const bool outputs_written = all_written(x.o) && (x.options.lse.data() == nullptr || all_written(x.lse));
  CHECK(result.worst <= 1);
  CHECK(inputs_unchanged);
  CHECK(canaries_alive);
  CHECK(outputs_written);
}

template <class T>
void check(const shape& s, const heed::softmax::options<T>& options = {}, layouts in = {},
           const heed::context& ctx = {}) {
  softmax_case<T> x(s, options, in);
  check(x, ctx);
}

}  // namespace heed_test
