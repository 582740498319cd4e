// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of local_linear::decode beside the reference, compared as forward is.

#include <vector>

#include "support/decode_case.hpp"
#include "support/local_linear_case.hpp"

namespace heed_test {

// tokens: q, the cache and o as it is stored; fit: o as numbers, and everything else that is written
template <class T> struct local_linear_decode {
  decode_case<T> tokens;
  local_linear_case<T> fit;

  explicit local_linear_decode(const decode_problem& p, const heed::per_head& ridge,
                               const heed::local_linear::options<T>& how = {})
      : tokens(p), fit(p.as_shape(), ridge, how) {}

  void decode(const heed::context& ctx = {}) {
    tokens.run([&](const decode_call<T>& x) { run_decode<T>(x, fit.ridge, fit.options, ctx); });
    copy(tokens.o, fit.o);
  }
  heed::plan plan(const heed::context& ctx = {}) const {
    return plan_decode<T>(tokens.call(), fit.ridge, fit.options, ctx);
  }

 private:
  static void copy(const buffer<T>& from, const buffer<T>& to) {
    const auto [batch, heads, rows, dim] = from.size();
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < rows; ++i)
          for (index_t d = 0; d < dim; ++d) to(b, h, i, d) = from(b, h, i, d);
  }
};

// Compiled once for all tests, in local_linear_fitted.cpp
template <class T> std::vector<fitted_row> fitted(const local_linear_decode<T>& x);

template <class T> void check(local_linear_decode<T>& x, const std::vector<fitted_row>& rows) {
  INFO(to_string(x.tokens.p) << ", " << name_of(x.fit.options.solver));
  const heed::plan plan = x.plan();
  INFO(plan.path << "; " << plan.problem.data());
  if constexpr (!std::is_same_v<T, double>) x.tokens.stored_q.take(x.tokens.q);
  const std::uint64_t before = x.tokens.hash();
  x.decode();
  const storage_rounding o = std::is_same_v<T, double> ? storage_rounding{} : rounding_of(x.tokens.p.stored_o);
  const verdict result = compare(x.fit, rows, o);
  INFO(result.where);
  const bool unchanged = x.tokens.hash() == before;
  const bool canaries = x.tokens.kept_canaries() && x.fit.lse.canaries_alive() && x.fit.slope.canaries_alive() &&
                        x.fit.mean.canaries_alive();
  const bool filled = all_written(x.tokens.o) && all_written(x.fit.lse) && all_written(x.fit.slope) &&
                      all_written(x.fit.mean);
  CHECK(plan.ok());
  CHECK(result.worst <= 1);
  CHECK(unchanged);
  CHECK(canaries);
  CHECK(filled);
}

// With every solver
template <class T>
void check_fits(const decode_problem& p, const heed::per_head& ridge, const heed::local_linear::options<T>& how = {}) {
  std::vector<fitted_row> rows;
  for (const solver solve : solvers) {
    local_linear_decode<T> x(p, ridge, how);
    x.fit.options.solver = solve;
    if (solve == solvers[0]) rows = fitted(x);
    check(x, rows);
  }
}

template <class T> bool same_results(const local_linear_decode<T>& a, const local_linear_decode<T>& b) {
  return same_bits(a.fit.o, b.fit.o) && same_bits(a.fit.lse, b.fit.lse) && same_bits(a.fit.slope, b.fit.slope) &&
         same_bits(a.fit.mean, b.fit.mean);
}

}  // namespace heed_test
