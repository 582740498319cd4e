// SPDX-License-Identifier: BSD-3-Clause

// local_linear::backward of 16-bit tensors with gradients in float: every mix of types, under masks and options.

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_backward_case.hpp"
#include "support/softmax_options.hpp"
#include "support/stored_run.hpp"

using namespace heed_test;

namespace {

constexpr shape some_shapes[] = {{2, 4, 2, 37, 53, 20, 12}, {1, 1, 1, 40, 80, 33, 17}, {2, 2, 6, 3, 41, 9, 5}};

// The numbers as floats, rounded to what is stored; lse, slope and mean_key are those of a forward in float of them.
void check_stored(const type_mix& types, const shape& s, const heed::local_linear::options<float>& how, bool anew) {
  INFO(to_string(s) << ", " << to_string(types) << (anew ? ", anew" : ""));
  local_linear_backward<float> x(s, 0.5, how);
  const stored_tensors at(x, types, {});
  const stored_buffer dout = stored_buffer::input(types.o, x.dout.size(), layout::bhsd, 0);
  at.take(x), dout.take(x.dout);
  x.forward();
  const double left = x.report->max_residual;
  if (anew) x.forget();
  const std::uint64_t before = at.hash() ^ dout.hash();
  run_stored_local_linear_backward({{at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()}, dout.cview()}, 0.5,
                                   x.wanted, x.options, {});
  x.report->max_residual = std::max(x.report->max_residual, left);
  const verdict result = compare(x, expected(x));
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK((at.hash() ^ dout.hash()) == before);
  CHECK(at.o.untouched());
}

}  // namespace

TEST_CASE("16 bit: gradients of local linear attention of every mix of types") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool anew : {false, true})
        check_stored(types, s, {.mask = anew ? heed::causal() : heed::mask{}, .tolerance = 1e-6}, anew);
  });
}

TEST_CASE("16 bit: gradients of local linear attention under every option") {
  const shape s{2, 4, 2, 20, 35, 12, 9};
  const option_parts<float, heed::local_linear::options<float>> parts(s);
  for (const auto& each : parts.all) {
    INFO(each.name);
    for (const stored type : half_types)
      check_stored(type_mix::all(type), s, parts.of({&each}, parts.whole()), type == stored::f16);
  }
}
