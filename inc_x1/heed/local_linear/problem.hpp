// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/options.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/simd/float_control.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> struct problem : pairwise::attention<T> {
  HEED_INLINE problem(const options<T>& given_options, const tile::call_rows<T>& x)
      : pairwise::attention<T>(given_options, x), opt(given_options) {}

  const options<T>& opt;
  heed::detail::per_head_view ridge = {};  // forward
  tensor_view<const T, 4> given = {};      // apply: the slopes
  bool solves = true;                      // forward, not apply
};

// Checks a tensor shaped like q but with the heads of o.
template <class T>
void check_rows(heed::detail::checker& check, const heed::detail::named_tensor& x, const problem<T>& p) {
  const index_t full[] = {p.q.extent(0), p.heads, p.q.extent(2), p.d};
  check.tensor(x, true), check.extents(x, full, false);
}

template <class T>
void check_output(heed::detail::checker& check, const heed::detail::named_tensor& x, const problem<T>& p) {
  if (x.data == nullptr) return;
  check_rows(check, x, p);
  check.written(x);
  const heed::detail::named_tensor others[] = {{"q", p.q}, {"k", p.k},     {"v", p.v},
                                               {"o", p.o}, {"lse", p.lse}, {"bias", p.scores.bias}};
  for (const heed::detail::named_tensor& other : others) check.distinct(x, other);
}

inline constexpr index_t most_dim = index_t(1) << 24;  // whose matrices have sizes that fit in index_t

template <class T> void check_call(heed::detail::checker& check, const problem<T>& p) {
  using heed::detail::named_tensor;
  const named_tensor o("o", p.o), lse("lse", p.lse), mean_key("mean_key", p.opt.mean_key), slope("slope", p.opt.slope),
      given("slope", p.given), ridge("ridge", p.ridge);
  pairwise::check_attention(check, pairwise::attention_shapes(p));
  check.require(p.d <= most_dim, "q has head dim %, local_linear takes at most %", p.d, most_dim);
  check_output(check, mean_key, p);
  if (!p.solves) {
    check_rows(check, given, p);
    check.distinct(o, given), check.distinct(mean_key, given), check.distinct(lse, given);
    return;
  }
  check_output(check, slope, p);
  check.distinct(slope, mean_key);
  check.require(p.opt.tolerance > 0, "tolerance is %, must be more than 0", p.opt.tolerance);
  check.require(p.opt.max_iterations >= 1, "max_iterations is %, must be at least 1", p.opt.max_iterations);
  check.require(p.ridge.set(), "ridge has no numbers, needs one or %", p.heads);
  check.require(!p.ridge.one_each() || p.ridge.size() == p.heads, "ridge has % entries, o has % heads", p.ridge.size(),
                p.heads);
  for (const named_tensor* const each : {&o, &lse, &slope, &mean_key}) check.distinct(*each, ridge);
  const auto kind = static_cast<index_t>(p.opt.solver);
  check.require(kind >= 0 && kind <= static_cast<index_t>(solver::direct),
                "solver is %, must be one of the enumerators", kind);
  const simd::flush_to_zero numbers;  // a subnormal ridge counts as 0, here as in tasks
  for (index_t h = 0; check.ok() && h < (p.ridge.one_each() ? p.heads : 1); ++h)
    check.require(p.ridge.at(h) > 0, "ridge[%] is %, must be more than 0", h, p.ridge.at(h));
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
