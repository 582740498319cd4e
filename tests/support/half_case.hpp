// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A softmax call with tensors of any storage types beside the reference. The case holds the numbers as floats, rounded
// to what is stored: widening is exact, so the reference of the floats is that of the call.

#include <cstring>
#include <string>

#include "support/softmax_case.hpp"
#include "support/stored_run.hpp"

namespace heed_test {

// Whether a plan is of the float engine, which rounds no weights.
inline bool sums_in_float(const heed::plan& plan) {
  const std::string path = plan.path;
  for (const char* name : {"softmax: head dim in lanes", "softmax: queries in lanes",
                           "softmax: queries in lanes, head dim in lanes for short sequences",
                           "mixture_of_head: head dim in lanes", "mixture_of_head: active queries in lanes",
                           "mixture_of_head: active queries in lanes, head dim in lanes where they are few",
                           "mixture_of_head: nothing active"})
    if (path == name) return true;
  return false;
}

// Base: softmax_case<float> or one that extends it
template <class Base> struct stored_case : Base {
  stored_tensors at;

  template <class... More>
  stored_case(const type_mix& types, const shape& size, const layouts& in, const More&... more)
      : Base(size, more...), at(*this, types, in) {}

  stored_call call() const { return {at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()}; }
  bool rounds_weights(const heed::plan& plan) const { return at.types.all_bf16() && !sums_in_float(plan); }
  exactness exact(const heed::plan& plan) const {
    return {rounds_weights(plan) ? rounded_weights : 0, rounding_of(at.types.o)};
  }
  // Runs run(call) on the numbers that the case has now, and reads its o.
  template <class Run> void run(const Run& run) { at.take(*this), run(call()), at.o.copy_to(this->o); }
  // What must hold of every call: results as compare() expects them, inputs unchanged, o and nothing else written
  template <class Run, class Compare> void check(const Run& run_call, const Compare& compare) {
    INFO(to_string(this->s) << ", " << to_string(at.types));
    at.take(*this);
    const std::uint64_t before = at.hash();
    run(run_call);
    const verdict result = compare();
    INFO(result.where);
    const bool kept = at.o.canaries_alive() && this->lse.canaries_alive();
    const bool filled = at.o.all_written() && (this->options.lse.data() == nullptr || all_written(this->lse));
    CHECK(result.worst <= 1);
    CHECK(at.hash() == before);
    CHECK(kept);
    CHECK(filled);
  }
};

struct half_case : stored_case<softmax_case<float>> {
  explicit half_case(const type_mix& types, const shape& size, const heed::softmax::options<float>& how = {},
                     const layouts& in = {}, std::uint32_t seed = 1)
      : stored_case(types, size, in, how, layouts{.lse = in.lse, .skew = in.skew}, seed) {}

  heed::plan plan(const heed::context& ctx = {}) const { return plan_stored(call(), options, ctx); }
  void forward(const heed::context& ctx = {}) {
    run([&](const stored_call& x) { run_stored(x, options, ctx); });
  }
};

inline void check(half_case& x, const heed::context& ctx = {}) {
  const exactness how = x.exact(x.plan(ctx));
  x.check([&](const stored_call& c) { run_stored(c, x.options, ctx); }, [&] { return compare(x, x.options, how); });
}
inline void check(const type_mix& types, const shape& s, const heed::softmax::options<float>& how = {},
                  const layouts& in = {}) {
  half_case x(types, s, how, in);
  check(x);
}

inline bool same_results(const half_case& a, const half_case& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse);
}

}  // namespace heed_test
