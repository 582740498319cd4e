// SPDX-License-Identifier: BSD-3-Clause

// The golden cases: numbers that others computed, in float and double. All of them run, with every solver.

#include <string>

#include "support/catch.hpp"
#include "support/golden_local_linear.hpp"
#include "support/local_linear_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all(heed::local_linear::solver solver) {
  const golden_file file("local_linear");
  REQUIRE(file.cases().size() == 23);
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_local_linear<T> x(file, name);
    const input<T> q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    const output<T> o = x.got_o.template view<4>();
    heed::local_linear::report report;
    x.options.solver = solver, x.options.report = &report;
    if (x.given)
      run_apply<T>(q, k, v, x.slope.template cview<4>(), o, x.options, {});
    else
      run_forward<T>(q, k, v, x.ridge.data, o, x.options, {});
    CHECK(x.error() <= 1);
    // With few keys or a small ridge iterations in T end above this tolerance.
    CHECK((report.unconverged == 0 || solver == heed::local_linear::solver::conjugate_gradient));
  }
}

}  // namespace

TEST_CASE("golden cases in float") {
  run_all<float>(heed::local_linear::solver::automatic);
  run_all<float>(heed::local_linear::solver::conjugate_gradient);
  run_all<float>(heed::local_linear::solver::direct);
}
TEST_CASE("golden cases in double") {
  run_all<double>(heed::local_linear::solver::automatic);
  run_all<double>(heed::local_linear::solver::conjugate_gradient);
  run_all<double>(heed::local_linear::solver::direct);
}
