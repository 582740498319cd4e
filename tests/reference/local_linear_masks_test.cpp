// SPDX-License-Identifier: BSD-3-Clause

// The two local_linear references beside each other: the first reads masks, places, scores and the head map by itself,
// the second has them from the softmax reference.

#include "heed/reference/local_linear.hpp"

#include <cmath>
#include <vector>

#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/comparison.hpp"
#include "support/least_squares.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using options = heed::local_linear::options<double>;

void check_both(const shape& s, const heed::per_head& ridge, options how = {}) {
  INFO(to_string(s));
  auto q = buffer<double>::input({s.batch, s.heads, s.queries, s.dim}),
       k = buffer<double>::input({s.batch, s.kv_heads, s.keys, s.dim}),
       v = buffer<double>::input({s.batch, s.kv_heads, s.keys, s.value_dim});
  random_numbers random(1);
  q.randomize(random), k.randomize(random), v.randomize(random);
  const auto out = [&](index_t width) { return buffer<double>::output({s.batch, s.out_heads(), s.queries, width}); };
  const auto o = out(s.value_dim), o2 = out(s.value_dim), o3 = out(s.value_dim), lse = out(1), lse2 = out(1),
             slope = out(s.dim);
  heed::softmax::options<double> plain = softmax_options(how);
  how.lse = lse.view3(), plain.lse = lse2.view3(), how.slope = slope.view();
  heed::reference::local_linear::forward(q.cview(), k.cview(), v.cview(), ridge, o.view(), how);
  least_squares<double>(q.cview(), k.cview(), v.cview(), ridge, o2.view(), how);
  heed::reference::softmax::forward(q.cview(), k.cview(), v.cview(), o3.view(), plain);
  CHECK((all_written(o) && all_written(o2) && all_written(lse) && all_written(slope)));
  CHECK((o.canaries_alive() && lse.canaries_alive() && slope.canaries_alive()));
  CHECK(largest_difference(o, o2) < 1e-11);
  CHECK(largest_difference(lse, lse2) < 1e-12);
  how.slope = {};
  heed::reference::local_linear::apply(q.cview(), k.cview(), v.cview(), slope.cview(), o2.view(), how);
  CHECK(largest_difference(o, o2) < 1e-12);
  heed::reference::local_linear::forward(q.cview(), k.cview(), v.cview(), HUGE_VAL, o2.view(), how);
  CHECK(largest_difference(o2, o3) < 1e-13);
}

}  // namespace

TEST_CASE("every mask under every alignment") {
  std::size_t turn = 0;
  for (const shape& s : {shape{2, 2, 1, 7, 13, 5, 3}, shape{1, 1, 1, 12, 6, 3, 4}, shape{1, 2, 4, 3, 20, 4, 2}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", " << place_name);
        check_both(s, 0.3, {.mask = mask, .align = align});
      }
  }
}

TEST_CASE("places that follow key_lengths") {
  const std::vector<std::int32_t> held{9, 3};
  check_both({2, 2, 1, 7, 13, 5, 3}, 0.3,
             {.mask = heed::causal() & heed::key_lengths(held), .align = heed::end_of_lengths, .alibi_slopes = 0.2});
}

TEST_CASE("every option alone, and pairs") {
  for (const shape& s : {shape{2, 4, 2, 5, 11, 4, 3}, shape{1, 2, 4, 6, 9, 3, 2}}) {
    const option_parts<double, options> parts(s);
    std::size_t turn = 0;
    for (const auto& first : parts.all) {
      INFO(first.name);
      check_both(s, 0.3, parts.of({&first}, parts.whole()));
      for (const auto& second : parts.all) {
        if (first.kind >= second.kind || turn++ % (3 * thinning) != 0) continue;
        INFO(second.name);
        check_both(s, 0.3, parts.of({&first, &second}, parts.whole()));
      }
    }
  }
}

TEST_CASE("packed sequences under every option") {
  packing p;
  p.add(3, 7), p.add(0, 2), p.add(4, 0), p.add(5, 9), p.add(2, 3);
  const shape s{1, 2, 1, p.queries.back(), p.keys.back() + 2, 4, 3};
  const option_parts<double, options> parts(s, &p);
  for (const auto& part : parts.all) {
    INFO(part.name);
    options how = parts.of({&part}, parts.whole());
    how.mask = how.mask & heed::packed(p.queries, p.keys);
    check_both(s, 0.3, how);
  }
}

TEST_CASE("shapes, head counts, and a ridge for each head") {
  const std::vector<double> six{0.01, 0.1, 1, 10, 100, HUGE_VAL};
  const std::vector<float> floats(six.begin(), six.end());
  check_both({1, 6, 1, 4, 9, 3, 2}, six);
  check_both({1, 6, 2, 4, 9, 3, 2}, floats, {.mask = heed::causal()});
  check_both({2, 2, 6, 4, 9, 3, 2}, six, {.mask = heed::causal()});
  for (const index_t d : {1, 2, 9, 30})
    for (const index_t m : {0, 1, 2, 10, 40}) check_both({1, 1, 1, 3, m, d, 5}, 0.1);
  check_both({1, 1, 1, 0, 5, 4, 4}, 0.1);
  check_both({0, 1, 1, 3, 5, 4, 4}, 0.1);
  check_both({1, 0, 0, 3, 5, 4, 4}, 0.1);
}
