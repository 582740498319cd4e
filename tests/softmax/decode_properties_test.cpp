// SPDX-License-Identifier: BSD-3-Clause

// What softmax::decode has in common with forward and with itself: prefill, layouts, shared memory, NaN.

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/decode_case.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();

// Tokens [0, length) of a prefill as a cache, and queries [length - n, length) as new ones
decode_case<float> step_of(const softmax_case<float>& full, index_t length, index_t n, const cache_setup& cache,
                           const heed::softmax::options<float>& how) {
  decode_problem p{full.s.heads, full.s.kv_heads, n, full.s.dim, full.s.value_dim,
                   numbers(static_cast<std::size_t>(full.s.batch), static_cast<std::int32_t>(length)), cache};
  decode_case<float> x(p, how);
  for (index_t b = 0; b < full.s.batch; ++b) {
    for (index_t h = 0; h < full.s.heads; ++h)
      for (index_t i = 0; i < n; ++i)
        for (index_t d = 0; d < full.s.dim; ++d) x.q(b, h, i, d) = full.q(b, h, length - n + i, d);
    for (index_t h = 0; h < full.s.kv_heads; ++h)
      for (index_t t = 0; t < length; ++t) {
        for (index_t d = 0; d < full.s.dim; ++d) x.keys(b, h, t, d) = double{full.k(b, h, t, d)};
        for (index_t e = 0; e < full.s.value_dim; ++e) x.values(b, h, t, e) = double{full.v(b, h, t, e)};
      }
  }
  x.write_all();
  return x;
}

// Decodes the step; its rows are those of the prefill up to rounding.
void check_step(const softmax_case<float>& full, index_t length, index_t n, const cache_setup& cache,
                const heed::softmax::options<float>& how) {
  decode_case<float> x = step_of(full, length, n, cache, how);
  check(x);
  const decode_expected<float> sizes = expected_of(x, x.options);
  const tolerance allowed = tolerance_of<float>(full.s.keys, full.s.dim);
  verdict result;
  for (index_t r = 0; r < x.s.batch * x.s.heads * n; ++r) {
    const index_t b = r / (x.s.heads * n), h = r / n % x.s.heads, i = r % n;
    const row_size& size = sizes.sizes[static_cast<std::size_t>(r)];
    for (index_t e = 0; e < x.s.value_dim; ++e)
      result.add(x.o(b, h, i, e), full.o(b, h, length - n + i, e), 2 * allowed.of_output(size), "o", b, h, i, e);
    result.add(x.lse(b, h, i), full.lse(b, h, length - n + i), 2 * allowed.of_lse(size), "lse", b, h, i, 0);
  }
  INFO(to_string(cache) << ", " << n << " of " << length << ": " << result.where);
  CHECK(result.worst <= 1);
}

}  // namespace

TEST_CASE("decode: prefill and decode are a full prefill, for every split point and cache") {
  std::size_t turn = 0;
  for (const shape& s : {shape{1, 4, 2, 40, 40, 16, 12}, shape{2, 8, 1, 40, 40, 20, 8}, shape{1, 2, 2, 40, 40, 8, 8}}) {
    softmax_case<float> full(s, {.mask = heed::causal()});
    full.forward();
    for (const cache_setup& cache : whole_caches(40, 3))
      for (index_t split = 0; split < 40; ++split) {
        if (turn++ % thinning != 0) continue;
        check_step(full, split + 1, 1, cache, {.mask = heed::causal()});           // a step
        check_step(full, 40, 40 - split, cache, {.mask = heed::causal()});         // all that is left at once
        if (split >= 4) check_step(full, split + 1, 4, cache, {.mask = heed::causal()});  // four at a time
      }
  }
}

