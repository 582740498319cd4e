// SPDX-License-Identifier: BSD-3-Clause

// Packed sequences: every rule holds per sequence, and each sequence has the bits that it has as a call of its own.

#include <cmath>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

struct head_counts {
  index_t heads, kv_heads;
};
constexpr head_counts groups[] = {{1, 1}, {4, 2}, {2, 4}, {3, 1}};

struct length {
  index_t queries, keys;
};
packing pack(const std::vector<length>& lengths) {
  packing p;
  for (const length& x : lengths) p.add(x.queries, x.keys);
  return p;
}

// Few and many rows in turn, empty queries, empty keys, both; single ones; more queries than keys; several key tiles.
const packing packings[] = {
    pack({{0, 5}, {1, 1}, {3, 9}, {40, 40}, {2, 0}, {0, 0}, {33, 130}, {5, 3}, {50, 7}, {1, 260}, {0, 3}}),
    pack({{1, 7}, {2, 130}, {3, 1}, {1, 0}, {4, 129}}),  // few rows only
    pack({{70, 300}, {64, 64}, {65, 20}}),               // many rows only
    pack({{0, 0}, {0, 4}, {0, 0}}),                      // no rows
    pack({{0, 0}, {90, 257}}),                           // nothing, then one
};

shape shape_of(const packing& p, const head_counts& g, index_t unused_keys = 0) {
  return {1, g.heads, g.kv_heads, p.queries.back(), p.keys.back() + unused_keys, 12, 9};
}

template <class T> heed::tensor_view<T, 4> rows(heed::tensor_view<T, 4> x, index_t first, index_t count) {
  return heed::slice(x, 2, first, count);
}

// The same rows by one call per sequence, into o and lse.
template <class T>
void run_one_by_one(const softmax_case<T>& x, const option_parts<T>& parts,
                    const std::vector<const typename option_parts<T>::part*>& chosen, const packing& p,
                    const buffer<T>& o, const buffer<T>& lse) {
  for (index_t b = 0; b < p.count(); ++b) {
    const scope one = parts.alone(b);
    heed::softmax::options<T> how = parts.of(chosen, one);
    how.lse = {&lse(0, 0, 0) + one.first_query, {1, lse.size()[1], one.queries}, {0, lse.size()[2], 1}};
    run_forward<T>(rows(x.q.cview(), one.first_query, one.queries), rows(x.k.cview(), one.first_key, one.keys),
                   rows(x.v.cview(), one.first_key, one.keys), rows(o.view(), one.first_query, one.queries), how, {});
  }
}

template <class T>
void check_packed(const packing& p, const head_counts& g, const option_parts<T>& parts,
                  const std::vector<const typename option_parts<T>::part*>& chosen, const heed::context& ctx = {},
                  index_t unused_keys = 0) {
  heed::softmax::options<T> how = parts.of(chosen, parts.whole());
  how.mask = how.mask & heed::packed(p.queries, p.keys);
  softmax_case<T> x(shape_of(p, g, unused_keys), how);
  const auto o = buffer<T>::output(x.o.size()), lse = buffer<T>::output(x.lse.size());
  const heed::plan plan = x.plan(ctx);
  INFO(plan.problem.data());
  REQUIRE(plan.ok());
  x.forward(ctx);
  run_one_by_one(x, parts, chosen, p, o, lse);
  const bool same = same_bits(x.o, o) && same_bits(x.lse, lse);
  CHECK(same);
  CHECK((x.o.canaries_alive() && x.lse.canaries_alive()));
}

template <class T> void check_every_part(const std::vector<head_counts>& counts) {
  std::size_t turn = 0;
  for (const packing& p : packings)
    for (const head_counts& g : counts) {
      const option_parts<T> parts(shape_of(p, g), &p);
      check_packed<T>(p, g, parts, {});
      for (const auto& part : parts.all) {
        if (turn++ % thinning != 0) continue;
        INFO(to_string(shape_of(p, g)) << ", " << part.name);
        check_packed<T>(p, g, parts, {&part});
      }
    }
}

template <class T>
std::vector<const typename option_parts<T>::part*> named(const option_parts<T>& parts,
                                                         const std::vector<std::string>& names) {
  std::vector<const typename option_parts<T>::part*> chosen;
  for (const std::string& name : names)
    for (const auto& part : parts.all)
      if (part.name == name) chosen.push_back(&part);
  REQUIRE(chosen.size() == names.size());
  return chosen;
}

const std::vector<std::vector<std::string>> combinations = {
    {"causal", "first_place"},
    {"causal", "top_left"},
    {"causal", "key_lengths"},
    {"window", "first_place", "alibi"},
    {"window with keep_first", "key_lengths"},
    {"prefix_lm", "first_place", "key_lengths"},
    {"segments", "causal", "bias"},
    {"keep", "bias Toeplitz", "softcap"},
    {"keep per key", "bias per key", "score"},
    {"segments", "keep transposed", "visible_if", "bias transposed"},
    {"softcap", "alibi", "bias that hides", "score that hides", "sinks", "first_place", "causal",
     "window with keep_first", "key_lengths", "prefix_lm", "segments", "keep", "visible_if"},
};

}  // namespace

