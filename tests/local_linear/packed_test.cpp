// SPDX-License-Identifier: BSD-3-Clause

// Packed sequences: every rule holds per sequence, and each sequence has the bits that it has as a call of its own.

#include <iterator>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

template <class T> using options_of = heed::local_linear::options<T>;
template <class T> using parts_of = option_parts<T, options_of<T>>;
template <class T> using chosen_parts = std::vector<const typename parts_of<T>::part*>;

struct head_counts {
  index_t heads, kv_heads;
};
constexpr head_counts groups[] = {{1, 1}, {4, 2}, {2, 4}};

struct length {
  index_t queries, keys;
};
packing pack(const std::vector<length>& lengths) {
  packing p;
  for (const length& x : lengths) p.add(x.queries, x.keys);
  return p;
}
// Empty queries, empty keys, both; single ones; more queries than keys; several key tiles; few keys beside the head dim
const packing packings[] = {
    pack({{0, 5}, {1, 1}, {3, 9}, {40, 40}, {2, 0}, {0, 0}, {33, 130}, {5, 3}, {50, 7}, {1, 260}, {0, 3}}),
    pack({{70, 150}, {64, 64}, {65, 20}}),
    pack({{0, 0}, {0, 4}}),
};

shape shape_of(const packing& p, const head_counts& g) {
  return {1, g.heads, g.kv_heads, p.queries.back(), p.keys.back(), 12, 9};
}
template <class T> heed::tensor_view<T, 4> rows(heed::tensor_view<T, 4> x, index_t first, index_t count) {
  return heed::slice(x, 2, first, count);
}

template <class T>
void check_packed(const packing& p, const head_counts& g, const parts_of<T>& parts, const chosen_parts<T>& chosen,
                  solver with, const heed::context& ctx = {}) {
  options_of<T> how = parts.of(chosen, parts.whole());
  how.mask = how.mask & heed::packed(p.queries, p.keys), how.solver = with;
  local_linear_case<T> x(shape_of(p, g), 0.5, how), alone(x.s);
  x.forward(ctx);
  for (index_t b = 0; b < p.count(); ++b) {
    const scope one = parts.alone(b);
    options_of<T> mine = parts.of(chosen, one);
    heed::local_linear::report report;
    mine.solver = with, mine.report = &report;
    mine.lse = {&alone.lse(0, 0, 0) + one.first_query, {1, x.s.out_heads(), one.queries}, {0, x.s.queries, 1}};
    mine.slope = rows(alone.slope.view(), one.first_query, one.queries);
    mine.mean_key = rows(alone.mean.view(), one.first_query, one.queries);
    run_forward<T>(rows(x.q.cview(), one.first_query, one.queries), rows(x.k.cview(), one.first_key, one.keys),
                   rows(x.v.cview(), one.first_key, one.keys), x.ridge,
                   rows(alone.o.view(), one.first_query, one.queries), mine, {});
  }
  CHECK((same_bits(x.o, alone.o) && same_bits(x.lse, alone.lse)));
  CHECK((same_bits(x.slope, alone.slope) && same_bits(x.mean, alone.mean)));
  CHECK((x.o.canaries_alive() && x.lse.canaries_alive() && x.slope.canaries_alive() && x.mean.canaries_alive()));
}

template <class T> void every_part() {
  std::size_t turn = 0;
  for (const packing& p : packings)
    for (const head_counts& g : groups) {
      const parts_of<T> parts(shape_of(p, g), &p);
      for (const solver with : solvers) check_packed<T>(p, g, parts, {}, with);
      for (const auto& part : parts.all) {
        if (turn++ % thinning != 0) continue;
        INFO(to_string(shape_of(p, g)) << ", " << part.name);
        check_packed<T>(p, g, parts, {&part}, solvers[turn % std::size(solvers)]);
      }
    }
}

}  // namespace

TEST_CASE("packed, float: every option and mask, the bits of one call per sequence") { every_part<float>(); }
TEST_CASE("packed, double: every option and mask, the bits of one call per sequence") { every_part<double>(); }

TEST_CASE("packed: the same bits for any executor") {
  for (const packing& p : {packings[0], packings[1]})
    for (const index_t workers : {2, 5}) {
      const parts_of<float> parts(shape_of(p, groups[1]), &p);
      test_executor executor(workers, order::shuffled, true);
      for (const solver with : solvers) check_packed<float>(p, groups[1], parts, {}, with, {.executor = executor});
      CHECK_FALSE(executor.asked_too_much());
    }
}

TEST_CASE("packed: beside the reference") {
  for (const packing& p : packings)
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(9, 2, 1)})
      check_solvers<float>(shape_of(p, groups[1]), 0.5, {.mask = heed::packed(p.queries, p.keys) & mask});
}