TEST_CASE("decode: in a ring that wraps it is a full prefill under the window that the ring is") {
  for (const auto& [capacity, kept] : std::vector<std::array<index_t, 2>>{{7, 0}, {16, 4}, {23, 1}, {8, 7}})
    for (const index_t group : {1, 4, 8}) {
      const index_t left = capacity - kept - 1;
      softmax_case<float> full({1, group, 1, 40, 40, 16, 12}, {.mask = heed::window(left, 0, kept)});
      full.forward();
      const cache_setup ring{cache_kind::ring, capacity, kept};
      for (index_t length = 1; length <= 40; length += thinning == 1 ? 1 : 3)
        check_step(full, length, 1, ring, {.mask = length % 2 == 0 ? heed::causal() : heed::mask{}});
      // several at once where the window leaves room for them
      if (left < 5) continue;
      softmax_case<float> narrow({1, group, 1, 40, 40, 16, 12}, {.mask = heed::window(left - 3, 0, kept)});
      narrow.forward();
      for (const index_t length : {4, 17, 31, 40})
        check_step(narrow, length, 4, ring, {.mask = heed::window(left - 3, 0, kept)});
    }
}

TEST_CASE("decode: the same bits for every place that tokens may have") {
  std::size_t turn = 0;
  for (const kept type : all_kept)
    for (const auto& [heads, kv_heads] : std::vector<std::array<index_t, 2>>{{1, 1}, {4, 2}, {8, 1}, {2, 4}, {16, 1}})
      for (const index_t n : {1, 4, 17})
        for (const std::int32_t longest : {20, 300, 1100}) {
          if (turn++ % thinning != 0) continue;
          decode_problem p{heads, kv_heads, n, 24, 20, {longest, longest / 3}};
          p.stored_kv = type;
          const heed::softmax::options<float> how{.mask = heed::causal(), .alibi_slopes = 0.01};
          decode_case<float> plain(p, how);
          plain.decode();
          for (const cache_setup& cache : whole_caches(longest, 2)) {
            p.cache = cache;
            decode_case<float> x(p, how);
            x.decode();
            const bool same = same_results(x, plain);
            INFO(to_string(p) << ", " << x.plan().path);
            CHECK(same);
          }
        }
}

TEST_CASE("decode: values that are a slice of the keys, in one memory") {
  for (const index_t n : {1, 3})
    for (const auto& [heads, kv_heads] : std::vector<std::array<index_t, 2>>{{1, 1}, {16, 1}, {4, 2}})
      for (const index_t e : {40, 32, 7})
        for (const cache_kind kind : {cache_kind::contiguous, cache_kind::ring, cache_kind::paged}) {
          decode_case<float> x({heads, kv_heads, n, 40, e, {129, 40}, {kind, 200, 2}}, {.mask = heed::causal()});
          for (index_t b = 0; b < 2; ++b)
            for (index_t h = 0; h < kv_heads; ++h)
              for (index_t t = 0; t < 129; ++t)
                for (index_t c = 0; c < e; ++c) x.values(b, h, t, c) = x.keys(b, h, t, c);
          x.write_all();
          auto cache = std::get<0>(x.cache());
          cache.v = heed::slice(cache.k, 3, 0, e);
          x.run([&](const decode_call<float>& c) { run_decode<float>({c.q, cache, c.o}, x.options, {}); });
          const verdict result = compare(x, expected_of(x, x.options), false);
          INFO(to_string(x.p) << ": " << result.where);
          CHECK(result.worst <= 1);
        }
}

TEST_CASE("decode: a NaN or infinity in a visible token reaches the rows that see it, and no other") {
  for (const kept type : {kept::f32, kept::bf16, kept::i8})
    for (const index_t group : {1, 4, 8, 16})
      for (const index_t n : {1, 4})
        for (const index_t at : {0, 63, 148, 149}) {  // causal: some rows see the last tokens, others do not
          decode_problem p{group, 1, n, 20, 12, {150}, {cache_kind::paged}};
          p.stored_kv = type;
          decode_case<float> x(p, {.mask = heed::causal()});
          x.spoil(at, at + 1, not_a_number);
          check(x);
          CHECK(std::isnan(x.o(0, group - 1, n - 1, 11)));
          if (type == kept::i8) continue;
          for (const double bad : {HUGE_VAL, -HUGE_VAL, static_cast<double>(not_a_number)}) {
            decode_case<float> value(p, {.mask = heed::causal()});
            value.values(0, 0, at, 7) = bad;
            value.write_all();
            check(value);
            CHECK(!std::isfinite(value.o(0, 0, n - 1, 7)));
            CHECK(std::isfinite(value.o(0, 0, n - 1, 8)));
          }
          decode_case<float> query(p);
          query.q(0, group - 1, 0, 3) = not_a_number;
          check(query);
        }
}

