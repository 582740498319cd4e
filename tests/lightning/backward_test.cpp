// SPDX-License-Identifier: BSD-3-Clause

// lightning::backward by slopes beside the reference: shapes, chunks, slopes, heads of decay, masks, layouts, states,
// what is asked for.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/lightning_backward_case.hpp"

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
template <class T> using options = heed::lightning::options<T>;

template <class T>
void check(const shape& s, std::vector<double> slopes, const options<T>& how = {}, layouts in = {},
           index_t count = -1) {
  lightning_backward_case<T> x(s, std::move(slopes), how, in, count);
  check_backward(x);
}

}  // namespace

TEST_CASE("backward: every shape, one decay per query head or per key/value head, in float and double") {
  constexpr struct {
    index_t heads, kv_heads;
  } groups[] = {{1, 1}, {2, 1}, {4, 2}, {3, 3}, {7, 1}};
  std::size_t turn = 0;
  for (const index_t d : head_dims)
    for (const index_t n : {0, 1, 7, 15, 16, 17, 47, 63, 64, 65, 150}) {
      const auto& group = groups[turn % std::size(groups)];
      const index_t e = turn % 3 == 0 ? d : head_dims[(turn * 5 + 3) % std::size(head_dims)];
      if (++turn % thinning != 0) continue;
      const shape s{turn % 4 == 3 ? 2 : 1, group.heads, group.kv_heads, n, n, d, e};
      const index_t states = turn % 2 == 0 ? s.heads : s.kv_heads;
      check<float>(s, some_slopes(states), {.scale = 0.5});
      if (turn % 4 == 0) check<double>(s, some_slopes(states));
    }
}

TEST_CASE("backward: any chunk gives the same numbers") {
  for (const index_t n : {5, 70, 200})
    for (const index_t chunk : {1, 2, 7, 8, 16, 17, 24, 32, 48, 64, 65, 100, 128, 300, 100000}) {
      check<float>({1, 2, 1, n, n, 20, 24}, some_slopes(2), {.chunk = chunk});
      if (chunk % 4 == 0) check<double>({1, 1, 1, n, n, 8, 7}, some_slopes(1), {.chunk = chunk});
    }
}

TEST_CASE("backward: no query head, so that keys and values have gradients by the final state alone") {
  for (const index_t chunk : {0, 5, 32}) {
    check<float>({1, 0, 2, 70, 70, 20, 24}, some_slopes(2), {.chunk = chunk});
    check<double>({2, 0, 1, 70, 70, 8, 7}, some_slopes(1), {.chunk = chunk});
  }
}

TEST_CASE("backward: slopes from none to all, heads of one call") {
  for (const index_t chunk : {0, 5, 100})
    for (const double slope : {0.0, 1e-4, 0.5, 3.0, 30.0, 200.0, inf}) {
      check<float>({1, 1, 1, 130, 130, 16, 16}, {slope}, {.chunk = chunk});
      check<float>({1, 3, 1, 130, 130, 8, 8}, {slope, 0, inf}, {.chunk = chunk});
      check<double>({1, 2, 2, 130, 130, 16, 16}, {0.1, slope}, {.chunk = chunk});
      lightning_backward_case<float> x({1, 2, 2, 130, 130, 16, 16}, {inf, 0.1}, {.chunk = chunk});
      x.backward();  // lambda = 0, and lambda^0 = 1
      CHECK((x.dslopes(0, 0, 0, 0) == 0 && x.dslopes(0, 0, 0, 1) != 0));
      for (index_t d = 0; d < 16; ++d) CHECK((x.ds0(0, 0, d, 3) == 0 && x.ds0(0, 1, d, 3) != 0));
    }
}

TEST_CASE("backward: packed sequences, empty ones among them; padding") {
  const std::vector<std::int32_t> at{0, 0, 70, 71, 71, 201, 201}, each{0, 33, 1, 0, 130, 0}, seen{0, 33, 70};
  for (const index_t chunk : {0, 5, 64})
    for (const index_t states : {4, 2}) {
      const shape s{1, 4, 2, 201, 201, 16, 20};
      check<float>(s, some_slopes(states), {.mask = heed::packed(at, at), .chunk = chunk}, {}, 6);
      check<float>(s, some_slopes(states), {.mask = heed::packed(at, at) & heed::key_lengths(each), .chunk = chunk}, {},
                   6);
      check<float>({3, 4, 2, 70, 70, 16, 8}, some_slopes(states), {.mask = heed::key_lengths(seen), .chunk = chunk});
    }
}

TEST_CASE("backward: every layout, and the same bits in each") {
  const shape s{2, 4, 2, 70, 70, 20, 12};
  for (const layout in : input_layouts) check<float>(s, some_slopes(4), {}, {.q = in, .k = in, .v = in, .skew = 3});
  for (const index_t states : {4, 2}) {
    lightning_backward_case<float> plain(s, some_slopes(states));
    plain.backward();
    for (const layout how : output_layouts) {
      const layouts all{how, how, how, how, how, 5};
      lightning_backward_case<float> x(s, some_slopes(states), {}, all, -1, all);
      check_backward(x);
      CHECK(same_gradients(x, plain));
    }
  }
}

TEST_CASE("backward: with an initial state and without, with a gradient of the final one and without") {
  for (const index_t n : {0, 1, 40, 130})
    for (const int given : {0, 1, 2, 3}) {
      lightning_backward_case<float> x({1, 2, 1, n, n, 16, 20}, some_slopes(2));
      if ((given & 1) == 0) x.options.initial_state = {};
      if ((given & 2) == 0) x.asked.dfinal_state = {};
      check_backward(x);
      CHECK(x.s1.untouched());  // the final state is an output of forward
    }
}

