// SPDX-License-Identifier: BSD-3-Clause

// Laws of tokens: how they are cut into chunks, calls, or a prefix and a stream does not matter.

#include <string>
#include <vector>

#include "support/decode_case.hpp"
#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr kernel with_rows[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::linear,
                                kernel::local_linear};
constexpr kernel with_caches[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::local_linear};

kept kept_as(number_type type) {
  return type == number_type::bf16 ? kept::bf16 : type == number_type::f16 ? kept::f16 : kept::f32;
}
// A length of 1 .. most
index_t some_of(index_t most, random_numbers& random) {
  return 1 + static_cast<index_t>(random.below(static_cast<std::int32_t>(most)));
}

// As many queries as keys, causal
law_call as_stream(law_call x, random_numbers& random) {
  const index_t n = std::min(x.queries(), x.keys());
  x.mask = heed::causal();
  if (x.of != kernel::lightning) {
    x.q = x.q.part(2, 0, n), x.dout = x.dout.part(2, 0, n);
    x.k = x.k.part(2, 0, n), x.v = x.v.part(2, 0, n);
  } else {
    x.mask = {};
  }
  if (x.of == kernel::mixture_of_head) x.gates = x.gates.part(2, 0, n);
  x.bias = x.bias.part(2, 0, n).part(3, 0, n);
  if (!is_recurrent(x.of) && n > 3 && random.below(3) == 0) x.mask = x.mask & heed::window(n / 2);
  return x;
}

}  // namespace

TEST_CASE("chunks of any length: the same results") {
  each_law_case(21, recurrent_kernels, all_types, 12, [](const law_call& x, random_numbers& random) {
    const law_results chosen = forward(x);
    for (const index_t chunk : {index_t{1}, index_t{7}, some_of(80, random), index_t{512}}) {
      law_call y = x;
      y.chunk = chunk;
      INFO("chunk " << chunk);
      CHECK(too_far(x, forward(y), chosen) == "");
      if (x.type == number_type::f64) CHECK(too_far(x, backward(y), backward(x)) == "");
    }
  });
}

TEST_CASE("some queries at a time, in their places: their rows, and gradients that add up") {
  each_law_case(22, with_rows, all_types, 8, [](const law_call& x, random_numbers& random) {
    const law_results whole = forward(x);
    const bool exact_sums = x.type == number_type::f64;
    law_results rows, gradients;
    for (index_t first = 0, n = 0; first < x.queries(); first += n) {
      n = some_of(x.queries() - first, random);
      const law_call part = queries_of(x, first, n);
      const law_results here = forward(part);
      rows.rounded_weights = rows.rounded_weights || here.rounded_weights;
      for (const char* name : {"o", "lse", "slope", "mean_key"}) {
        const law_numbers upto = joined(2, rows[name], here[name]);
        std::erase_if(rows.each, [&](const auto& each) { return each.first == name; });
        rows.add(name, upto);
      }
      if (!exact_sums) continue;
      for (const auto& [name, numbers] : backward(part).each) {
        law_numbers sum = numbers, before = gradients[name];
        if (name == "dq" || name == "dgates") sum = joined(2, before, numbers);
        if (name == "dbias") sum = joined(2, before, numbers);
        if (name != "dq" && name != "dgates" && name != "dbias" && !before.empty())
          for (std::size_t i = 0; i < sum.all().size(); ++i) sum.all()[i] += before.all()[i];
        std::erase_if(gradients.each, [&, of = name](const auto& each) { return each.first == of; });
        gradients.each.push_back({name, sum});
      }
    }
    law_results expected = whole;
    std::erase_if(expected.each, [](const auto& each) { return each.first == "s" || each.first == "z"; });
    CHECK(too_far(x, rows, expected) == "");
    if (exact_sums) CHECK(too_far(x, gradients, backward(x)) == "");
  });
}

TEST_CASE("a prefix and then a stream: the rows and states of one call") {
  each_law_case(23, recurrent_kernels, all_types, 16, [](const law_call& some, random_numbers& random) {
    const law_call x = as_stream(some, random);
    const law_results whole = forward(x);
    law_call part = tokens_of(x, 0, some_of(x.keys(), random));
    law_results last = forward(part);
    law_numbers o = last["o"];
    for (index_t first = part.keys(), n = 0; first < x.keys(); first += n) {
      n = some_of(std::min<index_t>(x.keys() - first, 9), random);
      part = tokens_of(x, first, n);
      part.s0 = last["s"], part.z0 = last["z"];
      last = random.below(3) == 0 ? forward(part) : decode(part);
      o = joined(2, o, last["o"]);
    }
    law_results all;
    all.add("o", o), all.add("s", last["s"]), all.add("z", last["z"]);
    CHECK(too_far(x, all, whole) == "");
  });
}

TEST_CASE("a stream, token by token or several at a time: the same bits") {
  each_law_case(24, recurrent_kernels, all_types, 12, [](const law_call& some, random_numbers& random) {
    const law_call x = as_stream(some, random);
    const law_results whole = decode(x);
    law_results last;
    law_numbers o;
    for (index_t first = 0, n = 0; first < x.keys(); first += n) {
      n = random.below(2) == 0 ? 1 : some_of(x.keys() - first, random);
      law_call part = tokens_of(x, first, n);
      if (first > 0) part.s0 = last["s"], part.z0 = last["z"];
      last = decode(part);
      o = joined(2, o, last["o"]);
    }
    law_results all;
    all.add("o", o), all.add("s", last["s"]), all.add("z", last["z"]);
    CHECK(other_bits(all, whole) == "");
  });
}

TEST_CASE("a prefix in any cache and then a stream: the rows of one causal call") {
  each_law_case(25, with_caches, all_types, 6, [](const law_call& some, random_numbers& random) {
    law_call x = as_stream(some, random);
    x.bias = {};  // has a row for each query, and decode sees the last of them
    const law_results whole = forward(x);
    for (index_t length = some_of(x.keys(), random), n = 0; length <= x.keys(); length += n) {
      n = some_of(std::min<index_t>(length, 9), random);  // new tokens: the last n of `length`
      law_call step = keys_of(queries_of(x, length - n, n), 0, length);
      step.align = heed::bottom_right;
      const auto caches = whole_caches(length, 2);
      const law_cache cache{caches[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(caches.size())))],
                            kept_as(x.type)};
      const law_results rows = decode(step, cache);
      INFO("length " << length << ", new " << n << ", " << to_string(cache.at));
      for (const char* name : {"o", "lse"}) {
        double allowed = allowed_error(x, name, whole.rounded_weights || rows.rounded_weights);
        if (name[0] == 'o' && x.narrow_o)
          allowed +=
              2 *
              rounding_of(x.type == number_type::bf16 ? stored::bf16 : stored::f16).at(whole["o"].largest() + allowed);
        CHECK(too_far(rows[name], whole[name].part(2, length - n, n), allowed) == "");
      }
    }
  });
}
