// SPDX-License-Identifier: BSD-3-Clause

// The reference's masks together: a conjunction shows what each of its parts shows, and packed sequences are calls of
// their own, under every mask and option.

#include "heed/reference/softmax.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using options = heed::softmax::options<double>;
using parts_of_call = option_parts<double>;

struct tensors {
  explicit tensors(const shape& of) : s(of) {
    random_numbers random(1);
    for (std::vector<double>* x : {&q, &k, &v}) x->resize(4000);
    for (std::vector<double>* x : {&q, &k, &v})
      for (double& number : *x) number = random.normal();
  }
  heed::tensor_view<const double, 4> view(const std::vector<double>& x, index_t heads, index_t rows) const {
    return {x.data(), {s.batch, heads, rows, s.dim}, {heads * rows * s.dim, rows * s.dim, s.dim, 1}};
  }
  heed::tensor_view<const double, 4> queries() const { return view(q, s.heads, s.queries); }
  heed::tensor_view<const double, 4> keys() const { return view(k, s.kv_heads, s.keys); }
  heed::tensor_view<const double, 4> values() const { return view(v, s.kv_heads, s.keys); }
  shape s;
  std::vector<double> q, k, v;
};

// Which pairs are visible, over all batches, heads, queries and keys
std::vector<bool> visible_pairs(const tensors& t, const options& how) {
  std::vector<bool> seen;
  heed::reference::softmax::detail::each_row(t.queries(), t.keys(), t.values(), how,
                                             [&](const auto&, index_t, index_t, const auto& scores, const auto&) {
                                               for (const double x : scores) seen.push_back(x != -HUGE_VAL);
                                             });
  return seen;
}

struct answer {
  explicit answer(const shape& s)
      : o(static_cast<std::size_t>(s.batch * s.out_heads() * s.queries * s.dim), 77),
        lse(o.size() / static_cast<std::size_t>(s.dim), 77) {}
  std::vector<double> o, lse;
};

}  // namespace

TEST_CASE("a conjunction of two masks shows what both show, under every alignment") {
  const tensors t({2, 2, 1, 7, 12, 4, 4});
  const parts_of_call parts(t.s);
  for (const auto& align : parts.all)
    for (const auto& a : parts.all)
      for (const auto& b : parts.all) {
        if (align.kind != part_kind::align || !a.masks() || !b.masks() || a.kind == b.kind) continue;
        INFO(a.name << " and " << b.name << ", " << align.name);
        const auto first = visible_pairs(t, parts.of({&align, &a}, parts.whole())),
                   second = visible_pairs(t, parts.of({&align, &b}, parts.whole())),
                   both = visible_pairs(t, parts.of({&align, &a, &b}, parts.whole()));
        REQUIRE(both.size() == 2 * 2 * 7 * 12);
        bool right = true;
        for (std::size_t i = 0; i < both.size(); ++i) right = right && both[i] == (first[i] && second[i]);
        CHECK(right);
      }
}

TEST_CASE("packed under every mask and option: the numbers of one call per sequence") {
  packing p;
  p.add(3, 5), p.add(0, 2), p.add(4, 0), p.add(1, 6), p.add(5, 3);
  const tensors t({1, 4, 2, p.queries.back(), p.keys.back(), 4, 4});
  const shape& s = t.s;
  const parts_of_call parts(s, &p);
  for (const auto& first : parts.all)
    for (const auto& second : parts.all) {
      if (first.kind == second.kind) continue;
      INFO(first.name << " and " << second.name);
      answer all(s), each(s);
      const auto output = [&](answer& a) {
        return heed::tensor_view<double, 4>(a.o.data(), {1, 4, s.queries, s.dim}, {0, s.queries * s.dim, s.dim, 1});
      };
      options how = parts.of({&first, &second}, parts.whole());
      how.mask = heed::packed(p.queries, p.keys) & how.mask;
      how.lse = {all.lse.data(), {1, 4, s.queries}, {0, s.queries, 1}};
      heed::reference::softmax::forward(t.queries(), t.keys(), t.values(), output(all), how);
      for (index_t b = 0; b < p.count(); ++b) {
        const scope one = parts.alone(b);
        options mine = parts.of({&first, &second}, one);
        mine.lse = {each.lse.data() + one.first_query, {1, 4, one.queries}, {0, s.queries, 1}};
        heed::reference::softmax::forward(heed::slice(t.queries(), 2, one.first_query, one.queries),
                                          heed::slice(t.keys(), 2, one.first_key, one.keys),
                                          heed::slice(t.values(), 2, one.first_key, one.keys),
                                          heed::slice(output(each), 2, one.first_query, one.queries), mine);
      }
      CHECK(all.o == each.o);
      CHECK(all.lse == each.lse);
    }
}

TEST_CASE("masks that do not join are the reference's error too") {
  const tensors t({1, 1, 1, 3, 4, 4, 4});
  const std::vector<std::int32_t> two{2}, three{3};
  answer a(t.s);
  const heed::tensor_view<double, 4> o(a.o.data(), {1, 1, 3, 4}, {12, 12, 4, 1});
  const options how{.mask = heed::key_lengths(two) & heed::key_lengths(three)};
  CHECK_THROWS_AS(heed::reference::softmax::forward(t.queries(), t.keys(), t.values(), o, how), heed::error);
  CHECK(a.o[0] == 77);
}

TEST_CASE("places beyond int32 keep their order: nothing wraps around") {
  const tensors t({1, 1, 1, 3, 4, 4, 4});
  const std::vector<std::int32_t> last{std::numeric_limits<std::int32_t>::max() - 1};
  const auto seen = visible_pairs(t, {.mask = heed::causal(), .align = heed::first_place(last)});
  CHECK(seen == std::vector<bool>(12, true));
}