TEST_CASE("packed, float: every option and mask, the bits of one call per sequence") {
  check_every_part<float>({std::begin(groups), std::end(groups)});
}
TEST_CASE("packed, double: every option and mask, the bits of one call per sequence") {
  check_every_part<double>({groups[1]});
}

TEST_CASE("packed: options and masks together, the bits of one call per sequence") {
  for (const packing& p : packings)
    for (const head_counts& g : groups) {
      const option_parts<float> parts(shape_of(p, g), &p);
      for (const auto& names : combinations) {
        INFO(to_string(shape_of(p, g)) << ", " << names.front() << " and " << names.size() - 1 << " more");
        check_packed<float>(p, g, parts, named(parts, names));
      }
    }
}

TEST_CASE("packed: the same bits for any executor") {
  for (const packing& p : {packings[0], packings[1], packings[4]})
    for (const index_t workers : {1, 2, 5})
      for (const order in : {order::reversed, order::shuffled}) {
        const option_parts<float> parts(shape_of(p, groups[1]), &p);
        test_executor executor(workers, in), threads(workers, in, true);
        check_packed<float>(p, groups[1], parts, {}, {.executor = executor});
        check_packed<float>(p, groups[1], parts, {}, {.executor = threads});
        check_packed<float>(p, groups[1], parts, named(parts, combinations.back()), {.executor = threads});
        CHECK_FALSE((executor.asked_too_much() || threads.asked_too_much()));
      }
}

TEST_CASE("packed: beside the reference") {
  for (const packing& p : packings)
    for (const head_counts& g : groups) {
      const option_parts<float> parts(shape_of(p, g), &p);
      for (const auto& names : combinations) {
        INFO(names.front() << " and " << names.size() - 1 << " more");
        heed::softmax::options<float> how = parts.of(named(parts, names), parts.whole());
        how.mask = heed::packed(p.queries, p.keys) & how.mask;
        check<float>(shape_of(p, g), how);
      }
    }
}

TEST_CASE("packed: keys behind the last sequence are nobody's") {
  for (const packing& p : packings) {
    const shape s = shape_of(p, groups[1], 37);
    softmax_case<float> clean(s, {.mask = heed::packed(p.queries, p.keys)}), x(s, clean.options);
    for (index_t h = 0; h < s.kv_heads; ++h)
      for (index_t j = p.keys.back(); j < s.keys; ++j) {
        for (index_t d = 0; d < s.dim; ++d) x.k(0, h, j, d) = std::numeric_limits<float>::quiet_NaN();
        for (index_t e = 0; e < s.value_dim; ++e) x.v(0, h, j, e) = std::numeric_limits<float>::quiet_NaN();
      }
    check(clean);
    x.forward();
    CHECK((same_bits(x.o, clean.o) && same_bits(x.lse, clean.lse)));
  }
}

TEST_CASE("packed: NaN in one sequence stays there") {
  const packing& p = packings[0];
  for (index_t b = 0; b < p.count(); ++b) {
    const auto n = static_cast<std::size_t>(b);
    softmax_case<float> clean(shape_of(p, groups[1])), x(shape_of(p, groups[1]));
    clean.options.mask = x.options.mask = heed::packed(p.queries, p.keys) & heed::causal();
    for (index_t h = 0; h < x.s.kv_heads; ++h)
      for (index_t j = p.keys[n]; j < p.keys[n + 1]; ++j) x.k(0, h, j, 3) = x.v(0, h, j, 2) = std::nanf("");
    clean.forward();
    x.forward();
    int wrong = 0;
    for (index_t h = 0; h < x.s.out_heads(); ++h)
      for (index_t i = 0; i < x.s.queries; ++i)
        for (index_t e = 0; e < x.s.value_dim; ++e)
          if (i < p.queries[n] || i >= p.queries[n + 1]) wrong += x.o(0, h, i, e) != clean.o(0, h, i, e);
    CHECK(wrong == 0);
  }
}

TEST_CASE("packed: sequences of one length are a batch") {
  for (const index_t n : {2, 30})
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(6, 1)}) {
      const shape batch{5, 4, 2, n, n + 9, 16, 8}, flat{1, 4, 2, 5 * n, 5 * (n + 9), 16, 8};
      packing p;
      for (int b = 0; b < 5; ++b) p.add(n, n + 9);
      softmax_case<float> x(batch, {.mask = mask}, {layout::bshd, layout::bshd, layout::bshd, layout::bshd});
      softmax_case<float> y(flat, {.mask = mask & heed::packed(p.queries, p.keys)},
                            {layout::bshd, layout::bshd, layout::bshd, layout::bshd});
      const auto copy = [](const buffer<float>& from, const buffer<float>& to) {
        for (index_t b = 0; b < from.size()[0]; ++b)
          for (index_t h = 0; h < from.size()[1]; ++h)
            for (index_t i = 0; i < from.size()[2]; ++i)
              for (index_t d = 0; d < from.size()[3]; ++d) to(0, h, b * from.size()[2] + i, d) = from(b, h, i, d);
      };
      copy(x.q, y.q), copy(x.k, y.k), copy(x.v, y.v);
      x.forward(), y.forward();
      const auto o = buffer<float>::output(y.o.size()), lse = buffer<float>::output(y.lse.size());
      copy(x.o, o), copy(x.lse, lse);
      CHECK((same_bits(o, y.o) && same_bits(lse, y.lse)));
    }
}
