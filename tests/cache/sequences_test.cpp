// SPDX-License-Identifier: BSD-3-Clause

// Contiguous caches and rings under random calls, against a model of plain vectors.

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
using heed::cache::lengths_per;

namespace {

constexpr index_t batch = 3, heads = 2;

// Random calls on a cache and on its model. The view is made once.
template <class Cache> class walk {
 public:
  walk(Cache& c, cache_model& m, bool per_head, std::uint32_t seed)
      : cache_(c), model_(m), view_(c.view()), per_head_(per_head), random_(seed) {}

  void step() {
    const index_t b = random_.below(static_cast<std::int32_t>(batch)), h = random_.below(2);
    switch (random_.below(12)) {
      case 0:
      case 1:
      case 2:
        return append(0, batch, 0, heads, some_tokens());
      case 3:
      case 4:
      case 5:
        return append(b, 1, 0, heads, some_tokens());
      case 6:
      case 7:
        return per_head_ ? append(b, 1, h, 1, some_tokens()) : truncate(b);
      case 8:
        return per_head_ ? truncate_head(b, h) : truncate(b);
      case 9:
        return fork(b);
      case 10:
        cache_.release(b);
        for (index_t i = 0; i < heads; ++i) model_.truncate(b, i, 0);
        return;
      default:
        if (random_.below(4) > 0) return;
        cache_.reset();
        for (index_t i = 0; i < batch * heads; ++i) model_.truncate(i / heads, i % heads, 0);
    }
  }
  bool agrees() const {
    for (index_t b = 0; b < batch; ++b) {
      index_t longest = 0;
      for (index_t h = 0; h < heads; ++h) {
        longest = std::max(longest, model_.length(b, h));
        if (cache_.length(b, h) != model_.length(b, h)) return false;
      }
      if (cache_.length(b) != longest) return false;
    }
    return model_.is(view_) && model_.is(cache_.view());
  }

 private:
  index_t some_tokens() {
    const int kind = random_.below(8);
    if (kind == 0) return 0;
    return kind < 5 ? 1 : random_.below(kind == 7 ? 40 : 6);
  }
  void append(index_t b, index_t count, index_t h, index_t of_heads, index_t n) {
    std::vector<int> tokens(static_cast<std::size_t>(count * n));
    for (int& each : tokens) each = next_++;
    bool fits = true;
    for (index_t i = b; i < b + count; ++i)
      for (index_t j = h; j < h + of_heads; ++j)
        fits = fits && (model_.layout == heed::cache_layout::ring || model_.length(i, j) + n <= model_.rows);
    const token_rows_of x(tokens, count, of_heads, h);
    const std::string error = thrown_by([&] {
      if (count == batch)
        cache_.append(x.keys(), x.values());
      else if (of_heads == heads)
        cache_.append(b, x.keys(), x.values());
      else
        cache_.append(b, h, x.keys(), x.values());
    });
    CHECK(error.empty() == fits);
    for (index_t i = 0; fits && i < count * n; ++i)
      for (index_t j = h; j < h + of_heads; ++j) model_.append(b + i / n, j, tokens[static_cast<std::size_t>(i)]);
  }
  void truncate(index_t b) {
    const index_t shortest = std::min(model_.length(b, 0), model_.length(b, 1));
    const index_t n = shortest == 0 ? 0 : std::max<index_t>(0, shortest - random_.below(6));
    cache_.truncate(b, n);
    for (index_t h = 0; h < heads; ++h) model_.truncate(b, h, n);
  }
  void truncate_head(index_t b, index_t h) {
    const index_t n = random_.below(static_cast<std::int32_t>(model_.length(b, h)) + 1);
    cache_.truncate(b, h, n);
    model_.truncate(b, h, n);
  }
  void fork(index_t from) {
    const index_t to = (from + 1 + random_.below(2)) % batch;
    cache_.fork(from, to);
    model_.fork(from, to);
  }

  Cache& cache_;
  cache_model& model_;
  heed::kv_cache_view<typename std::remove_const_t<
      std::remove_pointer_t<decltype(std::declval<Cache&>().view().k.data())>>> view_;
  bool per_head_;
  random_numbers random_;
  int next_ = 0;
};

template <class Cache> void check_walk(Cache cache, cache_model model, lengths_per per, std::uint32_t seed) {
  walk<Cache> w(cache, model, per == lengths_per::kv_head, seed);
  bool same = w.agrees();
  for (int step = 0; step < 150 && same; ++step) w.step(), same = w.agrees();
  CHECK(same);
}

template <class T> void check_contiguous() {
  for (const lengths_per per : {lengths_per::sequence, lengths_per::kv_head})
    for (const index_t capacity : {0, 1, 7, 50})
      for (std::uint32_t seed = 1; seed < 4; ++seed) {
        INFO("capacity " << capacity << ", seed " << seed);
        check_walk(heed::cache::contiguous<T>(batch, heads, capacity, model_dim, model_value_dim, per),
                   cache_model(batch, heads, capacity, heed::cache_layout::contiguous), per, seed);
      }
}
template <class T> void check_ring() {
  for (const lengths_per per : {lengths_per::sequence, lengths_per::kv_head})
    for (const index_t capacity : {0, 1, 5, 16})
      for (const index_t keep : {0, 1, 4, 15})
        for (std::uint32_t seed = 1; keep < std::max<index_t>(capacity, 1) && seed < 4; ++seed) {
          INFO("capacity " << capacity << ", keep_first " << keep << ", seed " << seed);
          check_walk(heed::cache::ring<T>(batch, heads, capacity, model_dim, model_value_dim, keep, per),
                     cache_model(batch, heads, capacity, heed::cache_layout::ring, keep), per, seed);
        }
}

}  // namespace

