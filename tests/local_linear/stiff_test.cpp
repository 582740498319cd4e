// SPDX-License-Identifier: BSD-3-Clause

// Hard systems: small ridges, keys that are equal, few, large, or far from the origin. The direct solver and automatic
// are always right; conjugate gradients are right or say that they are not, in the report or by not_converged.

#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

template <class T> using problem = local_linear_case<T>;

template <class T> struct hard {
  std::string name;
  shape s;
  heed::local_linear::options<T> options;
  std::function<void(problem<T>&)> bend;
};

template <class T> void times(buffer<T>& x, double factor) {
  x.each([&](T& e) { e = static_cast<T>(factor * static_cast<double>(e)); });
}
template <class T> void plus(buffer<T>& x, double offset) {
  x.each([&](T& e) { e = static_cast<T>(offset + static_cast<double>(e)); });
}

template <class T> std::vector<hard<T>> hard_cases() {
  const shape s{1, 2, 1, 24, 60, 16, 5}, wide{1, 1, 1, 12, 10, 64, 5}, square{1, 1, 1, 40, 40, 16, 5};
  const auto with_keys = [](shape x, index_t keys) {
    x.keys = keys;
    return x;
  };
  const auto nothing = [](problem<T>&) {};
  const auto three_different = [](problem<T>& x) {
    for (index_t j = 3; j < x.s.keys; ++j)
      for (index_t d = 0; d < x.s.dim; ++d) x.k(0, 0, j, d) = x.k(0, 0, j % 3, d);
  };
  const auto keys_are_queries = [](problem<T>& x) {
    for (index_t j = 0; j < x.s.keys; ++j)
      for (index_t d = 0; d < x.s.dim; ++d) x.k(0, 0, j, d) = x.q(0, 0, j, d);
  };
  return {{"random", s, {}, nothing},
          {"causal", square, {.mask = heed::causal()}, nothing},
          {"3 different keys", s, {}, three_different},
          {"3 different keys, causal", square, {.mask = heed::causal()}, three_different},
          {"one key", with_keys(s, 1), {}, nothing},
          {"two keys", with_keys(s, 2), {}, nothing},
          {"10 keys in 64 dims", wide, {}, nothing},
          {"30 keys in 64 dims", with_keys(wide, 30), {}, nothing},
          {"70 keys in 64 dims", with_keys(wide, 70), {}, nothing},
          {"keys are queries", square, {}, keys_are_queries},
          {"keys are queries, causal", square, {.mask = heed::causal()}, keys_are_queries},
          {"large logits", s, {.scale = 30}, nothing},
          {"large logits, keys are queries", square, {.scale = 100}, keys_are_queries},
          {"large keys", s, {.scale = 1e-3}, [](problem<T>& x) { times(x.k, 300); }},
          {"large keys and queries", s, {.scale = 1e-5}, [](problem<T>& x) { times(x.k, 300), times(x.q, 300); }},
          {"small keys", s, {}, [](problem<T>& x) { times(x.k, 1e-3); }},
          {"keys far from the origin", s, {.scale = 1e-3}, [](problem<T>& x) { plus(x.k, 1000); }},
          {"keys and queries far from the origin", s, {.scale = 1e-3}, [](problem<T>& x) {
             plus(x.k, 100), plus(x.q, 100);
           }}};
}

template <class T> problem<T> make(const hard<T>& c, double ridge, solver how) {
  problem<T> x(c.s, ridge, c.options);
  x.options.solver = how;
  c.bend(x);
  return x;
}

// Without a report: the same o, and not_converged exactly where the report would count rows.
template <class T> void never_silent(const hard<T>& c, double ridge, const problem<T>& reported) {
  problem<T> x = make(c, ridge, solver::conjugate_gradient);
  x.options.report = nullptr;
  if (reported.report->unconverged > 0)
    CHECK_THROWS_AS(x.forward(), heed::not_converged);
  else
    x.forward();
  CHECK((same_bits(x.o, reported.o) && same_bits(x.slope, reported.slope) && same_bits(x.lse, reported.lse)));
}

template <class T> void all_hard_cases() {
  for (const hard<T>& c : hard_cases<T>())
    for (const double ridge : {1e-4, 0.1}) {
      INFO(c.name << ", ridge " << ridge);
      std::vector<fitted_row> rows;
      for (const solver how : solvers) {
        INFO(name_of(how));
        problem<T> x = make(c, ridge, how);
        if (rows.empty()) rows = fitted(x, x.ridge, x.options);
        if (how != solver::conjugate_gradient) {
          check(x, rows);
          continue;
        }
        x.forward();
        CHECK(all_written(x.o));
        CHECK((x.report->max_residual > x.options.tolerance) == (x.report->unconverged > 0));
        if (x.report->unconverged == 0) {
          const verdict result = compare(x, rows);
          INFO(result.where);
          CHECK(result.worst <= 1);
        }
        never_silent(c, ridge, x);
      }
    }
}

}  // namespace

TEST_CASE("hard cases in float") { all_hard_cases<float>(); }
TEST_CASE("hard cases in double") { all_hard_cases<double>(); }

TEST_CASE("the hard cases are hard: conjugate gradients fail in some, and in float in more") {
  const auto failures = [](const auto& cases) {
    int count = 0;
    for (const auto& c : cases) {
      auto x = make(c, 1e-4, solver::conjugate_gradient);
      x.options.max_iterations = 20;
      x.forward();
      count += x.report->unconverged > 0;
    }
    return count;
  };
  const int floats = failures(hard_cases<float>()), doubles = failures(hard_cases<double>());
  CHECK(doubles >= 1);
  CHECK(floats >= doubles);
}
