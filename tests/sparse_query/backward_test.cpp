// SPDX-License-Identifier: BSD-3-Clause

// sparse_query::backward: head counts of both directions beside the reference, the variants of a model, and the golden
// gradients.

#include <string>

#include "heed/sparse_query/choose_heads.hpp"
#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_softmax.hpp"
#include "support/softmax_backward_case.hpp"

using namespace heed_test;

namespace {

template <class T> void golden() {
  const golden_file file("sparse_query");
  int gradients = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_softmax<T> x(file, name);
    golden_gradients<T> d(file, name, {"dq", "dk", "dv"});
    gradients += d.count();
    const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    run_forward<T>(q, k, v, x.got_o.template view<4>(), x.options, {});
    run_backward<T>({q, k, v, x.got_o.template cview<4>(), d.dout.template cview<4>()},
                    {.dq = d.template view<4>("dq"), .dk = d.template view<4>("dk"), .dv = d.template view<4>("dv")},
                    x.options, {});
    CHECK(d.wrong() == "");
  }
  CHECK((file.cases().size() == 9 && gradients == 27));
}

}  // namespace

TEST_CASE("gradients of every variant: sums over the heads that share a query or key/value head") {
  using heed::sparse_query::variant;
  for (const variant kind : {variant::mha, variant::gqa, variant::mqa, variant::sqa, variant::ssqa, variant::xsqa,
                             variant::xsmqa, variant::lsqa, variant::rsqa}) {
    const auto heads = heed::sparse_query::choose_heads({.width = 256, .heads = 16, .variant = kind});
    INFO(heads.query_heads << " query heads, " << heads.kv_heads << " key/value heads");
    for (const index_t n : {1, 40}) {
      const shape s{2, heads.query_heads, heads.kv_heads, n, 50, heads.head_dim, heads.head_dim};
      CHECK(s.out_heads() == heads.out_heads);
      check_backward<float>(s, {.mask = heed::causal()});
      check_backward<double>(s, {.mask = heed::window(20)});
      CHECK(backward_case<float>(s).backward_plan().ok());
    }
  }
}

TEST_CASE("golden gradients of sparse query in float") { golden<float>(); }
TEST_CASE("golden gradients of sparse query in double") { golden<double>(); }
