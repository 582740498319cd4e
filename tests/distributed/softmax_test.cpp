// SPDX-License-Identifier: BSD-3-Clause

// softmax::forward over ranks that are threads, against one call on the whole sequence: every cut and spread of tokens,
// masks, heads, layouts and types; the same bits again; nothing outside the outputs.

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/distributed/ring.hpp"
#include "heed/softmax.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/ranks.hpp"

using namespace heed_test;
using heed::distributed::cut;

namespace {

// A call on all tokens and its cut
template <class T> struct softmax_over_ranks {
  using acc = heed::detail::acc_t<T>;
  index_t batch = 1, heads = 4, kv_heads = 2, queries = 90, keys = 90, d = 8, e = 12;
  heed::softmax::options<acc> opt = {};
  layout in = layout::bhsd, out = layout::bhsd;

  buffer<T> q = buffer<T>::input({batch, heads, queries, d}), k = buffer<T>::input({batch, kv_heads, keys, d}),
            v = buffer<T>::input({batch, kv_heads, keys, e});
  buffer<T> o = buffer<T>::output({batch, std::max(heads, kv_heads), queries, e}),
            got = buffer<T>::output({batch, std::max(heads, kv_heads), queries, e});
  buffer<acc> lse = buffer<acc>::output({batch, std::max(heads, kv_heads), queries, 1}),
              got_lse = buffer<acc>::output({batch, std::max(heads, kv_heads), queries, 1});
  std::uint64_t bits = 0;  // of everything that all ranks wrote

  void make(std::uint32_t seed = 1) {
    random_numbers random(seed);
    for (buffer<T>* x : {&q, &k, &v}) x->each([&](T& y) { y = T(static_cast<acc>(random.normal())); });
    auto whole = opt;
    whole.lse = lse.view3();
    heed::softmax::forward(q.cview(), k.cview(), v.cview(), o.view(), whole);
  }

  // What ranks threw or did wrong, "" where nothing
  std::string run(const heed::distributed::options& how, const ranges& of_queries, const ranges& of_keys,
                  bool with_lse = true, bool with_workspace = false, index_t threads = 2) {
    const auto ranks = static_cast<index_t>(of_keys.size());
    std::vector<std::string> wrong(of_keys.size());
    std::vector<std::uint64_t> hashes(of_keys.size());
    std::vector<std::pair<buffer<T>, buffer<acc>>> results;
    for (const auto& each : of_queries)
      results.emplace_back(buffer<T>::output({batch, std::max(heads, kv_heads), count(each), e}, out),
                           buffer<acc>::output({batch, std::max(heads, kv_heads), count(each), 1}, out));
    const auto thrown = thrown_by_ranks(ranks, [&](net_of_threads& net) {
      const auto r = static_cast<std::size_t>(net.rank());
      const buffer<T> q_part = part_of(q, of_queries[r], in), k_part = part_of(k, of_keys[r], in),
                      v_part = part_of(v, of_keys[r], in);
      const std::uint64_t before = q_part.hash() ^ k_part.hash() ^ v_part.hash();
      auto mine = opt;
      auto here = how;
      if (how.cut == cut::zigzag) here.first_chunk = of_keys[r][0].count;
      if (with_lse) mine.lse = results[r].second.view3();
      test_executor workers(threads, order::shuffled);
      heed::context context{.executor = workers};
      std::vector<std::byte> scratch;
      if (with_workspace) {
        const heed::plan plan = heed::distributed::softmax::plan_forward(
            net, q_part.cview(), k_part.cview(), v_part.cview(), results[r].first.view(), mine, here, context);
        if (!plan.ok()) wrong[r] = plan.problem.data();
        scratch.resize(plan.workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::softmax::forward(net, q_part.cview(), k_part.cview(), v_part.cview(), results[r].first.view(),
                                          mine, here, context);
      if (before != (q_part.hash() ^ k_part.hash() ^ v_part.hash())) wrong[r] = "an input has changed";
    });
    bits = 0;
    for (std::size_t r = 0; r < wrong.size(); ++r) {
      if (!thrown[r].empty()) return "rank " + std::to_string(r) + " threw " + thrown[r];
      if (!wrong[r].empty()) return wrong[r];
      const auto& [o_part, lse_part] = results[r];
      if (!o_part.canaries_alive() || !lse_part.canaries_alive()) return "memory outside an output was written";
      put_part(o_part, of_queries[r], got);
      if (with_lse) put_part(lse_part, of_queries[r], got_lse);
      bits = bits * 31 + o_part.hash() + lse_part.hash();
    }
    return "";
  }
};

constexpr double bound_of(float) { return 3e-6; }
constexpr double bound_of(double) { return 1e-14; }

template <class T> void check(softmax_over_ranks<T>& x, cut how, spread of, index_t ranks) {
  const ranges tokens = ranges_of(how, of, x.keys, ranks);
  INFO("cut " << static_cast<int>(how) << ", " << name_of(of) << ", " << ranks << " ranks");
  REQUIRE(x.run({.cut = how}, tokens, tokens) == "");
  CHECK(difference(x.got, x.o) < bound_of(typename softmax_over_ranks<T>::acc()));
  CHECK(difference(x.got_lse, x.lse) < bound_of(typename softmax_over_ranks<T>::acc()));
  const std::uint64_t bits = x.bits;
  REQUIRE(x.run({.cut = how}, tokens, tokens, true, true, 3) == "");  // a planned workspace, and more threads
  CHECK(x.bits == bits);
}

}  // namespace

TEST_CASE("ring: one call and 1 to 5 ranks, every cut, spread and mask") {
  for (const heed::mask& mask : {heed::mask(), heed::causal(), heed::window(20, 5), heed::causal() & heed::window(31)})
    for (const cut how : {cut::contiguous, cut::zigzag})
      for (const spread of : spreads)
        for (index_t ranks = 1; ranks <= 5; ++ranks) {
          softmax_over_ranks<float> x{.opt = {.mask = mask}};
          x.make();
          check(x, how, of, ranks);
        }
}

TEST_CASE("ring: heads, layouts and double") {
  constexpr index_t heads[][2] = {{1, 1}, {3, 3}, {6, 2}, {4, 1}, {2, 4}};
  for (const auto& [h, kv] : heads)
    for (const layout how : output_layouts) {
      softmax_over_ranks<double> x{
          .batch = 2, .heads = h, .kv_heads = kv, .opt = {.mask = heed::causal()}, .in = how, .out = how};
      x.make();
      check(x, cut::zigzag, spread::ragged, 3);
      check(x, cut::contiguous, spread::ragged, 4);
    }
}

TEST_CASE("ring: options") {
  for (const cut how : {cut::contiguous, cut::zigzag}) {
    softmax_over_ranks<float> x{.opt = {.mask = heed::causal(),
                                        .scale = 0.5,
                                        .softcap = 3,
                                        .alibi_slopes = heed::alibi_slopes(4),
                                        .sink_logits = std::vector<float>{0.5f, -1, 2, 0}}};
    x.make();
    check(x, how, spread::ragged, 4);
    const ranges tokens = ranges_of(how, spread::even, x.keys, 3);
    REQUIRE(x.run({.cut = how}, tokens, tokens, false) == "");  // without lse
    CHECK(difference(x.got, x.o) < 3e-6);
  }
}

TEST_CASE("ring: more queries or fewer than keys, and rows that see nothing") {
  for (const auto& [queries, keys] : std::vector<std::pair<index_t, index_t>>{{40, 90}, {90, 40}, {90, 0}, {0, 90}})
    for (const bool top : {false, true})
      for (const bool causal : {false, true}) {
        softmax_over_ranks<float> x{.queries = queries,
                                    .keys = keys,
                                    .opt = {.mask = causal ? heed::causal() : heed::mask(),
                                            .align = top ? heed::top_left : heed::bottom_right}};
        x.make();
        for (const spread of : spreads) {
          REQUIRE(x.run({}, ranges_of(cut::contiguous, spread::ragged, queries, 4),
                        ranges_of(cut::contiguous, of, keys, 4)) == "");
          CHECK(difference(x.got, x.o) < 3e-6);
          CHECK(difference(x.got_lse, x.lse) < 3e-6);
        }
      }
}

TEST_CASE("ring: 16-bit tensors") {
  softmax_over_ranks<heed::bf16_t> x{.opt = {.mask = heed::causal()}};
  x.make();
  softmax_over_ranks<heed::f16_t> y{.opt = {.mask = heed::causal()}};
  y.make();
  for (const cut how : {cut::contiguous, cut::zigzag}) {
    const ranges tokens = ranges_of(how, spread::ragged, 90, 3);
    REQUIRE(x.run({.cut = how}, tokens, tokens) == "");
    CHECK(difference(x.got, x.o) < 0x1p-7);
    REQUIRE(y.run({.cut = how}, tokens, tokens) == "");
    CHECK(difference(y.got, y.o) < 0x1p-9);
  }
}

TEST_CASE("ring: NaN reaches the rows that see it, and no other") {
  softmax_over_ranks<float> x{.opt = {.mask = heed::causal()}};
  x.make();
  for (index_t h = 0; h < x.kv_heads; ++h)
    x.k(0, h, 50, 3) = x.v(0, h, 51, 2) = std::numeric_limits<float>::quiet_NaN();
  heed::softmax::forward(x.q.cview(), x.k.cview(), x.v.cview(), x.o.view(), x.opt);
  for (const cut how : {cut::contiguous, cut::zigzag}) {
    const ranges tokens = ranges_of(how, spread::ragged, x.keys, 4);
    REQUIRE(x.run({.cut = how}, tokens, tokens) == "");
    for (index_t i = 0; i < x.queries; ++i) CHECK(std::isnan(x.got(0, 1, i, 2)) == (i >= 50));
    CHECK(difference(x.got, x.o) < 3e-6);
  }
}

TEST_CASE("ring: no batch entries") {
  for (const cut how : {cut::contiguous, cut::zigzag}) {
    softmax_over_ranks<float> x{.batch = 0};
    x.make();
    const ranges tokens = ranges_of(how, spread::ragged, x.keys, 3);
    CHECK(x.run({.cut = how}, tokens, tokens) == "");
  }
}

TEST_CASE("ring: counts are those of the mask, and causal zig-zag is balanced") {
  constexpr index_t tokens = 57, ranks = 4;
  struct sight {
    heed::mask mask;
    index_t left, right;
  };
  for (const sight& s : {sight{heed::mask(), tokens, tokens}, sight{heed::causal(), tokens, 0},
                         sight{heed::window(9, 2), 9, 2}, sight{heed::window(9, -1), 9, tokens}})
    for (const cut how : {cut::contiguous, cut::zigzag})
      for (index_t r = 0; r < ranks; ++r) {
        double pairs = 0;
        each_token(heed::distributed::tokens_of(how, tokens, ranks, r), [&](index_t i, index_t) {
          for (index_t j = 0; j < tokens; ++j) pairs += i - j <= s.left && j - i <= s.right ? 1 : 0;
        });
        CHECK(std::abs(heed::distributed::count_ring(how, tokens, ranks, r, s.mask).pairs - pairs) < 0.5);
      }

  const double all = heed::distributed::count_ring(cut::zigzag, 8192, 1, 0, heed::causal()).pairs;
  for (index_t r = 0; r < 4; ++r) {
    const auto counts = heed::distributed::count_ring(cut::zigzag, 8192, 4, r, heed::causal());
    CHECK(std::abs(counts.pairs / (all / 4) - 1) < 0.05);
    CHECK(counts.keys_sent == 3 * 2048);
  }
}

TEST_CASE("ring: tokens_of cuts a sequence without gaps") {
  for (const cut how : {cut::contiguous, cut::zigzag})
    for (const index_t tokens : {0, 1, 7, 64, 101})
      for (index_t ranks = 1; ranks <= 6; ++ranks) {
        std::vector<int> seen(static_cast<std::size_t>(tokens));
        for (index_t r = 0; r < ranks; ++r)
          each_token(heed::distributed::tokens_of(how, tokens, ranks, r),
                     [&](index_t token, index_t) { ++seen.at(static_cast<std::size_t>(token)); });
        CHECK(std::count(seen.begin(), seen.end(), 1) == tokens);
      }
  CHECK_THROWS_AS(heed::distributed::tokens_of(cut::zigzag, 10, 2, 2), heed::error);
  CHECK_THROWS_AS(heed::distributed::tokens_of(cut::zigzag, -1, 2, 0), heed::error);
}
