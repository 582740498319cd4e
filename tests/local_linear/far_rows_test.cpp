// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart are copied, those of K once for all passes of a task: the same bits as rows end to end.

#include <cstddef>
#include <iterator>
#include <string>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

void check_all(local_linear_case<float> x, std::size_t layouts = thinning == 1 ? std::size(far_layouts) : 2) {
  x.forward();
  for (std::size_t i = 0; i < layouts; ++i) {
    const far_layout& how = far_layouts[i];
    INFO(how.name << ", " << to_string(x.s) << ", " << name_of(x.options.solver));
    const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
    moved<float> o(x.o.size(), how), slope(x.slope.size(), how);
    auto options = x.options;
    options.slope = slope.view();
    heed::local_linear::report report;
    options.report = &report;
    test_executor executor(3, order::shuffled);
    run_forward<float>(q.cview(), k.cview(), v.cview(), x.ridge, o.view(), options, {.executor = executor});
    CHECK(o.holds(x.o));
    CHECK(slope.holds(x.slope));
    CHECK(report.mean_iterations == x.report->mean_iterations);
  }
}

}  // namespace

TEST_CASE("the same bits wherever the rows lie, with each solver") {
  for (const solver how : solvers)
    for (const shape& s : {shape{1, 3, 3, 70, 600, 64, 32}, {1, 4, 2, 40, 290, 20, 17}}) {
      check_all(local_linear_case<float>(s, 0.5, {.solver = how}));
      check_all(local_linear_case<float>(s, 0.5, {.mask = heed::causal(), .solver = how}));
    }
}

TEST_CASE("keys beyond those that are copied once and those whose weights are kept: the same bits") {
  check_all(local_linear_case<float>({1, 1, 1, 3, 17500, 64, 8}, 0.5, {.solver = solver::conjugate_gradient}), 1);
}

TEST_CASE("the plan says which rows are copied") {
  local_linear_case<float> x({1, 4, 4, 70, 300, 64, 64});
  const far_layout& how = far_layouts[0];
  const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
  moved<float> o(x.o.size(), how);
  heed::local_linear::options<float> options;
  const heed::plan far = run_plan_forward<float>(q.cview(), k.cview(), v.cview(), x.ridge, o.view(), options, {});
  const std::string why = far.why.data();
  CHECK(why.find("rows of k copied, stride 4096 bytes; rows of v copied, stride 4096 bytes") != std::string::npos);
  CHECK(std::string(x.plan().why.data()).find("copied") == std::string::npos);
}