TEST_CASE("decode: what hidden tokens hold has no effect") {
  const auto visible = std::make_unique<bool[]>(150);
  for (index_t j = 0; j < 150; ++j) visible[static_cast<std::size_t>(j)] = j < 40 || j >= 60;
  std::vector<std::int32_t> key_ids(300, 1), query_ids(8, 1);
  std::vector<float> bias(150, 0.25f);
  for (std::size_t j = 40; j < 60; ++j) key_ids[j] = key_ids[150 + j] = 2, bias[j] = -inf;
  const std::vector<heed::softmax::options<float>> hiding = {
      {.mask = heed::window(50, 0, 40)},  // tokens 40 .. 89 at the least: of 4 rows the first sees from 96 on
      {.mask = heed::keep({visible.get(), {1, 1, 1, 150}, {0, 0, 0, 1}})},
      {.mask = heed::segments({query_ids.data(), {2, 4}, {4, 1}}, {key_ids.data(), {2, 150}, {150, 1}})},
      {.mask = heed::visible_if([](const heed::position& at) { return at.key < 40 || at.key >= 60; })},
      {.bias = {bias.data(), {1, 1, 1, 150}, {0, 0, 0, 1}}},
      {.mask = heed::causal(), .align = heed::first_place({39, 38})}};  // place 42 at the most
  for (const kept type : all_kept)
    for (const index_t group : {1, 4, 8})
      for (const cache_kind kind : {cache_kind::contiguous, cache_kind::ring, cache_kind::paged})
        for (const heed::softmax::options<float>& how : hiding) {
          decode_problem p{group, 1, 4, 20, 12, {150, 150}, {kind, 150, 0}};
          p.stored_kv = type;
          decode_case<float> clean(p, how);
          check(clean);
          for (const float bad : {not_a_number, inf}) {
            decode_case<float> x(p, how);
            x.spoil(43, 60, bad);
            x.decode();
            const bool same = same_results(x, clean);
            INFO(to_string(p) << ", " << bad << ", option " << &how - hiding.data() << ", " << x.plan().path);
            CHECK(same);
          }
        }
}

TEST_CASE("decode: subnormal numbers count as 0, and one visible key returns its value") {
  for (const index_t group : {1, 8}) {
    decode_case<float> x({group, 1, 2, 8, 8, {40}});
    for (index_t t = 0; t < 40; ++t)
      for (index_t e = 0; e < 8; ++e) x.values(0, 0, t, e) = 0x1p-130;
    x.write_all(), check(x);
    CHECK(x.o(0, group - 1, 1, 3) == 0);
    for (const kept type : all_kept) {
      decode_problem p{group, 1, 3, 8, 8, {1}};
      p.stored_kv = type;
      decode_case<float> one(p, {.mask = heed::causal()});
      check(one);
      for (index_t e = 0; e < 8; ++e) {
        CHECK(one.o(0, group - 1, 2, e) == Approx(one.values(0, 0, 0, e)).epsilon(type == kept::i8 ? 1e-6 : 0));
        CHECK(one.o(0, group - 1, 1, e) == 0);
      }
    }
  }
}

TEST_CASE("decode: parts of the tokens, merged") {
  for (const index_t group : {1, 8}) {
    const shape s{1, group, 1, 150, 150, 16, 12};
    const softmax_case<float> full(s);
    const auto before = heed::visible_if([](const heed::position& at) { return at.key < at.place - 60; });
    decode_case<float> all = step_of(full, 150, 2, {}, {}),
                       late = step_of(full, 150, 2, {}, {.mask = heed::window(60, -1)}),
                       early = step_of(full, 150, 2, {}, {.mask = before});
    all.decode(), late.decode(), early.decode();
    run_merge<float>(late.o.view(), late.lse.view3(), early.o.cview(), early.lse.view3(), 0);
    CHECK(largest_difference(late.o, all.o) < 1e-5);
    CHECK(largest_difference(late.lse, all.lse) < 1e-5);
  }
}
