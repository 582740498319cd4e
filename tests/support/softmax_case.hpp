// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One softmax call beside the reference.

#include <cmath>

#include "heed/reference/softmax.hpp"
#include "support/call_case.hpp"
#include "support/softmax_run.hpp"

namespace heed_test {

template <class T> struct softmax_case : call_case<T> {
  using call_case<T>::s, call_case<T>::q, call_case<T>::k, call_case<T>::v, call_case<T>::o;
  buffer<T> lse;
  heed::softmax::options<T> options;

  explicit softmax_case(const shape& size, heed::softmax::options<T> how = {}, layouts in = {}, std::uint32_t seed = 1)
      : call_case<T>(size, in, seed),
        lse(buffer<T>::output({s.batch, s.out_heads(), s.queries, 1}, in.lse, in.skew)),
        options(how) {
    options.lse = lse.view3();
  }

  void forward(const heed::context& ctx = {}) {
    run_forward<T>(q.cview(), k.cview(), v.cview(), o.view(), options, ctx);
  }
  heed::plan plan(const heed::context& ctx = {}) const {
    return run_plan<T>(q.cview(), k.cview(), v.cview(), o.view(), options, ctx);
  }
};

// How exact a call has to be: its sums, and o as it is stored
struct exactness {
  double weights = 0;  // see rounded_weights
  storage_rounding o{};
};

// o and lse of a finished call beside those of a reference, which leaves them in its arguments. o is compared in units
// of its tolerance times unit(batch, head, query).
template <class T, class Reference, class Unit>
verdict compare(const softmax_case<T>& x, heed::softmax::options<T> options, const Reference& reference,
                const Unit& unit, const exactness& how = {}) {
  const auto expected = buffer<double>::output(x.o.size());
  const auto expected_lse = buffer<T>::output(x.lse.size());
  options.lse = expected_lse.view3();
  reference(expected.view(), options);

  verdict result;
  tolerance allowed = tolerance_of<T>(x.s.keys, x.s.dim);
  allowed.weights = how.weights;
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
      result.add(number(x.o(b, h, n, e)), expected(b, h, n, e),
                 how.o.around(expected(b, h, n, e), unit(b, h, n) * allowed.of_output(size)), "o", b, h, n, e);
    if (x.options.lse.data() == nullptr) return;
    result.add(number(x.lse(b, h, n)), number(expected_lse(b, h, n)), allowed.of_lse(size), "lse", b, h, n, 0);
  };
  heed::reference::softmax::detail::each_row(x.q.cview(), x.k.cview(), x.v.cview(), options, row);
  return result;
}

// The same with the reference of softmax and `options` (those of the call, unless a test lies about them).
template <class T>
verdict compare(const softmax_case<T>& x, const heed::softmax::options<T>& options, const exactness& how = {}) {
  const auto reference = [&](const auto& o, const auto& with) {
    heed::reference::softmax::forward(x.q.cview(), x.k.cview(), x.v.cview(), o, with);
  };
  return compare(x, options, reference, [](index_t, index_t, index_t) { return 1.0; }, how);
}

template <class T> bool same(const softmax_case<T>& a, const softmax_case<T>& b, double tolerance) {
  return largest_difference(a.o, b.o) <= tolerance && largest_difference(a.lse, b.lse) <= tolerance;
}
inline softmax_case<double> ran(const shape& s, const heed::softmax::options<double>& how = {}) {
  softmax_case<double> x(s, how);
  x.forward();
  return x;
}

template <class T> buffers<T> written(const softmax_case<T>& x) {
  return x.options.lse.data() != nullptr ? buffers<T>{&x.o, &x.lse} : buffers<T>{&x.o};
}
template <class T> void check(softmax_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s));
  check_call<T>(
      {&x.q, &x.k, &x.v}, {&x.o, &x.lse}, written(x), [&] { x.forward(ctx); }, [&] { return compare(x, x.options); });
}

template <class T>
void check(const shape& s, const heed::softmax::options<T>& options = {}, layouts in = {},
           const heed::context& ctx = {}) {
  softmax_case<T> x(s, options, in);
  check(x, ctx);
}

}  // namespace heed_test
