// SPDX-License-Identifier: BSD-3-Clause

// Paged caches under random calls, against a model of plain vectors; pages that are shared, copied and returned.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "heed/cache.hpp"
#include "support/cache_model.hpp"
#include "support/catch.hpp"
#include "support/messages.hpp"
#include "support/random.hpp"

using namespace heed_test;

namespace {

constexpr index_t batch = 4, heads = 2;

template <class T> class walk {
 public:
  walk(index_t pages, index_t page, std::uint32_t seed)
      : cache_(pages, page, heads, model_dim, model_value_dim, batch),
        view_(cache_.view()),
        model_(batch, heads, page, heed::cache_layout::paged),
        random_(seed) {}

  void step() {
    const index_t b = random_.below(static_cast<std::int32_t>(batch));
    switch (random_.below(10)) {
      case 0:
      case 1:
        return append(0, batch, random_.below(4));
      case 2:
      case 3:
      case 4:
        return append(b, 1, random_.below(2) == 0 ? 1 : random_.below(2 * static_cast<std::int32_t>(model_.rows) + 2));
      case 5:
      case 6:
        return truncate(b, random_.below(static_cast<std::int32_t>(model_.length(b, 0)) + 1));
      case 7:
      case 8: {
        const index_t to = (b + 1 + random_.below(3)) % batch;
        cache_.fork(b, to);
        return model_.fork(b, to);
      }
      default:
        cache_.release(b);
        for (index_t h = 0; h < heads; ++h) model_.truncate(b, h, 0);
        model_.truncate_pages(b, 0);
    }
  }
  bool agrees() const {
    return model_.is(view_) && cache_.free_pages() == cache_.pages() - model_.used_pages();
  }
  bool comes_back_empty() {
    cache_.reset();
    return cache_.free_pages() == cache_.pages() && cache_.length(0) == 0;
  }
  int refused() const { return refused_; }

 private:
  void append(index_t b, index_t count, index_t n) {
    std::vector<int> tokens(static_cast<std::size_t>(count * n));
    for (int& each : tokens) each = next_++;
    cache_model after = model_;
    for (index_t i = b; i < b + count; ++i) after.append_pages(i, n);
    const bool fits = after.used_pages() <= cache_.pages();
    for (index_t i = 0; i < count * n; ++i)
      for (index_t h = 0; h < heads; ++h) after.append(b + i / n, h, tokens[static_cast<std::size_t>(i)]);
    const token_rows_of x(tokens, count, heads, 0);
    const std::string error = thrown_by([&] {
      if (count == batch)
        cache_.append(x.keys(), x.values());
      else
        cache_.append(b, x.keys(), x.values());
    });
    CHECK(error.empty() == fits);
    refused_ += fits ? 0 : 1;
    if (fits) model_ = after;
  }
  void truncate(index_t b, index_t n) {
    cache_.truncate(b, n);
    for (index_t h = 0; h < heads; ++h) model_.truncate(b, h, n);
    model_.truncate_pages(b, n);
  }

  heed::cache::paged<T> cache_;
  heed::kv_cache_view<T> view_;
  cache_model model_;
  random_numbers random_;
  int next_ = 0, refused_ = 0;
};

template <class T> void check_walks() {
  int refused = 0;
  for (const index_t page : {1, 3, 16, 100})
    for (std::uint32_t seed = 1; seed < 6; ++seed) {
      INFO("page " << page << ", seed " << seed);
      walk<T> w(page == 1 ? 30 : 9, page, seed);
      bool same = w.agrees();
      for (int step = 0; step < 150 && same; ++step) w.step(), same = w.agrees();
      CHECK(same);
      CHECK(w.comes_back_empty());
      refused += w.refused();
    }
  CHECK(refused > 20);
}

// A cache of one head, and its tokens by number
struct numbered {
  heed::cache::paged<float> cache;

  void append(index_t b, const std::vector<int>& tokens) {
    const token_rows_of x(tokens, 1, 1, 0);
    cache.append(b, x.keys(), x.values());
  }
  bool has(index_t b, const std::vector<int>& tokens) const {
    bool all = cache.length(b) == static_cast<index_t>(tokens.size());
    for (index_t t = 0; all && t < cache.length(b); ++t)
      all = holds(cache.view(), b, 0, t, tokens[static_cast<std::size_t>(t)]);
    return all;
  }
};

}  // namespace

TEST_CASE("a paged cache has the tokens and the free pages of a model") {
  check_walks<float>();
  check_walks<heed::bf16_t>();
  check_walks<std::int8_t>();
}

TEST_CASE("a fork shares pages; the partly filled one is copied when an owner appends") {
  numbered x{heed::cache::paged<float>(6, 4, 1, model_dim, model_value_dim, 3)};
  x.append(0, {0, 1, 2, 3, 4, 5});
  CHECK(x.cache.free_pages() == 4);
  x.cache.fork(0, 1);
  CHECK(x.cache.free_pages() == 4);
  x.append(1, {60});
  CHECK(x.cache.free_pages() == 3);  // the copy; the full page stays shared
  x.append(0, {70});
  CHECK(x.cache.free_pages() == 3);  // its own again
  CHECK(x.has(0, {0, 1, 2, 3, 4, 5, 70}));
  CHECK(x.has(1, {0, 1, 2, 3, 4, 5, 60}));
  const auto blocks = x.cache.view().blocks;
  CHECK(blocks(0, 0) == blocks(1, 0));
  CHECK(blocks(0, 1) != blocks(1, 1));
  x.cache.release(0);
  CHECK(x.cache.free_pages() == 4);
  CHECK(x.has(1, {0, 1, 2, 3, 4, 5, 60}));
  x.cache.release(1);
  CHECK(x.cache.free_pages() == 6);
}

TEST_CASE("owners that append in one call need one copy fewer than they are") {
  heed::cache::paged<float> cache(3, 4, 1, model_dim, model_value_dim, 3);
  const token_rows_of first({0, 1, 2}, 1, 1, 0), next({10, 20, 30}, 3, 1, 0);
  cache.append(0, first.keys(), first.values());
  cache.fork(0, 1), cache.fork(0, 2);
  CHECK(cache.free_pages() == 2);
  cache.append(next.keys(), next.values());
  CHECK(cache.free_pages() == 0);
  for (index_t b = 0; b < 3; ++b) {
    for (int t = 0; t < 3; ++t) CHECK(holds(cache.view(), b, 0, t, t));
    CHECK(holds(cache.view(), b, 0, 3, static_cast<int>(b + 1) * 10));
  }
}

TEST_CASE("a sequence cut back inside a shared page copies it before it writes") {
  numbered x{heed::cache::paged<float>(6, 4, 1, model_dim, model_value_dim, 2)};
  x.append(0, {0, 1, 2, 3, 4, 5, 6, 7});
  x.cache.fork(0, 1);
  x.cache.truncate(1, 3);
  x.append(1, {50});
  CHECK(x.has(0, {0, 1, 2, 3, 4, 5, 6, 7}));
  CHECK(x.has(1, {0, 1, 2, 50}));
  CHECK(x.cache.free_pages() == 3);
}
