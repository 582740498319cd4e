// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0 (a subnormal gate is no gate), and the control register of the caller is what it was.

#include <string>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/mixture_case.hpp"

using namespace heed_test;
using heed::mixture_of_head::routing;

namespace {

constexpr shape shapes[] = {{1, 4, 2, 150, 130, 20, 12}, {2, 4, 1, 2, 70, 8, 9}};

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : shapes) {
    mixture_case<float> x(s);
    mixture_case<double> logits(s);
    check_control("forward", [&](const heed::context& where) { x.mix(where); });
    check_control("plan_forward", [&](const heed::context& where) { CHECK(x.mix_plan(where).ok()); });
    auto gates = buffer<float>::output(x.gates.size());
    check_control("route_by_norm", [&](const heed::context&) {
      run_route_by_norm<float>(x.q.cview(), {.shared = 1, .active = 1}, gates.view3());
    });
    auto routed = buffer<float>::input({s.batch, 3, s.queries, 1}),
         mix = buffer<float>::input({s.batch, 2, s.queries, 1});
    check_control("route_trained", [&](const heed::context&) {
      run_route_trained<float>(routed.view3(), {}, mix.view3(), {.shared = 1, .active = 1}, gates.view3());
    });
    check_control("errors", [&](const heed::context& where) {
      CHECK_THROWS_AS(run_route_by_norm<float>(x.q.cview(), {.shared = 9}, gates.view3()), heed::error);
      CHECK_THROWS_AS(run_route_trained<float>({}, {}, {}, {.shared = 1, .active = 1}, gates.view3()), heed::error);
      CHECK_THROWS_AS(run_mixture<float>(x.q.cview(), x.k.cview(), heed::slice(x.v.cview(), 2, 0, 0), x.gates.view3(),
                                         x.o.view(), x.options, where),
                      heed::error);
    });
  }
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[mixture_of_head]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes)
    for (const std::string which : {"q", "k", "v", "gates"}) {
      INFO(to_string(s) << ", " << which);
      mixture_case<T> x(s), zeroed(s);
      if (which == "q") make_subnormal(x.q, zeroed.q);
      if (which == "k") make_subnormal(x.k, zeroed.k);
      if (which == "v") make_subnormal(x.v, zeroed.v);
      if (which == "gates") make_subnormal(x.gates, zeroed.gates);
      check_mixture(x), check_mixture(zeroed);
      CHECK((same_bits(x.o, zeroed.o) && same_bits(x.lse, zeroed.lse)));
      CHECK(std::string(x.mix_plan().why.data()) == zeroed.mix_plan().why.data());
      auto gates = buffer<T>::output(x.gates.size()), zeroed_gates = buffer<T>::output(x.gates.size());
      const routing how{.shared = 1, .active = 2};
      run_route_by_norm<T>(x.q.cview(), how, gates.view3());
      run_route_by_norm<T>(zeroed.q.cview(), how, zeroed_gates.view3());
      CHECK(same_bits(gates, zeroed_gates));
    }
}

TEST_CASE("a router's gates below the smallest normal number are 0") {
  if (!flushes) return;
  auto routed = buffer<float>::input({1, 3, 4, 1}), gates = buffer<float>::output({1, 3, 4, 1});
  routed.each([](float& l) { l = 0; });
  for (index_t i = 0; i < 4; ++i) routed(0, 0, i) = static_cast<float>(86 + 2 * i);  // e^-88 is subnormal in float
  run_route_trained<float>(routed.view3(), {}, {}, {.active = 3}, gates.view3());
  CHECK(none_subnormal(gates));
  CHECK(gates(0, 1, 0) > 0);
  CHECK(gates(0, 1, 3) == 0);
}
