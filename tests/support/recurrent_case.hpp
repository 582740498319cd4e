// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of linear or lightning attention beside the reference: every output element against a tolerance in units of
// the magnitudes that were summed.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "heed/reference/lightning.hpp"
#include "heed/reference/linear.hpp"
#include "support/call_case.hpp"
#include "support/recurrent_run.hpp"

namespace heed_test {

// Tensors of both kernels; in.lse is the layout of the states. states: heads of the state; sequences: of packed calls
// more than the batch.
template <class T> struct recurrent_tensors : call_case<T> {
  using call_case<T>::s, call_case<T>::q, call_case<T>::k, call_case<T>::v, call_case<T>::o;
  index_t states, features, sequences;
  buffer<T> s0, s1, z0, z1;

  recurrent_tensors(const shape& size, index_t state_heads, index_t feature_count, index_t count, layouts in = {},
                    std::uint32_t seed = 1)
      : call_case<T>(size, in, seed),
        states(state_heads),
        features(feature_count),
        sequences(count),
        s0(buffer<T>::input({sequences, states, features, s.value_dim}, in.lse, in.skew)),
        s1(buffer<T>::output({sequences, states, features, s.value_dim}, in.lse, in.skew)),
        z0(buffer<T>::input({sequences, states, features, 1}, in.lse, in.skew)),
        z1(buffer<T>::output({sequences, states, features, 1}, in.lse, in.skew)) {
    s0.randomize(this->generator);
    z0.each([&](T& x) { x = static_cast<T>(5 * this->generator.uniform()); });
  }

  recurrent_call<T> call() const { return {q.cview(), k.cview(), v.cview(), o.view()}; }
  heed::state_view<const T> before() const { return {s0.cview(), z0.view3()}; }
  heed::state_view<T> after() const { return {s1.view(), z1.view3()}; }
  heed::state_view<T> memory() const { return {s0.view(), z0.view3()}; }  // for decode, in place
};

// The same numbers in double, elements through f
template <class T, class F> buffer<double> mapped(const buffer<T>& x, F f) {
  auto y = buffer<double>::input(x.size());
  for (index_t a = 0; a < x.size()[0]; ++a)
    for (index_t b = 0; b < x.size()[1]; ++b)
      for (index_t c = 0; c < x.size()[2]; ++c)
        for (index_t d = 0; d < x.size()[3]; ++d) y(a, b, c, d) = f(static_cast<double>(x(a, b, c, d)));
  return y;
}
template <class T> buffer<double> magnitudes(const buffer<T>& x) {
  return mapped(x, [](double a) { return std::isfinite(a) ? std::abs(a) : 0; });
}

template <class T>
void compare(verdict& result, const char* what, const buffer<T>& got, const buffer<double>& expected,
             const buffer<double>& size, double tolerance, const storage_rounding& stored = {}) {
  for (index_t a = 0; a < got.size()[0]; ++a)
    for (index_t b = 0; b < got.size()[1]; ++b)
      for (index_t c = 0; c < got.size()[2]; ++c)
        for (index_t d = 0; d < got.size()[3]; ++d) {
          const double error =
              tolerance * size(a, b, c, d) + 2 * static_cast<double>(std::numeric_limits<T>::min()) + 1e-29;
          result.add(static_cast<double>(got(a, b, c, d)), expected(a, b, c, d),
                     stored.around(expected(a, b, c, d), error), what, a, b, c, d);
        }
}

// ---- lightning ------------------------------------------------------------------------------------------------------

template <class T> struct lightning_case : recurrent_tensors<T> {
  heed::lightning::options<T> options;
  std::vector<double> slopes;  // or
  buffer<T> gates = buffer<T>::input({0, 0, 0, 1});
  bool gated = false;

  // One decay per entry of the slopes
  lightning_case(const shape& size, std::vector<double> numbers, heed::lightning::options<T> how = {}, layouts in = {},
                 index_t count = -1)
      : recurrent_tensors<T>(size, static_cast<index_t>(numbers.size()), size.dim, count < 0 ? size.batch : count, in),
        options(how),
        slopes(std::move(numbers)) {
    with_states();
  }
  // Gates of so many heads, about normally distributed below 0; cuts: one of so many is -inf
  lightning_case(const shape& size, index_t heads, std::int32_t cuts, heed::lightning::options<T> how = {},
                 layouts in = {}, index_t count = -1)
      : recurrent_tensors<T>(size, heads, size.dim, count < 0 ? size.batch : count, in),
        options(how),
        gates(
            buffer<T>::input({size.batch, heads, size.queries, 1}, in.q == layout::bshd ? layout::bshd : layout::bhsd)),
        gated(true) {
    random_numbers random(9);
    gates.each([&](T& g) {
      g = cuts > 0 && random.below(cuts) == 0 ? -std::numeric_limits<T>::infinity()
                                              : static_cast<T>(-0.3 * random.uniform());
    });
    with_states();
  }

  heed::decay<T> decay() const { return gated ? heed::decay<T>(gates.view3()) : heed::decay<T>(slopes); }
  void forward(const heed::context& ctx = {}) { forward(ctx, this->call()); }
  void forward(const heed::context& ctx, const recurrent_call<T>& x) { run_forward<T>(x, decay(), options, ctx); }
  void decode(const heed::context& ctx = {}) { run_decode<T>(this->call(), decay(), this->memory(), options, ctx); }
  heed::plan plan_decode(const heed::context& ctx = {}) const {
    return run_plan_decode<T>(this->call(), decay(), this->memory(), options, ctx);
  }
  heed::plan plan(const heed::context& ctx = {}) const { return run_plan<T>(this->call(), decay(), options, ctx); }

 private:
  void with_states() {
    options.initial_state.s = this->s0.cview();
    options.final_state.s = this->s1.view();
  }
};

// What the reference makes of a case, with `decay` (that of the case, unless a test lies about it)
struct lightning_answer {
  buffer<double> o, s;
};
template <class T>
lightning_answer answer(const lightning_case<T>& x, const heed::decay<double>& decay, bool magnitude) {
  const auto f = [magnitude](double a) { return !magnitude ? a : std::isfinite(a) ? std::abs(a) : 0; };
  const auto q = mapped(x.q, f), k = mapped(x.k, f), v = mapped(x.v, f), s0 = mapped(x.s0, f);
  lightning_answer out{buffer<double>::output(x.o.size()), buffer<double>::output(x.s1.size())};
  heed::lightning::options<double> how{.mask = x.options.mask, .scale = f(x.options.scale)};
  if (x.options.initial_state.s.data() != nullptr) how.initial_state.s = s0.cview();
  how.final_state.s = out.s.view();
  heed::reference::lightning::forward(q.cview(), k.cview(), v.cview(), decay, out.o.view(), how);
  return out;
}
// stored: the rounding of o, whose numbers x holds
template <class T>
verdict compare(const lightning_case<T>& x, const heed::decay<double>& decay, const storage_rounding& stored = {}) {
  const lightning_answer expected = answer(x, decay, false), size = answer(x, decay, true);
  const double tolerance = recurrent_tolerance<T>(x.s.queries, x.s.dim);
  verdict result;
  compare(result, "o", x.o, expected.o, size.o, tolerance, stored);
  if (x.options.final_state.s.data() != nullptr) compare(result, "s", x.s1, expected.s, size.s, tolerance);
  return result;
}
template <class T> verdict compare(const lightning_case<T>& x, const storage_rounding& stored = {}) {
  if (!x.gated) return compare(x, heed::decay<double>(x.slopes), stored);
  const auto gates = mapped(x.gates, [](double g) { return g; });
  return compare(x, heed::decay<double>(gates.view3()), stored);
}

// ---- linear ---------------------------------------------------------------------------------------------------------

template <class T> struct linear_case : recurrent_tensors<T> {
  heed::linear::options<T> options;

  explicit linear_case(const shape& size, heed::linear::options<T> how = {}, layouts in = {}, index_t count = -1)
      : recurrent_tensors<T>(size, size.kv_heads, heed::detail::feature_dim(heed::detail::parts(how.feature), size.dim),
                             count < 0 ? size.batch : count, in),
        options(how) {
    options.initial_state = this->before();
    options.final_state = this->after();
  }

  void forward(const heed::context& ctx = {}) { forward(ctx, this->call()); }
  void forward(const heed::context& ctx, const recurrent_call<T>& x) { run_forward<T>(x, options, ctx); }
  void decode(const heed::context& ctx = {}) { run_decode<T>(this->call(), this->memory(), options, ctx); }
  heed::plan plan_decode(const heed::context& ctx = {}) const {
    return run_plan_decode<T>(this->call(), this->memory(), options, ctx);
  }
  heed::plan plan(const heed::context& ctx = {}) const { return run_plan<T>(this->call(), options, ctx); }
};

namespace detail {

// phi of every row, or its magnitude
template <class T>
buffer<double> features_of(const buffer<T>& x, const heed::linear::options<double>& how, index_t features,
                           bool magnitude) {
  auto y = buffer<double>::input({x.size()[0], x.size()[1], x.size()[2], features});
  const auto exact = mapped(x, [](double a) { return a; });
  for (index_t b = 0; b < x.size()[0]; ++b)
    for (index_t h = 0; h < x.size()[1]; ++h)
      for (index_t i = 0; i < x.size()[2]; ++i) {
        const Eigen::VectorXd row = heed::reference::linear::detail::features(
            heed::detail::parts(how.feature), heed::reference::linear::detail::row_of(exact.cview(), b, h, i));
        for (index_t f = 0; f < features; ++f) y(b, h, i, f) = magnitude ? std::abs(row(f)) : row(f);
      }
  return y;
}

}  // namespace detail

// o = sum / below with sum and below of their own rounding; feature: that of the options in double
template <class T>
verdict compare(const linear_case<T>& x, const heed::feature_map<double>& feature,
                const storage_rounding& stored = {}) {
  namespace reference = heed::reference::linear;
  using options = heed::linear::options<double>;
  const shape& s = x.s;
  const auto same = [](double a) { return a; };
  const auto q = mapped(x.q, same), k = mapped(x.k, same), v = mapped(x.v, same), s0 = mapped(x.s0, same),
             z0 = mapped(x.z0, same);
  const bool has_before = x.options.initial_state.s.data() != nullptr, normalize = x.options.normalize;
  options how{.mask = x.options.mask,
              .align = x.options.align,
              .scale = x.options.scale,
              .feature = feature,
              .normalize = normalize,
              .eps = x.options.eps};
  const auto expected = buffer<double>::output(x.o.size()), after = buffer<double>::output(x.s1.size()),
             sums = buffer<double>::output(x.z1.size());
  if (has_before) how.initial_state = {s0.cview(), z0.view3()};
  how.final_state = {after.view(), sums.view3()};
  reference::forward(q.cview(), k.cview(), v.cview(), expected.view(), how);

  // Magnitudes: phi replaced by |phi|, v by |v|; the denominator is a column of ones
  const auto abs_q = detail::features_of(x.q, how, x.features, true),
             abs_k = detail::features_of(x.k, how, x.features, true), abs_v = magnitudes(x.v), abs_s = magnitudes(x.s0),
             abs_z = magnitudes(x.z0), real_q = detail::features_of(x.q, how, x.features, false),
             real_k = detail::features_of(x.k, how, x.features, false);
  auto ones = buffer<double>::input({s.batch, s.kv_heads, s.keys, 1});
  ones.fill(1);
  options plain{
      .mask = how.mask, .align = how.align, .scale = how.scale, .feature = heed::feature::identity, .normalize = false};
  auto size = buffer<double>::output(x.o.size()), state_size = buffer<double>::output(x.s1.size()),
       below_size = buffer<double>::output({s.batch, s.heads, s.queries, 1}),
       below = buffer<double>::output({s.batch, s.heads, s.queries, 1}),
       sums_size = buffer<double>::output(x.z1.size());
  if (has_before) plain.initial_state.s = abs_s.cview();
  plain.final_state.s = state_size.view();
  reference::forward(abs_q.cview(), abs_k.cview(), abs_v.cview(), size.view(), plain);
  if (has_before) plain.initial_state.s = abs_z.cview();
  plain.final_state.s = sums_size.view();
  reference::forward(abs_q.cview(), abs_k.cview(), ones.cview(), below_size.view(), plain);
  if (has_before) plain.initial_state.s = z0.cview();
  plain.final_state = {};
  reference::forward(real_q.cview(), real_k.cview(), ones.cview(), below.view(), plain);
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t e = 0; e < s.value_dim && normalize; ++e) {
          const double total = std::abs(below(b, h, i) + how.eps);
          const double all = std::abs(size(b, h, i, e)) +
                             std::abs(expected(b, h, i, e)) * (std::abs(below_size(b, h, i)) + std::abs(how.eps));
          size(b, h, i, e) = total == 0 ? 0 : all / total;
        }
  size.each([](double& a) { a = std::abs(a); });

