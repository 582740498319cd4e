// SPDX-License-Identifier: BSD-3-Clause

// Local linear attention gives the bits of named arrays with ridges and options that own theirs.

#include <cstdint>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/slopes.hpp"
#include "support/catch.hpp"
#include "support/local_linear_run.hpp"
#include "support/owned.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

using options = heed::local_linear::options<float>;

constexpr index_t heads = 8, tokens = 9, dim = 4;

std::vector<float> run(const heed::per_head& ridge, const options& how) {
  const auto q = some_numbers(heads * tokens * dim, 1), k = some_numbers(heads * tokens * dim, 2),
             v = some_numbers(heads * tokens * dim, 3);
  std::vector<float> o(q.size());
  const auto in = [](const std::vector<float>& x) { return heed::bhsd(x.data(), 1, heads, tokens, dim); };
  run_forward<float>(in(q), in(k), in(v), ridge, heed::bhsd(o.data(), 1, heads, tokens, dim), how, {});
  return o;
}

std::vector<double> ridges() { return {0.5, 1, 2, 3, 4, 5, 6, 7}; }

}  // namespace

TEST_CASE("local linear: ridges, slopes and lengths that are owned are read as those that have a name") {
  const std::vector<std::int32_t> lengths{7};
  const std::vector<double> ridge = ridges(), slopes = heed::alibi_slopes(heads);
  const auto owned = kept([] {
    return options{.mask = heed::key_lengths({7}), .alibi_slopes = heed::alibi_slopes(heads)};
  });
  const auto kept_ridge = kept([] { return heed::per_head(ridges()); });
  const auto bits = run(ridge, {.mask = heed::key_lengths(lengths), .alibi_slopes = slopes});
  CHECK(run(*kept_ridge, *owned) == bits);
  CHECK(run(ridges(), *owned) == bits);
  CHECK(run(1, *owned) != bits);
  CHECK(run(ridge, {.mask = owned->mask}) != bits);
  CHECK(run(ridge, {.alibi_slopes = owned->alibi_slopes}) != bits);
}
