// SPDX-License-Identifier: BSD-3-Clause

// local_linear::forward and apply of 16-bit tensors beside the reference; slope, mean_key and lse are float. All sums
// are those of the float call with the same numbers.

#include <iterator>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"
#include "support/stored_run.hpp"

using namespace heed_test;

namespace {

using how_options = heed::local_linear::options<float>;

struct half_regression : local_linear_case<float> {
  stored_tensors at;

  explicit half_regression(const type_mix& types, const shape& size, const how_options& how = {},
                           const layouts& in = {})
      : local_linear_case<float>(size, 0.5, how, layouts{.lse = in.lse, .skew = in.skew}), at(*this, types, in) {}

  stored_call call() const { return {at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()}; }
  heed::plan stored_plan(const heed::context& ctx = {}) const {
    return plan_stored_local_linear(call(), ridge, nullptr, options, ctx);
  }
  void run(const heed::context& ctx = {}, const input<float>* slopes = nullptr) {
    at.take(*this);
    run_stored_local_linear(call(), ridge, slopes, options, ctx);
    at.o.copy_to(o);
  }
  bool kept() const {
    return at.o.canaries_alive() && lse.canaries_alive() && slope.canaries_alive() && mean.canaries_alive() &&
           at.o.all_written() && all_written(lse) && all_written(slope) && all_written(mean);
  }
};

void check(const type_mix& types, const shape& s, const how_options& how = {}, const layouts& in = {}) {
  INFO(to_string(s) << ", " << to_string(types) << ", " << name_of(how.solver));
  half_regression x(types, s, how, in);
  const std::vector<fitted_row> rows = fitted(x, x.ridge, x.options);
  const std::uint64_t before = x.at.hash();
  x.run();
  const verdict result = compare(x, rows, rounding_of(types.o));
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(x.at.hash() == before);
  CHECK(x.kept());
}

constexpr shape some_shapes[] = {{2, 4, 2, 21, 45, 8, 5}, {1, 1, 2, 70, 30, 6, 17}, {1, 2, 1, 3, 270, 20, 9}};

bool same_results(const half_regression& a, const half_regression& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse) && same_bits(a.slope, b.slope) && same_bits(a.mean, b.mean);
}

}  // namespace

TEST_CASE("16 bit: every mix of float, bf16 and f16") {
  each_mix([](const type_mix& types) { check(types, some_shapes[0], {.mask = heed::causal()}); });
}

TEST_CASE("16 bit: bf16 and f16: shapes and solvers") {
  const heed::plan plan = half_regression(type_mix::all(stored::bf16), {1, 1, 1, 1000, 1000, 64, 64}).stored_plan();
  REQUIRE(plan.ok());
  std::size_t turn = 0;
  const auto run = [&](const shape& s) {
    if (turn++ % thinning != 0) return;
    check(type_mix::all(half_types[turn % 2]), s,
          {.mask = turn % 3 == 0 ? heed::causal() : heed::mask{}, .solver = solvers[turn / 2 % std::size(solvers)]});
  };
  for (const index_t n : around(plan.query_tile))
    for (const index_t m : around(plan.key_tile)) run({1, 2, 1, n, m, index_t{1} + (n + m) % 7, index_t{1} + m % 19});
  for (const index_t d : {20, 64, 80})
    for (const index_t m : {index_t{7}, d, d + 1}) run({1, 1, 1, 3, m, d, d}), run({2, 1, 1, 20, m, d, 33});
}

TEST_CASE("16 bit: every mask and every option") {
  std::size_t turn = 0;
  for (const shape& s : some_shapes) {
    const mask_set set(s);
    const option_parts<float, how_options> parts(s);
    for (const auto& [name, mask] : set.masks) {
      INFO(name);
      ++turn;
      check(type_mix::all(half_types[turn % 2]), s, {.mask = mask, .align = set.alignments[turn / 2 % 4].align});
    }
    for (const auto& part : parts.all) {
      INFO(part.name);
      check(type_mix::all(half_types[++turn % 2]), s, parts.of({&part}, parts.whole()));
    }
  }
}

// Widening is exact: whatever the mix, the sums have the bits of the float call.
TEST_CASE("16 bit: sums have the bits of the float call, o is its o rounded") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool gives : {false, true}) {
        half_regression x(types, s, {.mask = heed::causal()}),
            plain(type_mix::all(stored::f32), s, {.mask = heed::causal()});
        auto slopes = buffer<float>::input({s.batch, s.out_heads(), s.queries, s.dim});
        slopes.randomize(x.generator);
        const input<float> given = slopes.cview();
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.heads; ++h)
            for (index_t i = 0; i < s.queries; ++i)
              for (index_t d = 0; d < s.dim; ++d) plain.q(b, h, i, d) = x.q(b, h, i, d);
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.kv_heads; ++h)
            for (index_t j = 0; j < s.keys; ++j) {
              for (index_t d = 0; d < s.dim; ++d) plain.k(b, h, j, d) = x.k(b, h, j, d);
              for (index_t e = 0; e < s.value_dim; ++e) plain.v(b, h, j, e) = x.v(b, h, j, e);
            }
        x.run({}, gives ? &given : nullptr), plain.run({}, gives ? &given : nullptr);
        plain.o.each([&](float& each) { each = rounded(types.o, each); });
        INFO(to_string(types) << ", " << to_string(s) << (gives ? ", apply" : ", forward"));
        CHECK(same_results(x, plain));
      }
  });
}

TEST_CASE("16 bit: every layout, off by an element, and any executor: the same bits") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      half_regression plain(type_mix::all(type), s);
      plain.run();
      for (const layout how : output_layouts) {
        half_regression x(type_mix::all(type), s, {}, {how, how, how, how, how, 1});
        x.run();
        INFO(name_of(how));
        CHECK((same_results(x, plain) && x.kept()));
      }
      for (index_t workers = 2; workers <= 4; ++workers) {
        test_executor executor(workers, order::shuffled, workers > 2);
        half_regression x(type_mix::all(type), s);
        std::vector<std::byte> memory(x.stored_plan({.executor = executor}).workspace_bytes);
        x.run({.executor = executor, .workspace = memory});
        CHECK(same_results(x, plain));
      }
    }
}

TEST_CASE("16 bit: hidden keys hold anything, without effect") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      const std::vector<std::int32_t> lengths(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys - 7));
      half_regression clean(type_mix::all(type), s, {.mask = heed::key_lengths(lengths)});
      clean.run();
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        half_regression x(type_mix::all(type), s, {.mask = heed::key_lengths(lengths)});
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.kv_heads; ++h)
            for (index_t j = s.keys - 7; j < s.keys; ++j) x.k(b, h, j, 0) = x.v(b, h, j, 0) = bad;
        x.run();
        CHECK(same_results(x, clean));
      }
    }
}

TEST_CASE("16 bit: the plan of a 16-bit call") {
  const half_regression x(type_mix::all(stored::f16), some_shapes[0]),
      as_float(type_mix::all(stored::f32), some_shapes[0]);
  const heed::plan plan = x.stored_plan(), expected = as_float.stored_plan();
  REQUIRE(plan.ok());
  CHECK(std::string(plan.path) == expected.path);
  CHECK(std::string(plan.isa) == expected.isa);
  CHECK(plan.tasks == expected.tasks);
}