  const double tolerance = recurrent_tolerance<T>(s.keys, x.features);
  verdict result;
  compare(result, "o", x.o, expected, size, tolerance, stored);
  if (x.options.final_state.s.data() == nullptr) return result;
  compare(result, "s", x.s1, after, state_size, tolerance);
  if (normalize) compare(result, "z", x.z1, sums, sums_size, tolerance);
  return result;
}
template <class T> verdict compare(const linear_case<T>& x, const storage_rounding& stored = {}) {
  return compare(x, heed::feature_map<double>(heed::detail::parts(x.options.feature).built_in), stored);
}

// ---- both -----------------------------------------------------------------------------------------------------------

template <class T, class Case> void check_recurrent(Case& x, const heed::context& ctx) {
  INFO(to_string(x.s) << " states " << x.states << " chunk " << x.options.chunk);
  const buffers<T> written = x.options.final_state.s.data() != nullptr ? buffers<T>{&x.o, &x.s1} : buffers<T>{&x.o};
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.s0, &x.z0}, {&x.o, &x.s1, &x.z1}, written, [&] { x.forward(ctx); },
      [&] { return compare(x); });
}
template <class T> void check(lightning_case<T>& x, const heed::context& ctx = {}) { check_recurrent<T>(x, ctx); }
template <class T> void check(linear_case<T>& x, const heed::context& ctx = {}) { check_recurrent<T>(x, ctx); }

inline std::vector<double> some_slopes(index_t heads) {
  std::vector<double> all;
  for (index_t h = 0; h < heads; ++h) all.push_back(0.02 * static_cast<double>(h * h) + 0.01);
  return all;
}

}  // namespace heed_test
