// SPDX-License-Identifier: BSD-3-Clause

// Laws of where and how a call runs: no bit depends on executors, memory, strides, or the kind of a cache.

#include <algorithm>
#include <string>
#include <vector>

#include "support/decode_case.hpp"
#include "support/executor.hpp"
#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr kernel with_caches[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::local_linear};

template <std::size_t N, class T> T one_of(const T (&list)[N], random_numbers& random) {
  return list[random.below(static_cast<std::int32_t>(N))];
}

// Any solver of local linear; a call that does not converge reports it.
law_call any_solver(law_call x, random_numbers& random, heed::local_linear::report& report) {
  using heed::local_linear::solver;
  x.solver = one_of({solver::automatic, solver::conjugate_gradient, solver::direct}, random);
  x.report = &report;
  return x;
}

}  // namespace

TEST_CASE("any executor: the same bits") {
  each_law_case(51, all_kernels, all_types, 5, [](const law_call& some, random_numbers& random) {
    heed::local_linear::report report;
    const law_call x = any_solver(some, random, report);
    const law_results outputs = forward(x), gradients = backward(x);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const index_t workers = 1 + random.below(7);
      const order in = one_of({order::forward, order::reversed, order::shuffled}, random);
      const bool threads = repeat == 2;
      INFO(workers << (threads ? " threads" : " workers"));
      test_executor executor(workers, in, threads);
      CHECK(other_bits(outputs, forward(x, {.context = {.executor = executor}})) == "");
      CHECK(other_bits(gradients, backward(x, {.context = {.executor = executor}})) == "");
    }
  });
}

TEST_CASE("any strides, any alignment: the same bits") {
  each_law_case(52, all_kernels, all_types, 5, [](const law_call& some, random_numbers& random) {
    heed::local_linear::report report;
    const law_call x = any_solver(some, random, report);
    const law_results outputs = forward(x), gradients = backward(x);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto any = [&] { return one_of(output_layouts, random); };
      const layouts in{any(), any(), any(), any(), any(), random.below(16)};
      INFO(name_of(in.q) << ", " << name_of(in.k) << ", " << name_of(in.v) << ", " << name_of(in.o) << ", "
                         << name_of(in.lse) << ", skew " << in.skew);
      CHECK(other_bits(outputs, forward(x, {.in = in})) == "");
      CHECK(other_bits(gradients, backward(x, {.in = in})) == "");
    }
  });
}

TEST_CASE("sequences or heads in one memory, by stride 0: the bits of copies") {
  each_law_case(53, all_kernels, all_types, 5, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    const std::size_t axis = random.below(2) == 0 ? 0 : 1;
    const layout shared = axis == 0 ? layout::shared_batch : layout::shared_heads;
    for (law_numbers* each : {&x.q, &x.k, &x.v})
      *each = each->picked(axis, std::vector<index_t>(static_cast<std::size_t>(each->size()[axis]), 0));
    const law_run run{.in = {.q = random.below(2) == 0 ? shared : layout::bshd, .k = shared, .v = shared}};
    CHECK(other_bits(forward(x), forward(x, run)) == "");
    CHECK(other_bits(backward(x), backward(x, run)) == "");
  });
}

TEST_CASE("a workspace with anything in it, or none: the same bits") {
  each_law_case(54, all_kernels, all_types, 4, [](const law_call& x, random_numbers& random) {
    test_executor executor(1 + random.below(4), order::shuffled);
    CHECK(other_bits(forward(x), forward(x, {.context = {.executor = executor}, .planned = true})) == "");
  });
}

TEST_CASE("contiguous, ring and paged caches of the same tokens, any executor: the same bits") {
  each_law_case(55, with_caches, all_types, 8, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    x.bias = {};
    law_cache cache;
    for (index_t b = 0; b < x.batch(); ++b)
      cache.lengths.push_back(1 + random.below(static_cast<std::int32_t>(x.keys())));
    cache.as = one_of(all_kept, random);
    index_t longest = 0;
    for (const std::int32_t n : cache.lengths) longest = std::max<index_t>(longest, n);
    const law_results expected = decode(x, cache);
    for (const cache_setup& at : whole_caches(longest, random.below(4))) {
      cache.at = at;
      test_executor executor(1 + random.below(5), order::shuffled);
      INFO(to_string(at) << " of " << name_of(cache.as));
      CHECK(other_bits(expected, decode(x, cache, {.executor = executor})) == "");
    }
  });
}

TEST_CASE("a stream, any executor: the same bits") {
  each_law_case(56, recurrent_kernels, all_types, 8, [](const law_call& some, random_numbers& random) {
    const law_call x = tokens_of(some, 0, std::min(some.keys(), some.queries()));
    test_executor executor(2 + random.below(5), order::shuffled);
    CHECK(other_bits(decode(x), decode(x, {}, {.executor = executor})) == "");
  });
}
