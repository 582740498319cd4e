// SPDX-License-Identifier: BSD-3-Clause

// softmax::decode under every mask, place and score option: keys count in tokens, in every kind of cache.

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "support/decode_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;
using parts = option_parts<float>;

// Few rows and many, groups of one and more, more key/value heads; of two sequences one is short.
const decode_problem some_problems[] = {{4, 2, 1, 20, 12, {170, 33}},
                                        {8, 1, 5, 12, 16, {90, 4}},
                                        {2, 4, 3, 8, 9, {70, 129}},
                                        {4, 4, 17, 16, 8, {140}}};

// Which of the terms of option_parts decode has: all but those that say what the cache says
bool of_decode(const parts::part& x) { return x.name != "top_left" && x.kind != part_kind::key_lengths; }

decode_problem in_cache(decode_problem p, std::size_t turn) {
  p.cache = some_cache(turn, p.longest());
  p.stored_kv = all_kept[turn / 2 % 4];
  return p;
}

}  // namespace

TEST_CASE("decode: every option in every kind of cache") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems) {
    const parts all(p.as_shape());
    for (const auto& part : all.all)
      for (std::size_t kind = 0; kind < 9; ++kind) {
        if (!of_decode(part) || turn++ % thinning != 0) continue;
        INFO(part.name);
        check_decode(in_cache(p, kind + 9 * turn), all.of({&part}, all.whole()));
      }
  }
}

TEST_CASE("decode: pairs and triples of options") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems) {
    const parts all(p.as_shape());
    for (const auto& first : all.all)
      for (const auto& second : all.all) {
        if (!of_decode(first) || !of_decode(second) || first.kind >= second.kind || ++turn % (2 * thinning) != 0)
          continue;
        const auto& third = all.all[turn % all.all.size()];
        const bool three = of_decode(third) && third.kind != first.kind && third.kind != second.kind;
        INFO(first.name << ", " << second.name << ", " << (three ? third.name : ""));
        std::vector<const parts::part*> chosen{&first, &second};
        if (three) chosen.push_back(&third);
        check_decode(in_cache(p, turn), all.of(chosen, all.whole()));
      }
  }
}

TEST_CASE("decode: windows of any width, whose first keys are others than the ring's") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems)
    for (const index_t left : {-1, 0, 1, 14, 15, 16, 17, 63, 100, 1000})
      for (const index_t right : {-1, 0, 2})
        for (const index_t keep_first : {0, 1, 4, 40}) {
          if (++turn % (thinning == 1 ? 2 : 13) != 0) continue;
          const heed::mask mask = heed::window(left, right, keep_first);
          check_decode<float>(in_cache(p, turn), {.mask = turn % 2 == 0 ? mask : mask & heed::causal()});
        }
}

TEST_CASE("decode: places of the caller's, before, among and behind the tokens") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems)
    for (const std::int32_t first : {-30, -1, 0, 1, 20, 64, 150, 1000}) {
      numbers each(static_cast<std::size_t>(p.batch()));
      std::iota(each.begin(), each.end(), first);
      for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(10), heed::window(30, 7, 3)}) {
        if (++turn % thinning != 0) continue;
        check_decode<float>(in_cache(p, turn), {.mask = mask, .align = heed::first_place(each), .alibi_slopes = 0.02});
      }
    }
}

TEST_CASE("decode: lengths per head move the place per head") {
  const numbers lengths{100, 7, 0, 64, 65, 300};
  for (const index_t n : {1, 4})
    for (const index_t group : {1, 4, 8})
      for (const cache_setup& cache : {cache_setup{cache_kind::contiguous}, {cache_kind::ring, 40, 2},
                                       {cache_kind::ring, 310, 0}, {cache_kind::paged, 0, 0, 16}}) {
        decode_problem p{3 * group, 3, n, 16, 12, lengths, cache};
        p.per_head = true;
        const parts all(p.as_shape());
        for (const auto& part : all.all)
          if (of_decode(part) && part.kind != part_kind::align && part.kind != part_kind::keep)
            check_decode(p, all.of({&part}, all.whole()));
        check_decode<float>(p, {.mask = heed::causal() & heed::window(20), .alibi_slopes = 0.1});
      }
}

TEST_CASE("decode: rings from which tokens were taken back have lost more than their length says") {
  for (const kept type : all_kept)
    for (const index_t group : {1, 4, 8})
      for (const index_t n : {1, 4})
        for (const index_t keep_first : {0, 2, 9})
          for (const bool per_head : {false, true}) {
            decode_problem p{2 * group, 2, n, 16, 12, {150, 61}, {cache_kind::ring, 20, keep_first}};
            p.stored_kv = type, p.per_head = per_head;
            if (per_head) p.lengths = {150, 61, 90, 33};
            decode_case<float> x(p, {.mask = heed::causal() & heed::window(15, 0, 1)});
            for (std::int32_t& length : x.rows.lengths) {  // 5 are taken back; what is left of the others stays
              x.rows.oldest.push_back(length - (20 - static_cast<std::int32_t>(keep_first)));
              length -= 5;
            }
            check(x);
            x.options.mask = {};
            check(x);
          }
}

TEST_CASE("decode: owned rings that have fewer tokens than they keep, or just as many") {
  for (const index_t group : {1, 8})
    for (const index_t n : {1, 3}) {
      decode_problem p{2 * group, 2, n, 16, 12, {0, 1, 3, 4, 5, 16, 17}, {cache_kind::ring, 16, 4}};
      decode_case<float> x(p, {.mask = heed::causal()});
      for (const std::int32_t length : p.lengths) x.rows.oldest.push_back(std::max(4, length - 12));
      check(x);
    }
}

