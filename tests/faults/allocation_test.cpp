// SPDX-License-Identifier: BSD-3-Clause

// Allocations that fail: std::bad_alloc leaves the call, which has written nothing, or changed no cache; no memory is
// lost.

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/every_call.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

// Fails the first allocation of f, then the second, until f needs no more: how many there are. same(): nothing changed
template <class F, class Same> long fail_each(const F& f, const Same& same) {
  for (long n = 0; n < 100; ++n) {
    const long before = living;
    bool thrown = false;
    until_failure = n;
    try {
      f();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    const bool met = until_failure < 0;
    until_failure = -1;
    const bool kept = living == before;
    CHECK(kept);
    if (!met) {
      CHECK_FALSE(thrown);
      return n;
    }
    CHECK(thrown);
    CHECK(same());
  }
  return -1;
}

struct in_turn {
  index_t concurrency() const { return 3; }
  template <class F> void parallel_for(index_t n, const F& f) const {
    for (index_t i = 0; i < n; ++i) f(i);
  }
};

// Tokens that a cache holds, of every sequence
template <class Cache> std::vector<float> held(Cache& c) {
  const auto x = c.view();
  std::vector<float> all(x.k.data(), x.k.data() + x.k.extent(0) * x.k.extent(1) * x.k.extent(2) * x.k.extent(3));
  for (index_t b = 0; b < 2; ++b) all.push_back(static_cast<float>(c.length(b)));
  return all;
}

}  // namespace

TEST_CASE("a verb whose allocation fails throws bad_alloc, and writes nothing") {
  every_call calls;
  in_turn executor;
  for (const one_call& call : calls.all())
    for (const bool alone : {true, false}) {
      INFO(call.name);
      const heed::context where = alone ? heed::context{} : heed::context{.executor = executor};
      calls.forget();
      const std::vector<std::byte> before = call.written();
      const long allocated = fail_each([&] { call.run(where); }, [&] { return call.written() == before; });
      CHECK((allocated >= 0 && allocated <= 3));
      CHECK(call.written() != before);  // it completed
    }
}

TEST_CASE("plans allocate nothing, and verbs nothing in a workspace") {
  every_call calls;
  for (const one_call& call : calls.all()) {
    if (!call.plan) continue;
    INFO(call.name);
    const long before = allocations;
    const heed::plan plan = call.plan({});
    const long planned = allocations - before;
    CHECK((plan.ok() && planned == 0));
    std::vector<std::byte> memory(plan.workspace_bytes);
    if (memory.empty()) continue;
    CHECK(fail_each([&] { call.run({.workspace = memory}); }, [] { return false; }) == 0);
  }
}

TEST_CASE("routers, merge, caches and states: an allocation that fails changes nothing") {
  const index_t B = 2, H = 4, N = 6, D = 8;
  std::vector<float> numbers(static_cast<std::size_t>(B * H * N * D), 0.5f),
      gate(static_cast<std::size_t>(B * H * N), 9);
  const auto q = heed::bhsd(static_cast<const float*>(numbers.data()), B, H, N, D);
  const auto gates = heed::contiguous(gate.data(), {B, H, N});
  const auto logits = heed::contiguous(static_cast<const float*>(numbers.data()), {B, H, N});
  const heed::tensor_view<const float, 3> none;
  const auto old = gate;
  const auto same = [&] { return gate == old; };
  CHECK(fail_each([&] { heed::mixture_of_head::route_by_norm(q, {0, 2}, gates); }, same) == 1);
  gate = old;
  CHECK(fail_each([&] { heed::mixture_of_head::route_trained(logits, none, none, {0, 2}, gates); }, same) == 1);
  std::vector<float> o(numbers), lse(gate.size(), 1);
  CHECK(fail_each(
            [&] {
              heed::softmax::merge(heed::bhsd(o.data(), B, H, N, D), heed::contiguous(lse.data(), {B, H, N}), q,
                                   logits);
            },
            [] { return false; }) == 0);

  CHECK(fail_each([&] { heed::cache::contiguous<float>(B, H, N, D, D); }, [] { return true; }) > 0);
  CHECK(fail_each([&] { heed::cache::ring<float>(B, H, N, D, D); }, [] { return true; }) > 0);
  CHECK(fail_each([&] { heed::cache::paged<float>(4, 4, H, D, D, B); }, [] { return true; }) > 0);
  CHECK(fail_each([&] { heed::state<float>(B, H, D, D); }, [] { return true; }) == 1);
  heed::state<float> from(B, H, D, D), to(1, 1, 1, 1);
  heed::state_view<float> there = to;
  const float* const data = there.s.data();
  CHECK(fail_each([&] { to = from; }, [&] { return heed::state_view<float>(to).s.data() == data; }) == 1);

  heed::cache::contiguous<float> cache(B, H, N, D, D);
  const auto empty = held(cache);
  CHECK(fail_each([&] { cache.append(q, q); }, [&] { return held(cache) == empty; }) == 0);
}
