// SPDX-License-Identifier: BSD-3-Clause

// Softmax and mixture of head give the bits of named arrays with options that own theirs.

#include <cstdint>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/slopes.hpp"
#include "support/catch.hpp"
#include "support/mixture_run.hpp"
#include "support/owned.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

using ints = std::vector<std::int32_t>;
using options = heed::softmax::options<float>;

constexpr index_t batch = 2, heads = 8, queries = 5, keys = 9, dim = 4;

// o of softmax, then of mixture of head
std::vector<float> run(const options& how) {
  const auto q = some_numbers(batch * heads * queries * dim, 1), k = some_numbers(batch * heads * keys * dim, 2),
             v = some_numbers(batch * heads * keys * dim, 3);
  const std::vector<float> gates(static_cast<std::size_t>(batch * heads * queries), 1);
  std::vector<float> o(2 * q.size());
  const auto to = [&](index_t n) {
    return heed::bhsd(o.data() + n * static_cast<index_t>(q.size()), batch, heads, queries, dim);
  };
  const auto in = [](const std::vector<float>& x, index_t n) { return heed::bhsd(x.data(), batch, heads, n, dim); };
  run_forward<float>(in(q, queries), in(k, keys), in(v, keys), to(0), how, {});
  run_mixture<float>(in(q, queries), in(k, keys), in(v, keys), heed::contiguous(gates.data(), {batch, heads, queries}),
                     to(1), how, {});
  return o;
}

}  // namespace

TEST_CASE("softmax, mixture of head: what options own is read as what has a name") {
  const ints lengths{4, 7}, prefix{2, 1}, first{3, 0};
  const std::vector<double> slopes = heed::alibi_slopes(heads);
  const std::vector<float> sinks = some_numbers(heads, 4);
  const options named{.mask = heed::causal() & heed::key_lengths(lengths) & heed::prefix_lm(prefix),
                      .align = heed::first_place(first),
                      .alibi_slopes = slopes,
                      .sink_logits = sinks};
  const auto owned = kept([] {
    return options{.mask = heed::causal() & heed::key_lengths(ints{4, 7}) & heed::prefix_lm({2, 1}),
                   .align = heed::first_place({3, 0}),
                   .alibi_slopes = heed::alibi_slopes(heads),
                   .sink_logits = some_numbers(heads, 4)};
  });
  const auto bits = run(named);
  CHECK(run(*owned) == bits);
  CHECK(run({.mask = named.mask, .align = named.align, .alibi_slopes = slopes}) != bits);
  CHECK(run({.mask = named.mask, .align = named.align, .sink_logits = sinks}) != bits);
  CHECK(run({.mask = named.mask, .alibi_slopes = slopes, .sink_logits = sinks}) != bits);
}

TEST_CASE("softmax: offsets of packed sequences that the mask owns") {
  const auto x = some_numbers(12 * dim, 5);
  const auto in = heed::bhsd(x.data(), 1, 1, 12, dim);
  const ints offsets{0, 5, 12};
  const auto owned = kept([] { return options{.mask = heed::causal() & heed::packed({0, 5, 12}, ints{0, 5, 12})}; });
  std::vector<float> a(x.size()), b(x.size());
  run_forward<float>(in, in, in, heed::bhsd(a.data(), 1, 1, 12, dim),
                     {.mask = heed::causal() & heed::packed(offsets, offsets)}, {});
  run_forward<float>(in, in, in, heed::bhsd(b.data(), 1, 1, 12, dim), *owned, {});
  CHECK(a == b);
}
