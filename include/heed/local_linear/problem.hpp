// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/options.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/simd/float_control.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> struct problem : pairwise::attention<T> {
  const options<T>& opt;
  heed::detail::per_head_view ridge = {};  // forward
  tensor_view<const T, 4> given = {};  // apply: the slopes
  bool solves = true;                  // forward, not apply
};

// A tensor shaped like q but with the heads of o
template <class T, class Element>
void check_rows(heed::detail::checker& check, const char* name, const tensor_view<Element, 4>& x, const problem<T>& p) {
  check.tensor(name, x, true);
  heed::detail::check_extents(check, name, x, {p.q.extent(0), p.heads, p.q.extent(2), p.d}, false);
}

template <class T>
void check_output(heed::detail::checker& check, const char* name, const tensor_view<T, 4>& x, const problem<T>& p) {
  if (x.data() == nullptr) return;
  check_rows(check, name, x, p);
  check.written(name, x);
  check.distinct(name, x, "q", p.q), check.distinct(name, x, "k", p.k), check.distinct(name, x, "v", p.v);
  check.distinct(name, x, "o", p.o), check.distinct(name, x, "lse", p.lse);
  check.distinct(name, x, "bias", p.scores.bias);
}

inline constexpr index_t most_dim = index_t(1) << 24;  // whose matrices have sizes that fit in index_t

template <class T> bool check_call(const problem<T>& p, heed::detail::problem_text& text) {
  heed::detail::checker check(text);
  pairwise::check_attention(check, p);
  check.require(p.d <= most_dim, "q has head dim ", p.d, ", local_linear takes at most ", most_dim);
  check_output(check, "mean_key", p.opt.mean_key, p);
  if (!p.solves) {
    check_rows(check, "slope", p.given, p);
    check.distinct("o", p.o, "slope", p.given), check.distinct("mean_key", p.opt.mean_key, "slope", p.given);
    check.distinct("lse", p.lse, "slope", p.given);
    return check.ok();
  }
  check_output(check, "slope", p.opt.slope, p);
  check.distinct("slope", p.opt.slope, "mean_key", p.opt.mean_key);
  check.require(p.opt.tolerance > 0, "tolerance is ", p.opt.tolerance, ", must be more than 0");
  check.require(p.opt.max_iterations >= 1, "max_iterations is ", p.opt.max_iterations, ", must be at least 1");
  check.require(p.ridge.set(), "ridge has no numbers, needs one or ", p.heads);
  check.require(!p.ridge.one_each() || p.ridge.size() == p.heads, "ridge has ", p.ridge.size(), " entries, o has ",
                p.heads, " heads");
  check.distinct("o", p.o, "ridge", p.ridge), check.distinct("lse", p.lse, "ridge", p.ridge);
  check.distinct("slope", p.opt.slope, "ridge", p.ridge), check.distinct("mean_key", p.opt.mean_key, "ridge", p.ridge);
  const auto kind = static_cast<index_t>(p.opt.solver);
  check.require(kind >= 0 && kind <= static_cast<index_t>(solver::direct), "solver is ", kind,
                ", must be one of the enumerators");
  const simd::flush_to_zero numbers;  // a subnormal ridge counts as 0, here as in tasks
  for (index_t h = 0; check.ok() && h < (p.ridge.one_each() ? p.heads : 1); ++h)
    check.require(p.ridge.at(h) > 0, "ridge[", h, "] is ", p.ridge.at(h), ", must be more than 0");
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
