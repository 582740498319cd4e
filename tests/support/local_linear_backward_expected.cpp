// SPDX-License-Identifier: BSD-3-Clause

// What the reference of backward of local linear attention says, and what a correct kernel may be off.
//
// Errors of scores, weights and of b_j = dout.v_j are those of softmax (gradient_rounding in tolerance.hpp). To them
// come the two solves. With a residual e of C y = r the slope is off by C^-1 e, so that
//
//   |dy| <= |e| / ridge,  and  p_j |x_j.C^-1 e| <= |e| min(p_j |x_j| / ridge, sqrt(p_j) / (2 sqrt(ridge)))
//
// (the second since sqrt(y' Cov y) <= |e| s / (s^2 + ridge) for some s). A residual is what the solver leaves, as
// measured by |r|, and rounding: of the mean key in r, of the weights in C (at most weight |spread| sqrt(y' Cov y)), of
// the products in C y. The same for w, whose right side u has the errors of its terms. All to first order.

#include <cmath>
#include <variant>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "support/gradient_errors.hpp"
#include "support/local_linear_backward_case.hpp"

namespace heed_test {

namespace reference = heed::reference::local_linear::detail;

template <class T> static expected_gradient read(const buffer<T>& memory, const char* name) {
  expected_gradient x{name, memory.size(), {}, {}};
  memory.each([&](const T& element) { x.value.push_back(static_cast<double>(element)); });
  x.allowed.assign(x.value.size(), 0.0);
  return x;
}

template <class T>
static expected_fit values(const local_linear_backward<T>& x, const heed::per_head& ridge,
                           const heed::local_linear::options<T>& options) {
  const auto dq = buffer<T>::output(x.q.size()), dk = buffer<T>::output(x.k.size()), dv = buffer<T>::output(x.v.size()),
             dbias = buffer<T>::output(x.dbias.size()), dridge = buffer<T>::output(x.dridge.size());
  heed::reference::local_linear::backward(
      x.q.cview(), x.k.cview(), x.v.cview(), ridge, x.dout.cview(),
      {.dq = dq.view(),
       .dk = dk.view(),
       .dv = dv.view(),
       .dbias = options.bias.data() != nullptr ? dbias.view() : heed::tensor_view<T, 4>{},
       .dridge = {dridge.view().data(), {dridge.size()[3]}, {1}}},
      options);
  return {read(dq, "dq"), read(dk, "dk"), read(dv, "dv"), read(dbias, "dbias"), read(dridge, "dridge")};
}

// The errors of one row, by the names of reference/local_linear_backward.hpp
template <class T> struct fit_errors {
  const gradient_rounding& unit;
  const reference::row& row;
  const heed::reference::detail::pair_rules<T, heed::local_linear::options<T>>& rules;
  double ridge, left;  // left: by a solver, relative

  reference::row_gradient d;
  std::vector<double> p, size, dv, ds, dx, dy;      // of a key: its weight and |x_j|, and errors
  std::vector<double> of_y, of_w, factor, t, r;     // p_j times the errors of t_j and r_j; c_j - r_j, t_j, r_j
  std::vector<double> weight, gain, of_difference;  // relative error of p_j; of b_j; of c_j = b_j - mean_b
  double y = 0, w = 0, of_dridge = 0;               // errors of elements of y and w

  static double number(reference::real a) { return static_cast<double>(a); }

  // What a residual of this size does to p_j times x_j . solution
  double moved(std::size_t j, double residual) const {
    return residual * std::min(p[j] * size[j] / ridge, std::sqrt(p[j] / ridge) / 2);
  }

  void find(const reference::vector& g) {
    const std::size_t n = row.at.size();
    const double of_d = unit.dot(row.k.cols()), of_e = unit.dot(row.v.cols()), scale = std::abs(rules.scale());
    double lse = 0;
    std::vector<score_errors> pairs;
    for (std::size_t j = 0; j < n; ++j) {
      const auto i = static_cast<index_t>(j);
      const double products = scale * number(row.q.cwiseAbs().dot(row.k.row(i).cwiseAbs()));
      pairs.push_back(errors_of_score(unit, rules, *row.s, row.at[j], row.dots[j], products, number(row.scores(i))));
      p.push_back(number(row.p(i))), size.push_back(number(row.x.row(i).norm()));
      lse += p[j] * pairs[j].score;
    }
    double key = 0, spread = 0, of_mean = 0, mean_gain = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const auto i = static_cast<index_t>(j);
      weight.push_back(pairs[j].score + lse + unit.exponent);
      gain.push_back(number(g.cwiseAbs().dot(row.v.row(i).cwiseAbs())));
      key = std::max(key, number(row.k.row(i).norm())), spread += p[j] * size[j] * size[j];
      of_mean += p[j] * weight[j] * number(row.k.row(i).norm()), mean_gain += p[j] * (weight[j] + of_e) * gain[j];
    }
    of_mean += unit.sum(static_cast<double>(n)) * key, spread = std::sqrt(spread);
    const reference::vector b = row.v * g, t_of = row.x * d.y, r_of = row.x * d.w;
    const reference::vector c = b.array() - row.p.dot(b);
    const double largest_weight = *std::max_element(weight.begin(), weight.end());

    // residuals: of y, then of w
    const auto rounding_of = [&](const reference::vector& solution, const reference::vector& products) {
      const double through = std::sqrt(number(row.p.dot(products.cwiseAbs2())));
      return (largest_weight + of_d + unit.sum(static_cast<double>(n))) * spread * through +
             2 * of_mean * number(solution.norm()) * spread + unit.eps * ridge * number(solution.norm());
    };
    const bool solves = ridge < HUGE_VAL;
    const reference::vector u = row.x.transpose() * row.p.cwiseProduct(c);
    double of_u = 0, mean_c = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const auto i = static_cast<index_t>(j);
      of_difference.push_back(of_e * gain[j] + mean_gain);
      of_u +=
          p[j] * ((weight[j] + unit.sum(static_cast<double>(n))) * number(std::abs(c(i))) + of_difference[j]) * size[j];
      mean_c += p[j] * number(std::abs(c(i)));
    }
    of_u += (of_mean + unit.eps * key) * mean_c;
    const double of_r = of_mean + unit.eps * (key + number(row.q.norm()));
    const double residual_y = solves ? left * number((row.q - row.mean).norm()) + of_r + rounding_of(d.y, t_of) : 0,
                 residual_w = solves ? left * number(u.norm()) + of_u + rounding_of(d.w, r_of) : 0;
    y = solves ? residual_y / ridge + unit.eps * number(d.y.norm()) : 0;
    w = solves ? residual_w / ridge + unit.eps * number(d.w.norm()) : 0;
    of_dridge = y * number(d.w.norm()) + w * number(d.y.norm()) + of_d * number(d.w.cwiseAbs().dot(d.y.cwiseAbs()));

