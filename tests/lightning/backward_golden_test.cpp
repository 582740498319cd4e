// SPDX-License-Identifier: BSD-3-Clause

// Golden gradients: numbers that others computed, in float and double, in whole chunks and in odd ones. All of them
// are compared.

#include <string>

#include "support/catch.hpp"
#include "support/golden_recurrent_backward.hpp"
#include "support/recurrent_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("lightning");
  REQUIRE(file.cases().size() == 18);
  for (const heed::index_t chunk : {0, 3, 64}) {
    int count = 0;
    for (const std::string& name : file.cases()) {
      if (name == "slope_tables") continue;  // tests/core/slopes_test.cpp
      golden_backward<T, golden_lightning<T>> x(file, name);
      x.options.chunk = chunk;
      const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
      heed::lightning::gradients<T> asked;
      x.ask(asked);
      run_backward<T>({q, k, v, {}, x.dout.template cview<4>()}, x.decay, asked, x.options, {});
      std::string of;
      const double worst = x.error(of);
      INFO(name << ", chunk " << chunk << ": " << of << " off by " << worst << " of what is allowed");
      CHECK(worst <= 1);
      count += x.count;
    }
    CHECK(count == 17 * 3 + 13 + 8 + 4);  // dq, dk, dv; slopes; initial states; gates
  }
}

}  // namespace

TEST_CASE("golden gradients in float") { run_all<float>(); }
TEST_CASE("golden gradients in double") { run_all<double>(); }
