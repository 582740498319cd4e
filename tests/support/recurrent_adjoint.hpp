// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients as forward calls. For L = <dout, o> + <ds1, s1>, o and the state s1 after the last token linear in q and
// affine in each of k, v and the state s0 before the first:
//
//   dq = f(q := dout, k := v, v := k), from s0 transposed
//   dk = f(q := v, k := dout, v := q), time reversed, from ds1 transposed
//   dv = f(q := k, k := q, v := dout), time reversed, from ds1; what it leaves is ds0
//
// The change of L by any change of one input is the product of that change with the gradient, to the last bits.

#include <algorithm>
#include <cmath>

#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/recurrent_run.hpp"
#include "support/shapes.hpp"

namespace heed_test {

template <class T> heed::tensor_view<T, 4> reversed(const heed::tensor_view<T, 4>& x) {
  const index_t n = x.extent(2), row = x.stride(2);
  return {x.data() + std::max<index_t>(0, n - 1) * row,
          {x.extent(0), x.extent(1), n, x.extent(3)},
          {x.stride(0), x.stride(1), -row, x.stride(3)}};
}
inline buffer<double> transposed(const buffer<double>& x, double factor) {
  auto y = buffer<double>::input({x.size()[0], x.size()[1], x.size()[3], x.size()[2]});
  for (index_t a = 0; a < y.size()[0]; ++a)
    for (index_t b = 0; b < y.size()[1]; ++b)
      for (index_t c = 0; c < y.size()[2]; ++c)
        for (index_t d = 0; d < y.size()[3]; ++d) y(a, b, c, d) = factor * x(a, b, d, c);
  return y;
}

// A sum, and that of its terms' magnitudes
struct product {
  double sum = 0, size = 0;
  void add(const buffer<double>& a, const buffer<double>& b) {
    for (index_t i = 0; i < a.size()[0]; ++i)
      for (index_t h = 0; h < a.size()[1]; ++h)
        for (index_t n = 0; n < a.size()[2]; ++n)
          for (index_t d = 0; d < a.size()[3]; ++d)
            sum += a(i, h, n, d) * b(i, h, n, d), size += std::abs(a(i, h, n, d) * b(i, h, n, d));
  }
};

// forward(call, s0, s1, back): the kernel with `scale`, as many heads of q as of k; back: time is reversed, token t
// fades the memory as token N - t did. entry(h): what the first token of reversed time leaves of the memory; first(h):
// what the first token leaves.
template <class Forward, class Entry, class First>
void check_adjoint(const shape& s, double scale, Forward forward, Entry entry, First first) {
  INFO(to_string(s));
  const auto input = [&](index_t heads, index_t rows, index_t columns, std::uint32_t seed) {
    auto x = buffer<double>::input({s.batch, heads, rows, columns});
    random_numbers random(seed);
    x.randomize(random);
    return x;
  };
  const auto q = input(s.heads, s.queries, s.dim, 1), k = input(s.heads, s.keys, s.dim, 2),
             v = input(s.heads, s.keys, s.value_dim, 3), s0 = input(s.heads, s.dim, s.value_dim, 4),
             dout = input(s.heads, s.queries, s.value_dim, 5), ds1 = input(s.heads, s.dim, s.value_dim, 6);
  const auto o = buffer<double>::output(dout.size()), s1 = buffer<double>::output(s0.size());
  const auto loss = [&] {
    forward({q.cview(), k.cview(), v.cview(), o.view()}, s0.cview(), s1.view(), false);
    product all;
    all.add(dout, o), all.add(ds1, s1);
    return all;
  };

  const auto dq = buffer<double>::output(q.size()), dk = buffer<double>::output(k.size()),
             dv = buffer<double>::output(v.size()), ds0 = buffer<double>::output(s0.size()),
             unused = buffer<double>::output({s.batch, s.heads, s.value_dim, s.dim}), s0_turned = transposed(s0, 1);
  auto after = transposed(transposed(ds1, 1 / scale), 1);  // ds1 / (scale entry)
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t d = 0; d < s.dim; ++d)
        for (index_t e = 0; e < s.value_dim; ++e) after(b, h, d, e) /= entry(h);
  const auto after_turned = transposed(after, 1);
  forward({dout.cview(), v.cview(), k.cview(), dq.view()}, s0_turned.cview(), unused.view(), false);
  forward({reversed(v.cview()), reversed(dout.cview()), reversed(q.cview()), reversed(dk.view())}, after_turned.cview(),
          unused.view(), true);
  forward({reversed(k.cview()), reversed(q.cview()), reversed(dout.cview()), reversed(dv.view())}, after.cview(),
          ds0.view(), true);
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t d = 0; d < s.dim; ++d)
        for (index_t e = 0; e < s.value_dim; ++e) ds0(b, h, d, e) *= scale * first(b, h);

  const product before = loss();
  const auto check = [&](const char* what, const buffer<double>& x, const buffer<double>& dx) {
    const auto change = input(s.heads, x.size()[2], x.size()[3], 7);
    const auto add = [&](double sign) {
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.heads; ++h)
          for (index_t n = 0; n < x.size()[2]; ++n)
            for (index_t d = 0; d < x.size()[3]; ++d) x(b, h, n, d) += sign * change(b, h, n, d);
    };
    product expected;
    expected.add(dx, change);
    add(1);
    const product bent = loss();
    add(-1);
    INFO(what << ": L changes by " << bent.sum - before.sum << ", the gradient says " << expected.sum);
    CHECK(std::abs(expected.sum) > 1e-6 * expected.size);  // there is something to see
    CHECK(std::abs(bent.sum - before.sum - expected.sum) <= 1e-13 * (before.size + bent.size + expected.size));
  };
  check("q", q, dq), check("k", k, dk), check("v", v, dv), check("s0", s0, ds0);
}

}  // namespace heed_test