TEST_CASE("backward: no batch, no heads") {
  for (const shape& s : {shape{0, 2, 1, 5, 5, 8, 8}, shape{1, 0, 0, 5, 5, 8, 8}}) {
    check<float>(s, some_slopes(s.heads));
    check<float>(s, some_slopes(s.kv_heads));
  }
  test_executor workers(4);
  for (const index_t states : {0, 2}) {  // keys and values of which no query head reads anything
    lightning_backward_case<float> x({2, 0, 2, 70, 70, 8, 9}, some_slopes(states)), y(x.s, states, 9);
    check_backward(x, {.executor = workers}), check_backward(y, {.executor = workers});
  }
}

TEST_CASE("backward: what is not asked for is not written, and changes no bit of what is") {
  for (const index_t states : {2, 1})
    for (const bool before : {true, false}) {
      const shape s{1, 2, 1, 70, 70, 6, 20};
      const auto make = [&] {
        lightning_backward_case<float> x(s, some_slopes(states));
        if (!before) x.options.initial_state = {};
        return x;
      };
      lightning_backward_case<float> all = make();
      all.backward();
      for (unsigned which = 0; which < 64; ++which) {
        lightning_backward_case<float> x = make();
        heed::lightning::gradients<float> some;
        some.dfinal_state = x.asked.dfinal_state;
        if (which & 1) some.dq = x.asked.dq;
        if (which & 2) some.dk = x.asked.dk;
        if (which & 4) some.dv = x.asked.dv;
        if (which & 8) some.dinitial_state = x.asked.dinitial_state;
        if (which & 16) some.dslopes = x.asked.dslopes;
        if (which & 32) some.dfinal_state = {};
        x.asked = some;
        if (which & 32) {
          check_backward(x);
        } else {
          x.backward();
          CHECK(((which & 1) ? same_bits(x.dq, all.dq) : x.dq.untouched()));
          CHECK(((which & 2) ? same_bits(x.dk, all.dk) : x.dk.untouched()));
          CHECK(((which & 4) ? same_bits(x.dv, all.dv) : x.dv.untouched()));
          CHECK(((which & 8) ? same_bits(x.ds0, all.ds0) : x.ds0.untouched()));
          CHECK(((which & 16) ? same_bits(x.dslopes, all.dslopes) : x.dslopes.untouched()));
        }
      }
    }
}

TEST_CASE("backward: every option and every input changes the gradients") {
  using type = lightning_backward_case<float>;
  const shape s{1, 1, 1, 40, 40, 8, 8};
  type plain(s, {0.1});
  plain.backward();
  const auto changed = [&](const char* what, auto change, unsigned unaffected = 0) {
    INFO(what);
    type x(s, {0.1});
    change(x);
    x.backward();
    CHECK(same_bits(x.dq, plain.dq) == ((unaffected & 1) != 0));
    CHECK(same_bits(x.dk, plain.dk) == ((unaffected & 2) != 0));
    CHECK(same_bits(x.dv, plain.dv) == ((unaffected & 4) != 0));
    CHECK(same_bits(x.ds0, plain.ds0) == ((unaffected & 8) != 0));
    CHECK_FALSE(same_bits(x.dslopes, plain.dslopes));
  };
  changed("scale", [](type& x) { x.options.scale = 2; });
  changed("slope", [](type& x) { x.slopes[0] = 0.2; });
  changed(
      "no initial state", [](type& x) { x.options.initial_state = {}; }, 2 | 4 | 8);
  changed(
      "no final gradient", [](type& x) { x.asked.dfinal_state = {}; }, 1);
  changed(
      "q", [](type& x) { x.q(0, 0, 3, 1) += 1; }, 1);
  changed(
      "k", [](type& x) { x.k(0, 0, 3, 1) += 1; }, 2 | 8);
  changed(
      "v", [](type& x) { x.v(0, 0, 3, 1) += 1; }, 4 | 8);
  changed("dout", [](type& x) { x.dout(0, 0, 3, 1) += 1; });
}

TEST_CASE("backward: a wrong decay fails, one power of lambda too many, a tail that fades by a whole chunk") {
  using type = lightning_backward_case<float>;
  const std::vector<double> other{0.0501};
  const auto make = [] {
    type x({1, 1, 1, 100, 100, 16, 16}, {0.05});
    x.backward();
    return x;
  };
  const type right = make();
  CHECK(compare_gradients(right).worst <= 1);
  CHECK(compare_gradients(right, heed::decay<double>(other)).worst > 1);
  const float lambda = std::exp(-0.05f);
  using gradient = buffer<float> type::*;
  for (const gradient dx : {gradient(&type::dq), gradient(&type::dk), gradient(&type::dv), gradient(&type::ds0),
                            gradient(&type::dslopes)}) {
    type x = make();
    (x.*dx).each([&](float& a) { a *= lambda; });
    CHECK(compare_gradients(x).worst > 1);
  }
  for (const gradient dx : {gradient(&type::ds0), gradient(&type::dslopes)}) {
    type x = make();
    (x.*dx).each([](float& a) { a *= 1.01f; });
    CHECK(compare_gradients(x).worst > 1);
  }
  type faded = make();  // the gradient of the final state, faded once more by what a chunk of 64 lacks
  faded.ds1.each([](float& a) { a *= std::exp(-0.05f * 28); });
  CHECK(compare_gradients(faded).worst > 1);
  type scaled = make();
  scaled.options.scale = 1.001;
  CHECK(compare_gradients(scaled).worst > 1);
}

TEST_CASE("backward: long calls keep their accuracy") {
  const index_t n = thinning == 1 ? 5000 : 1000, m = thinning == 1 ? 3000 : 500;
  check<float>({1, 1, 1, n, n, 32, 48}, {1e-3});
  check<float>({1, 1, 1, m, m, 64, 24}, {0});
}
