// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One local_linear call beside the reference: the comparison row by row, and what must hold after every call.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "heed/reference/eigen.hpp"
#include "support/call_case.hpp"
#include "support/local_linear_run.hpp"

namespace heed_test {

using heed::local_linear::solver;
inline constexpr solver solvers[] = {solver::automatic, solver::conjugate_gradient, solver::direct};
inline const char* name_of(solver s) {
  constexpr const char* names[] = {"automatic", "conjugate_gradient", "direct"};
  return names[static_cast<int>(s)];
}

template <class T> struct local_linear_case : call_case<T> {
  using call_case<T>::s, call_case<T>::q, call_case<T>::k, call_case<T>::v, call_case<T>::o;
  heed::per_head ridge;
  buffer<T> lse, slope, mean;
  std::unique_ptr<heed::local_linear::report> report = std::make_unique<heed::local_linear::report>();
  heed::local_linear::options<T> options;

  explicit local_linear_case(const shape& size, const heed::per_head& penalty = 0.5,
                             heed::local_linear::options<T> how = {}, layouts in = {}, std::uint32_t seed = 1)
      : call_case<T>(size, in, seed),
        ridge(penalty),
        lse(buffer<T>::output({s.batch, s.out_heads(), s.queries, 1}, in.lse, in.skew)),
        slope(buffer<T>::output({s.batch, s.out_heads(), s.queries, s.dim}, in.o, in.skew)),
        mean(buffer<T>::output({s.batch, s.out_heads(), s.queries, s.dim}, in.o, in.skew)),
        options(how) {
    options.lse = lse.view3();
    options.slope = slope.view();
    options.mean_key = mean.view();
    options.report = report.get();
  }

  void forward(const heed::context& ctx = {}) {
    run_forward<T>(q.cview(), k.cview(), v.cview(), ridge, o.view(), options, ctx);
  }
  heed::plan plan(const heed::context& ctx = {}) const {
    return run_plan_forward<T>(q.cview(), k.cview(), v.cview(), ridge, o.view(), options, ctx);
  }
  void apply(const buffer<T>& given, const heed::context& ctx = {}) {
    run_apply<T>(q.cview(), k.cview(), v.cview(), given.cview(), o.view(), options, ctx);
  }
};

// What the reference says of a row, and the sizes on which its accuracy depends.
struct fitted_row {
  index_t batch, head, query;
  Eigen::Matrix<long double, Eigen::Dynamic, 1> o, y, mean;
  double lse;
  double ridge;
  row_size size;        // |s|, |v|
  double key = 0;       // the largest |k|
  double distance = 0;  // |r|, r = q - mean
  double spread = 0;    // of the keys: sqrt(trace C - D ridge)
  double gain = 1;      // sqrt(sum_j p_j (1 + t_j)^2), at least sum_j |p_j (1 + t_j)|
  double sigma = 0;     // the largest standard deviation of a column of v under p
};

// With given slopes (a pointer to their view): of apply. Compiled once for all tests, in local_linear_fitted.cpp.
template <class T>
std::vector<fitted_row> fitted(const local_linear_case<T>& x, const heed::per_head& ridge,
                               const heed::local_linear::options<T>& options,
                               const heed::tensor_view<const T, 4>* given = nullptr);

// The largest error that a correct kernel may show in one row, a sum of
//
// - rounding of the weights: relative errors of p_j, as in softmax (tolerance.hpp), in the sum of |p_j (1 + t_j) v_j|;
// - rounding of t_j = k_j . y, eps |k| |y|: as an error of all weights it moves o by at most that times |v| + |o|. The
//   direct solver makes weights in double. Where others have found |C y - r| <= tolerance |r|, rounding of t is no
//   larger than such a residual either;
// - what the solver left: a residual e moves o by Cov(v, k) C^-1 e, at most sigma_v |e| / (2 sqrt(ridge)) since
//   Cov(v, k) u <= sigma_v sqrt(u' Cov u) and s / (s^2 + ridge) <= 1 / (2 sqrt(ridge)) for every s^2 of Cov. The direct
//   solver leaves rounding in double; all leave the rounding of the mean key in r.
//
// A slope moves by |e| / ridge.
struct allowed_errors {
  double o, lse, mean, slope;
};
template <class T>
allowed_errors allowed(const fitted_row& f, index_t keys, index_t head_dim, double left_by_solver, bool direct) {
  const tolerance rounding = tolerance_of<T>(keys, head_dim);
  const double eps = rounding.eps * rounding.c0, weights = rounding.of_lse(f.size);
  const double fine = std::numeric_limits<double>::epsilon() * rounding.c0;
  const double ridge = std::isinf(f.ridge) ? 1 : f.ridge, length = static_cast<double>(f.y.norm());
  const double left = direct ? fine * (f.key * f.spread + ridge) * length : 2 * left_by_solver * f.distance;
  const double product =
      direct ? fine * f.key * length
             : std::min(eps * f.key * length, 4 * left_by_solver * f.distance / std::hypot(f.spread, std::sqrt(ridge)));
  const double residual = left + eps * f.key, largest = static_cast<double>(f.o.template lpNorm<Eigen::Infinity>());
  return {weights * f.gain * f.size.max_value + product * (f.size.max_value + largest) +
              f.sigma / (2 * std::sqrt(ridge)) * residual,
          weights, weights * f.key, (residual + weights * f.gain * f.key) / ridge + eps * length};
}

// A finished call beside rows of the reference; what it reports as unconverged is allowed for, and how o is stored.
template <class T>
verdict compare(const local_linear_case<T>& x, const std::vector<fitted_row>& rows,
                const storage_rounding& stored = {}) {
  verdict result;
  const auto number = [](T element) { return static_cast<double>(element); };
  const double left =
      x.options.report != nullptr ? std::max(x.options.tolerance, x.options.report->max_residual) : x.options.tolerance;
  for (const fitted_row& f : rows) {
    const index_t b = f.batch, h = f.head, i = f.query;
    const allowed_errors most = allowed<T>(f, x.s.keys, x.s.dim, left, x.options.solver == solver::direct);
    for (index_t e = 0; e < f.o.size(); ++e)
      result.add(number(x.o(b, h, i, e)), static_cast<double>(f.o(e)),
                 stored.around(static_cast<double>(f.o(e)), most.o), "o", b, h, i, e);
    if (x.options.lse.data() != nullptr) result.add(number(x.lse(b, h, i)), f.lse, most.lse, "lse", b, h, i, 0);
    for (index_t c = 0; c < f.y.size(); ++c) {
      if (x.options.slope.data() != nullptr)
        result.add(number(x.slope(b, h, i, c)), static_cast<double>(f.y(c)), most.slope, "slope", b, h, i, c);
      if (x.options.mean_key.data() != nullptr)
        result.add(number(x.mean(b, h, i, c)), static_cast<double>(f.mean(c)), most.mean, "mean_key", b, h, i, c);
    }
  }
  return result;
}

// Runs the call and checks all that must hold of any call that is not too hard for its solver.
template <class T>
void check(local_linear_case<T>& x, const std::vector<fitted_row>& rows, const heed::context& ctx = {}) {
  INFO(to_string(x.s) << ", " << name_of(x.options.solver));
  const buffers<T> outputs{&x.o, &x.lse, &x.slope, &x.mean};
  check_call<T>({&x.q, &x.k, &x.v}, outputs, outputs, [&] { x.forward(ctx); }, [&] { return compare(x, rows); });
  if (x.options.report == nullptr) return;
  // With fewer keys than dims conjugate gradients may end at the rounding of T, a little above the tolerance.
  const bool may_stall = x.options.solver == solver::conjugate_gradient && x.s.keys <= x.s.dim;
  CHECK((x.report->max_residual <= x.options.tolerance) == (x.report->unconverged == 0));
  CHECK((x.report->unconverged == 0 || (may_stall && x.report->max_residual < 3 * x.options.tolerance)));
}

// The same for every solver.
template <class T>
void check_solvers(const shape& s, const heed::per_head& ridge = 0.5,
                   const heed::local_linear::options<T>& options = {}, layouts in = {}, const heed::context& ctx = {}) {
  std::vector<fitted_row> rows;
  for (const solver how : solvers) {
    local_linear_case<T> x(s, ridge, options, in);
    x.options.solver = how;
    if (how == solvers[0]) rows = fitted(x, ridge, x.options);
    check(x, rows, ctx);
  }
}

}  // namespace heed_test
