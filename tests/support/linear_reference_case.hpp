// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of the reference of linear attention in double, cotangents of its outputs, and all gradients.

#include <cmath>

#include "heed/reference/linear.hpp"
#include "support/catch.hpp"
#include "support/recurrent_differences.hpp"
#include "support/shapes.hpp"

namespace heed_test {

struct linear_reference_case {
  shape s;
  index_t sequences, features;
  heed::linear::options<double> how;
  bool has_before = true, has_after = true;
  buffer<double> q = random_input({s.batch, s.heads, s.queries, s.dim}, 1),
                 k = random_input({s.batch, s.kv_heads, s.keys, s.dim}, 2),
                 v = random_input({s.batch, s.kv_heads, s.keys, s.value_dim}, 3),
                 s0 = random_input({sequences, s.kv_heads, features, s.value_dim}, 4),
                 z0 = random_input({sequences, s.kv_heads, features, 1}, 5),
                 dout = random_input({s.batch, s.heads, s.queries, s.value_dim}, 6), ds1 = random_input(s0.size(), 7),
                 dz1 = random_input(z0.size(), 8), o = buffer<double>::output(dout.size()),
                 s1 = buffer<double>::output(s0.size()), z1 = buffer<double>::output(z0.size()),
                 dq = buffer<double>::output(q.size()), dk = buffer<double>::output(k.size()),
                 dv = buffer<double>::output(v.size()), ds0 = buffer<double>::output(s0.size()),
                 dz0 = buffer<double>::output(z0.size());

  linear_reference_case(const shape& size, const heed::linear::options<double>& opt, index_t count = -1)
      : s(size),
        sequences(count < 0 ? size.batch : count),
        features(heed::detail::feature_dim(heed::detail::parts(opt.feature), size.dim)),
        how(opt) {
    z0.each([](double& a) { a = 3 + std::abs(a); });
  }

  heed::linear::options<double> states() const {
    heed::linear::options<double> all = how;
    if (has_before) all.initial_state = {s0.cview(), z0.view3()};
    all.final_state = {s1.view(), z1.view3()};
    return all;
  }
  double loss() const {
    heed::reference::linear::forward(q.cview(), k.cview(), v.cview(), o.view(), states());
    return inner(dout, o) + (!has_after ? 0 : inner(ds1, s1) + (how.normalize ? inner(dz1, z1) : 0));
  }
  heed::linear::gradients<double> asked() const {
    heed::linear::gradients<double> all{
        dq.view(), dk.view(), dv.view(), {ds0.view(), dz0.view3()}, {ds1.cview(), dz1.view3()}};
    if (!has_after) all.dfinal_state = {};
    return all;
  }
  void backward() const { backward(asked()); }
  void backward(const heed::linear::gradients<double>& all) const {
    heed::reference::linear::backward(q.cview(), k.cview(), v.cview(), o.cview(), dout.cview(), all, states());
  }
  verdict differences() const {
    verdict result;
    const double size = std::abs(loss()) + 1;
    const auto f = [&] { return loss(); };
    add_differences(result, "dq", q, dq, size, f), add_differences(result, "dk", k, dk, size, f);
    add_differences(result, "dv", v, dv, size, f);
    if (has_before) add_differences(result, "ds0", s0, ds0, size, f);
    if (has_before && how.normalize) add_differences(result, "dz0", z0, dz0, size, f);
    return result;
  }
};

inline void check(const linear_reference_case& x) {
  x.backward();
  const verdict result = x.differences();
  INFO("feature " << static_cast<int>(heed::detail::parts(x.how.feature).built_in) << " normalize " << x.how.normalize
                  << " " << to_string(x.s) << ": " << result.where);
  CHECK(result.worst <= 1);
  const bool written = all_written(x.dq) && all_written(x.dk) && all_written(x.dv) && all_written(x.ds0);
  CHECK(written);
  CHECK((x.how.normalize ? all_written(x.dz0) : x.dz0.untouched()));
}

inline constexpr heed::feature all_features[] = {
    heed::feature::identity, heed::feature::elu_plus_one, heed::feature::relu,    heed::feature::relu_squared,
    heed::feature::silu,     heed::feature::exp,          heed::feature::softmax, heed::feature::taylor};
// eps keeps denominators away from 0, also of maps with either sign.
inline heed::linear::options<double> with_eps(heed::linear::options<double> how, heed::feature map) {
  how.feature = map, how.eps = map == heed::feature::identity || map == heed::feature::silu ? 40 : 0.5;
  return how;
}

}  // namespace heed_test
