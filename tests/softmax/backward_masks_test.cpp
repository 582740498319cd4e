// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward under every mask, alignment and packing.

#include <algorithm>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_backward_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

template <class T> heed::tensor_view<T, 4> rows(heed::tensor_view<T, 4> x, index_t first, index_t count) {
  return heed::slice(x, 2, first, count);
}

// Packed sequences beside one call for each: dq, dk and dv are the same bits if both take one path.
template <class T>
void check_packed(const packing& p, index_t heads, index_t kv_heads, const std::string& part_name, index_t unused = 0) {
  const shape s{1, heads, kv_heads, p.queries.back(), p.keys.back() + unused, 12, 9};
  const option_parts<T> parts(s, &p);
  const typename option_parts<T>::part* chosen = nullptr;
  for (const auto& each : parts.all)
    if (each.name == part_name) chosen = &each;
  REQUIRE(chosen != nullptr);
  INFO(to_string(s) << ", " << part_name);
  heed::softmax::options<T> how = parts.of({chosen}, parts.whole());
  how.mask = how.mask & heed::packed(p.queries, p.keys);
  backward_case<T> x(s, how), y(s, how);
  check(x);
  y.dk.fill(0), y.dv.fill(0);  // keys behind the last sequence
  y.forward();
  for (index_t b = 0; b < p.count(); ++b) {
    const scope one = parts.alone(b);
    heed::softmax::options<T> mine = parts.of({chosen}, one);
    mine.lse = {&y.lse(0, 0, 0) + one.first_query, {1, y.lse.size()[1], one.queries}, {0, y.lse.size()[2], 1}};
    const heed::tensor_view<const T, 3> dlse(&y.dlse(0, 0, 0) + one.first_query, {1, y.lse.size()[1], one.queries},
                                             {0, y.lse.size()[2], 1});
    const auto of_queries = [&](auto view) { return rows(view, one.first_query, one.queries); };
    const auto of_keys = [&](auto view) { return rows(view, one.first_key, one.keys); };
    run_backward<T>(
        {of_queries(y.q.cview()), of_keys(y.k.cview()), of_keys(y.v.cview()), of_queries(y.o.cview()),
         of_queries(y.dout.cview())},
        {.dq = of_queries(y.dq.view()), .dk = of_keys(y.dk.view()), .dv = of_keys(y.dv.view()), .dlse = dlse}, mine,
        {});
  }
  CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv)));
}

packing pack(const std::vector<std::array<index_t, 2>>& lengths) {
  packing p;
  for (const auto& [n, m] : lengths) p.add(n, m);
  return p;
}

}  // namespace

TEST_CASE("gradients under every mask and alignment") {
  for (const shape& s : {shape{2, 2, 1, 37, 53, 20, 12}, shape{1, 1, 1, 150, 70, 8, 8}, shape{1, 2, 2, 70, 300, 16, 24},
                         shape{3, 7, 1, 2, 40, 12, 8}, shape{2, 1, 3, 33, 65, 4, 4}}) {
    const mask_set set(s);
    std::size_t turn = 0;
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", " << place_name);
        check_backward<float>(s, {.mask = mask, .align = align});
      }
  }
}

TEST_CASE("gradients in double under every mask") {
  const shape s{2, 4, 2, 25, 61, 9, 12};
  const mask_set set(s);
  for (const auto& [mask_name, mask] : set.masks) {
    INFO(mask_name);
    check_backward<double>(s, {.mask = mask});
    check_backward<double>(s, {.mask = mask, .align = heed::top_left, .softcap = 2, .sink_logits = 0.5});
  }
}

TEST_CASE("gradients under windows of every width around the tiles") {
  const heed::plan plan = backward_case<float>({1, 1, 1, 1000, 1000, 16, 16}).backward_plan();
  for (const index_t tile : {plan.query_tile, plan.key_tile})
    for (const index_t left : {tile - 1, tile, tile + 1, 2 * tile}) {
      const index_t m = 3 * tile + 5, n = std::min<index_t>(m, 3 * plan.query_tile + 5);
      check_backward<float>({1, 1, 1, n, m, 16, 16}, {.mask = heed::window(left)});
      check_backward<float>({1, 1, 1, n, m + 7, 16, 16}, {.mask = heed::window(left, left / 2, 3)});
      check_backward<float>({1, 1, 1, n, m + 7, 16, 16},
                            {.mask = heed::causal() & heed::window(left), .align = heed::top_left});
    }
}

TEST_CASE("gradients with end_of_lengths") {
  const std::vector<std::int32_t> lengths{0, 20, 53};
  for (const index_t n : {1, 5, 30})
    check_backward<float>({3, 2, 1, n, 53, 12, 8},
                          {.mask = heed::causal() & heed::key_lengths(lengths), .align = heed::end_of_lengths});
}

TEST_CASE("gradients of packed sequences: under every mask and option, with the bits of a call for each") {
  const packing p = pack({{0, 5}, {1, 1}, {3, 9}, {40, 40}, {2, 0}, {0, 0}, {33, 130}, {5, 3}, {50, 7}, {0, 3}});
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 12, 9};
  const option_parts<float> names(s, &p);
  std::size_t turn = 0;
  for (const auto& part : names.all)
    if (turn++ % thinning == 0) check_packed<float>(p, 4, 2, part.name);
  for (const auto& [heads, kv_heads] : std::vector<std::array<index_t, 2>>{{1, 1}, {2, 4}, {3, 1}})
    for (const char* part : {"causal", "window", "alibi"}) {
      check_packed<float>(p, heads, kv_heads, part);
      check_packed<double>(p, heads, kv_heads, part);
    }
  check_packed<float>(pack({{1, 7}, {2, 130}, {3, 1}, {1, 0}, {4, 129}}), 2, 1, "causal");
  check_packed<float>(pack({{70, 300}, {64, 64}, {65, 20}}), 1, 1, "causal");
  check_packed<float>(pack({{0, 0}, {0, 4}, {0, 0}}), 1, 1, "causal");
  check_packed<float>(pack({{30, 40}, {0, 3}}), 4, 2, "causal", 9);  // keys of no sequence: zero gradients
}

TEST_CASE("gradients under a mask that hides nothing have the bits of no mask") {
  for (const shape& s : {shape{2, 4, 2, 37, 53, 20, 12}, shape{1, 1, 1, 100, 90, 16, 16}}) {
    backward_case<float> none(s), wide(s, {.mask = heed::window(-1, -1)}), lengths(s), all(s);
    const std::vector<std::int32_t> full(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys));
    lengths.options.mask = heed::key_lengths(full);
    all.options.mask = heed::visible_if([](const heed::position&) { return true; });
    for (backward_case<float>* x : {&none, &wide, &lengths, &all}) x->forward(), x->backward();
    CHECK(same_gradients(none, wide));
    CHECK(same_gradients(none, lengths));
    CHECK(same_gradients(none, all));
  }
}
