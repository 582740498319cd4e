// SPDX-License-Identifier: BSD-3-Clause

// Lightning and linear attention give the bits of named arrays with options and decays that own theirs.

#include <cstdint>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/slopes.hpp"
#include "support/catch.hpp"
#include "support/owned.hpp"
#include "support/recurrent_run.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

using ints = std::vector<std::int32_t>;

constexpr index_t batch = 2, heads = 8, tokens = 20, dim = 4;

// o of forward, of numbers that do not change; options: decay first, where the kernel has one
template <class... Options> std::vector<float> run(const Options&... how) {
  const auto q = some_numbers(batch * heads * tokens * dim, 1), k = some_numbers(batch * heads * tokens * dim, 2),
             v = some_numbers(batch * heads * tokens * dim, 3);
  std::vector<float> o(q.size());
  const auto in = [](const std::vector<float>& x) { return heed::bhsd(x.data(), batch, heads, tokens, dim); };
  run_forward<float>({in(q), in(k), in(v), heed::bhsd(o.data(), batch, heads, tokens, dim)}, how..., {});
  return o;
}

}  // namespace

TEST_CASE("lightning: slopes and lengths that are owned are read as those that have a name") {
  using options = heed::lightning::options<float>;
  const ints lengths{4, 17};
  const std::vector<double> slopes = heed::alibi_slopes(heads);
  const auto decay = kept([] { return heed::decay<float>(heed::alibi_slopes(heads)); });
  const auto owned = kept([] { return options{.mask = heed::key_lengths(ints{4, 17})}; });
  const auto bits = run(heed::decay<float>(slopes), options{.mask = heed::key_lengths(lengths)});
  CHECK(run(*decay, *owned) == bits);
  CHECK(run(*decay, options{}) != bits);
  CHECK(run(heed::decay<float>(std::vector<float>(heads, 0.1f)), *owned) != bits);
}

TEST_CASE("linear: lengths and places that are owned are read as those that have a name") {
  using options = heed::linear::options<float>;
  const ints lengths{4, 17}, first{2, 0};
  const auto owned = kept([] {
    return options{.mask = heed::causal() & heed::key_lengths({4, 17}), .align = heed::first_place(ints{2, 0})};
  });
  const auto bits =
      run(options{.mask = heed::causal() & heed::key_lengths(lengths), .align = heed::first_place(first)});
  CHECK(run(*owned) == bits);
  CHECK(run(options{.mask = owned->mask}) != bits);
  CHECK(run(options{.mask = heed::causal(), .align = owned->align}) != bits);
}