    double mean = 0, of_dp_mean = 0;
    std::vector<double> dp, of_dp;
    for (std::size_t j = 0; j < n; ++j) {
      const auto i = static_cast<index_t>(j);
      t.push_back(number(t_of(i))), r.push_back(number(r_of(i)));
      const double difference = number(c(i)), a = std::abs(1 + t[j]);
      // the products with the mean key are rounded too: |k| and not |x|
      const double rounding_t = (of_d * (size[j] + key) + of_mean) * number(d.y.norm()),
                   rounding_r = (of_d * (size[j] + key) + of_mean) * number(d.w.norm());
      of_y.push_back(solves ? moved(j, residual_y) + p[j] * rounding_t : 0);
      of_w.push_back(solves ? moved(j, residual_w) + p[j] * rounding_r : 0);
      dp.push_back(number(b(i)) + difference * t[j] - r[j] * (1 + t[j]));
      of_dp.push_back(p[j] * (of_e * gain[j] + of_difference[j] * std::abs(t[j]) + 4 * unit.eps * std::abs(dp[j])) +
                      (std::abs(difference) + std::abs(r[j])) * of_y[j] + a * of_w[j]);
      mean += p[j] * dp[j];
    }
    for (std::size_t j = 0; j < n; ++j) of_dp_mean += of_dp[j] + p[j] * (weight[j] + of_d) * std::abs(dp[j]);
    for (std::size_t j = 0; j < n; ++j) {
      const double a = std::abs(1 + t[j]), of_score = std::abs(number(d.ds(static_cast<index_t>(j))));
      dv.push_back(weight[j] * p[j] * a + of_y[j] + unit.least);
      ds.push_back(p[j] * weight[j] * std::abs(dp[j] - mean) + of_dp[j] + p[j] * of_dp_mean +
                   unit.least * (1 + std::abs(dp[j])));
      dx.push_back(ds[j] * pairs[j].slope + of_score * pairs[j].term_error);
      dy.push_back(ds[j] * pairs[j].slope + of_score * pairs[j].slope_error);
      factor.push_back(number(c(static_cast<index_t>(j))) - r[j]);
    }
  }

  // The error of dL/dk_j in dimension i but for the scores
  double of_key(std::size_t j, index_t i) const {
    const double a = std::abs(1 + t[j]), yd = number(std::abs(d.y(i))), wd = number(std::abs(d.w(i)));
    return weight[j] * p[j] * (std::abs(factor[j]) * yd + a * wd) + (p[j] * of_difference[j] + of_w[j]) * yd +
           of_y[j] * wd + p[j] * (std::abs(factor[j]) * y + a * w);
  }
};

