// SPDX-License-Identifier: BSD-3-Clause

// Head counts and costs of every variant beside the tables of the paper (H = 16 and 32), counts of the caller's, and
// every error.

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/sparse_query.hpp"
#include "support/catch.hpp"

using heed::index_t;
using namespace heed::sparse_query;

namespace {

static_assert(std::is_same_v<options<>, heed::softmax::options<>> &&
              std::is_same_v<gradients<double>, heed::softmax::gradients<double>>);

struct row {
  variant kind;
  index_t heads, query, kv;
  double ratio;
};

constexpr row rows[] = {
    {variant::mha, 16, 16, 16, 1},    {variant::gqa, 16, 16, 4, 1},     {variant::mqa, 16, 16, 1, 1},
    {variant::sqa, 16, 8, 4, 0.5},    {variant::ssqa, 16, 8, 8, 0.5},   {variant::xsqa, 16, 4, 4, 0.25},
    {variant::xsmqa, 16, 4, 1, 0.25}, {variant::lsqa, 16, 12, 4, 0.75}, {variant::rsqa, 16, 4, 8, 0.5},
    {variant::gqa, 32, 32, 8, 1},     {variant::sqa, 32, 16, 8, 0.5},   {variant::ssqa, 32, 16, 16, 0.5},
    {variant::xsqa, 32, 8, 8, 0.25},  {variant::lsqa, 32, 24, 8, 0.75}, {variant::rsqa, 32, 8, 16, 0.5},
};

std::string thrown_by(const model& m) {
  try {
    choose_heads(m);
  } catch (const heed::error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("the table of variants") {
  for (const row& r : rows)
    for (const index_t head_dim : {1, 64}) {
      INFO("variant " << static_cast<int>(r.kind) << ", " << r.heads << " heads of " << head_dim);
      const layout got = choose_heads({.width = r.heads * head_dim, .heads = r.heads, .variant = r.kind});
      CHECK(got.query_heads == r.query);
      CHECK(got.kv_heads == r.kv);
      CHECK(got.out_heads == std::max(r.query, r.kv));
      CHECK(got.head_dim == head_dim);  // of the nominal split, whatever the variant
      CHECK(got.score_flops_ratio == r.ratio);
      CHECK(got.kv_floats_per_token == static_cast<double>(2 * r.kv * head_dim));
    }
}

TEST_CASE("the default is sqa") {
  const layout got = choose_heads({.width = 1024, .heads = 16});
  CHECK((got.query_heads == 8 && got.kv_heads == 4 && got.head_dim == 64));
}

TEST_CASE("counts of the caller's stand in for those of the variant") {
  const layout both = choose_heads({.width = 96, .heads = 6, .query_heads = 3, .kv_heads = 1});  // 6 / 4 is not whole
  CHECK((both.query_heads == 3 && both.kv_heads == 1 && both.out_heads == 3 && both.head_dim == 16));
  CHECK(both.score_flops_ratio == 0.5);
  const layout query = choose_heads({.width = 64, .heads = 16, .variant = variant::sqa, .query_heads = 2});
  CHECK((query.query_heads == 2 && query.kv_heads == 4 && query.out_heads == 4 && query.score_flops_ratio == 0.25));
  const layout kv = choose_heads({.width = 64, .heads = 16, .variant = variant::sqa, .kv_heads = 2});
  CHECK((kv.query_heads == 8 && kv.kv_heads == 2));
  CHECK(choose_heads({.width = 7, .heads = 7, .variant = variant::mqa}).kv_heads == 1);
  CHECK(choose_heads({.width = 2, .heads = 2, .variant = variant::ssqa}).query_heads == 1);
  // half of six heads is whole, a quarter is not: the caller's kv_heads is enough
  CHECK(choose_heads({.width = 6, .heads = 6, .variant = variant::sqa, .kv_heads = 3}).query_heads == 3);
}

TEST_CASE("what is not whole or does not divide is refused, with the numbers") {
  struct refusal {
    model m;
    std::vector<std::string> must;
  };
  const refusal list[] = {
      {{.width = 64, .heads = 0}, {"model.heads is 0", "at least 1"}},
      {{.width = 64, .heads = -4}, {"model.heads is -4", "at least 1"}},
      {{.width = 0, .heads = 4}, {"model.width is 0", "at least 1"}},
      {{.width = 65, .heads = 16}, {"model.width is 65", "multiple", "16"}},
      {{.width = 6, .heads = 6, .variant = variant::gqa}, {"model.heads is 6", "multiple of 4", "kv_heads", "gqa"}},
      {{.width = 5, .heads = 5, .variant = variant::sqa}, {"model.heads is 5", "multiple of 2", "query_heads", "sqa"}},
      {{.width = 6, .heads = 6, .variant = variant::sqa}, {"model.heads is 6", "multiple of 4", "kv_heads", "sqa"}},
      {{.width = 7, .heads = 7, .variant = variant::ssqa}, {"model.heads is 7", "multiple of 2", "ssqa"}},
      {{.width = 6, .heads = 6, .variant = variant::xsqa}, {"model.heads is 6", "multiple of 4", "xsqa"}},
      {{.width = 6, .heads = 6, .variant = variant::xsmqa}, {"model.heads is 6", "multiple of 4", "xsmqa"}},
      {{.width = 6, .heads = 6, .variant = variant::lsqa}, {"model.heads is 6", "multiple of 4", "lsqa"}},
      {{.width = 6, .heads = 6, .variant = variant::rsqa}, {"model.heads is 6", "multiple of 4", "rsqa"}},
      {{.width = 64, .heads = 16, .query_heads = -1}, {"model.query_heads is -1", "at least 0"}},
      {{.width = 64, .heads = 16, .kv_heads = -2}, {"model.kv_heads is -2", "at least 0"}},
      {{.width = 64, .heads = 16, .query_heads = 6, .kv_heads = 4}, {"query_heads 6", "kv_heads 4", "divide"}},
      {{.width = 64, .heads = 16, .query_heads = 4, .kv_heads = 6}, {"query_heads 4", "kv_heads 6", "divide"}},
      {{.width = 64, .heads = 16, .variant = variant::sqa, .query_heads = 6}, {"query_heads 6", "kv_heads 4"}},
      {{.width = 64, .heads = 16, .variant = static_cast<variant>(9)}, {"model.variant is 9"}},
  };
  for (const refusal& r : list) {
    const std::string text = thrown_by(r.m);
    INFO(text);
    CHECK_FALSE(text.empty());
    for (const std::string& word : r.must) {
      INFO("must say " << word);
      CHECK(text.find(word) != std::string::npos);
    }
  }
}
