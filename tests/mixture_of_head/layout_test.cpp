// SPDX-License-Identifier: BSD-3-Clause

// The result does not depend on how tensors and gates lie in memory: the same bits in every layout; and double.

#include <iterator>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/far_layouts.hpp"
#include "support/mixture_case.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{2, 4, 2, 37, 53, 20, 12}, {2, 2, 1, 3, 41, 9, 5}, {2, 3, 3, 70, 19, 16, 17}};

}  // namespace

TEST_CASE("every layout of every tensor: the same bits") {
  for (const shape& s : shapes) {
    mixture_case<float> plain(s, gating::random, {.mask = heed::causal()});
    check_mixture(plain);
    for (std::size_t turn = 0; turn < std::size(output_layouts) * 2; ++turn) {
      const auto pick = [&](std::size_t step) {
        return output_layouts[(turn * step + step) % std::size(output_layouts)];
      };
      const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
      INFO(name_of(in.q) << ", gates " << name_of(pick(1)) << " -> " << name_of(in.o));
      mixture_case<float> x(s, gating::random, {.mask = heed::causal()}, in, pick(1));
      check_mixture(x);
      CHECK((same_bits(x.o, plain.o) && same_bits(x.lse, plain.lse)));
    }
  }
}

TEST_CASE("rows far apart: the same bits, and the plan says which are copied") {
  mixture_case<float> x({1, 4, 2, 90, 400, 64, 32}, gating::random, {.mask = heed::causal()});
  x.mix();
  for (const far_layout& how : far_layouts) {
    INFO(how.name);
    const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
    moved<float> o(x.o.size(), how);
    run_mixture<float>(q.cview(), k.cview(), v.cview(), x.gates.view3(), o.view(), x.options, {});
    CHECK(o.holds(x.o));
    const heed::plan plan =
        run_mixture_plan<float>(q.cview(), k.cview(), v.cview(), x.gates.view3(), o.view(), x.options, {});
    const bool copied = std::string(plan.why.data()).find("rows of v copied") != std::string::npos;
    CHECK(copied == (how.apart >= 1024));
  }
}

TEST_CASE("double: patterns and layouts") {
  for (const shape& s : shapes)
    for (const gating how : gatings) {
      INFO(name_of(how));
      mixture_case<double> x(s, how, {.mask = heed::causal()}, {.o = layout::bshd}, layout::bshd);
      check_mixture(x);
    }
}

TEST_CASE("gates that all heads or all batch entries share") {
  for (const layout shared : {layout::shared_batch, layout::shared_heads})
    for (const shape& s : shapes) {
      mixture_case<float> x(s, gating::random, {}, {}, shared);
      check_mixture(x);
    }
}

TEST_CASE("Eigen: one row of gates per head, or one per token") {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  constexpr index_t n = 40, heads = 4, dim = 8;
  mixture_case<float> x({1, heads, heads, n, n, dim, dim});
  x.mix();
  matrix by_head(heads, n), by_token(n, heads);
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < n; ++i) by_head(h, i) = by_token(i, h) = x.gates(0, h, i);
  auto o = buffer<float>::output(x.o.size());
  run_mixture<float>(x.q.cview(), x.k.cview(), x.v.cview(), by_head, o.view(), {}, {});
  CHECK(same_bits(o, x.o));
  o.poison();
  run_mixture<float>(x.q.cview(), x.k.cview(), x.v.cview(), by_token.transpose(), o.view(), {}, {});
  CHECK(same_bits(o, x.o));
}
