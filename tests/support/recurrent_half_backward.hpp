// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of linear and lightning attention with tensors of any storage types; gradients, states and gates are float.
// Widening is exact and all sums are those of the float call: gradients must have its bits.

#include <cstddef>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/lightning_backward_case.hpp"
#include "support/messages.hpp"
#include "support/stored.hpp"
#include "support/stored_run.hpp"

namespace heed_test {

inline void run_stored(const stored_backward_call& c, const linear_backward_case<float>& x, const heed::context& ctx) {
  run_stored_backward(c, x.asked, x.options, ctx);
}
inline void run_stored(const stored_backward_call& c, const lightning_backward_case<float>& x,
                       const heed::context& ctx) {
  run_stored_backward(c, x.decay(), x.asked, x.options, ctx);
}
inline heed::plan plan_stored(const stored_backward_call& c, const linear_backward_case<float>& x,
                              const heed::context& ctx) {
  return plan_stored_backward(c, x.asked, x.options, ctx);
}
inline heed::plan plan_stored(const stored_backward_call& c, const lightning_backward_case<float>& x,
                              const heed::context& ctx) {
  return plan_stored_backward(c, x.decay(), x.asked, x.options, ctx);
}

// The tensors of a case as they are stored, whose numbers it holds from then on. types: of q and o, of k and v, of dout
template <class Case> struct stored_inputs {
  stored_buffer q, k, v, o, dout;

  stored_inputs(Case& x, const type_mix& types, const layouts& in = {})
      : q(stored_buffer::input(types.q, x.q.size(), in.q, in.skew)),
        k(stored_buffer::input(types.kv, x.k.size(), in.k, in.skew)),
        v(stored_buffer::input(types.kv, x.v.size(), in.v, in.skew)),
        o(stored_buffer::input(types.q, x.o.size(), in.o, in.skew)),
        dout(stored_buffer::input(types.o, x.dout.size(), in.o, in.skew)) {
    q.take(x.q), k.take(x.k), v.take(x.v), dout.take(x.dout);
    x.forward();
    o.take(x.o);
  }
  stored_backward_call call() const { return {q.cview(), k.cview(), v.cview(), o.cview(), dout.cview()}; }
  std::uint64_t hash() const { return q.hash() ^ 3 * k.hash() ^ 5 * v.hash() ^ 7 * o.hash() ^ 9 * dout.hash(); }
};

// make(): a case. edit(case) changes its numbers.
template <class Make, class Edit> void check_half(const type_mix& types, const Make& make, const Edit& edit) {
  auto as_float = make(), x = make();
  edit(as_float), edit(x);
  const stored_inputs in(as_float, types), mine(x, types);
  INFO(to_string(x.s) << ", " << to_string(types) << ", chunk " << x.options.chunk);
  const std::uint64_t before = mine.hash();
  as_float.backward();
  run_stored(mine.call(), x, {});
  CHECK(same_gradients(x, as_float));
  CHECK(mine.hash() == before);
  CHECK((x.dq.canaries_alive() && x.dk.canaries_alive() && x.dv.canaries_alive() && x.ds0.canaries_alive()));
}
template <class Make> void check_half(const type_mix& types, const Make& make) {
  check_half(types, make, [](auto&) {});
}

// What both kernels have in common
template <class Make> void check_half_layouts(const Make& make) {
  for (const stored type : half_types) {
    auto plain = make();
    const stored_inputs in(plain, type_mix::all(type));
    run_stored(in.call(), plain, {});
    for (const layout how : output_layouts) {
      auto x = make();
      const stored_inputs mine(x, type_mix::all(type), {how, how, how, how, how, 1});
      run_stored(mine.call(), x, {});
      INFO(name_of(how) << ", " << name_of(type));
      CHECK(same_gradients(x, plain));
    }
    for (index_t workers = 1; workers <= 4; ++workers) {
      test_executor executor(workers, order::shuffled, workers > 2);
      auto x = make();
      const stored_inputs mine(x, type_mix::all(type));
      std::vector<std::byte> memory(plan_stored(mine.call(), x, {.executor = executor}).workspace_bytes);
      run_stored(mine.call(), x, {.executor = executor, .workspace = memory});
      CHECK(same_gradients(x, plain));
    }
  }
}

// The plan is that of a float call, but for the scratch; a refusal is thrown before anything is written.
template <class Make> void check_half_plans(const Make& make) {
  each_mix([&](const type_mix& types) {
    auto x = make(), as_float = make();
    const stored_inputs in(x, types);
    const heed::plan plan = plan_stored(in.call(), x, {}), plain = as_float.plan_backward();
    REQUIRE(plan.ok());
    CHECK((std::string(plan.path) == plain.path && plan.chunk == plain.chunk && plan.tasks == plain.tasks));
    stored_backward_call bad = in.call();
    bad.v = bad.k;  // with more columns than dout
    const std::string text = thrown_by([&] { run_stored(bad, x, {}); });
    INFO(text);
    CHECK(!text.empty());
    CHECK(text == plan_stored(bad, x, {}).problem.data());
    CHECK((x.dq.untouched() && x.dk.untouched() && x.dv.untouched() && x.ds0.untouched()));
  });
}

}  // namespace heed_test