TEST_CASE("a contiguous cache has the tokens of a model of vectors") {
  check_contiguous<float>();
  check_contiguous<heed::bf16_t>();
  check_contiguous<std::int8_t>();
}

TEST_CASE("a ring has the tokens of a model of rows") {
  check_ring<float>();
  check_ring<heed::f16_t>();
  check_ring<std::int8_t>();
}

TEST_CASE("an append longer than the ring leaves the sinks and the last tokens") {
  heed::cache::ring<float> ring(1, 1, 8, model_dim, model_value_dim, 3);
  std::vector<int> tokens(100);
  for (int i = 0; i < 100; ++i) tokens[static_cast<std::size_t>(i)] = i;
  const token_rows_of x(tokens, 1, 1, 0);
  ring.append(x.keys(), x.values());
  const auto view = ring.view();
  CHECK(ring.length(0) == 100);
  CHECK(view.keep_first == 3);
  CHECK(view.oldest.at(0, 0) == 95);
  for (const int t : {0, 1, 2, 95, 96, 97, 98, 99}) CHECK(holds(view, 0, 0, t, t));
}

TEST_CASE("a ring says which tokens a truncate could not bring back") {
  heed::cache::ring<float> ring(1, 1, 6, model_dim, model_value_dim, 2);  // 4 rows turn
  const auto view = ring.view();
  const auto append = [&](int first, int count) {
    std::vector<int> tokens;
    for (int i = 0; i < count; ++i) tokens.push_back(first + i);
    const token_rows_of x(tokens, 1, 1, 0);
    ring.append(x.keys(), x.values());
  };
  const auto oldest = [&] { return view.oldest.at(0, 0); };
  append(0, 12);
  CHECK(oldest() == 8);
  ring.truncate(0, 10);
  CHECK(oldest() == 8);  // 6 and 7 were overwritten by 10 and 11
  append(10, 1);
  CHECK(oldest() == 8);
  append(11, 2);
  CHECK(oldest() == 9);
  ring.truncate(0, 5);
  CHECK(oldest() == 5);  // 2, 3 and 4 are gone
  append(5, 1);
  CHECK(oldest() == 5);
  CHECK(holds(view, 0, 0, 5, 5));
  ring.truncate(0, 1);
  CHECK(oldest() == 2);
  append(1, 5);
  CHECK(oldest() == 2);
  for (int t = 0; t < 6; ++t) CHECK(holds(view, 0, 0, t, t));
}

TEST_CASE("a view of a cache follows the cache to where it is moved") {
  heed::cache::contiguous<float> first(1, 1, 4, model_dim, model_value_dim);
  const auto view = first.view();
  auto second = std::move(first);
  const token_rows_of x({7, 9}, 1, 1, 0);
  second.append(x.keys(), x.values());
  CHECK(view.lengths.at(0, 0) == 2);
  CHECK(holds(view, 0, 0, 1, 9));
  const heed::kv_cache_view<float> converted = second;
  CHECK(converted.k.data() == view.k.data());
  CHECK(converted.keep_first == -1);
}
