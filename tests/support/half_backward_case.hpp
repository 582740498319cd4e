// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of softmax::backward with tensors of any storage types.

#include "support/half_case.hpp"
#include "support/softmax_backward_case.hpp"

namespace heed_test {

// The numbers as floats, rounded to what is stored; the tensors that hold them
struct half_backward : backward_case<float> {
  stored_tensors at;
  stored_buffer stored_dout;

  half_backward(const type_mix& types, stored of_dout, const shape& size, const heed::softmax::options<float>& how = {},
                const layouts& in = {}, const gradient_layouts& of = {})
      : backward_case<float>(size, how, {.lse = in.lse, .skew = in.skew}, of),
        at(*this, types, in),
        stored_dout(stored_buffer::input(of_dout, dout.size(), of.dout, in.skew)) {
    stored_dout.take(dout);
  }
  void take() const { at.take(*this), stored_dout.take(dout); }
  stored_call call() const { return {at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()}; }

  // o and lse as exact as they can be stored, or by forward of the stored tensors
  void forward_in_float() {
    take();
    backward_case<float>::forward();
    at.o.take(o);
  }
  exactness forward_as_stored() {
    take();
    const heed::plan plan = plan_stored(call(), options, {});
    run_stored(call(), options, {});
    at.o.copy_to(o);
    const bool rounds = at.types.all_bf16() && !sums_in_float(plan);
    return {rounds ? rounded_weights : 0, rounding_of(at.types.o)};
  }
  void backward(const heed::context& ctx = {}) {
    run_stored_backward({call(), stored_dout.cview()}, wanted, options, ctx);
  }
  std::uint64_t hash() const { return at.hash() ^ 7 * at.o.hash() ^ 11 * stored_dout.hash() ^ 13 * dlse.hash(); }
};

}  // namespace heed_test
