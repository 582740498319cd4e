// SPDX-License-Identifier: BSD-3-Clause

// lightning::forward beside the reference: shapes, chunks, slopes, heads of decay, layouts, states.

#include <limits>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

template <class T>
void check(const shape& s, std::vector<double> slopes, heed::lightning::options<T> how = {},
           layouts in = {}) {
  lightning_case<T> x(s, std::move(slopes), how, in);
  heed_test::check(x);
}

// Lengths around chunks and tiles, every head dim, E != D, groups
std::vector<shape> shapes() {
  std::vector<shape> list;
  constexpr struct { index_t heads, kv_heads; } groups[] = {{1, 1}, {2, 1}, {4, 2}, {3, 3}, {7, 1}};
  std::size_t turn = 0;
  for (const index_t d : head_dims)
    for (const index_t n : {0, 1, 7, 15, 16, 17, 47, 63, 64, 65, 150}) {
      const auto& group = groups[turn % std::size(groups)];
      const index_t e = turn % 3 == 0 ? d : head_dims[(turn * 5 + 3) % std::size(head_dims)];
      if (++turn % thinning != 0) continue;
      list.push_back({turn % 4 == 3 ? 2 : 1, group.heads, group.kv_heads, n, n, d, e});
    }
  return list;
}

}  // namespace

TEST_CASE("every shape, one decay per query head or per key/value head, in float and double") {
  std::size_t turn = 0;
  for (const shape& s : shapes()) {
    const index_t states = turn++ % 2 == 0 ? s.heads : s.kv_heads;
    check<float>(s, some_slopes(states), {.scale = 0.5});
    if (turn % 4 == 0) check<double>(s, some_slopes(states));
  }
}

TEST_CASE("a final state takes all tokens where no query head is there to read it") {
  check<float>({2, 0, 2, 70, 70, 8, 9}, some_slopes(2));
  check<double>({1, 0, 3, 5, 5, 8, 9}, some_slopes(0));
}

TEST_CASE("any chunk gives the same numbers") {
  for (const index_t n : {5, 70, 200})
    for (const index_t chunk : {1, 2, 7, 8, 16, 17, 24, 32, 48, 64, 65, 100, 128, 300, 100000}) {
      check<float>({1, 2, 1, n, n, 20, 24}, some_slopes(2), {.chunk = chunk});
      if (chunk % 4 == 0) check<double>({1, 1, 1, n, n, 8, 7}, some_slopes(1), {.chunk = chunk});
    }
}

TEST_CASE("slopes from none to all, heads of one call") {
  for (const index_t chunk : {0, 5, 100})
    for (const double slope : {0.0, 1e-4, 0.5, 3.0, 30.0, 200.0, inf}) {
      check<float>({1, 1, 1, 130, 130, 16, 16}, {slope}, {.chunk = chunk});
      check<float>({1, 3, 1, 130, 130, 8, 8}, {slope, 0, inf}, {.chunk = chunk});
      check<double>({1, 2, 2, 130, 130, 16, 16}, {0.1, slope}, {.chunk = chunk});
    }
}

TEST_CASE("every layout") {
  const shape s{2, 4, 2, 70, 70, 20, 12};
  for (const layout in : input_layouts) check<float>(s, some_slopes(4), {}, {.q = in, .k = in, .v = in, .skew = 3});
  for (const layout out : output_layouts) check<float>(s, some_slopes(2), {}, {.o = out, .lse = out, .skew = 1});
}

TEST_CASE("bits do not depend on strides") {
  const shape s{2, 4, 2, 70, 70, 20, 12};
  lightning_case<float> plain(s, some_slopes(4));
  plain.forward();
  for (const layout how : output_layouts) {
    lightning_case<float> x(s, some_slopes(4), {}, {how, how, how, how, how, 5});
    x.forward();
    CHECK((same_bits(x.o, plain.o) && same_bits(x.s1, plain.s1)));
  }
}

TEST_CASE("without an initial state, without a final one, and both in one memory") {
  for (const index_t n : {0, 1, 40, 130}) {
    const shape s{1, 2, 1, n, n, 16, 20};
    lightning_case<float> x(s, some_slopes(2)), both(s, some_slopes(2));
    both.options.final_state.s = both.s0.view();
    both.forward();
    heed_test::check(x);
    CHECK((same_bits(x.o, both.o) && same_bits(x.s1, both.s0)));
    x.options.final_state = {};
    x.s1.poison();
    heed_test::check(x);
    CHECK(x.s1.untouched());
    x.options.initial_state = {};
    x.options.final_state.s = x.s1.view();
    heed_test::check(x);
  }
}

TEST_CASE("long calls keep their accuracy") {
  const index_t n = thinning == 1 ? 5000 : 1000, m = thinning == 1 ? 3000 : 500;
  check<float>({1, 1, 1, n, n, 64, 64}, {1e-3});
  check<float>({1, 1, 1, m, m, 128, 96}, {0});
}

TEST_CASE("every option changes the result") {
  const shape s{1, 1, 1, 40, 40, 8, 8};
  lightning_case<float> plain(s, {0.1}), scaled(s, {0.1}, {.scale = 2}), faded(s, {0.2}), fresh(s, {0.1});
  fresh.options.initial_state = {};
  for (auto* x : {&plain, &scaled, &faded, &fresh}) x->forward();
  for (auto* x : {&scaled, &faded, &fresh}) CHECK_FALSE(same_bits(x->o, plain.o));
}

TEST_CASE("a wrong decay fails") {
  const std::vector<double> other{0.0501};
  lightning_case<float> x({1, 1, 1, 100, 100, 16, 16}, {0.05});
  x.forward();
  CHECK(compare(x).worst <= 1);
  CHECK(compare(x, heed::decay<double>(other)).worst > 1);
  // lambda^(i - j + 1): every weight once more by lambda; and a last chunk that fades by a whole one
  lightning_case<float> late(x.s, {0.05}, {.scale = std::exp(-0.05)});
  late.forward();
  late.options.scale = 1;
  CHECK(compare(late).worst > 1);
  const index_t chunk = x.plan().chunk, missing = chunk - 100 % chunk;
  REQUIRE(100 % chunk != 0);
  x.s1.each([&](float& a) { a *= std::exp(-0.05f * static_cast<float>(missing)); });
  CHECK(compare(x).worst > 1);
}
