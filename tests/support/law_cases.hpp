// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Random calls for laws that hold across kernels, their parts, and comparisons of results.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "support/catch.hpp"
#include "support/law_call.hpp"
#include "support/shapes.hpp"

namespace heed_test {

law_call random_call(kernel of, number_type type, random_numbers& random);

// f(call, random) of `count` random calls of each kernel and type, with what they are should a check fail. `law` makes
// the calls of one law others than those of another, and HEED_LAW_SEED in the environment all of them.
template <class Kernels, class Types, class F>
void each_law_case(std::uint32_t law, const Kernels& kernels, const Types& types, std::uint32_t count, F f) {
  const char* const more = std::getenv("HEED_LAW_SEED");
  const std::uint32_t base = law + 1000 * static_cast<std::uint32_t>(more == nullptr ? 0 : std::atoi(more));
  const std::uint32_t cases = thinning == 1 ? count : (count + 7) / 8;
  for (const kernel of : kernels)
    for (const number_type type : types)
      for (std::uint32_t i = 0; i < cases; ++i) {
        const std::uint32_t seed =
            base * 100000 + static_cast<std::uint32_t>(of) * 10000 + static_cast<std::uint32_t>(type) * 1000 + i;
        random_numbers random(seed);
        law_call x = random_call(of, type, random);
        INFO("seed " << seed << ": " << to_string(x));
        f(x, random);
      }
}

// Parts of a call. Heads: those that key/value heads [first, first + count) serve.
law_call sequences_of(const law_call& x, index_t first, index_t count);
law_call heads_of(const law_call& x, index_t first, index_t count);
law_call keys_of(const law_call& x, index_t first, index_t count);     // of no mask
law_call queries_of(const law_call& x, index_t first, index_t count);  // in their places
law_call tokens_of(const law_call& x, index_t first, index_t count);   // recurrent kernels: of every tensor

// Every entry of an axis in random order
std::vector<index_t> shuffled(index_t count, random_numbers& random);

// What a result may be off by rounding: a bound from the sizes of the call, in units of the tolerances that the tests
// beside the reference use. Gradients: sums in double only.
double allowed_error(const law_call& x, const std::string& name, bool rounded_weights = false);

// "", or where numbers differ in any bit, or by more than is allowed
std::string other_bits(const law_numbers& a, const law_numbers& b);
std::string other_bits(const law_results& a, const law_results& b);
std::string too_far(const law_numbers& a, const law_numbers& b, double allowed);
std::string too_far(const law_call& x, const law_results& a, const law_results& b);  // results of b that a has, too

}  // namespace heed_test
