// SPDX-License-Identifier: BSD-3-Clause
//
// Verifies a tree of draft tokens in one call of decode, keeps the tokens of one path, and takes the others back. Then
// does the same with branches as sequences of a paged cache that share the pages of the context.
// g++ -std=c++20 -O2 -march=native -I include speculative.cpp
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <random>
#include <span>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"

namespace {

using heed::index_t;
constexpr index_t heads = 8, kv_heads = 2, dim = 64, context = 300;

//             0
//       1          4
//     2   3      5   6
constexpr std::array<index_t, 7> parent{-1, 0, 1, 1, 0, 4, 4};  // of a draft token; parents come first
constexpr index_t drafts = std::ssize(parent);
constexpr std::array<index_t, 3> accepted{0, 4, 5};  // what a sampler chose: a path from the root

// q, k, v of tokens one after the other: those of the context, then the draft tokens, then the next token
class tokens {
 public:
  tokens() : q_(heads * all * dim), k_(kv_heads * all * dim), v_(k_.size()) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto* x : {&q_, &k_, &v_}) std::generate(x->begin(), x->end(), [&] { return normal(random); });
  }
  heed::tensor_view<const float, 4> q(index_t first, index_t count) const { return rows(q_, heads, first, count); }
  heed::tensor_view<const float, 4> k(index_t first, index_t count) const { return rows(k_, kv_heads, first, count); }
  heed::tensor_view<const float, 4> v(index_t first, index_t count) const { return rows(v_, kv_heads, first, count); }

  static constexpr index_t next = context + drafts;  // the token after the accepted ones

 private:
  static constexpr index_t all = next + 1;
  static heed::tensor_view<const float, 4> rows(const std::vector<float>& x, index_t count, index_t first, index_t n) {
    return heed::slice(heed::bhsd(x.data(), 1, count, all, dim), 2, first, n);
  }
  std::vector<float> q_, k_, v_;
};

// o of some tokens, one sequence or several
struct rows {
  index_t sequences, count;
  std::vector<float> numbers = std::vector<float>(static_cast<std::size_t>(sequences * heads * count * dim));

  heed::tensor_view<float, 4> view() { return heed::bhsd(numbers.data(), sequences, heads, count, dim); }
};

// Appends draft tokens one by one: those of a path are not neighbours.
template <class Cache>
void append(Cache& cache, index_t sequence, const tokens& x, std::span<const index_t> path) {
  for (const index_t token : path) cache.append(sequence, x.k(context + token, 1), x.v(context + token, 1));
}

// The path from the root to a draft token, which is its last one
std::vector<index_t> path_to(index_t token) {
  std::vector<index_t> path;
  for (; token >= 0; token = parent[static_cast<std::size_t>(token)]) path.insert(path.begin(), token);
  return path;
}

// The largest difference between o of one token and decoding its path, token by token, behind the context
float error(const tokens& x, std::span<const index_t> path, index_t token, heed::tensor_view<const float, 4> o) {
  heed::cache::contiguous<float> cache(1, kv_heads, context + drafts + 1, dim, dim);
  cache.append(x.k(0, context), x.v(0, context));
  append(cache, 0, x, path);
  if (token == tokens::next) cache.append(x.k(token, 1), x.v(token, 1));
  rows expected{1, 1};
  heed::softmax::decode(x.q(token, 1), cache, expected.view());
  float most = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t e = 0; e < dim; ++e)
      most = std::max(most, std::abs(o(0, h, 0, e) - expected.view()(0, h, 0, e)));
  return most;
}

bool report(const char* what, index_t count, float error) {
  std::printf("%-40s tokens %2td   largest error %.1e\n", what, count, double{error});
  return error < 1e-4f;
}

