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
  const golden_file file("linear");
  REQUIRE(file.cases().size() == 20);
  for (const heed::index_t chunk : {0, 3, 64}) {
    int count = 0;
    for (const std::string& name : file.cases()) {
      golden_backward<T, golden_linear<T>> x(file, name);
      x.options.chunk = chunk;
      const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
      run_forward<T>({q, k, v, x.got_o.template view<4>()}, x.options, {});
      heed::linear::gradients<T> asked;
      x.ask(asked);
      run_backward<T>({q, k, v, x.got_o.template cview<4>(), x.dout.template cview<4>()}, asked, x.options, {});
      std::string of;
      const double worst = x.error(of);
      INFO(name << ", chunk " << chunk << ": " << of << " off by " << worst << " of what is allowed");
      CHECK(worst <= 1);
      count += x.count;
    }
    CHECK(count == 20 * 3 + 6 + 2);  // dq, dk, dv; initial states; their normalisers
  }
}

}  // namespace

TEST_CASE("golden gradients in float") { run_all<float>(); }
TEST_CASE("golden gradients in double") { run_all<double>(); }