template <class T>
expected_fit expected(const local_linear_backward<T>& x, const heed::per_head& ridge,
                      const heed::local_linear::options<T>& options, double left_by_solver) {
  expected_fit all = values(x, ridge, options);
  const gradient_rounding unit = gradient_rounding_of<T>(x.s.keys);
  const heed::reference::detail::pair_rules<T, heed::local_linear::options<T>> rules{options, x.s.dim};
  const index_t heads = x.s.out_heads();
  const auto count = [](index_t n) { return static_cast<double>(n); };
  const double of_q = unit.sum(count(x.s.keys * (heads / std::max<index_t>(1, x.s.heads)))),
               of_k = unit.sum(count(x.s.queries * (heads / std::max<index_t>(1, x.s.kv_heads)))),
               of_bias = unit.sum(count(x.s.batch * heads) * count(x.s.queries * x.s.keys) /
                                  std::max(1.0, count(static_cast<index_t>(all.dbias.value.size())))),
               of_ridge = unit.sum(count(x.s.batch * x.s.queries));
  const auto number = [](reference::real a) { return static_cast<double>(a); };
  reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), options, [&](const reference::row& row) {
    if (row.at.empty()) return;
    const index_t b = row.batch, q_head = row.head * x.s.heads / heads, kv_head = row.head * x.s.kv_heads / heads;
    const reference::vector g = reference::row_of<reference::real>(x.dout.cview(), b, row.head, row.query);
    const double penalty = ridge.at(row.head), scale = std::abs(rules.scale());
    fit_errors<T> error{unit,
                        row,
                        rules,
                        penalty,
                        left_by_solver,
                        reference::differentiate(row, g, penalty),
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {},
                        {}};
    error.find(g);
    all.dridge.allowed[static_cast<std::size_t>(row.head)] +=
        error.of_dridge + of_ridge * std::abs(error.d.dridge) + unit.least;
    for (index_t i = 0; i < x.s.dim; ++i)
      all.dq.allowed[all.dq.at(b, q_head, row.query, i)] +=
          error.w + of_q * number(std::abs(error.d.w(i))) + unit.least;
    for (std::size_t j = 0; j < row.at.size(); ++j) {
      const auto at = static_cast<index_t>(j), key = row.s->first_key + row.at[j].key;
      const auto chain = rules.derivatives_of(*row.s, row.at[j], row.dots[j]);
      const double ds = number(std::abs(error.d.ds(at))), dy = ds * std::abs(chain.by_product);
      for (index_t i = 0; i < x.s.dim; ++i) {
        all.dq.allowed[all.dq.at(b, q_head, row.query, i)] +=
            scale * (error.dy[j] + of_q * dy) * number(std::abs(row.k(at, i))) + unit.least;
        all.dk.allowed[all.dk.at(b, kv_head, key, i)] +=
            scale * (error.dy[j] + of_k * dy) * number(std::abs(row.q(i))) + error.of_key(j, i) +
            of_k * number(std::abs(error.d.dk(at, i))) + unit.least;
      }
      for (index_t e = 0; e < x.s.value_dim; ++e)
        all.dv.allowed[all.dv.at(b, kv_head, key, e)] +=
            (error.dv[j] + of_k * number(std::abs(error.d.dv(at)))) * number(std::abs(g(e))) + unit.least;
      if (!all.dbias.value.empty())
        all.dbias.allowed[all.dbias.at(b, row.head, row.query, key)] +=
            error.dx[j] + of_bias * ds * std::abs(chain.by_terms) + unit.least;
    }
  });
  return all;
}

#define INSTANTIATE(T)                                                                      \
  template expected_fit expected<T>(const local_linear_backward<T>&, const heed::per_head&, \
                                    const heed::local_linear::options<T>&, double);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace heed_test