// All draft tokens are behind the context in one sequence. The mask says who sees whom.
bool verify_tree(const tokens& x) {
  heed::cache::contiguous<float> cache(1, kv_heads, context + drafts + 1, dim, dim);
  cache.append(x.k(0, context), x.v(0, context));

  // keep(): a row for each draft token, a column for each token of the cache. A draft token sees the context, itself
  // and the tokens on its path.
  std::array<std::array<bool, context + drafts>, drafts> visible{};
  for (index_t i = 0; i < drafts; ++i) {
    auto& row = visible[static_cast<std::size_t>(i)];
    std::fill_n(row.begin(), context, true);
    for (const index_t token : path_to(i)) row[static_cast<std::size_t>(context + token)] = true;
  }
  const auto tree = heed::keep(heed::contiguous(visible[0].data(), {1, 1, drafts, context + drafts}));

  cache.append(x.k(context, drafts), x.v(context, drafts));
  rows o{1, drafts};
  heed::softmax::decode(x.q(context, drafts), cache, o.view(), {.mask = tree});
  float most = 0;
  for (index_t i = 0; i < drafts; ++i)
    most = std::max(most, error(x, path_to(i), context + i, heed::slice(o.view(), 2, i, 1)));
  bool good = report("a tree in one call", drafts, most);

  cache.truncate(0, context);  // all draft tokens; those that were accepted come back in order
  append(cache, 0, x, accepted);
  cache.append(x.k(tokens::next, 1), x.v(tokens::next, 1));
  rows next{1, 1};
  heed::softmax::decode(x.q(tokens::next, 1), cache, next.view());
  return report("the next token behind the accepted path", 1, error(x, accepted, tokens::next, next.view())) && good;
}

// Each path to a leaf is a sequence of a paged cache. All share the pages of the context.
bool verify_branches(const tokens& x) {
  constexpr std::array<index_t, 4> leaves{2, 3, 5, 6};
  constexpr index_t branches = std::ssize(leaves), depth = 3, page = 16;
  heed::cache::paged<float> cache(30, page, kv_heads, dim, dim, branches);
  cache.append(0, x.k(0, context), x.v(0, context));
  for (index_t b = 1; b < branches; ++b) cache.fork(0, b);

  std::vector<float> numbers(static_cast<std::size_t>(branches * heads * depth * dim));
  const auto q = heed::bhsd(numbers.data(), branches, heads, depth, dim);
  for (index_t b = 0; b < branches; ++b) {
    const std::vector<index_t> path = path_to(leaves[static_cast<std::size_t>(b)]);
    append(cache, b, x, path);
    for (index_t i = 0; i < depth; ++i)
      for (index_t h = 0; h < heads; ++h)
        std::copy_n(&x.q(context + path[static_cast<std::size_t>(i)], 1)(0, h, 0, 0), dim, &q(b, h, i, 0));
  }
  rows o{branches, depth};
  heed::softmax::decode(q, cache, o.view(), {.mask = heed::causal()});
  float most = 0;
  for (index_t b = 0; b < branches; ++b) {
    const std::vector<index_t> path = path_to(leaves[static_cast<std::size_t>(b)]);
    for (index_t i = 0; i < depth; ++i) {
      const auto row = heed::slice(heed::slice(o.view(), 0, b, 1), 2, i, 1);
      most = std::max(most, error(x, path_to(path[static_cast<std::size_t>(i)]),
                                  context + path[static_cast<std::size_t>(i)], row));
    }
  }
  bool good = report("branches of a paged cache", branches * depth, most);

  const index_t used = cache.pages() - cache.free_pages();
  cache.fork(2, 0);  // the branch of leaf 5 was accepted: it is the sequence from now on
  for (index_t b = 1; b < branches; ++b) cache.release(b);
  std::printf("%td sequences of %td tokens took %td pages of %td, the accepted one takes %td\n", branches,
              cache.length(0), used, page, cache.pages() - cache.free_pages());
  return good;
}

}  // namespace

int main() {
  const tokens x;
  const bool good[] = {verify_tree(x), verify_branches(x)};
  return good[0] && good[1] ? 0 : 1;
}