TEST_CASE("decode: bias and keep that end at the longest length or behind it, and of extent 1") {
  const index_t longest = 130;
  std::vector<float> bias(2 * 8 * 3 * 200);
  random_numbers random(7);
  for (float& x : bias) x = static_cast<float>(random.normal());
  const auto visible = std::make_unique<bool[]>(bias.size());
  for (std::size_t i = 0; i < bias.size(); ++i) visible[i] = random.uniform() < 0.7;
  for (const index_t keys : {longest, longest + 1, index_t{200}, index_t{1}})
    for (std::size_t kind = 0; kind < 8; ++kind)
      for (const index_t group : {1, 8}) {
        decode_problem p = in_cache({8, 8 / group, 3, 16, 8, {130, 41}}, kind);
        check_decode<float>(p, {.bias = {bias.data(), {2, 8, 3, keys}, {4800, 600, 200, 1}}});
        check_decode<float>(p, {.mask = heed::keep({visible.get(), {2, 8, 3, keys}, {4800, 600, 200, 1}})});
        check_decode<float>(p, {.mask = heed::causal() & heed::keep({visible.get(), {1, 1, 3, keys}, {0, 0, 200, 1}}),
                                .bias = {bias.data(), {1, 1, 1, keys}, {0, 0, 0, 1}}});
      }
}

namespace {

// A tree of new tokens behind the tokens of a cache: parent[i] < i, or -1
struct token_tree {
  std::vector<int> parent;
  bool has(int of, int ancestor) const {
    while (of > ancestor) of = parent[static_cast<std::size_t>(of)];
    return of == ancestor;
  }
};

// The attention of new token i to the first tokens, its ancestors and itself, one by one
verdict tree_by_loops(const decode_case<float>& x, const token_tree& tree) {
  verdict result;
  const index_t n = x.s.queries, first = x.s.keys - n, group = x.s.heads / x.s.kv_heads;
  const tolerance allowed = tolerance_of<float>(x.s.keys, x.s.dim);
  for (index_t h = 0; h < x.s.heads; ++h)
    for (index_t i = 0; i < n; ++i) {
      std::vector<double> o(static_cast<std::size_t>(x.s.value_dim));
      double sum = 0;
      row_size size;
      for (index_t j = 0; j < x.s.keys; ++j) {
        if (j >= first && !tree.has(static_cast<int>(i), static_cast<int>(j - first))) continue;
        double score = 0;
        for (index_t d = 0; d < x.s.dim; ++d) score += double{x.q(0, h, i, d)} * x.keys(0, h / group, j, d);
        score /= std::sqrt(static_cast<double>(x.s.dim));
        sum += std::exp(score), size.see_score(score);
        for (index_t e = 0; e < x.s.value_dim; ++e) {
          const double v = x.values(0, h / group, j, e);
          o[static_cast<std::size_t>(e)] += std::exp(score) * v, size.see_value(v);
        }
      }
      for (index_t e = 0; e < x.s.value_dim; ++e)
        result.add(x.o(0, h, i, e), o[static_cast<std::size_t>(e)] / sum, allowed.of_output(size), "o", 0, h, i, e);
    }
  return result;
}

}  // namespace

TEST_CASE("decode: trees of new tokens beside plain loops") {
  for (const int n : {1, 4, 9, 17})
    for (const std::int32_t before : {0, 3, 60, 300})
      for (const index_t group : {1, 4, 8}) {
        token_tree tree;
        random_numbers random(static_cast<std::uint32_t>(n + before));
        for (int i = 0; i < n; ++i) tree.parent.push_back(random.below(i + 1) - 1);
        const index_t keys = before + n;
        const auto visible = std::make_unique<bool[]>(static_cast<std::size_t>(n * keys));
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < keys; ++j)
            visible[static_cast<std::size_t>(i * keys + j)] = j < before || tree.has(i, j - before);
        for (const cache_setup& cache : whole_caches(keys)) {
          decode_problem p{2 * group, 2, n, 16, 8, {static_cast<std::int32_t>(keys)}, cache};
          decode_case<float> x(p, {.mask = heed::keep({visible.get(), {1, 1, n, keys}, {0, 0, keys, 1}})});
          check(x);
          const verdict result = tree_by_loops(x, tree);
          INFO(result.where);
          CHECK(result.worst <= 1);
        }
      }
}

TEST_CASE("decode: a scale of 0 is the mean of the values") {
  for (const index_t n : {1, 3})
    for (const index_t group : {1, 8}) {
      decode_case<float> x({group, 1, n, 8, 8, {100}}, {.scale = 0});
      check(x);
      double mean = 0;
      for (index_t j = 0; j < 100; ++j) mean += x.values(0, 0, j, 5) / 100;
      CHECK(x.o(0, group - 1, n - 1, 5) == Approx(mean).margin(1e-5));
    }
}

TEST_CASE("decode: large scores, sinks that take everything, caps") {
  for (const index_t group : {1, 8})
    for (const double scale : {-1.0, 30.0, 1e4}) {
      check_decode<float>({group, 1, 2, 16, 8, {150, 9}}, {.scale = scale, .softcap = 20});
      check_decode<float>({group, 1, 2, 16, 8, {150, 9}}, {.mask = heed::causal(), .scale = scale, .sink_logits = 50});
      check_decode<double>({group, 1, 2, 16, 8, {150, 9}}, {.scale = scale, .sink_logits = -50});
    }
}
