// SPDX-License-Identifier: BSD-3-Clause
// Compiled once per machine, with MACHINE as its name; with EVERY_VERB in float, with BOTH_TYPES in double too.
#include "machine.hpp"

#include "../every_verb.hpp"

namespace {

using input = heed::tensor_view<const float, 4>;
using output = heed::tensor_view<float, 4>;

void forward(input q, input k, input v, output o, const heed::softmax::options<>& options, const heed::context& ctx) {
  heed::softmax::forward(q, k, v, o, options, ctx);
}

heed::plan plan(input x, output o) { return heed::softmax::plan_forward(x, x, x, o); }

// Never called: what it instantiates is looked at.
bool use_every_verb([[maybe_unused]] const void* of_float, [[maybe_unused]] const void* of_double) {
#ifdef BOTH_TYPES
  if (!every_verb<double>::use(*static_cast<const every_verb<double>*>(of_double))) return false;
#endif
#ifdef EVERY_VERB
  return every_verb<float>::use(*static_cast<const every_verb<float>*>(of_float));
#else
  return of_float == of_double;
#endif
}

}  // namespace

const machine MACHINE{forward, plan, use_every_verb};
